"""Constraints between keys: each broken one has its sentence, and several are named together."""

from collections.abc import Callable
from typing import Any

import pytest
import workflow_files

from longrope.errors import UserError
from longrope.reading import read_yaml
from longrope.settings import checking, loading, sense

Edit = Callable[[dict[str, Any]], object]


def mistakes(edit: Edit) -> list[str]:
    """Return the sentences about the small experiment after an edit."""
    raw = workflow_files.settings()
    edit(raw)
    return checking.check(raw).mistakes


def into(path: str, value: object) -> Edit:
    """Return the edit that sets a key, given with dots."""

    def edit(raw: dict[str, Any]) -> None:
        *parts, last = path.split(".")
        target: Any = raw
        for part in parts:
            target = target[int(part) if isinstance(target, list) else part]
        target[last] = value

    return edit


def test_the_small_experiment_has_no_mistake():
    assert mistakes(lambda raw: None) == []


FINETUNE = "extension.0.finetune"
PERPLEXITY = "evaluate.perplexity"
RISE = "lengths must rise, each above the one before it"
NAMES = (
    "names have letters, digits, '.', '_' and '-', a letter or digit first, and at most 64 of them"
)


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        # order of lengths
        (
            "evaluate.passkey.lengths",
            [256, 128],
            f"evaluate.passkey.lengths: {RISE}; got [256, 128].",
        ),
        ("readjust.lengths", [128, 128], f"readjust.lengths: {RISE}; got [128, 128]."),
        (
            f"{PERPLEXITY}.lengths.words",
            [128, 512, 256],
            f"{PERPLEXITY}.lengths.words: {RISE}; got [128, 512, 256].",
        ),
        (
            "evaluate.untuned_lengths",
            [512, 256],
            f"evaluate.untuned_lengths: {RISE}; got [512, 256].",
        ),
        (
            "evaluate.passkey.lengths",
            [],
            "evaluate.passkey.lengths should have at least 1 entry.",
        ),
        (
            f"{PERPLEXITY}.lengths.words",
            [],
            f"{PERPLEXITY}: lengths.words has no length; give one or leave the corpus out.",
        ),
        # lengths against each other
        (
            "readjust.lengths",
            [128, 256],
            "readjust.lengths must stay below the tuned target_length (256), got 256.",
        ),
        (
            "search.start_tokens",
            [0, 128],
            "search.start_tokens must stay below model.original_length (128), got 128.",
        ),
        (
            "search.start_tokens",
            [4, 4],
            "search.start_tokens: 4 stands in it twice; leave one of them out.",
        ),
        (
            "model.original_length",
            1,
            "model.original_length should be greater than or equal to 2, got 1.",
        ),
        # training
        (
            f"{FINETUNE}.warmup_steps",
            3,
            f"{FINETUNE}.warmup_steps must not exceed num_steps (2), got 3.",
        ),
        (
            "micro_batch_size",
            1_000_000_000,
            "micro_batch_size 1000000000 must divide finetune.batch_size 2; set micro_batch_size to 2.",
        ),
        # numbers
        ("seed", 2**32, "seed should be less than or equal to 4294967295, got 4294967296."),
        ("seed", True, "seed should be a number, got true."),
        ("attention_scale", True, "attention_scale should be a number, got true."),
        ("search.num_documents", True, "search.num_documents should be a number, got true."),
        ("search.start_tokens", [False], "search.start_tokens.0 should be a number, got false."),
        (
            "chunk_length",
            2**60,
            "chunk_length should be at most 2^53 in magnitude, got 1152921504606846976.",
        ),
        (
            f"{FINETUNE}.learning_rate",
            float("nan"),
            f"{FINETUNE}.learning_rate should be a finite number, got nan.",
        ),
        (
            f"{FINETUNE}.weight_decay",
            float("inf"),
            f"{FINETUNE}.weight_decay should be a finite number, got inf.",
        ),
        ("search.grid", float("inf"), "search.grid should be a finite number, got inf."),
        # texts
        (
            "corpora.words.source.files.test",
            [""],
            "corpora.words.source.files.test.0: should name files or a folder, got ''.",
        ),
        (
            "corpora.words.source.files.test",
            [],
            "corpora.words.source.files.test should have at least 1 entry.",
        ),
        ("model.path", " ", "model.path: should name files or a folder, got ' '."),
        ("experiment", "a b", f"experiment: {NAMES}; got 'a b'."),
        ("experiment", "x" * 65, f"experiment: {NAMES}; got {'x' * 65!r}."),
        ("model.name", "../up", f"model.name: {NAMES}; got '../up'."),
        ("search.documents.split", "a/b", f"search.documents.split: {NAMES}; got 'a/b'."),
        # names and keys near what was meant
        (
            "evaluate.benchmarks",
            {"tasks": {"mmlu": 5, "mmmlu": 5}},
            "evaluate.benchmarks.tasks: task 'mmmlu' is not known; choose among arc_challenge, hellaswag, "
            "mmlu, truthfulqa_mc2.",
        ),
        (
            f"{FINETUNE}.num_step",
            2,
            f"unknown key {FINETUNE}.num_step (did you mean num_steps?).",
        ),
        (
            "extension.0.num_steps",
            2,
            "unknown key extension.0.num_steps (it belongs to extension.NAME.finetune).",
        ),
        (
            "attention_scale",
            -1,
            "attention_scale should be 'yarn' or 'su', or greater than 0, got -1.",
        ),
    ],
)
def test_a_mistake_has_its_sentence_and_no_other(path, value, sentence):
    assert mistakes(into(path, value)) == [sentence]


