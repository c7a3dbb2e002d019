"""Tests of the settings: loading, refusals and their words, generated files."""

import copy
import json
import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from repository import ROOT

from longrope.errors import UserError
from longrope.settings import loading as configuration
from longrope.settings import schema
from longrope.settings.config import Config
from longrope.settings.sources import HubSource

SHIPPED = sorted(set((ROOT / "config").glob("*.yaml")) - {ROOT / "config/hardware.yaml"})
FULL_SCALE = (
    *("llama2-7b", "llama3-8b", "mistral-7b", "phi3-mini"),
    *("llama3-8b-longrope2", "phi3-mini-longrope2"),
)
Edit = Callable[[dict[str, Any]], object]

SMALL = """
experiment: small
model: {name: tiny, path: model, original_length: 256}
corpora:
  books: {source: {kind: local, files: {train: [train.txt], validation: [held-out.txt]}}}
search: {documents: {corpus: books, split: validation}}
extension:
  - target_length: 1024
    finetune: {num_steps: 10, documents: {corpus: books, split: train}}
  - target_length: 4096
evaluate:
  untuned_lengths: [1024]
  perplexity:
    corpora: {Books: {corpus: books, split: validation}}
    lengths: {Books: [256, 1024]}
    num_documents: {Books: 2}
"""


def small() -> dict[str, Any]:
    """Return the raw settings of a small experiment."""
    raw: dict[str, Any] = yaml.safe_load(SMALL)
    return raw


def refusal(edit: Edit) -> str:
    """Return the sentence with which the edited small experiment is refused."""
    raw = small()
    edit(raw)
    with pytest.raises(UserError) as caught:
        configuration.parse(raw, source="small.yaml")
    return str(caught.value)


# Generated files --------------------------------------------------------------------------------


def test_schema_and_readme_are_what_the_models_say():
    assert schema.drifted(ROOT) == [], "run python -m longrope.settings.schema --write"


def test_a_drift_is_found_and_repaired(tmp_path):
    assert schema.drifted(tmp_path) == [schema.SCHEMA_PATH, schema.README_PATH]
    schema.write(tmp_path)
    assert schema.drifted(tmp_path) == []
    (tmp_path / schema.README_PATH).write_text("older text")
    assert schema.drifted(tmp_path) == [schema.README_PATH]


def test_every_model_of_the_schema_is_closed():
    models = json.loads(schema.schema_text())
    for name, model in {"Config": models, **models["$defs"]}.items():
        assert model["additionalProperties"] is False, name


def test_every_key_has_a_meaning_and_a_row_in_the_readme():
    text = schema.readme_text()
    models = json.loads(schema.schema_text())
    for name, model in {"Config": models, **models["$defs"]}.items():
        for key, value in model["properties"].items():
            assert value.get("description"), f"{name}.{key} has no description"
            assert f"| `{key}` |" in text


def test_a_readme_row_shows_type_unit_bounds_and_default():
    text = schema.readme_text()
    fraction = "| `mutation_probability` | number | >= 0; <= 1 | `0.3` |"
    assert fraction in text
    assert "| `original_length` | whole number | tokens; >= 2 | required |" in text


# Loading ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_configuration_loads(path):
    assert configuration.load(path).experiment


def test_the_full_scale_configurations_are_shipped():
    assert set(FULL_SCALE) <= {path.stem for path in SHIPPED}


@pytest.mark.parametrize("name", FULL_SCALE)
def test_full_scale_models_and_corpora_come_from_pinned_hub_commits(name):
    config = configuration.load(ROOT / "config" / f"{name}.yaml")
    assert config.model.hub is not None
    for corpus in config.corpora.values():
        assert isinstance(corpus.source, HubSource)


@pytest.mark.parametrize("name", FULL_SCALE)
def test_full_scale_models_are_tuned_on_documents_of_any_length(name):
    steps = configuration.load(ROOT / "config" / f"{name}.yaml").extension
    assert all(step.finetune.pack_documents for step in steps if step.finetune)


@pytest.mark.parametrize("name", ["llama2-7b", "mistral-7b"])
def test_books3_is_named_as_the_stand_in_it_is(name):
    stand_in = configuration.load(ROOT / "config" / f"{name}.yaml").corpora["books3"].stand_in
    assert stand_in and "PG19" in stand_in


def test_llama2_trains_as_the_paper_did():
    # Ding et al. 2024, section 4: 400 steps at 128k, 600 more at 256k, batch 32, 2e-5, linear.
    steps = configuration.load(ROOT / "config/llama2-7b.yaml").extension
    tuned = [(step.target_length, step.finetune) for step in steps]
    assert [length for length, _ in tuned] == [131072, 262144, 2097152]
    numbers = [(f.num_steps, f.batch_size, f.learning_rate, f.schedule) for _, f in tuned if f]
    assert numbers == [(400, 32, 2e-5, "linear"), (600, 32, 2e-5, "linear")]
    assert tuned[-1][1] is None


