"""Tests of the plan: contents of digests, reach of a change, names of nodes, refusals."""

import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from checkpoints import write_checkpoint
from repository import ROOT
from tokenizers import Tokenizer, models

from longrope.errors import UserError
from longrope.plan import build as plan
from longrope.plan.nodes import Plan
from longrope.settings import loading as configuration

Edit = Callable[[dict[str, Any]], object]

SMALL = """
experiment: small
model: {name: tiny, path: model, original_length: 256}
corpora:
  books: {source: {kind: package, catalogue: catalogue.yaml, corpus: books}}
  own: {source: {kind: local, files: {train: [own.txt]}}}
search: {algorithm: evolution, documents: {corpus: books, split: validation}}
extension:
  - target_length: 1024
    finetune: {num_steps: 10, documents: {corpus: own, split: train}}
  - target_length: 2048
    finetune: {num_steps: 5, documents: {corpus: own, split: train}}
  - target_length: 8192
readjust: {lengths: [256, 512]}
evaluate:
  untuned_lengths: [512, 1024]
  perplexity:
    corpora: {Books: {corpus: books, split: test}}
    lengths: {Books: [256, 1024]}
    num_documents: {Books: 2}
    methods: [none, longrope]
  passkey: {lengths: [256, 1024], methods: [none]}
  benchmarks: {items: package}
"""


def document(split: str) -> dict[str, Any]:
    """Return one entry of the catalogue."""
    return {
        "name": f"a-{split}-book",
        "corpus": "books",
        "split": split,
        "package": "texts",
        "members": [f"texts/{split}.txt"],
        "sha256": "0" * 64,
        "characters": 1000,
    }


@pytest.fixture
def root(tmp_path):
    """A folder with a catalogue, a model that only looks like one, and a text of one's own."""
    package = {"name": "texts", "version": "1.0", "file": "texts-1.0.tar.gz"}
    package |= {"sha256": "0" * 64, "licence": "public domain"}
    documents = [document("validation"), document("test")]
    catalogue = {"packages": {"texts": package}, "documents": documents}
    (tmp_path / "catalogue.yaml").write_text(yaml.safe_dump(catalogue))
    write_checkpoint(tmp_path / "model", "llama")
    (tmp_path / "model" / "tokenizer.json").write_text("{}")
    (tmp_path / "own.txt").write_text("A text of one's own.")
    return tmp_path


def build(root: Path, edit: Edit = lambda raw: None) -> Plan:
    """Return the plan of the small experiment after an edit of its raw settings."""
    raw = yaml.safe_load(SMALL)
    edit(raw)
    return plan.build(configuration.parse(raw, source="small.yaml"), root)


def changed(before: Plan, after: Plan) -> set[str]:
    """Return the names of the nodes whose digest differs or that exist on one side only."""
    names = before.nodes.keys() | after.nodes.keys()
    digests = [{name: node.digest for name, node in p.nodes.items()} for p in (before, after)]
    return {name for name in names if digests[0].get(name) != digests[1].get(name)}


def kinds(names: set[str]) -> set[str]:
    """Return the kinds of the named nodes."""
    return {name.partition("/")[0] for name in names}


def refusal(root: Path, edit: Edit = lambda raw: None) -> str:
    """Return the sentence with which the edited experiment is refused."""
    with pytest.raises(UserError) as caught:
        build(root, edit)
    return str(caught.value)


# Shape ------------------------------------------------------------------------------------------


def test_nodes_read_like_sentences(root):
    assert sorted(build(root).nodes) == [
        "evaluate/tiny-benchmarks-base-none",
        "evaluate/tiny-benchmarks-tuned-longrope",
        "evaluate/tiny-passkey-base-none",
        "evaluate/tiny-passkey-tuned-longrope",
        "evaluate/tiny-perplexity-base-longrope",
        "evaluate/tiny-perplexity-base-none",
        "evaluate/tiny-perplexity-tuned-longrope",
        "fetch/benchmark-items",
        "fetch/books-test",
        "fetch/books-validation",
        "finetune/tiny-1024",
        "finetune/tiny-2048",
        "readjust/tiny-ft2048",
        "search/tiny-1024",
        "search/tiny-2048",
        "search/tiny-512",
        "search/tiny-ft2048-8192",
        "tokenize/tiny-books-test",
        "tokenize/tiny-books-validation",
        "tokenize/tiny-own-train",
    ]


def test_a_directory_is_the_kind_the_label_and_twelve_digits(root):
    for name, node in build(root).nodes.items():
        assert node.key == f"{name}-{node.digest[:12]}"


def test_a_node_comes_after_what_it_needs(root):
    seen: set[str] = set()
    for node in build(root):
        assert {source.digest for source in node.inputs.values()} <= seen
        seen.add(node.digest)