def test_a_stride_is_below_the_longest_length():
    def edit(raw):
        raw["evaluate"]["perplexity"] |= {"protocol": "sliding", "stride": 512}

    sentence = "evaluate.perplexity.stride must stay below the longest of lengths (512), got 512."
    assert mistakes(edit) == [sentence]


def test_mistakes_of_every_sort_are_named_together():
    def edit(raw):
        raw["serach"] = raw.pop("search")
        raw["dtype"] = "bfloat"
        raw["model"]["original_length"] = "long"
        raw["extension"][1]["target_length"] = 100
        raw["readjust"]["lengths"] = [700]
        raw["evaluate"]["passkey"]["num_depths"] = 0

    assert mistakes(edit) == [
        "unknown key serach (did you mean search?).",
        "dtype should be 'float32' or 'bfloat16', got 'bfloat' (did you mean bfloat16?).",
        "model.original_length should be a whole number, got 'long'.",
        "evaluate.passkey.num_depths should be greater than 0, got 0.",
        "extension.1.target_length must exceed extension.0.target_length (256), got 100.",
        "readjust.lengths must stay below the tuned target_length (256), got 700.",
    ]


def test_a_wrong_value_is_not_followed_by_sentences_about_the_default_in_its_place():
    assert mistakes(lambda raw: raw["evaluate"].update(untuned_lengths="many")) == [
        "evaluate.untuned_lengths should be a list, got 'many'."
    ]
    assert mistakes(lambda raw: raw.pop("corpora")) == [
        "key corpora is missing; add it (see config/README.md)."
    ]


STUDY = {
    "lengths": [256],
    "seeds": [0],
    "held_out": {"corpus": "words", "split": "test"},
    "num_held_out": 1,
    "algorithms": {"a": workflow_files.settings()["search"]},
}


@pytest.mark.parametrize(
    ("changes", "sentences"),
    [
        ({"seeds": [0, 4]}, []),
        ({"seeds": [0, 4], "seed": 0}, ["give one of seed and seeds, and leave the other out."]),
        ({"seeds": [4, 4]}, ["seeds: 4 stands in it twice; leave one of them out."]),
        ({"seeds": []}, ["seeds should have at least 1 entry."]),
        (
            {"seeds": [0, 4], "extension": [], "readjust": None, "search_study": STUDY},
            ["seeds is for an extension; give those of a study as search_study.seeds."],
        ),
    ],
)
def test_seeds_stand_for_the_seed_of_an_extension(changes, sentences):
    assert mistakes(lambda raw: raw.update(changes)) == sentences


def test_other_verbs_name_the_first_mistake_and_the_verb_that_lists_all():
    raw = workflow_files.settings() | {"seed": -1, "dtype": "int8"}
    with pytest.raises(UserError) as refused:
        loading.parse(raw, source="x.yaml")
    assert str(refused.value) == (
        "x.yaml: seed should be greater than or equal to 0, got -1. It is the first of 2 mistakes; "
        "`longrope check CONFIG` lists all of them."
    )


# Warnings -----------------------------------------------------------------------------------------


def warnings(edit: Edit) -> list[str]:
    """Return the warnings about the small experiment, trained for 20 steps, after an edit."""
    raw = workflow_files.settings()
    raw["extension"][0]["finetune"]["num_steps"] = 20
    edit(raw)
    return list(sense.warnings(loading.parse(raw, source="x")))


@pytest.mark.parametrize(
    ("path", "value", "sentences"),
    [
        ("seed", 0, []),
        (
            f"{FINETUNE}.num_steps",
            19,
            [
                f"{FINETUNE}: the learning rate never reaches its peak, since warmup_steps (20) exceeds "
                "num_steps (19)."
            ],
        ),
        (
            "evaluate.passkey.lengths",
            [256, 1024],
            [
                "evaluate.passkey.lengths goes to 1024 tokens, beyond the longest target_length and untuned "
                "length (512), whose factors are used there."
            ],
        ),
        (
            f"{PERPLEXITY}.corpora.words.split",
            "train",
            [
                f"{PERPLEXITY}.corpora.words measures words train, which {FINETUNE}.documents trains on."
            ],
        ),
    ],
)
def test_what_may_not_be_meant_is_a_warning(path, value, sentences):
    assert warnings(into(path, value)) == sentences


# YAML ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: 1\nb: {c: 1,\n c: 2}\n", "gives the key c twice, in lines 2 and 3"),
        ("a: 1\nb: 2\n'a': 3\n", "gives the key a twice, in lines 1 and 3"),
        ("- {k: 1}\n- k: 1\n  k: 1\n", "gives the key k twice, in lines 2 and 3"),
        ("b: {c: 1, c: 2}\n", "gives the key c twice, in lines 1 and 1"),
    ],
)
def test_a_key_that_is_given_twice_is_refused_with_its_lines(tmp_path, text, sentence):
    path = tmp_path / "twice.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=sentence):
        read_yaml(path, "file", "give one")


def test_a_merged_key_may_be_given_again_and_aliases_may_repeat(tmp_path):
    path = tmp_path / "merged.yaml"
    path.write_text("a: &a {x: 1, y: 1}\nb: {<<: *a, y: 2}\nc: [*a, *a]\n")
    assert read_yaml(path, "file", "give one")["b"] == {"x": 1, "y": 2}


@pytest.mark.parametrize("text", ["a: 2024-13-45\n", "a: " + "9" * 5000, "a: " + "[" * 5000])
def test_scalars_and_depths_that_python_refuses_are_no_yaml(tmp_path, text):
    path = tmp_path / "odd.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match="is not valid YAML"):
        read_yaml(path, "file", "give one")
