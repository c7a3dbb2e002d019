"""Tests of longrope.library: against transformers' own losses, and against the stages between files."""

import math
import re
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from repository import ROOT
from search_stage import SETTINGS, searched, write_inputs
from searches import SMALL
from tiny_models import ORIGINAL_LENGTH, build
from tokenizer_kinds import begins_with_bos
from tolerances import REORDERED
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

import longrope
from longrope import FactorTable, RopeFactors, UserError
from longrope.data.token_store import TokenStore
from longrope.runtime import Workers

VOCABULARY = 97
TEXTS = [np.random.default_rng(1).integers(0, VOCABULARY, size).tolist() for size in (150, 40)]
SMALL_SEARCH: dict[str, Any] = {
    "algorithm": {"name": "auto", **SMALL["auto"]},
    "start_tokens": [0, 2, 8],
    "num_documents": 3,
}


@pytest.fixture
def llama():
    return build("llama")


@pytest.fixture(scope="module")
def tokenizer():
    return longrope.load_tokenizer(ROOT / "resources/tiny-llama")


def linear(model: Any, target_length: int = 256) -> RopeFactors:
    return longrope.closed_form("linear", longrope.geometry(model), target_length)


def losses(model: Any, tokens: list[int]) -> torch.Tensor:
    """Return the loss of every token but the first, by one forward pass of transformers."""
    ids = torch.tensor([tokens])
    with torch.inference_mode():
        logits = model(ids).logits[0, :-1]
    return torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none").double()


# Perplexity ---------------------------------------------------------------------------------------


def test_a_perplexity_weighs_every_predicted_token_alike(llama):
    both = torch.cat([losses(llama, tokens) for tokens in TEXTS])
    assert longrope.perplexity(llama, TEXTS) == pytest.approx(math.exp(both.mean()), rel=REORDERED)


@pytest.mark.parametrize("kind", [np.array, torch.tensor, tuple])
def test_token_ids_may_be_lists_arrays_or_tensors(llama, kind):
    given = [kind(tokens) for tokens in TEXTS]
    assert longrope.perplexity(llama, given) == longrope.perplexity(llama, TEXTS)


def test_a_length_counts_the_ids_put_before_a_text_and_leaves_out_short_texts(llama, caplog):
    expected = losses(llama, [5, 6, *TEXTS[0][:48]])[1:].mean()  # all that is text
    measured = longrope.perplexity(llama, TEXTS, begin=[5, 6], length=50)
    assert measured == pytest.approx(math.exp(expected), rel=REORDERED)
    assert "1 of 2 texts have no 48 tokens" in caplog.text


def test_a_table_is_read_at_the_length_of_each_text(llama):
    table = FactorTable(entries=(linear(llama, 64), linear(llama, 256)))
    short, long = [TEXTS[1]], [TEXTS[0]]
    for texts, factors in ((short, linear(llama, 64)), (long, linear(llama, 256))):
        assert longrope.perplexity(llama, texts, table) == longrope.perplexity(
            llama, texts, factors
        )


def test_measuring_leaves_a_model_as_it_was(llama):
    rotary, logits = llama.model.rotary_emb, losses(llama, TEXTS[1])
    longrope.perplexity(llama, TEXTS, linear(llama))
    assert llama.model.rotary_emb is rotary
    assert torch.equal(losses(llama, TEXTS[1]), logits)


def test_a_model_runs_under_installed_factors_until_others_are_installed(llama):
    before = longrope.perplexity(llama, TEXTS)
    longrope.install(llama, linear(llama))
    installed = torch.cat([losses(llama, tokens) for tokens in TEXTS]).mean()
    assert math.exp(installed) != pytest.approx(before, rel=1e-3)
    assert longrope.perplexity(llama, TEXTS) == pytest.approx(math.exp(installed), rel=REORDERED)
    pretrained = longrope.closed_form("none", longrope.geometry(llama), ORIGINAL_LENGTH)
    assert longrope.perplexity(llama, TEXTS, pretrained) == before
    assert longrope.perplexity(llama, TEXTS) == pytest.approx(math.exp(installed), rel=REORDERED)


def test_strings_are_read_as_the_workflow_reads_them(tokenizer):
    text = (ROOT / "tests/helpers/prose.txt").read_text()
    model = longrope.load_model(str(ROOT / "resources/tiny-llama"), dtype="float32")
    # the tokenizer of this model puts nothing before a text
    ids = tokenizer(text, add_special_tokens=False).input_ids
    by_ids = longrope.perplexity(model, [ids], length=256)
    assert longrope.perplexity(model, [text], tokenizer=tokenizer, length=256) == by_ids


def test_what_a_tokenizer_puts_before_a_text_is_put_before_every_window():
    encoder = begins_with_bos()
    model = build("llama", vocab_size=encoder.get_vocab_size())
    wrapped = PreTrainedTokenizerFast(tokenizer_object=encoder)
    begin, *ids = encoder.encode("Some words, and more of them.").ids
    measured = longrope.perplexity(model, ["Some words, and more of them."], tokenizer=wrapped)
    assert measured == longrope.perplexity(model, [ids], begin=[begin])
    assert measured != longrope.perplexity(model, [ids])


# Search -------------------------------------------------------------------------------------------


