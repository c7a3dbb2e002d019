"""Exports to Hugging Face folders: run by transformers itself, and field by field."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exported_models import (
    SHARED_SCALE,
    TARGET_LENGTH,
    formula_scale,
    loaded,
    table_for,
    write_model,
)
from tiny_models import ORIGINAL_LENGTH
from tolerances import LOGITS, REORDERED
from transformers import AutoTokenizer

import longrope
from longrope import RopeFactors
from longrope.architectures import ARCHITECTURES
from longrope.rope.formats import read_table

LENGTHS = (ORIGINAL_LENGTH - 1, ORIGINAL_LENGTH, ORIGINAL_LENGTH + 1, TARGET_LENGTH)


def config_of(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return content


def logits(model: Any, length: int) -> torch.Tensor:
    ids = torch.randint(0, 97, (1, length), generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        result: torch.Tensor = model(ids).logits
    return result


@pytest.mark.parametrize("sets", ["long", "both"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_transformers_runs_an_export_as_we_run_its_factors(
    architecture: str, sets: Any, tmp_path: Path
) -> None:
    ours = write_model(tmp_path / "base", architecture)
    short, long = table_for(ours).entries
    longrope.export_model(tmp_path / "base", table_for(ours), tmp_path / "out", sets=sets)
    theirs = loaded(tmp_path / "out")
    # transformers has one attention scale for both sets
    near = short.model_copy(update={"attention_scale": SHARED_SCALE})
    for length in LENGTHS:
        chosen = near if sets == "both" and length <= ORIGINAL_LENGTH else long
        longrope.install(ours, chosen)
        torch.testing.assert_close(logits(theirs, length), logits(ours, length), **LOGITS)


def in_two_parts(model: Any, cut: int, length: int) -> torch.Tensor:
    """Return the logits behind a cut of tokens that are read with a cache."""
    ids = torch.randint(0, 97, (1, length), generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        first = model(ids[:, :cut], use_cache=True)
        rest: torch.Tensor = model(ids[:, cut:], past_key_values=first.past_key_values).logits
    return rest


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_with_a_cache_only_equal_sets_survive_the_original_length(
    architecture: str, tmp_path: Path
) -> None:
    base = write_model(tmp_path / "base", architecture)
    for sets, least, most in (("long", 0.0, LOGITS["atol"]), ("both", 0.01, 100.0)):
        longrope.export_model(tmp_path / "base", table_for(base), tmp_path / sets, sets=sets)
        model = loaded(tmp_path / sets)
        whole = logits(model, 80)[:, 60:]
        difference = float((in_two_parts(model, 60, 80) - whole).abs().max())
        assert least <= difference < most, sets


def test_an_export_differs_from_the_base_model_and_its_sets_from_each_other(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base")
    for sets in ("long", "both"):
        longrope.export_model(tmp_path / "base", table_for(base), tmp_path / sets, sets=sets)
    at_64 = [
        logits(model, 64) for model in (base, *(loaded(tmp_path / s) for s in ("long", "both")))
    ]
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert (at_64[a] - at_64[b]).abs().max() > 100 * LOGITS["atol"]


def test_a_config_has_its_hand_computed_fields(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base")
    table = table_for(base)
    longrope.export_model(tmp_path / "base", table, tmp_path / "out", sets="both")
    config = config_of(tmp_path / "out")
    short, long = (list(entry.factors) for entry in table.entries)
    block = {
        "rope_type": "longrope",
        "short_factor": short,
        "long_factor": long,
        "factor": 4.0,
        "attention_factor": 1.25,
        "short_mscale": 1.0,
        "long_mscale": 1.25,
        "original_max_position_embeddings": 64,
    }
    rotary = {"rope_theta": 10_000.0, "partial_rotary_factor": 1.0}
    assert config["rope_parameters"] == block | rotary
    assert config["rope_scaling"] == block | {"type": "longrope"}
    outer = ("rope_theta", "max_position_embeddings", "original_max_position_embeddings")
    assert [config[key] for key in outer] == [10_000.0, 256, 64]
    # the slowest pair of NTK is slowed by the whole scale, 256 / 64
    assert (long[0], long[-1]) == (1.0, pytest.approx(4.0))
    assert {type(value) for value in short + long} == {float}


def test_equal_sets_have_equal_attention_scales(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base")
    longrope.export_model(tmp_path / "base", table_for(base), tmp_path / "out")
    block = config_of(tmp_path / "out")["rope_scaling"]
    assert block["short_factor"] == block["long_factor"]
    assert block["short_mscale"] == block["long_mscale"] == block["attention_factor"] == 1.25


def test_a_phi3_under_the_formulas_scale_has_the_three_keys_that_transformers_4_takes(
    tmp_path: Path,
) -> None:
    table = table_for(write_model(tmp_path / "base", "phi3"), attention_scale=formula_scale())
    exported = longrope.export_model(tmp_path / "base", table, tmp_path / "out")
    config = config_of(tmp_path / "out")
    assert config["rope_scaling"].keys() == {"type", "short_factor", "long_factor"}
    assert config["original_max_position_embeddings"] == 64
    assert loaded(tmp_path / "out").model.rotary_emb.attention_scaling == pytest.approx(
        formula_scale()
    )
    assert not [trap for trap in exported.traps if "transformers 4" in trap]


def test_a_phi3_under_another_scale_is_for_transformers_5_alone_and_its_card_says_so(
    tmp_path: Path,
) -> None:
    table = table_for(write_model(tmp_path / "base", "phi3"))
    longrope.export_model(tmp_path / "base", table, tmp_path / "out")
    assert "rope_scaling" not in config_of(tmp_path / "out")
    assert loaded(tmp_path / "out").model.rotary_emb.attention_scaling == 1.25
    assert (
        "transformers 4 runs this folder as plain RoPE" in (tmp_path / "out/README.md").read_text()
    )


def test_gpt_neox_states_base_and_share_under_its_own_keys_too(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base", "gpt_neox")
    longrope.export_model(tmp_path / "base", table_for(base), tmp_path / "out")
    config = config_of(tmp_path / "out")
    assert (config["rotary_emb_base"], config["rotary_pct"]) == (10_000.0, 0.25)
    assert config["rope_parameters"]["partial_rotary_factor"] == 0.25


def test_a_window_that_is_switched_off_stays_off(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base", "mistral")
    config = config_of(tmp_path / "base")
    del config["sliding_window"]  # then it is 4096
    (tmp_path / "base/config.json").write_text(json.dumps(config))
    longrope.export_model(tmp_path / "base", table_for(base), tmp_path / "out", full_attention=True)
    assert config_of(tmp_path / "out")["sliding_window"] is None


def test_code_of_a_model_is_left_behind(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base")
    config = config_of(tmp_path / "base") | {"auto_map": {"AutoConfig": "own.Config"}}
    (tmp_path / "base/config.json").write_text(json.dumps(config))
    (tmp_path / "base/own.py").write_text("raise SystemExit\n")
    longrope.export_model(tmp_path / "base", table_for(base), tmp_path / "out")
    assert "auto_map" not in config_of(tmp_path / "out")
    assert not (tmp_path / "out/own.py").exists()


def test_the_tokenizer_knows_the_new_window_and_a_class_of_both_versions(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base")
    settings = {"tokenizer_class": "TokenizersBackend", "model_max_length": 64}
    (tmp_path / "base/tokenizer_config.json").write_text(json.dumps(settings))
    longrope.export_model(tmp_path / "base", table_for(base), tmp_path / "out")
    stated = json.loads((tmp_path / "out/tokenizer_config.json").read_text())
    assert stated == {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 256}
    tokenizer: Any = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer("ba", add_special_tokens=False)["input_ids"] == [1, 0]


@pytest.mark.parametrize("sets", ["long", "both"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_import_gives_back_what_was_exported(
    architecture: str, sets: Any, tmp_path: Path
) -> None:
    table = table_for(write_model(tmp_path / "base", architecture))
    longrope.export_model(tmp_path / "base", table, tmp_path / "out", sets=sets)
    back, _ = read_table(tmp_path / "out")
    origin = {"provenance"}
    expected = table.entries if sets == "both" else table.entries[1:]
    assert [e.model_dump(exclude=origin) for e in back.entries] == [
        e.model_dump(exclude=origin) for e in expected
    ]


def published(folder: Path, **config: Any) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_config_like_phi_3_128k_gives_two_sets_under_the_formulas_scale(tmp_path: Path) -> None:
    short, long = [1.0, 1.1], [1.5, 30.0]
    folder = published(
        tmp_path / "phi",
        model_type="phi3",
        hidden_size=3072,
        max_position_embeddings=131_072,
        original_max_position_embeddings=4096,
        rope_theta=10_000.0,
        rope_scaling={"type": "su", "short_factor": short, "long_factor": long},
    )
    table, notes = read_table(folder)
    near, far = table.entries
    assert notes == []
    assert (near.factors, near.target_length) == (tuple(short), 4096)
    assert (far.factors, far.target_length, far.hidden_size) == (tuple(long), 131_072, 3072)
    # sqrt(1 + ln 32 / ln 4096) = sqrt(1 + 5 / 12), for both
    assert near.attention_scale == far.attention_scale == pytest.approx((17 / 12) ** 0.5)


def test_a_config_like_minicpm_needs_its_target_length_and_is_one_entry(tmp_path: Path) -> None:
    factors = np.geomspace(0.998, 124.0, 16).tolist()
    block = {"rope_type": "longrope", "long_factor": factors, "short_factor": factors}
    folder = published(
        tmp_path / "minicpm",
        model_type="minicpm",
        max_position_embeddings=32_768,
        rope_scaling=block | {"original_max_position_embeddings": 32_768},
    )
    with pytest.raises(longrope.UserError, match="give --target-length"):
        read_table(folder)
    stated = longrope.rope.stated.StatedFacts(target_length=131_072)
    (entry,) = read_table(folder, stated)[0].entries
    assert (entry.factors, entry.target_length) == (tuple(factors), 131_072)


def test_the_measured_perplexity_is_that_of_the_export_in_transformers(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base")
    table = table_for(base, num_start_tokens=3)
    text = "".join(np.random.default_rng(3).choice([*"abcdefgh "], 300))
    (tmp_path / "text.txt").write_text(text)
    exported = longrope.export_model(
        tmp_path / "base",
        table,
        tmp_path / "out",
        sets="both",
        drop_start_tokens=True,
        texts=[tmp_path / "text.txt"],
    )
    theirs = loaded(tmp_path / "out")
    ids: Any = AutoTokenizer.from_pretrained(tmp_path / "out")(text, return_tensors="pt").input_ids
    assert [gap.length for gap in exported.gaps] == [64, 256]
    for gap in exported.gaps:
        window = ids[:, : gap.length]
        with torch.inference_mode():
            loss = theirs(window, labels=window).loss
        assert gap.exported == pytest.approx(float(loss.exp()), rel=REORDERED)
        searched = longrope.perplexity(base, [window[0].tolist()], table)
        assert gap.searched == pytest.approx(searched, rel=REORDERED)
        assert gap.relative == pytest.approx(gap.exported / searched - 1, abs=1e-6)
        assert abs(gap.relative) > 1e-4


def test_factors_that_lose_nothing_measure_alike(tmp_path: Path) -> None:
    (long,) = table_for(write_model(tmp_path / "base")).entries[1:]
    assert isinstance(long, RopeFactors)
    (tmp_path / "text.txt").write_text("abc " * 80)
    exported = longrope.export_model(
        tmp_path / "base", long, tmp_path / "out", texts=[tmp_path / "text.txt"]
    )
    assert [gap.relative for gap in exported.gaps] == [0.0, 0.0]
