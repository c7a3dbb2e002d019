"""Blocks in configs of several architectures, read and written, with transformers as the reference."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, GPTNeoXConfig, LlamaConfig, Phi3Config
from transformers.models.gpt_neox.modeling_gpt_neox import GPTNeoXRotaryEmbedding
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding
from transformers.models.phi3.modeling_phi3 import Phi3RotaryEmbedding

from longrope.errors import UserError
from longrope.models.rotary import LongRopeRotary
from longrope.rope.factors import RopeFactors
from longrope.rope.formats import read, write
from longrope.rope.methods import Geometry
from longrope.rope.stated import StatedFacts

THETA = 500_000.0
HEADS = {"hidden_size": 64, "num_attention_heads": 2}
"""two heads of 32 dimensions"""
MODELS: dict[str, tuple[Any, Any, dict[str, Any], float]] = {
    "llama": (LlamaConfig, LlamaRotaryEmbedding, {}, 1.0),
    "gpt_neox": (GPTNeoXConfig, GPTNeoXRotaryEmbedding, {}, 0.25),
    "phi3": (Phi3Config, Phi3RotaryEmbedding, {"pad_token_id": 0}, 1.0),
    "phi3-partial": (Phi3Config, Phi3RotaryEmbedding, {"pad_token_id": 0}, 0.75),
}
"""config, embedding, further keys, rotated share of a head"""


def factors_of(share: float, **changes: Any) -> RopeFactors:
    """Return a long set for 64 to 256 tokens of a model that rotates a share of 32 dimensions."""
    pairs = round(16 * share)
    values: dict[str, Any] = {
        "factors": tuple(np.linspace(1.0, 4.0, pairs).tolist()),
        "attention_scale": 1.2,
        "original_length": 64,
        "target_length": 256,
        "rope_theta": THETA,
        "partial_rotary_factor": share,
        "hidden_size": 64,
        "method": "longrope",
    }
    return RopeFactors(**(values | changes))


def written(path: Path, factors: RopeFactors, short: RopeFactors | None = None) -> dict[str, Any]:
    """Write a block; return the keys of a transformers config that holds it."""
    write(path, factors, "huggingface", short)
    return {
        "rope_parameters": json.loads(path.read_text()),
        "original_max_position_embeddings": factors.original_length,
        "max_position_embeddings": factors.target_length,
    }


def model_config(name: str, rope: dict[str, Any]) -> Any:
    make, _, further, _ = MODELS[name]
    return make(**HEADS, **further, **rope)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("length", [63, 64, 65, 200])
def test_a_written_block_gives_transformers_our_angles_on_both_sides_of_the_original_length(
    name: str, length: int, tmp_path: Path
) -> None:
    embedding, share = MODELS[name][1], MODELS[name][3]
    long = factors_of(share)
    short = factors_of(share, factors=tuple(np.linspace(1, 1.5, round(16 * share)).tolist()))
    short = short.model_copy(update={"target_length": 64})
    config = model_config(name, written(tmp_path / "block.json", long, short))
    config.save_pretrained(tmp_path)
    theirs = embedding(AutoConfig.from_pretrained(tmp_path))
    positions, like = torch.arange(length)[None], torch.zeros(1)
    chosen = long if length > 64 else short
    pairs = len(chosen.factors)
    ours = LongRopeRotary(Geometry(num_pairs=pairs, rope_theta=THETA, original_length=64))
    ours.use(chosen)
    for actual, reference in zip(ours(like, positions), theirs(like, positions), strict=True):
        torch.testing.assert_close(actual, reference, rtol=0, atol=2e-5)
    expected = [1 / (f * THETA ** (i / pairs)) for i, f in enumerate(chosen.factors)]
    # exponents rounded to float32, times ln(theta) = 13
    torch.testing.assert_close(theirs.inv_freq, torch.tensor(expected), rtol=1e-6, atol=0)
    assert theirs.attention_scaling == chosen.attention_scale


@pytest.mark.parametrize("name", MODELS)
def test_a_config_that_transformers_saved_is_read_with_its_base_and_its_rotated_share(
    name: str, tmp_path: Path
) -> None:
    long = factors_of(MODELS[name][3])
    model_config(name, written(tmp_path / "block.json", long)).save_pretrained(tmp_path)
    back = read(tmp_path / "config.json").factors
    assert back.model_dump(exclude={"provenance"}) == long.model_dump(exclude={"provenance"})


def test_vllm_finds_the_scale_of_each_set_under_its_own_key(tmp_path: Path) -> None:
    # by reading: its Phi-3 class takes short_mscale and long_mscale, and no attention_factor
    short = factors_of(1.0, attention_scale=1.05, target_length=64)
    block = written(tmp_path / "b.json", factors_of(1.0), short)["rope_parameters"]
    assert (block["short_mscale"], block["long_mscale"]) == (1.05, 1.2)
    alone = written(tmp_path / "c.json", factors_of(1.0))["rope_parameters"]
    assert (alone["short_mscale"], alone["short_factor"]) == (1.0, [1.0] * 16)


@pytest.mark.parametrize(("short", "scale"), [(True, 1.0), (False, 1.125)])
def test_each_set_has_its_own_attention_scale(short: bool, scale: float, tmp_path: Path) -> None:
    block = {"rope_type": "longrope", "short_factor": [1.0, 1.5], "long_factor": [1.0, 4.0]}
    block |= {"factor": 4, "short_mscale": 1.0, "long_mscale": 1.125, "attention_factor": 1.125}
    path = tmp_path / "block.json"
    path.write_text(json.dumps(block | {"original_max_position_embeddings": 16}))
    loaded = read(path, stated=StatedFacts(short=short))
    assert loaded.factors.attention_scale == scale
    has_note = any("transformers scales by 1.125" in note for note in loaded.notes)
    assert has_note == short


def minicpm(folder: Path) -> Path:
    """Write a config like MiniCPM4's: as many positions as the original ones, and large factors."""
    long = np.geomspace(0.998, 124.0, 16).tolist()
    rope = {"rope_type": "longrope", "long_factor": long, "short_factor": long}
    config = {"model_type": "minicpm", "max_position_embeddings": 32_768, "rope_theta": 10_000.0}
    rope |= {"original_max_position_embeddings": 32_768}
    path = folder / "config.json"
    path.write_text(json.dumps(config | {"rope_scaling": rope}))
    return path