def test_training_goes_on_from_the_model_tuned_before(root):
    nodes = build(root).nodes
    assert nodes["finetune/tiny-2048"].inputs["model"] is nodes["finetune/tiny-1024"]
    assert nodes["search/tiny-ft2048-8192"].inputs["model"] is nodes["finetune/tiny-2048"]
    assert nodes["readjust/tiny-ft2048"].inputs["model"] is nodes["finetune/tiny-2048"]
    assert "model" in nodes["search/tiny-2048"].raw, "the second first-stage search is on the base"


def test_a_search_of_the_extension_also_serves_the_comparison(root):
    nodes = build(root).nodes
    factors = nodes["evaluate/tiny-perplexity-base-longrope"].inputs["factors-1024"]
    assert factors is nodes["finetune/tiny-1024"].inputs["factors"]


def test_population_is_halved_above_the_given_length_only(root):
    def edit(raw: dict[str, Any]) -> None:
        raw["search"]["algorithm"] = {"name": "evolution", "halve_above": 2048}

    nodes = build(root, edit).nodes
    keys = ("population_size", "num_mutations", "num_crossovers", "num_parents")
    algorithms = {name: nodes[name].settings.search.algorithm for name in nodes if "search" in name}
    at = {name: [getattr(algorithm, key) for key in keys] for name, algorithm in algorithms.items()}
    assert at["search/tiny-2048"] == [64, 16, 16, 32]
    assert at["search/tiny-ft2048-8192"] == [32, 8, 8, 32]


NODES = {
    # fetch: model, benchmark items and one per split of a corpus: pg19 validation and test,
    # proof-pile test, books3 validation and test, redpajama train. tokenize: the same splits.
    # search: untuned 8k, 16k, 32k, 128k and 256k, of which the last two serve the extension, and
    # 2048k on the tuned model. evaluate: perplexity 6 + 1, passkey 3 + 1, benchmarks 1 + 1.
    "llama2-7b": {"fetch": 8, "tokenize": 6, "search": 6, "finetune": 2, "readjust": 1},
    "mistral-7b": {"fetch": 8, "tokenize": 6, "search": 6, "finetune": 2, "readjust": 1},
    # No books3, hence two splits fewer; search: 128k, and 32k for the comparison.
    "llama3-8b": {"fetch": 6, "tokenize": 4, "search": 2, "finetune": 1, "readjust": 1},
    "phi3-mini": {"fetch": 6, "tokenize": 4, "search": 2, "finetune": 1, "readjust": 1},
    # search: 128k, untuned and for the extension
    "llama3-8b-longrope2": {"fetch": 6, "tokenize": 4, "search": 1, "finetune": 1, "readjust": 1},
    "phi3-mini-longrope2": {"fetch": 6, "tokenize": 4, "search": 1, "finetune": 1, "readjust": 1},
}


@pytest.mark.parametrize("name", NODES)
def test_full_scale_plans_have_the_nodes_counted_by_hand(name, tmp_path):
    config = configuration.load(ROOT / "config" / f"{name}.yaml")
    # an empty root: nothing but the file itself may be needed
    built = plan.build(config, tmp_path)
    assert Counter(node.kind for node in built) == NODES[name] | {"evaluate": 13}


# What a change reaches --------------------------------------------------------------------------


def test_two_builds_agree(root):
    first, second = build(root), build(root)
    assert changed(first, second) == set()
    assert first.to_json() == second.to_json()
    assert first.digest == second.digest