def test_settings_are_frozen():
    config = configuration.parse(small(), source="small.yaml")
    with pytest.raises(ValueError, match="frozen"):
        config.search.num_parents = 3


def test_settings_survive_a_round_trip():
    config = configuration.parse(small(), source="small.yaml")
    assert Config.model_validate(config.model_dump()) == config


# Refusals ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        (
            lambda raw: raw.update(serach=raw.pop("search")),
            "unknown key serach (did you mean search?).",
        ),
        (
            lambda raw: raw["search"].update(popluation_size=3),
            "unknown key search.popluation_size (did you mean population_size?).",
        ),
        (
            lambda raw: raw.update(quux=1),
            "unknown key quux (see config/README.md for the known keys).",
        ),
        (
            lambda raw: raw.pop("search"),
            "key search is missing; add it (see config/README.md).",
        ),
        (
            lambda raw: raw["search"].update(algorithm="evolution", population_size="many"),
            "search.algorithm.population_size should be a whole number, got 'many'.",
        ),
        (
            lambda raw: raw["search"].update(algorithm={"name": "cma", "num_knots": 1}),
            "search.algorithm.num_knots should be greater than 1, got 1.",
        ),
        (
            # a corpus may have the name of a key that holds a union
            lambda raw: raw["corpora"].update(
                source={"source": {"kind": "local", "files": {"train": ["a"]}, "colum": "x"}}
            ),
            "unknown key corpora.source.source.colum (did you mean column?).",
        ),
        (
            lambda raw: raw["corpora"].update(
                algorithm={"source": {"kind": "local", "files": {"train": ["a"]}, "colum": "x"}}
            ),
            "unknown key corpora.algorithm.source.colum (did you mean column?).",
        ),
        (
            lambda raw: raw["search"].update(algorithm={"name": "cma", "num_nots": 3}),
            "unknown key search.algorithm.num_nots (did you mean num_knots?).",
        ),
        (
            lambda raw: raw["search"].update(algorithm="evolutoin"),
            "search.algorithm should have a name out of 'auto', 'evolution', 'evolution-public', 'cma', "
            "'gradient', got 'evolutoin' (did you mean evolution?).",
        ),
        (
            lambda raw: raw["model"].update(full_attention=3),
            "model.full_attention should be true or false, got 3.",
        ),
        (
            lambda raw: raw["model"].update(bos=True),
            "model.bos should be 'auto', 'always' or 'never', got True.",
        ),
        (lambda raw: raw.update(model="tiny"), "model should be a mapping of keys, got 'tiny'."),
        (lambda raw: raw.update(extension=[]), "give exactly one of extension and search_study."),
        (
            lambda raw: raw.update(dtype="float16"),
            "dtype should be 'float32' or 'bfloat16', got 'float16' (did you mean bfloat16?).",
        ),
        (
            lambda raw: raw.update(attention_scale="yran"),
            "attention_scale should be 'yarn' or 'su', or a number, got 'yran' (did you mean yarn?).",
        ),
        (
            lambda raw: raw["model"].update(hub={"repo": "a/b", "revision": "0" * 40}),
            "model: give exactly one of path and hub.",
        ),
        (lambda raw: raw["model"].pop("path"), "model: give exactly one of path and hub."),
        (
            lambda raw: raw["extension"][1].update(target_length=1024),
            "extension.1.target_length must exceed extension.0.target_length (1024), got 1024.",
        ),
        (
            lambda raw: raw["extension"][0].update(target_length=256),
            "extension.0.target_length must exceed model.original_length (256), got 256.",
        ),
        (
            lambda raw: raw["extension"][1].update(finetune=raw["extension"][0].pop("finetune")),
            "extension.1.finetune cannot follow a step without finetune; move it earlier.",
        ),
        (
            lambda raw: raw["search"]["documents"].update(corpus="boks"),
            "search.documents: corpus 'boks' is not under corpora, which has books.",
        ),
        (
            lambda raw: raw["extension"][0].update(search=_search("pg20")),
            "extension.0.search.documents: corpus 'pg20' is not under corpora, which has books.",
        ),
        (
            lambda raw: raw.update(readjust={"lengths": [256], "search": _search("pg20")}),
            "readjust.search.documents: corpus 'pg20' is not under corpora, which has books.",
        ),
        (
            lambda raw: raw["evaluate"]["perplexity"].update(num_documents={}),
            "evaluate.perplexity: num_documents must name the same corpora (Books), got none.",
        ),
        (
            lambda raw: raw["evaluate"]["perplexity"].update(protocol="sliding", max_tokens=512),
            "evaluate.perplexity: max_tokens 512 cuts documents below the length 1024; raise it to at least "
            "that, or leave the length out.",
        ),
        (
            lambda raw: raw["evaluate"]["perplexity"]["lengths"].update(Books=[1]),
            "evaluate.perplexity.lengths.Books.0 should be greater than or equal to 2, got 1.",
        ),
        (
            lambda raw: raw["evaluate"].pop("untuned_lengths"),
            "evaluate: perplexity.methods has longrope, which needs factors searched on the base model; give "
            "untuned_lengths, or give perplexity.methods without longrope.",
        ),
        (
            lambda raw: raw.update(evaluate={"passkey": {"lengths": [256]}}),
            "evaluate: passkey.methods has longrope, which needs factors searched on the base model; give "
            "untuned_lengths, or give passkey.methods without longrope.",
        ),
        (
            lambda raw: raw["evaluate"].update(untuned_lengths=[256, 1024]),
            "evaluate.untuned_lengths must exceed model.original_length (256), got 256.",
        ),
        (
            lambda raw: raw["corpora"]["books"]["source"].update(kind="ftp"),
            "corpora.books.source should have a kind out of 'package', 'hub', 'local', got 'ftp'.",
        ),
        (
            lambda raw: raw["corpora"]["books"]["source"].pop("kind"),
            "key corpora.books.source.kind is missing; add it (see config/README.md).",
        ),
        (
            lambda raw: raw["corpora"]["books"]["source"].update(kind="hub", repo="a/b"),
            "key corpora.books.source.revision is missing; add it (see config/README.md).",
        ),
    ],
)
def test_a_mistake_is_named_in_one_sentence(edit, sentence):
    assert refusal(edit) == f"small.yaml: {sentence}"


