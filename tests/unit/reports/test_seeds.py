"""Tables and figures of an experiment with two seeds, by hand."""

import csv
import json
import math

import pandas as pd
import pytest
from results_folder import ResultsFolder, history, searched

from longrope.reports import dag, pivots, results, seeds, tables

USE = {"original_length": 256, "bos": "auto"}


def scores(task, method, rows, variant="base", **others):
    content = {"task": task, "variant": variant, "method": method, "bos": "no"}
    return json.dumps(content | {"rows": rows} | others)


def evaluate(folder, task, method, seed, rows, inputs=None, drawn=None, **others):
    """Add an evaluation; `drawn` is the seed that it draws with itself."""
    settings = {"task": task, "variant": "base", "method": method, "seed": drawn}
    label = f"tiny-{task}-base-{method}" + (f"-seed{seed}" if seed else "")
    made = {"scores.json": scores(task, method, rows, **others)}
    folder.add("evaluate", label, settings | {"original_length": 256}, inputs, **made)


def perplexity_rows(ppl):
    document = {"name": "a", "nll": 10 * math.log(ppl), "tokens": 10}
    return [{"corpus": "pg19", "length": 1024, "documents": [document, document]}]


def training(folder, seed, length, model):
    settings = {"seed": seed, "num_steps": length // 256, "text_length": length}
    label = f"tiny-{length}" + (f"-seed{seed}" if seed else "")
    return folder.add("finetune", label, settings, {"factors": model})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = ResultsFolder(tmp_path_factory.mktemp("seeds"))
    evaluate(made, "perplexity", "none", None, perplexity_rows(30), protocol="window")
    for seed, (ppl, correct, value) in {0: (4, 3, 0.2), 1: (8, 5, 0.4)}.items():
        settings = {"target_length": 1024, "source_length": 256, "original_length": 256}
        files = {
            "factors.json": json.dumps(searched(1024, 256).model_dump()),
            "history.jsonl": history(seed),
        }
        label = "tiny-1024" + "-seed1" * seed
        search = made.add("search", label, settings | {"model": "tiny", "seed": seed}, **files)
        training(made, seed, 1024, training(made, seed, 512, search))
        rows, factors = perplexity_rows(ppl), {"factors-1024": search}
        evaluate(made, "perplexity", "longrope", seed, rows, factors, protocol="window")
        found = {"length": 1024, "depth": 0.5, "trials": 10, "correct": correct}
        evaluate(made, "passkey", "none", seed, [found], drawn=seed)
        cells = {"task": "mmlu", "few_shot": 5, "items": 100, "metric": "acc", "chance": 0.25}
        cells |= {"value": value, "stderr": 0.04, "stand_in": None}
        evaluate(made, "benchmarks", "none", seed, [cells], drawn=seed)
    made.save_plan()
    return made


def cells(folder, name):
    """Return the last cell of each row of the Markdown."""
    lines = folder.table(name)[1].read_text().splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line[:1] == "|"]
    return {row[0]: row[-1] for row in rows[2:]}


def test_the_seed_is_the_last_column_and_empty_for_what_draws_nothing(folder):
    path, _ = folder.table("perplexity")
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert [row["seed"] for row in rows] == ["", "0", "1"]
    assert list(rows[0])[-1] == "seed" and [row["ppl"] for row in rows] == ["30", "4", "8"]
    path, _ = folder.table("passkey")
    assert path.read_text().splitlines()[1:] == [
        "base,none,1024,0.5,no,10,3,0",
        "base,none,1024,0.5,no,10,5,1",
    ]


def test_markdown_shows_the_mean_with_the_lowest_and_the_highest(folder):
    assert cells(folder, "perplexity") == {
        "none": "30.00",
        "longrope": "**6.000** <sub>[4.000, 8.000]</sub>",
    }
    assert cells(folder, "passkey") == {"none": "**8/20** <sub>30 % to 50 %</sub>"}
    assert cells(folder, "benchmarks") == {
        "none": "**0.300** <sub>[0.200, 0.400]</sub>",
        "guessing": "0.250",
    }
    text = folder.table("perplexity")[1].read_text()
    assert "2 documents, mean of 2 seeds. Lowest in bold, lowest and highest of the seeds" in text


def test_the_terminal_shows_the_same_of_the_csv(folder):
    table = tables.read_table(folder.table("perplexity")[0])
    *_, none, longrope = pivots.to_text(pivots.perplexity(table)).splitlines()
    assert (none.split(), longrope.split()) == (["none", "30.00"], ["longrope", "6.000"])


def test_a_mean_over_seeds_is_missing_where_the_value_of_one_is():
    values = seeds.mean_and_ends(pd.Series([1.0, math.nan]))
    assert math.isnan(values[0])
    assert seeds.mean_and_ends(pd.Series([5.0, 1.0, 3.0])) == (3, 1, 5)


def test_figures_draw_the_mean_and_the_passkeys_of_all_seeds_together(folder):
    axes = folder.figure("perplexity").axes[0]
    lines = {line.get_label(): list(line.get_ydata()) for line in axes.get_lines()}
    assert lines["LongRoPE"] == pytest.approx([6])
    assert axes.get_ylabel().replace("\n", " ").startswith("perplexity, band: range of the seeds")
    heat, bar = folder.figure("passkey").axes
    assert [text.get_text() for text in heat.texts] == ["40"]
    assert bar.get_ylabel() == "retrieved, % of 20 trials each"


def test_searches_of_two_seeds_are_told_apart(folder):
    assert [each.where for each in tables.searched_factors(folder.results)] == [
        "tiny, seed 0",
        "tiny, seed 1",
    ]
    table = tables.convergence_table(folder.results)
    best = table.groupby("search")["best"].min()
    assert set(best.index) == {"tiny, seed 0", "tiny, seed 1"} and best.nunique() == 2
    searches = [dag.words(node) for node in folder.plan if node.kind == "search"]
    assert searches == [("tiny 1024",), ("tiny 1024 seed1",)]


def test_the_note_tells_the_steps_of_training_once_and_by_length(folder):
    assert results.tuning_note(folder.plan) == (
        "Tuned means fine-tuned: 2 steps of 32 x 512 tokens (0% passkey prompts), "
        "then 4 steps of 32 x 1024 tokens (0% passkey prompts)."
    )
