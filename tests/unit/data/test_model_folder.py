"""Tests of model folders, without torch: transformers' own models, and refusals."""

import json
import struct
from pathlib import Path

import pytest
import tiny_models
import torch
from checkpoints import SIZES, edit, refusal, write_checkpoint, write_weights
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from longrope.architectures import ARCHITECTURES
from longrope.data.model_config import check_config, sliding_window
from longrope.data.model_weights import check_weights, expected_shapes
from longrope.errors import UserError
from longrope.models.loading import load_model

VARIANTS = [
    *((name, {}) for name in ARCHITECTURES),
    *((name, {"tie_word_embeddings": True}) for name in ARCHITECTURES),
    *((name, {"attention_bias": True}) for name in ARCHITECTURES),
    *((name, {"attention_bias": False}) for name in ARCHITECTURES),
    ("llama", {"mlp_bias": True}),
    ("llama", {"head_dim": None, "num_key_value_heads": None}),
    ("phi3", {"head_dim": None, "num_key_value_heads": None}),
    ("mistral", {"head_dim": None}),
    ("qwen3", {"head_dim": 6}),
]


@pytest.fixture
def llama(tmp_path):
    write_checkpoint(tmp_path, "llama")
    return tmp_path


def shard(folder: Path) -> list[Path]:
    """Spread the weights of a folder over two files with an index."""
    shapes = expected_shapes(json.loads((folder / "config.json").read_text()))
    (folder / "model.safetensors").unlink()
    names = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    for part, name in enumerate(names):
        write_weights(folder / name, dict(list(shapes.items())[part::2]))
    weight_map = {tensor: names[index % 2] for index, tensor in enumerate(shapes)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return [folder / name for name in names]


# What transformers builds ---------------------------------------------------------------------------


@pytest.mark.parametrize(("architecture", "changes"), VARIANTS)
def test_names_and_shapes_are_those_of_transformers_models(architecture, changes):
    sizes = {"head_dim": 4} if architecture in ("llama", "mistral", "qwen3") else {}
    config = SIZES | {"head_dim": None} | sizes | changes | {"model_type": architecture}
    # ids of its real vocabulary otherwise
    config["pad_token_id"] = None
    if config["head_dim"] is None:
        del config["head_dim"]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[architecture].from_dict(config))
    theirs = {name: tuple(weight.shape) for name, weight in model.named_parameters()}
    ours = expected_shapes(config)
    if config.get("tie_word_embeddings"):
        ours.popitem()
    assert ours == theirs


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("shard_size", ["1GB", "60KB"])
def test_what_transformers_saves_is_accepted_and_loaded(architecture, tied, shard_size, tmp_path):
    model = tiny_models.build(architecture, tie_word_embeddings=tied)
    model.save_pretrained(tmp_path, max_shard_size=shard_size)
    assert ((tmp_path / "model.safetensors").is_file()) == (shard_size == "1GB")
    check_weights(tmp_path, check_config(tmp_path))
    loaded = load_model(tmp_path, dtype="float32").state_dict()
    assert all(torch.equal(loaded[name], weight) for name, weight in model.state_dict().items())


WINDOWED = [
    *(("mistral", {}), ("mistral", {"sliding_window": None}), ("mistral", {"sliding_window": 5})),
    *(("phi3", {}), ("phi3", {"sliding_window": 2047}), ("phi3", {"sliding_window": None})),
    *(("qwen2", {}), ("qwen3", {"sliding_window": 5})),
    ("qwen2", {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}),
    ("qwen3", {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 2}),
    ("qwen2", {"use_sliding_window": True}),
    ("qwen2", {"use_sliding_window": True, "max_window_layers": 1}),
    (
        "qwen3",
        {"use_sliding_window": True, "layer_types": ["full_attention", "sliding_attention"]},
    ),
    *(("llama", {}), ("gpt_neox", {})),
]


@pytest.mark.parametrize(("architecture", "changes"), WINDOWED)
def test_a_window_is_found_exactly_where_transformers_has_one(architecture, changes):
    sizes = {name: size for name, size in SIZES.items() if name != "sliding_window"}
    config = sizes | changes | {"model_type": architecture}
    theirs = CONFIG_MAPPING[architecture].from_dict(config)
    layers = getattr(theirs, "layer_types", None)
    window = getattr(theirs, "sliding_window", None)
    used = window if layers is None or "sliding_attention" in layers else None
    assert sliding_window(config) == used


