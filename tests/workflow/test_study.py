"""Searches without an extension: `longrope search` alone, and a study of algorithms through the workflow."""

import shutil

import pandas as pd
import pytest
import workflow_files
import workflow_runs
import yaml

from longrope.errors import UserError
from longrope.plan import build as plan
from longrope.rope.factors import RopeFactors
from longrope.settings import loading as configuration

pytestmark = pytest.mark.workflow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder, with a space in its name, with a random model and texts."""
    made = tmp_path_factory.mktemp("a study")
    workflow_files.write_experiment(made)
    return made


def study_settings():
    """Return the smallest study: two algorithms, one length, two seeds."""
    settings = workflow_files.settings()
    for key in ("extension", "readjust", "evaluate"):
        del settings[key]
    search = settings["search"]
    public = {"name": "evolution-public", "num_iterations": 0}
    few = {"num_generations": 1, "generation_size": 4, "num_knots": 3}
    return settings | {
        "experiment": "study",
        "search_study": {
            "lengths": [256],
            "seeds": [0, 1],
            "held_out": {"corpus": "words", "split": "test"},
            "num_held_out": 2,
            "algorithms": {
                "cma": {**search, "algorithm": {"name": "cma", **few}},
                "evolution-public": {**search, "algorithm": {**search["algorithm"], **public}},
            },
        },
    }


# Alone --------------------------------------------------------------------------------------------


def test_one_command_finds_factors_for_a_model_and_text_files(folder):
    done = workflow_runs.longrope(
        folder, "search", "base", "validation.txt", "train.txt",
        "--target-length", 256, "--num-documents", 2,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    factors = RopeFactors.read(folder / done.stdout.splitlines()[-1])
    # the window is the one that the model's config.json tells
    assert (factors.original_length, factors.target_length) == (128, 256)
    assert list(factors.factors) == sorted(factors.factors)
    assert factors.provenance["algorithm"] == "auto"
    (folder / "texts" / "held-out").mkdir(parents=True)
    shutil.copy(folder / "train.txt", folder / "texts" / "held-out")
    shutil.copy(folder / "validation.txt", folder / "texts")
    again = workflow_runs.longrope(
        folder, "search", "base", "texts", "--target-length", 256, "--num-documents", 2
    )
    assert again.returncode == 0, again.stderr[-2000:]
    assert RopeFactors.read(folder / again.stdout.splitlines()[-1]).factors == factors.factors


def test_mistakes_end_in_one_sentence(folder):
    wrong = [
        (["base", "none.txt", "--target-length", 256], "none.txt: there is no such file"),
        (["base", "base", "--target-length", 256], "config.json, row 1 is not JSON"),
        (
            ["nowhere", "train.txt", "--target-length", 256],
            "nowhere has no config.json; give the folder",
        ),
        (["base", "train.txt", "--target-length", 64], "must exceed model.original_length (128)"),
        (["base", "train.txt", "--target-length", 256, "--algorithm", "x"], "search.algorithm"),
    ]
    for arguments, sentence in wrong:
        done = workflow_runs.longrope(folder, "search", *arguments)
        assert done.returncode == 1
        assert sentence in done.stderr
        assert "Traceback" not in done.stderr


# Study --------------------------------------------------------------------------------------------


def test_a_study_tabulates_every_search_with_its_held_out_perplexity(folder):
    (folder / "study.yaml").write_text(yaml.safe_dump(study_settings()))
    done = workflow_runs.run(folder, "study.yaml")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    table = pd.read_csv(folder / "results" / "tables" / "study" / "search.csv")
    assert list(table.columns) == [
        *("algorithm", "seed", "length", "bos", "scored_tokens", "train_ppl", "heldout_ppl"),
        *("seconds", "peak_memory_mb"),
    ]
    assert table[["algorithm", "seed"]].values.tolist() == [
        ["cma", 0], ["cma", 1], ["evolution-public", 0], ["evolution-public", 1],
    ]  # fmt: skip
    assert (table[["train_ppl", "heldout_ppl"]] > 1).all(axis=None)
    # the public code's first generation: five individuals on two documents of 256 tokens
    public = table[table["algorithm"] == "evolution-public"]
    assert set(public["scored_tokens"]) == {5 * 2 * 256}
    summary = pd.read_csv(folder / "results" / "tables" / "study" / "search_summary.csv")
    assert summary[["algorithm", "baseline"]].fillna("").values.tolist() == [
        ["cma", "evolution-public"], ["evolution-public", ""],
    ]  # fmt: skip
    assert summary["heldout_ppl"][1] == pytest.approx(public["heldout_ppl"].mean(), rel=1e-5)
    for name in ("search", "search_convergence"):
        assert (folder / "results" / "figures" / "study" / f"{name}.svg").is_file()


def test_the_held_out_documents_change_the_study_and_no_plain_search(folder):
    settings = study_settings()
    first = plan.build(configuration.parse(settings, source="x"), folder)
    settings["search_study"]["num_held_out"] = 1
    second = plan.build(configuration.parse(settings, source="x"), folder)
    keys = [{node.key for node in built.of("search")} for built in (first, second)]
    assert len(keys[0]) == 4
    assert not keys[0] & keys[1]


@pytest.mark.parametrize("both", [True, False])
def test_a_configuration_extends_a_model_or_studies_searches(both):
    settings = study_settings()
    if both:
        settings["extension"] = workflow_files.settings()["extension"]
    else:
        del settings["search_study"]
    with pytest.raises(UserError, match="give exactly one of extension and search_study"):
        configuration.parse(settings, source="x")