def test_methods_without_longrope_need_no_untuned_lengths():
    raw = yaml.safe_load(SMALL)
    del raw["evaluate"]["untuned_lengths"]
    raw["evaluate"]["perplexity"]["methods"] = ["none", "yarn"]
    assert Config.model_validate(raw).evaluate.untuned_lengths == []


def _search(corpus: str) -> dict[str, Any]:
    return {"documents": {"corpus": corpus, "split": "validation"}}


@pytest.mark.parametrize("revision", ["main", "v1.0", "0" * 39, "G" * 40])
def test_a_revision_that_is_no_commit_is_refused(revision):
    def edit(raw: dict[str, Any]) -> None:
        raw["model"] = {"name": "tiny", "original_length": 256}
        raw["model"]["hub"] = {"repo": "a/b", "revision": revision}

    message = refusal(edit)
    assert message.startswith("small.yaml: model.hub.revision should match ^[0-9a-f]{40}$")
    assert repr(revision) in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [1", "is not valid YAML"),
        ("- 1", "must be a mapping of settings, got list"),
        ("", "must be a mapping of settings, got NoneType"),
    ],
)
def test_a_file_that_is_no_mapping_is_named(tmp_path, text, words):
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=words) as caught:
        configuration.load(path)
    assert "broken.yaml" in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.yaml does not exist; give a YAML file"):
        configuration.load(tmp_path / "none.yaml")


# Properties -------------------------------------------------------------------------------------


SECTIONS = [(), ("model",), ("search",), ("search", "documents"), ("evaluate",)]


@given(name=st.from_regex(r"[a-z_]{3,12}", fullmatch=True), section=st.sampled_from(SECTIONS))
def test_no_unknown_key_is_ever_accepted(name, section):
    raw = small()
    target = raw
    for key in section:
        target = target[key]
    known = json.loads(schema.schema_text())
    names = set(known["properties"]).union(*(m["properties"] for m in known["$defs"].values()))
    if name in names:
        return
    target[name] = 1
    with pytest.raises(UserError, match=re.escape(".".join((*section, name)))):
        configuration.parse(raw, source="small.yaml")


@given(lengths=st.lists(st.integers(1, 10**7), min_size=1, max_size=5))
def test_exactly_the_rising_lengths_are_accepted(lengths):
    raw = copy.deepcopy(small())
    raw["extension"] = [{"target_length": length} for length in lengths]
    rising = all(a < b for a, b in zip([256, *lengths], lengths, strict=False))
    if rising:
        assert len(configuration.parse(raw, source="x").extension) == len(lengths)
    else:
        with pytest.raises(UserError, match="must exceed"):
            configuration.parse(raw, source="x")


@given(value=st.floats(allow_nan=True, allow_infinity=True))
def test_a_fraction_lies_between_0_and_1(value):
    raw = small()
    raw["search"]["algorithm"] = {"name": "evolution", "mutation_probability": value}
    if not math.isnan(value) and 0 <= value <= 1:
        search = configuration.parse(raw, source="x").search
        assert search.algorithm.mutation_probability == value
    else:
        with pytest.raises(UserError, match="mutation_probability"):
            configuration.parse(raw, source="x")


@pytest.mark.parametrize("name", ["a/b", "a{b}", "../up", "", "a b", ".hidden", "a[1]"])
def test_a_corpus_name_that_no_folder_may_have_is_refused(name):
    def edit(raw):
        raw["corpora"][name] = next(iter(raw["corpora"].values()))

    sentence = refusal(edit)
    assert "corpora: names have letters, digits" in sentence and f"got {name!r}" in sentence
