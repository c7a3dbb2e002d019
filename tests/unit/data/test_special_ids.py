"""Special ids of config.json, generation_config.json and the tokenizer; and a tokenizer's size."""

import json

import command_line
import pytest
from tokenizers import Tokenizer, models

from longrope.data.special_ids import check_special_ids, end_token
from longrope.errors import UserError
from longrope.runtime import Input, Runtime
from longrope.settings.nodes import TokenizeNode
from longrope.stages import tokenize

# vocab_size, tokens that have ids, config.json, generation_config.json, tokenizer_config.json: as published
REAL = {
    "llama-2": (
        32000,
        {"<unk>": 0, "<s>": 1, "</s>": 2},
        {"bos_token_id": 1, "eos_token_id": 2},
        {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
        {"bos_token": {"content": "<s>"}, "eos_token": {"content": "</s>"}, "pad_token": None},
    ),
    "mistral-7b": (
        32000,
        {"<unk>": 0, "<s>": 1, "</s>": 2},
        {"bos_token_id": 1, "eos_token_id": 2},
        {"bos_token_id": 1, "eos_token_id": 2},
        {"bos_token": "<s>", "eos_token": "</s>", "pad_token": None},
    ),
    "llama-3-instruct": (
        128256,
        {"<|begin_of_text|>": 128000, "<|end_of_text|>": 128001, "<|eot_id|>": 128009},
        {"bos_token_id": 128000, "eos_token_id": 128001},
        {"bos_token_id": 128000, "eos_token_id": [128001, 128009]},
        {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"},
    ),
    "phi-3-mini": (
        32064,
        {"<s>": 1, "</s>": 2, "<|endoftext|>": 32000, "<|end|>": 32007},
        {"bos_token_id": 1, "eos_token_id": 32000, "pad_token_id": 32000},
        {"bos_token_id": 1, "eos_token_id": [32000, 32001, 32007], "pad_token_id": 32000},
        {"bos_token": "<s>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"},
    ),
    "qwen2.5-instruct": (
        152064,
        {"<|endoftext|>": 151643, "<|im_end|>": 151645},
        {"bos_token_id": 151643, "eos_token_id": 151645},
        {"bos_token_id": 151643, "eos_token_id": [151645, 151643], "pad_token_id": 151643},
        {"bos_token": None, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
    ),
    "smollm2": (
        49152,
        {"<|endoftext|>": 0, "<|im_start|>": 1, "<|im_end|>": 2},
        {"bos_token_id": 0, "eos_token_id": 0},
        {"bos_token_id": 0, "eos_token_id": 0},
        {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"},
    ),
}
NAMES = ("config.json", "generation_config.json", "tokenizer_config.json")


@pytest.fixture
def written(tmp_path):
    """Return a function that writes a folder of Llama-2's files with changes, by file."""

    def write(size, ids, *files, **changes):
        vocabulary = {"model": {"type": "BPE", "vocab": ids, "merges": []}}
        (tmp_path / "tokenizer.json").write_text(json.dumps(vocabulary))
        for name, content in zip(NAMES, files, strict=True):
            written_content = content | ({"vocab_size": size} if name == "config.json" else {})
            written_content |= changes.get(name.removesuffix(".json"), {})
            (tmp_path / name).write_text(json.dumps(written_content))
        return tmp_path

    return write


@pytest.mark.parametrize("model", REAL)
def test_what_real_models_ship_is_accepted(written, model):
    check_special_ids(written(*REAL[model]))


def test_files_that_name_nothing_are_accepted(tmp_path):
    check_special_ids(tmp_path)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"config": {"bos_token_id": 0}, "generation_config": {"bos_token_id": 0}},
            "bos_token_id is [0] in config.json, [0] in generation_config.json, but the tokenizer's "
            "bos_token '<s>' is 1; correct whichever",
        ),
        (
            {"config": {"eos_token_id": 1}, "generation_config": {"eos_token_id": None}},
            "eos_token_id is [1] in config.json, but the tokenizer's eos_token '</s>' is 2",
        ),
        (
            {"config": {"eos_token_id": 1}, "tokenizer_config": {"eos_token": None}},
            "eos_token_id is [1] in config.json, [2] in generation_config.json; correct whichever",
        ),
        ({"config": {"pad_token_id": -1}}, "config.json: pad_token_id is -1, which is no token"),
        (
            {"config": {"eos_token_id": [2, -1]}},
            "config.json: eos_token_id is -1, which is no token",
        ),
        ({"config": {"bos_token_id": "<s>"}}, "config.json: bos_token_id is '<s>', which is no"),
        (
            {"generation_config": {"eos_token_id": [2, 32000]}},
            "generation_config.json: eos_token_id is 32000, outside the 32000 tokens",
        ),
        (
            {"tokenizer_config": {"eos_token": "<eos>"}},
            "tokenizer_config.json: eos_token '<eos>' is no token of tokenizer.json",
        ),
        (
            {"config": {"vocab_size": 2}},
            "token '</s>' of tokenizer.json has id 2, and the model embeds 2 (vocab_size",
        ),
    ],
)
def test_contradictions_are_refused_by_name(written, changes, sentence):
    folder = written(*REAL["llama-2"], **changes)
    with pytest.raises(UserError) as caught:
        check_special_ids(folder)
    assert str(folder) in str(caught.value) and sentence in str(caught.value)