# What is refused ------------------------------------------------------------------------------------

QUANTISED = {
    "GPTQ": {"quantization_config": {"quant_method": "gptq", "bits": 4}},
    "AWQ": {"quantization_config": {"quant_method": "awq", "bits": 4}},
    "bitsandbytes": {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
    "compressed-tensors": {"quantization_config": {"quant_method": "compressed-tensors"}},
    "older compressed-tensors": {"compression_config": {"quant_method": "compressed-tensors"}},
    "MLX": {"quantization": {"group_size": 64, "bits": 4}},
    "FP8": {"quantization_config": {"quant_method": "fp8"}},
}


@pytest.mark.parametrize("tool", QUANTISED)
def test_a_quantised_model_is_refused_with_the_tools_name(llama, tool):
    edit(llama, **QUANTISED[tool])
    block = next(iter(QUANTISED[tool].values()))
    sentence = refusal(llama)
    assert f"quantised by {block.get('quant_method', 'MLX')} (" in sentence
    assert "give the folder of the unquantised model." in sentence
    with pytest.raises(UserError, match="quantised by"):
        load_model(llama, dtype="float32")


@pytest.mark.parametrize("name", ["quantize_config.json", "quant_config.json"])
def test_a_file_beside_the_config_can_say_that_weights_are_quantised(llama, name):
    (llama / name).write_text(json.dumps({"bits": 4}))
    assert f"quantised by GPTQ or AWQ ({name})" in refusal(llama)


def test_quantised_weights_are_seen_where_no_file_tells_of_them(llama):
    write_weights(
        llama / "model.safetensors", {"model.layers.0.mlp.up_proj.qweight": (1, 2)}, "I16"
    )
    assert "(model.layers.0.mlp.up_proj.qweight is I16)" in refusal(llama)


def test_a_config_whose_quantisation_is_null_is_not_quantised(llama):
    edit(llama, quantization_config=None)
    check_weights(llama, check_config(llama))


@pytest.mark.parametrize("has_config", [True, False])
def test_an_adapter_is_refused_with_the_name_of_its_base(llama, has_config):
    if not has_config:
        (llama / "config.json").unlink()
    adapter = {"base_model_name_or_path": "owner/base", "peft_type": "LORA"}
    (llama / "adapter_config.json").write_text(json.dumps(adapter))
    assert "holds an adapter of 'owner/base'" in refusal(llama)


def test_a_gguf_file_is_no_model_folder(tmp_path):
    (tmp_path / "model-q4.gguf").write_bytes(b"GGUF")
    assert "holds GGUF files" in refusal(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{", "nul", "[" * 100_000])
def test_a_config_that_is_no_mapping_is_refused(llama, text):
    (llama / "config.json").write_text(text)
    assert "config.json is not valid (" in refusal(llama)


@pytest.mark.parametrize("key", ["hidden_size", "num_hidden_layers"])
@pytest.mark.parametrize("size", [None, 0, -1, "8", 8.0, True])
def test_a_size_that_is_none_is_refused(llama, key, size):
    edit(llama, **{key: size})
    assert f"({key} is {size!r}, not a positive whole number)" in refusal(llama)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rope_theta": "10000"}, "rope_theta is '10000', not a number above 1"),
        ({"rope_parameters": {"rope_theta": 1}}, "rope_theta is 1, not a number above 1"),
        ({"rope_theta": float("inf")}, "rope_theta is inf, not a number above 1"),
        ({"partial_rotary_factor": "half"}, "partial_rotary_factor is 'half', not a share of 1"),
        ({"head_dim": 7}, "of a head of 7 dimensions 7 are rotated"),
        ({"head_dim": 2}, "of a head of 2 dimensions 2 are rotated"),
        (
            {"partial_rotary_factor": 0.2, "head_dim": 16},
            "of a head of 16 dimensions 3 are rotated",
        ),
    ],
)
def test_rotary_settings_that_make_no_angles_are_refused(llama, changes, words):
    edit(llama, **changes)
    assert f"config.json is not valid ({words}" in refusal(llama)


def test_weights_of_more_layers_than_the_config_says_are_refused(llama):
    edit(llama, num_hidden_layers=1)
    assert "weights of 2 layers where config.json says num_hidden_layers: 1;" in refusal(llama)
    with pytest.raises(UserError, match="weights of 2 layers"):
        load_model(llama, dtype="float32")


def test_weights_of_fewer_layers_than_the_config_says_are_refused(llama):
    edit(llama, num_hidden_layers=3)
    assert "lacks weights (model.layers.2.input_layernorm.weight, " in refusal(llama)


@pytest.mark.parametrize("key", ["vocab_size", "hidden_size", "intermediate_size", "head_dim"])
@pytest.mark.parametrize("architecture", ["llama", "mistral", "phi3", "qwen2"])
def test_weights_of_another_shape_are_refused(tmp_path, architecture, key):
    config = write_checkpoint(tmp_path, architecture)
    edit(tmp_path, **{key: config[key] * 2})
    assert "where config.json asks for (" in refusal(tmp_path)
    with pytest.raises(UserError, match=r"where config\.json asks for"):
        load_model(tmp_path, dtype="float32")


def test_biases_that_the_config_does_not_mention_are_refused(llama):
    write_checkpoint(llama, "llama", attention_bias=True)
    edit(llama, attention_bias=False)
    assert "no place for (model.layers.0.self_attn.q_proj.bias, " in refusal(llama)


@pytest.mark.parametrize("name", ["model.layers.0.self_attn.rotary_emb.inv_freq"])
def test_buffers_of_older_versions_are_no_obstacle(llama, name):
    config = json.loads((llama / "config.json").read_text())
    write_weights(llama / "model.safetensors", expected_shapes(config) | {name: (2,)})
    check_weights(llama, config)


def test_a_model_saved_without_its_head_lacks_it_unless_it_is_tied(llama):
    config = json.loads((llama / "config.json").read_text())
    shapes = {n.removeprefix("model."): s for n, s in expected_shapes(config).items()}
    del shapes["lm_head.weight"]
    write_weights(llama / "model.safetensors", shapes)
    assert "lacks weights (lm_head.weight)" in refusal(llama)
    check_weights(llama, config | {"tie_word_embeddings": True})


def test_a_complete_sharded_model_is_accepted(llama):
    shard(llama)
    check_weights(llama, check_config(llama))


def test_a_missing_shard_is_named(llama):
    shard(llama)[1].unlink()
    assert "lacks model-00002-of-00002.safetensors, 1 of the 2 files" in refusal(llama)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": []}', '{"weight_map": {"a": 1}}'])
def test_an_index_that_is_none_is_refused(llama, text):
    shard(llama)
    (llama / "model.safetensors.index.json").write_text(text)
    assert "is not an index of safetensors files" in refusal(llama)


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", "pytorch_model.bin"])
def test_an_index_names_no_file_elsewhere_and_none_that_is_pickled(llama, name):
    shard(llama)
    index = {"weight_map": {"lm_head.weight": name}}
    (llama / "model.safetensors.index.json").write_text(json.dumps(index))
    assert f"must name *.safetensors files beside it, got [{name!r}]" in refusal(llama)


@pytest.mark.parametrize("num_bytes", [0, 4, 8, 100, -1])
def test_a_file_that_is_cut_off_is_refused(llama, num_bytes):
    path = llama / "model.safetensors"
    path.write_bytes(path.read_bytes()[:num_bytes])
    assert refusal(llama).endswith("; fetch the model again.")
    assert str(path) in refusal(llama)


@pytest.mark.parametrize(
    "start", [b"\xff" * 8, struct.pack("<Q", 2) + b"[]", b"PK\3\4" + bytes(60)]
)
def test_a_file_of_another_format_is_refused(llama, start):
    (llama / "model.safetensors").write_bytes(start)
    assert "is cut off or no safetensors file" in refusal(llama)


def test_a_pointer_of_git_lfs_is_named_as_one(llama):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 16\n"
    (llama / "model.safetensors").write_text(pointer)
    assert "is a pointer of Git LFS, not the weights; run git lfs pull there." in refusal(llama)


@pytest.mark.parametrize("name", ["consolidated.safetensors", "weights.00.safetensors"])
def test_weights_under_other_names_are_refused(llama, name):
    (llama / "model.safetensors").rename(llama / name)
    assert f"has {name}, but neither model.safetensors nor" in refusal(llama)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "readme.txt"])
def test_a_folder_without_safetensors_is_refused(llama, name):
    (llama / "model.safetensors").rename(llama / name)
    assert "has no *.safetensors; convert the weights, because pickled ones" in refusal(llama)
