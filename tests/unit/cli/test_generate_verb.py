"""`longrope generate`: transformers' own text where factors change nothing, its messages and its refusals."""

import json
from pathlib import Path

import pytest
import torch
from command_line import call
from repository import ROOT
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from longrope import FactorTable, RopeFactors, load_model, load_tokenizer
from longrope.cli.generate import continuation

MODEL = ROOT / "resources/tiny-llama"
PROMPT = "Once upon a time there was a little girl who"


def factors(length: int = 256, **changes: object) -> RopeFactors:
    values = {"factors": (1.0,) * 32, "original_length": 256, "target_length": length}
    return RopeFactors(**values | {"method": "none", "rope_theta": 200.0} | changes)


@pytest.fixture
def generated(tmp_path, monkeypatch, capsys):
    """Return a function that runs the verb and returns its exit code, output and messages."""
    monkeypatch.chdir(tmp_path)
    Path("prompt.txt").write_text(PROMPT + "\n")
    factors().save("factors.json")

    def run(*options: str, table: str = "factors.json") -> tuple[int, str, str]:
        code = call(
            *("generate", str(MODEL), "--factors", table, "--prompt-file", "prompt.txt"),
            *("--max-new-tokens", "12", *options),
        )
        return code, *capsys.readouterr()

    return run


def theirs(prompt: str, *, begin: tuple[int, ...] = ()) -> str:
    """Return the greedy continuation by transformers alone, with the model's own embedding."""
    tokenizer, model = load_tokenizer(MODEL), load_model(MODEL, dtype="float32")
    ids = torch.tensor([[*begin, *tokenizer(prompt, add_special_tokens=False).input_ids]])
    mask = torch.ones_like(ids)
    output = model.generate(ids, attention_mask=mask, max_new_tokens=12, do_sample=False)
    return tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True)


def test_the_text_is_that_of_transformers_where_no_factor_changes_anything(generated):
    code, text, messages = generated()
    assert (code, text) == (0, theirs(PROMPT) + "\n")
    assert "longrope: prompt 11 tokens, continuation 12\n" in messages
    assert "longrope: up to token 23 under the factors for 256\n" in messages


def test_bos_begins_the_prompt_where_it_is_asked_for(generated):
    bos = json.loads((MODEL / "config.json").read_text())["bos_token_id"]
    expected = theirs(PROMPT, begin=(bos,))
    assert generated("--bos", "always")[1] == expected + "\n" != generated()[1]


def test_each_entry_that_the_text_runs_under_is_named(generated):
    FactorTable(entries=(factors(16), factors(256, factors=(8.0,) * 32))).save("table.json")
    messages = generated("--switch", "recompute", table="table.json")[2].splitlines()[-2:]
    assert messages == [
        "longrope: up to token 17 under the factors for 16",
        "longrope: up to token 23 under the factors for 256",
    ]
    messages = generated(table="table.json")[2].splitlines()
    assert messages[-1] == "longrope: up to token 23 under the factors for 256"


def test_sampling_repeats_with_its_seed(generated):
    first, same, other = (generated("--temperature", "1", "--seed", s)[1] for s in ("4", "4", "5"))
    assert first == same != other


@pytest.mark.parametrize(
    ("text", "options", "sentence"),
    [
        ("\n", [], "prompt.txt is empty; write the text to continue to it."),
        ("a " * 300, [], "but the longest factors are for 256; shorten it"),
        (PROMPT, ["--temperature", "-1"], "temperature"),
        (PROMPT, ["--factors", "none.json"], "none.json is not a factors file"),
        (PROMPT, ["--prompt-file", "none.txt"], "none.txt is not a text in UTF-8"),
        (PROMPT, ["--factors", "theirs.json"], "with rope_theta 10000, but the model has 200"),
    ],
)
def test_mistakes_end_in_a_sentence(generated, text, options, sentence):
    Path("prompt.txt").write_text(text)
    factors(rope_theta=10_000.0).save("theirs.json")
    code, printed, messages = generated(*options)
    assert (code, printed) == (1, "")
    assert sentence in messages.splitlines()[-1]


def test_the_space_between_prompt_and_continuation_is_not_lost():
    words = Tokenizer(models.WordLevel({"▁one": 0, "▁two": 1}, unk_token="▁one"))
    words.pre_tokenizer = pre_tokenizers.Metaspace()
    words.decoder = decoders.Metaspace()
    assert words.decode([1]) == "two"
    assert continuation(words, [0], [1, 0]) == " two one"