@pytest.mark.parametrize("model", REAL)
def test_a_document_ends_with_the_first_eos_of_the_configuration(written, model):
    folder = written(*REAL[model])
    stated = REAL[model][2]["eos_token_id"]
    assert end_token(folder) == stated
    config = json.loads((folder / "config.json").read_text()) | {"eos_token_id": [stated, 7]}
    (folder / "config.json").write_text(json.dumps(config))
    assert end_token(folder) == stated


def test_without_an_eos_in_the_configuration_the_tokenizers_counts_and_without_any_a_sentence(
    written,
):
    folder = written(*REAL["llama-2"], config={"eos_token_id": None})
    assert end_token(folder) == 2
    (folder / "tokenizer_config.json").unlink()
    assert end_token(folder, [5, 6]) == 5, "what transformers takes by itself"
    with pytest.raises(UserError, match="names no EOS, which ends every document"):
        end_token(folder)


def test_tokenizing_refuses_a_tokenizer_that_is_larger_than_the_model(tmp_path):
    made = Tokenizer(models.WordLevel({"a": 0, "b": 96, "~": 1}, unk_token="~"))
    made.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "a.txt").write_text("a")
    inputs = {
        "tokenizer": Input(tmp_path, "m"),
        "documents": Input(tmp_path, "d", files=("a.txt",)),
    }
    settings, runtime = TokenizeNode(), Runtime(tmp_path, tmp_path)
    for size in (97, 200):
        (tmp_path / "config.json").write_text(json.dumps({"vocab_size": size}))
        tokenize.run(settings, inputs, tmp_path, runtime)
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": 96}))
    with pytest.raises(UserError, match="has id 96, and the model embeds 96"):
        tokenize.run(settings, inputs, tmp_path, runtime)


# The plan ------------------------------------------------------------------------------------------

PLANNED = {
    "config": {"bos_token_id": 1, "eos_token_id": 2},
    "generation_config": {"bos_token_id": 1, "eos_token_id": 2},
    "tokenizer_config": {"bos_token": "<s>", "eos_token": "</s>"},
}


@pytest.fixture
def plan_refusal(tmp_path, monkeypatch, capsys):
    """Return a function that runs `longrope plan` on a model of 11 tokens; None if nothing is refused."""
    monkeypatch.chdir(command_line.write_files(tmp_path))

    def run(*, vocabulary=("<unk>", "<s>", "</s>"), bos="auto", **changes):
        ids = {token: number for number, token in enumerate(vocabulary)}
        made = Tokenizer(models.WordLevel(ids, unk_token=vocabulary[0]))
        made.save(str(tmp_path / "model" / "tokenizer.json"))
        for name, content in PLANNED.items():
            path = tmp_path / "model" / f"{name}.json"
            before = json.loads(path.read_text()) if path.is_file() else {}
            path.write_text(json.dumps(before | content | changes.get(name, {})))
        command_line.edit("path: model,", f"path: model, bos: {bos},")
        code = command_line.call("plan", "config.yaml")
        printed = capsys.readouterr()
        assert (code, printed.err.count("\n")) in [(0, 0), (1, 1)]
        return printed.err.strip() or None

    return run


@pytest.mark.parametrize("bos", ["auto", "always", "never"])
def test_a_plan_accepts_special_ids_that_agree(plan_refusal, bos):
    assert plan_refusal(bos=bos) is None


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"generation_config": {"eos_token_id": 1}, "tokenizer_config": {"eos_token": None}},
            "eos_token_id is [2] in config.json, [1] in generation_config.json; correct whichever",
        ),
        (
            {"config": {"bos_token_id": 0}, "generation_config": {"bos_token_id": None}},
            "bos_token_id is [0] in config.json, but the tokenizer's bos_token '<s>' is 1; correct",
        ),
        (
            {"config": {"bos_token_id": None}, "generation_config": {"bos_token_id": 0}},
            "bos_token_id is [0] in generation_config.json, but the tokenizer's bos_token '<s>' is 1",
        ),
        (
            {"config": {"eos_token_id": [2, 11]}},
            "config.json: eos_token_id is 11, outside the 11 tokens that the model embeds",
        ),
        ({"config": {"pad_token_id": -1}}, "config.json: pad_token_id is -1, which is no token"),
        (
            {"generation_config": {"eos_token_id": -1}},
            "generation_config.json: eos_token_id is -1, which is no token",
        ),
        (
            {
                "bos": "always",
                "config": {"bos_token_id": None},
                "tokenizer_config": {"bos_token": None},
            },
            "names no BOS (bos_token in tokenizer_config.json, bos_token_id in config.json); set",
        ),
        (
            {"vocabulary": ("<unk>", "<s>", "</s>", *"abcdefghi")},
            "token 'i' of tokenizer.json has id 11, and the model embeds 11 (vocab_size",
        ),
    ],
    ids=[
        *("files", "tokenizer", "generation", "outside", "negative", "negative generation"),
        *("no BOS", "large"),
    ],
)
def test_a_plan_refuses_special_ids_that_cannot_be_right(plan_refusal, changes, sentence):
    refusal = plan_refusal(**changes)
    assert refusal.startswith("longrope: error: model") and sentence in refusal