def test_a_search_in_memory_finds_what_the_stage_finds_between_files(llama, tmp_path):
    inputs = write_inputs(tmp_path)
    store = TokenStore(inputs["tokens"].path)
    texts = [store.document(number) for number in range(len(store))]
    result = longrope.search_factors(
        llama, texts, target_length=SETTINGS.target_length, seed=SETTINGS.seed, **SMALL_SEARCH
    )
    searched(tmp_path / "out", inputs, Workers())
    expected = RopeFactors.read(tmp_path / "out/factors.json")
    facts = {key: value for key, value in expected.provenance.items() if "held_out" not in key}
    facts["model"] = "LlamaForCausalLM"
    assert result == expected.model_copy(update={"provenance": facts})


def test_factors_searched_on_a_tuned_model_multiply_those_of_its_tuning(llama):
    base = linear(llama, 128)
    result = longrope.search_factors(
        llama, TEXTS, target_length=150, base=base, **{**SMALL_SEARCH, "num_documents": 1}
    )
    ratios = np.array(result.factors) / base.factors
    assert (ratios >= 1).all() and (ratios <= 1.25 * 150 / 128).all()
    assert (result.original_length, result.target_length) == (ORIGINAL_LENGTH, 150)


def test_keys_are_planted_in_strings(tokenizer):
    model = longrope.load_model(ROOT / "resources/tiny-llama", dtype="float32")
    text = (ROOT / "tests/helpers/prose.txt").read_text()
    search = {**SMALL_SEARCH, "num_documents": 1, "objective": "needle"}
    result = longrope.search_factors(
        model, [text], tokenizer=tokenizer, target_length=300, **search
    )
    assert result.provenance["objective"] == "needle"


def test_the_readme_extends_a_model_in_ten_lines(tmp_path):
    readme = (ROOT / "README.md").read_text()
    (block,) = re.findall(r"^```python\n(.*?)^```$", readme, flags=re.DOTALL | re.MULTILINE)
    for name in ("resources", "docs"):
        (tmp_path / name).symlink_to(ROOT / name)
    done = subprocess.run(
        [sys.executable, "-c", block], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    pretrained, yarn, ours = map(float, done.stdout.split())
    # the texts are the guides, whose every edit draws other stretches: on these windows, which are not the
    # ones that were searched on, either of the two may be ahead by a percent
    assert max(yarn, ours) < pretrained
    assert ours < 1.03 * yarn
    assert RopeFactors.read(tmp_path / "factors.json").target_length == 1024
    lines = [line for line in block.splitlines() if line and "import" not in line]
    assert len(lines) <= 10


# Refusals -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("texts", "sentence"),
    [
        ("a text", "texts must be a list with at least one text"),
        ([], "texts must be a list with at least one text"),
        (["a text"], "text 0 is a string; give the model's tokenizer, or token ids"),
        (
            [[1, 2], [3, VOCABULARY]],
            "text 1 has token ids from 3 to 97, but the model knows 0 to 96",
        ),
        ([[1, -1]], "text 0 has token ids from -1 to 1"),
        ([1, 2, 3], "text 0 must be a string or a row of token ids"),
        ([[0.5, 1.5]], "text 0 must be a string or a row of token ids"),
        ([[[1], [2, 3]]], "text 0 must be a string or a row of token ids"),
        ([[1]], "texts to score: no document has 2 tokens, the longest has 1"),
    ],
)
def test_texts_that_are_none_are_refused(llama, texts, sentence):
    with pytest.raises(UserError, match=re.escape(sentence)):
        longrope.perplexity(llama, texts)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"num_dokuments": 3}, "unknown key num_dokuments (did you mean num_documents?)"),
        (
            {"algorithm": "cmaes"},
            "search_factors: algorithm should have a name out of 'auto', 'evolution'",
        ),
        ({"target_length": 0}, "search_factors: target_length"),
        ({"target_length": 500}, "search documents for length 500: no document has 500 tokens"),
        ({"objective": "needle"}, "objective needle plants keys in words; give tokenizer"),
    ],
)
def test_wrong_arguments_of_a_search_are_refused_by_name(llama, changes, sentence):
    with pytest.raises(UserError, match=re.escape(sentence)):
        longrope.search_factors(llama, TEXTS, **{"target_length": 128, **changes})


def test_a_window_without_room_for_a_token_to_score_is_refused(llama):
    with pytest.raises(UserError, match="length must be at least 3 tokens, got 2"):
        longrope.perplexity(llama, TEXTS, begin=[1, 2], length=2)


def test_a_model_in_training_mode_is_refused(llama):
    with pytest.raises(ValueError, match=r"call model\.eval\(\) before scoring"):
        longrope.search_factors(llama.train(), TEXTS, target_length=128)


def test_models_that_cannot_be_extended_are_refused():
    with pytest.raises(UserError, match="MistralForCausalLM attends within a sliding window of 32"):
        longrope.perplexity(build("mistral", sliding_window=32), TEXTS)
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
    extended = build("llama", rope_parameters={"rope_theta": 10_000.0, **yarn})
    with pytest.raises(UserError, match="was extended before"):
        longrope.search_factors(extended, TEXTS, target_length=128)
    other = GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=1, n_embd=8, vocab_size=VOCABULARY))
    with pytest.raises(UserError, match="of type 'gpt2', which is not supported"):
        longrope.install(other, linear(build("llama")))


def test_a_tokenizer_of_words_alone_is_refused(llama):
    class Slow(PreTrainedTokenizerFast):
        backend_tokenizer = None

    with pytest.raises(UserError, match="tokenizer is a Slow; give a fast tokenizer"):
        longrope.perplexity(llama, ["a text"], tokenizer=Slow.__new__(Slow))
