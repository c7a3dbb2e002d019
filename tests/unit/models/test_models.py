"""Tests of longrope.models.loading: what is loaded as it was saved, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import ORIGINAL_LENGTH
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import Gemma3TextConfig, PreTrainedModel, PreTrainedTokenizerFast

from longrope.architectures import ARCHITECTURES
from longrope.errors import UserError
from longrope.models.loading import geometry, load_model, load_tokenizer, pick_device
from longrope.models.rotary import install

Builder = Callable[..., PreTrainedModel]


@pytest.fixture
def folder(llama: PreTrainedModel, tmp_path: Path) -> Path:
    """Return the folder of a saved tiny Llama."""
    llama.save_pretrained(tmp_path)
    return tmp_path


def edit(folder: Path, **changes: Any) -> None:
    """Change keys of config.json."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_shares_and_groups_of_the_table_are_those_of_transformers(model: PreTrainedModel) -> None:
    kind = ARCHITECTURES[model.config.model_type]
    default = type(model.config)()
    share = default.rope_parameters.get("partial_rotary_factor")
    assert kind.partial_rotary_factor == (None if share == 1 else share)
    assert kind.grouped == hasattr(default, "num_key_value_heads")


def test_a_loaded_model_computes_what_the_saved_one_did(
    model: PreTrainedModel, tokens: torch.Tensor, tmp_path: Path
) -> None:
    model.save_pretrained(tmp_path)
    loaded = load_model(tmp_path, dtype="float32")
    with torch.inference_mode():
        assert torch.equal(loaded(tokens[None]).logits, model(tokens[None]).logits)
    assert not loaded.training
    assert all(parameter.requires_grad for parameter in loaded.parameters())


def test_the_dtype_is_that_of_the_weights_but_not_of_the_angles(folder: Path) -> None:
    loaded = load_model(folder, dtype="bfloat16")
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.bfloat16}
    rotary: Any = loaded.base_model.rotary_emb
    assert rotary.inv_freq.dtype == torch.float32


def test_a_model_with_our_rotary_module_is_saved_as_an_ordinary_one(
    llama: PreTrainedModel, tokens: torch.Tensor, tmp_path: Path
) -> None:
    install(llama, geometry(llama, ORIGINAL_LENGTH))
    llama.save_pretrained(tmp_path)
    with torch.inference_mode():
        loaded = load_model(tmp_path, dtype="float32")
        assert torch.equal(loaded(tokens[None]).logits, llama(tokens[None]).logits)


@pytest.mark.parametrize(
    ("architecture", "num_pairs"), [("llama", 8), ("qwen3", 8), ("phi3", 8), ("gpt_neox", 4)]
)
def test_the_geometry_counts_rotated_dimensions_only(
    architecture: str, num_pairs: int, build_model: Builder
) -> None:
    result = geometry(build_model(architecture), 48)
    assert (result.num_pairs, result.rope_theta, result.original_length) == (num_pairs, 10000.0, 48)


def test_the_geometry_reads_the_base_of_the_frequencies(build_model: Builder) -> None:
    model = build_model("llama", rope_parameters={"rope_type": "default", "rope_theta": 5e5})
    assert geometry(model, ORIGINAL_LENGTH).rope_theta == 5e5


def test_the_geometry_is_the_same_after_installing(model: PreTrainedModel) -> None:
    before = geometry(model, ORIGINAL_LENGTH)
    install(model, before)
    assert geometry(model, ORIGINAL_LENGTH) == before


def test_a_model_without_one_rotary_embedding_is_refused(llama: PreTrainedModel) -> None:
    del llama.base_model.rotary_emb
    with pytest.raises(UserError, match="does not have one rotary embedding"):
        geometry(llama, ORIGINAL_LENGTH)


def test_a_folder_without_a_configuration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no config\.json; give the folder"):
        load_model(tmp_path, dtype="float32")


def test_a_configuration_that_is_not_json_is_refused(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json is not valid"):
        load_model(folder, dtype="float32")


def test_pickled_weights_are_refused_and_not_opened(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"not even a pickle")
    with pytest.raises(UserError, match=r"pickled ones .* are never loaded"):
        load_model(folder, dtype="float32")


def test_a_model_that_needs_remote_code_is_refused_and_its_code_not_run(folder: Path) -> None:
    edit(folder, model_type="mystery", auto_map={"AutoModelForCausalLM": "code.Model"})
    marker = folder / "was_run"
    (folder / "code.py").write_text(f"open({str(marker)!r}, 'w')")
    with pytest.raises(UserError, match="needs code of its own"):
        load_model(folder, dtype="float32")
    assert not marker.exists()


def test_a_known_model_with_an_auto_map_is_loaded_without_its_code(folder: Path) -> None:
    edit(folder, auto_map={"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"})
    marker = folder / "was_run"
    (folder / "code.py").write_text(f"open({str(marker)!r}, 'w')")
    loaded = load_model(folder, dtype="float32")
    assert type(loaded).__module__.startswith("transformers.")
    assert not marker.exists()


def test_an_embedding_per_layer_type_is_refused(folder: Path) -> None:
    Gemma3TextConfig().save_pretrained(folder)
    with pytest.raises(UserError, match="'gemma3_text', which is not supported; choose a model"):
        load_model(folder, dtype="float32")


def test_a_model_that_was_extended_before_is_refused(folder: Path) -> None:
    edit(folder, rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0})
    with pytest.raises(UserError, match=r"rope_type 'linear'.*start from the model"):
        load_model(folder, dtype="float32")