def test_digests_do_not_depend_on_where_things_lie(root, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "copy"
    subprocess.run(["cp", "-r", str(root), str(elsewhere)], check=True)
    assert changed(build(root), build(elsewhere)) == set()


@pytest.mark.parametrize(
    "edit",
    [
        lambda raw: raw.update(experiment="another"),
        lambda raw: raw.update(chunk_length=17),
        lambda raw: raw["corpora"]["own"].update(licence="mine", stand_in="another text"),
        lambda raw: raw["model"].update(stand_in="a larger one"),
    ],
    ids=["experiment", "chunk_length", "licence", "stand_in"],
)
def test_what_changes_no_result_changes_no_digest(root, edit):
    assert changed(build(root), build(root, edit)) == set()


EVOLUTION = {
    "population_size": 65,
    "num_mutations": 17,
    "num_crossovers": 17,
    "num_parents": 33,
    "mutation_probability": 0.4,
    "num_iterations": 41,
}
"""settings that only the evolutions read, each unlike its default"""
CMA = {
    "num_knots": 9,
    "generation_size": 9,
    "num_generations": 7,
    "batch_documents": 2,
    "step": 0.6,
}
"""settings that only CMA-ES reads, each unlike its default"""


def searching(name: str, **changes: object) -> Edit:
    """Return the edit that chooses an algorithm and changes some of its settings."""
    return lambda raw: raw["search"].update(algorithm={"name": name, **changes})


@pytest.mark.parametrize(
    ("name", "change"),
    [
        *(("evolution", {key: value}) for key, value in EVOLUTION.items()),
        *(("cma", {key: value}) for key, value in CMA.items()),
    ],
    ids=[*EVOLUTION, *CMA],
)
def test_every_setting_of_an_algorithm_changes_its_searches(root, name, change):
    before = build(root, searching(name))
    reached = changed(before, build(root, searching(name, **change)))
    searches = {node for node in before.nodes if node.startswith("search/")}
    assert searches | {"readjust/tiny-ft2048"} <= reached


def test_a_bound_of_halving_that_is_not_reached_changes_nothing(root):
    before = build(root, searching("evolution"))
    assert changed(before, build(root, searching("evolution", halve_above=10**6))) == set()


def test_the_settings_of_an_algorithm_are_those_it_reads(root):
    algorithm = build(root, searching("cma")).nodes["search/tiny-1024"].settings.search.algorithm
    assert algorithm.identity().keys() == CMA.keys() | {"name"}


@pytest.mark.parametrize("name", ["evolution", "evolution-public", "cma"])
def test_an_edit_of_another_algorithms_code_changes_no_search(root, name):
    node = build(root, searching(name)).nodes["search/tiny-1024"]
    modules = {part.rpartition(".")[2] for part in node.parts if ".algorithms." in part}
    module = {"evolution": "evolution", "evolution-public": "public", "cma": "cma"}
    others = {"evolution", "public", "cma", "auto", "gradient"} - {module[name]}
    # the authors' evolution is built on the published one
    assert modules & others <= ({"evolution"} if name == "evolution-public" else set())
    assert module[name] in modules


def test_settings_of_an_algorithm_beside_it_are_read_as_its_own(root):
    def next_to_it(raw: dict[str, Any]) -> None:
        raw["search"].update(algorithm="evolution", population_size=65)

    def under_its_name(raw: dict[str, Any]) -> None:
        raw["search"].update(algorithm="cma", cma={"step": 0.6})

    same = build(root, searching("evolution", population_size=65))
    assert changed(same, build(root, next_to_it)) == set()
    assert changed(build(root, searching("cma", step=0.6)), build(root, under_its_name)) == set()


def test_settings_that_the_algorithm_does_not_read_are_refused_with_what_to_write(root):
    message = refusal(root, lambda raw: raw["search"].update(algorithm="cma", num_parents=3))
    assert "search: num_parents is not read by algorithm cma; write " in message
    assert "algorithm: {name: cma, ...}" in message


def test_a_value_under_the_name_of_an_algorithm_is_refused(root):
    message = refusal(root, lambda raw: raw["search"].update(algorithm="cma", cma=0.5))
    assert "search: cma must be a mapping of its settings, got 0.5" in message


def test_another_algorithm_reaches_every_search(root):
    plans = [build(root, searching(name)) for name in ("evolution", "evolution-public", "cma")]
    for first, second in ((0, 1), (0, 2), (1, 2)):
        reached = changed(plans[first], plans[second])
        assert {name for name in plans[first].nodes if name.startswith("search/")} <= reached


def test_the_seed_changes_searches_and_what_follows_but_no_tokens(root):
    before = build(root)
    reached = changed(before, build(root, lambda raw: raw.update(seed=1)))
    assert kinds(reached) == {"search", "finetune", "readjust", "evaluate"}
    assert {node for node in before.nodes if node.startswith("search/")} <= reached
    assert "evaluate/tiny-perplexity-base-none" not in reached, "nothing random is in it"


def test_each_of_several_seeds_has_the_nodes_that_it_has_alone(root):
    first, second = (build(root, lambda raw, n=n: raw.update(seed=n)).nodes for n in (3, 7))
    both = build(root, lambda raw: raw.update(seeds=[3, 7])).nodes
    assert {name: both[name].key for name in first} == {name: n.key for name, n in first.items()}
    others = {name: node for name, node in both.items() if name not in first}
    drawn = {name for name, node in second.items() if node.digest != first[name].digest}
    assert others.keys() == {f"{name}-seed7" for name in drawn}
    assert all(others[f"{name}-seed7"].digest == second[name].digest for name in drawn)
    assert kinds({name for name in second if name not in drawn}) == {
        "fetch",
        "tokenize",
        "evaluate",
    }
    assert "evaluate/tiny-perplexity-base-none" not in drawn


@pytest.mark.parametrize("task", ["perplexity", "passkey"])
def test_an_added_length_reaches_only_the_evaluations_of_its_task(root, task):
    def edit(raw: dict[str, Any]) -> None:
        lengths = raw["evaluate"][task]["lengths"]
        (lengths["Books"] if task == "perplexity" else lengths).append(4096)

    before = build(root)
    expected = {name for name in before.nodes if name.startswith(f"evaluate/tiny-{task}-")}
    assert changed(before, build(root, edit)) == expected


def test_how_windows_begin_reaches_all_that_reads_windows_and_no_tokens(root):
    before = build(root)
    after = build(root, lambda raw: raw["model"].update(bos="never"))
    assert kinds(changed(before, after)) == {"search", "finetune", "readjust", "evaluate"}
    for kind in ("search", "finetune", "readjust", "evaluate"):
        assert {node.label for node in after.of(kind)} <= {
            name.partition("/")[2] for name in changed(before, after)
        }


def test_bos_is_refused_at_once_for_a_model_that_names_none(root):
    Tokenizer(models.BPE(vocab={"a": 0}, merges=[])).save(str(root / "model/tokenizer.json"))
    with pytest.raises(UserError, match=r"model.bos is always, but .*model names no BOS"):
        build(root, lambda raw: raw["model"].update(bos="always"))
    write_checkpoint(root / "model", "llama", bos_token_id=0)
    build(root, lambda raw: raw["model"].update(bos="always"))


def test_another_number_of_steps_reaches_that_training_and_what_follows(root):
    def edit(raw: dict[str, Any]) -> None:
        raw["extension"][1]["finetune"]["num_steps"] = 6

    reached = changed(build(root), build(root, edit))
    assert {"finetune/tiny-2048", "search/tiny-ft2048-8192", "readjust/tiny-ft2048"} <= reached
    assert not {name for name in reached if "-base-" in name}
    assert not {"finetune/tiny-1024", "search/tiny-2048"} & reached


def test_edited_text_of_ones_own_reaches_its_tokens_and_the_training(root):
    before = build(root)
    (root / "own.txt").write_text("Another text.")
    reached = changed(before, build(root))
    assert {"tokenize/tiny-own-train", "finetune/tiny-1024"} <= reached
    assert "search/tiny-1024" not in reached


def test_another_weight_file_reaches_everything_but_the_downloads(root):
    before = build(root)
    path = root / "model" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    unreached = before.nodes.keys() - changed(before, build(root))
    assert kinds(set(unreached)) == {"fetch"}


# What is refused --------------------------------------------------------------------------------


def test_a_model_without_safetensors_is_refused(root):
    (root / "model" / "model.safetensors").unlink()
    message = refusal(root)
    assert message.startswith("model.path: ") and "has no *.safetensors; convert" in message


def test_a_folder_that_is_no_model_is_refused(root):
    message = refusal(root, lambda raw: raw["model"].update(path="nowhere"))
    assert "nowhere has no config.json; give the folder of a transformers model, or" in message


def test_a_missing_text_is_named(root):
    (root / "own.txt").unlink()
    message = refusal(root)
    assert message.startswith("corpora.own.source.files.train: ")
    assert "own.txt: there is no such file" in message


def test_an_unknown_split_is_named_with_the_known_ones(root):
    def edit(raw: dict[str, Any]) -> None:
        raw["extension"][0]["finetune"]["documents"]["split"] = "test"

    expected = "corpora.own.source.files has no split 'test'; it has train."
    assert refusal(root, edit) == f"small.yaml: extension.0.finetune.documents: {expected}"


def test_a_corpus_outside_the_catalogue_is_named(root):
    def edit(raw: dict[str, Any]) -> None:
        raw["corpora"]["books"]["source"]["corpus"] = "poems"

    message = refusal(root, edit)
    assert message.startswith("corpora.books: catalogue.yaml lists no document of corpus 'poems'")


def test_a_missing_catalogue_is_named(root):
    (root / "catalogue.yaml").unlink()
    assert "catalogue.yaml does not exist; correct source.catalogue." in refusal(root)


def test_a_catalogue_that_is_no_yaml_is_named(root):
    (root / "catalogue.yaml").write_text("packages: {")
    assert "catalogue.yaml is not valid YAML: while parsing" in refusal(root)


def test_a_wrong_catalogue_is_refused_with_the_place(root):
    (root / "catalogue.yaml").write_text("packages: {}\ndocuments: [{name: a}]\n")
    assert "catalogue.yaml: key documents.0.corpus is missing; add it (see the entries" in refusal(
        root
    )


def test_readjusting_an_untuned_model_is_refused(root):
    def edit(raw: dict[str, Any]) -> None:
        raw["extension"] = [{"target_length": 1024}]

    assert "readjust needs a fine-tuned model" in refusal(root, edit)


# Cost of importing ------------------------------------------------------------------------------


def test_planning_imports_neither_torch_nor_transformers():
    code = "import sys, longrope.plan.build; print({'torch', 'transformers'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"
