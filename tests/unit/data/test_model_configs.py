"""Configurations that people edit: how attention runs, rope blocks, windows and original lengths."""

import json

import pytest
import tiny_models
import torch
from checkpoints import SIZES, edit, refusal, write_checkpoint
from repository import ROOT

from longrope.data.model_config import length_warning, read_config
from longrope.models.loading import load_config, load_geometry, load_model
from longrope.models.score_context import geometry_for_scoring
from longrope.plan.build import build as build_plan
from longrope.runtime import Input
from longrope.settings.loading import load as load_settings
from longrope.settings.nodes import ModelUse

CONFIGS = ROOT / "config"


@pytest.fixture
def llama(tmp_path):
    write_checkpoint(tmp_path, "llama")
    return tmp_path


@pytest.mark.parametrize("key", ["_attn_implementation", "attn_implementation"])
def test_a_config_does_not_decide_how_attention_is_computed(tmp_path, key):
    tiny_models.build("llama").save_pretrained(tmp_path)
    edit(tmp_path, **{key: "flash_attention_2", "return_dict": False, "output_attentions": True})
    model = load_model(tmp_path, dtype="float32")
    assert model.config._attn_implementation == "sdpa"
    assert model(torch.tensor([[1, 2]])).attentions is None


BLOCKS = {
    "yarn": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
    "dynamic": {"type": "dynamic", "factor": 2.0},
    "linear": {"rope_type": "linear", "factor": 2.0},
}


@pytest.mark.parametrize("key", ["rope_scaling", "rope_parameters"])
@pytest.mark.parametrize("kind", BLOCKS)
def test_a_block_of_an_unchanged_checkpoint_is_dropped_if_asked_for(tmp_path, kind, key):
    model = tiny_models.build("qwen2", rope_parameters={"rope_type": "default", "rope_theta": 5e3})
    model.save_pretrained(tmp_path)
    theta = {"rope_theta": 5e3}
    if key == "rope_parameters":
        edit(tmp_path, rope_parameters=BLOCKS[kind] | theta)
    else:
        edit(tmp_path, rope_parameters=None, rope_scaling=BLOCKS[kind], **theta)
    assert f"(rope_type '{kind}' in config.json)" in refusal(tmp_path)
    assert "model.rope_scaling: drop" in refusal(tmp_path)
    loaded = load_model(tmp_path, dtype="float32", rope_scaling="drop")
    text = torch.arange(90)[None]
    with torch.inference_mode():
        assert torch.equal(loaded(text).logits, model(text).logits)
    geometry = load_geometry(tmp_path, 64, full_attention=False, rope_scaling="drop")
    assert (geometry.rope_theta, geometry.num_pairs) == (5e3, 8)


@pytest.mark.parametrize("kind", ["longrope", "su", "llama3"])
def test_a_block_that_weights_were_trained_under_is_never_dropped(llama, kind):
    edit(llama, rope_scaling={"type": kind, "factor": 8.0})
    assert "start from the model it was extended from." in refusal(llama, rope_scaling="drop")


def test_the_part_of_the_dimensions_that_is_rotated_survives_the_dropping_of_a_block(tmp_path):
    tiny_models.build("gpt_neox").save_pretrained(tmp_path)
    before = load_geometry(tmp_path, 64, full_attention=False)
    content = json.loads((tmp_path / "config.json").read_text())
    edit(tmp_path, rope_parameters=content["rope_parameters"] | BLOCKS["yarn"])
    dropped = load_config(tmp_path, full_attention=False, rope_scaling="drop")
    assert dropped.rope_parameters["rope_type"] == "default"
    assert load_geometry(tmp_path, 64, full_attention=False, rope_scaling="drop") == before


LENGTHS = [
    (("llama", {"max_position_embeddings": 64}), 64, None),
    (
        ("llama", {"max_position_embeddings": 64}),
        32,
        "config.json says max_position_embeddings: 64",
    ),
    (("llama", {"max_position_embeddings": None}), 32, None),
    # Phi-3-mini-4k
    (
        ("phi3", {"max_position_embeddings": 4096, "sliding_window": 2047}),
        4096,
        "within a sliding window of 2047 tokens",
    ),
    (("phi3", {"max_position_embeddings": 4096, "sliding_window": 2047}), 2048, None),
    # Mistral v0.1 as LongRoPE takes it
    (("mistral", {"max_position_embeddings": 32768, "sliding_window": 4096}), 4096, None),
    (
        ("mistral", {"max_position_embeddings": 32768, "sliding_window": 4096}),
        8192,
        "of 4096 tokens",
    ),
    # Qwen2.5 with its block: 32k without it
    (
        (
            "qwen2",
            {
                "max_position_embeddings": 131072,
                "rope_scaling": {"type": "yarn", "original_max_position_embeddings": 32768},
            },
        ),
        32768,
        None,
    ),
]


@pytest.mark.parametrize(("model", "original_length", "said"), LENGTHS)
def test_an_original_length_other_than_the_pretrainings_is_said(model, original_length, said):
    architecture, changes = model
    warning = length_warning(SIZES | changes | {"model_type": architecture}, original_length)
    assert warning is None if said is None else said in str(warning)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*-*.yaml")), ids=lambda path: path.stem)
def test_of_the_shipped_configurations_phi3s_4k_alone_is_said_to_exceed_its_window(path):
    warnings = build_plan(load_settings(path), CONFIGS.parent).warnings
    if path.stem == "phi3-mini":
        assert "model phi3-mini: original_length is 4096" in warnings[0]
        assert "sliding window of 2047 tokens" in warnings[0]
    else:
        assert list(warnings) == []


@pytest.mark.parametrize(("files", "said"), [((), 1), (("config.json",), 0)])
def test_the_length_of_a_fetched_model_is_said_where_its_config_is_first_read(
    tmp_path, capsys, files, said
):
    write_checkpoint(tmp_path, "llama", pad_token_id=None)
    geometry_for_scoring(ModelUse(original_length=4), Input(tmp_path, "model", files))
    assert capsys.readouterr().err.count("config.json says max_position_embeddings: 8") == said


def test_a_sound_folder_reads_as_it_was_written(llama):
    assert read_config(llama) == SIZES | {"model_type": "llama"}