def test_damaged_weights_are_refused(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"where its header asks for .*fetch the model again"):
        load_model(folder, dtype="float32")


def test_a_missing_part_of_the_weights_is_refused(llama: PreTrainedModel, tmp_path: Path) -> None:
    llama.save_pretrained(tmp_path, max_shard_size="100KB")
    sorted(tmp_path.glob("*.safetensors"))[-1].unlink()
    with pytest.raises(UserError, match=r"lacks model-0000.-of-.*fetch the complete model"):
        load_model(tmp_path, dtype="float32")


def test_missing_weights_are_refused_instead_of_drawn_at_random(folder: Path) -> None:
    edit(folder, num_hidden_layers=3)
    with pytest.raises(UserError, match=r"lacks weights \(model\.layers\.2\."):
        load_model(folder, dtype="float32")


@pytest.mark.parametrize("architecture", ["mistral", "phi3"])
def test_a_sliding_window_is_refused(
    architecture: str, build_model: Builder, tmp_path: Path
) -> None:
    build_model(architecture, sliding_window=16).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="window of 16 tokens; set full_attention: true"):
        load_model(tmp_path, dtype="float32")


@pytest.mark.parametrize("architecture", ["qwen2", "qwen3"])
def test_a_sliding_window_in_some_layers_is_refused(
    architecture: str, build_model: Builder, tmp_path: Path
) -> None:
    windowed = {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1}
    build_model(architecture, **windowed).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="window of 16 tokens"):
        load_model(tmp_path, dtype="float32")


@pytest.mark.parametrize("architecture", ["qwen2", "qwen3"])
def test_a_window_that_no_layer_uses_is_no_obstacle(
    architecture: str, build_model: Builder, tmp_path: Path
) -> None:
    windowed = {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 2}
    build_model(architecture, **windowed).save_pretrained(tmp_path)
    load_model(tmp_path, dtype="float32")


WINDOWS: dict[str, dict[str, Any]] = {
    "mistral": {"sliding_window": 16},
    "phi3": {"sliding_window": 16},
    "qwen2": {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1},
    "qwen3": {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1},
}


@pytest.mark.parametrize("architecture", WINDOWS)
def test_full_attention_switches_a_sliding_window_off(
    architecture: str, build_model: Builder, tokens: torch.Tensor, tmp_path: Path
) -> None:
    windowed = build_model(architecture, **WINDOWS[architecture])
    windowed.save_pretrained(tmp_path)
    loaded = load_model(tmp_path, dtype="float32", full_attention=True)
    unlimited = build_model(architecture)
    with torch.inference_mode():
        logits = loaded(tokens[None]).logits
        assert torch.equal(logits, unlimited(tokens[None]).logits)
        assert not torch.equal(logits, windowed(tokens[None]).logits)


@pytest.mark.parametrize("architecture", WINDOWS)
def test_a_window_switched_off_stays_off_when_saved(
    architecture: str, build_model: Builder, tmp_path: Path
) -> None:
    build_model(architecture, **WINDOWS[architecture]).save_pretrained(tmp_path)
    load_model(tmp_path, dtype="float32", full_attention=True).save_pretrained(tmp_path)
    load_model(tmp_path, dtype="float32")


def test_a_tokenizer_is_loaded_from_its_folder(tmp_path: Path) -> None:
    fast: Any = PreTrainedTokenizerFast
    words = Tokenizer(WordLevel({"a": 0, "b": 1}, unk_token="a"))
    fast(tokenizer_object=words).save_pretrained(tmp_path)
    assert load_tokenizer(tmp_path)("b")["input_ids"] == [1]


def test_a_folder_without_a_tokenizer_is_refused(folder: Path) -> None:
    with pytest.raises(
        UserError, match=r"has no tokenizer\.json; save the model's fast tokenizer there"
    ):
        load_tokenizer(folder)


def test_a_missing_tokenizer_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no tokenizer\.json"):
        load_tokenizer(tmp_path / "nowhere")


def test_the_device_is_cuda_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for available, expected in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda answer=available: answer)
        assert pick_device().type == expected