def test_factors_of_a_config_that_stops_at_its_original_length_come_in_and_out(
    tmp_path: Path,
) -> None:
    path = minicpm(tmp_path)
    with pytest.raises(UserError, match="tells no length above its original 32768; give --target"):
        read(path)
    with pytest.raises(UserError, match="tells no length above its original 32768; give --target"):
        read(path, stated=StatedFacts(target_length=32_768))
    loaded = read(path, stated=StatedFacts(target_length=131_072))
    assert not [note for note in loaded.notes if "target length" in note]
    factors = loaded.factors
    assert (factors.target_length, factors.scale, factors.attention_scale) == (131_072, 4.0, 1.0)
    rope = written(tmp_path / "block.json", factors, factors)
    theirs = LlamaRotaryEmbedding(LlamaConfig(**HEADS, **rope))
    given = json.loads(path.read_text())
    before = LlamaRotaryEmbedding(LlamaConfig(**HEADS, **given))
    for embedding in (theirs, before):
        embedding(torch.zeros(1), torch.tensor([[40_000]]))
    assert torch.equal(theirs.inv_freq, before.inv_freq)
    assert theirs.attention_scaling == before.attention_scaling == 1.0


def test_a_phi3_without_a_length_beside_its_block_is_read_as_transformers_means_it(
    tmp_path: Path,
) -> None:
    rope = written(tmp_path / "block.json", factors_of(1.0))
    outer = {"model_type": "phi3", "max_position_embeddings": 16_384}
    path = tmp_path / "config.json"
    path.write_text(json.dumps(outer | {"rope_parameters": rope["rope_parameters"]}))
    loaded = read(path)
    config = Phi3Config(
        **HEADS,
        pad_token_id=0,
        rope_parameters=rope["rope_parameters"],
        max_position_embeddings=16_384,
    )
    theirs = Phi3RotaryEmbedding(config).config.rope_parameters["original_max_position_embeddings"]
    assert loaded.factors.original_length == theirs == 4096
    assert any("transformers takes 4096 for phi3" in note for note in loaded.notes)


def test_of_two_blocks_the_one_that_transformers_takes_is_read(tmp_path: Path) -> None:
    blocks = {
        name: written(tmp_path / name, factors_of(1.0, rope_theta=theta))["rope_parameters"]
        for name, theta in (("rope_scaling", 1e6), ("rope_parameters", 1e4))
    }
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"max_position_embeddings": 256} | blocks))
    theirs = LlamaConfig(**HEADS, **json.loads(path.read_text())).rope_parameters["rope_theta"]
    assert read(path).factors.rope_theta == theirs == 1e6
