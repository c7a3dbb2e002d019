"""The curves of fine-tunings: tables from the files of nodes, and the figure."""

import importlib
import json
from pathlib import Path

import pytest
from test_reporting import ResultsFolder

from longrope import reporting

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _scripts_on_the_path(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "workflow" / "scripts"))


def as_lines(entries):
    return "".join(json.dumps(entry) + "\n" for entry in entries)


def log(num_steps):
    steps = range(1, num_steps + 1)
    return as_lines(
        {"step": n, "loss": 4 - n / 10, "learning_rate": 0.1, "grad_norm": 1.5} for n in steps
    )


@pytest.fixture
def results(tmp_path):
    """One model that was watched and resumed after 12 steps, and one from before there was either file."""
    folder = ResultsFolder(tmp_path)
    measured = ({"step": n, "tokens_per_second": 100.0 + n} for n in range(13, 21))
    watched = (
        {"step": step, "length": length, "num_documents": 2, "perplexity": value}
        for step, values in ((0, (9.0, None)), (20, (9.5, 10.0)))
        for length, value in zip((256, 1024), values, strict=True)
    )
    folder.add("finetune", "tiny-2048", {}, **{"log.jsonl": log(5)})
    more = {"measured.jsonl": as_lines(measured), "watched.jsonl": as_lines(watched)}
    folder.add("finetune", "tiny-1024", {}, **{"log.jsonl": log(20)}, **more)
    folder.save_plan()
    return folder


def draw(results, note=""):
    tables = (reporting.training_table, reporting.watched_table)
    made = [make(results.plan, results.store) for make in tables]
    return importlib.import_module("plot_training").draw(*made, note=note)


def test_every_step_has_a_row_and_those_of_the_last_start_a_speed(results):
    table = reporting.training_table(results.plan, results.store)
    assert table["model"].tolist() == ["tiny-1024"] * 20 + ["tiny-2048"] * 5
    assert table["step"].tolist() == [*range(1, 21), *range(1, 6)]
    first = table[table["model"] == "tiny-1024"]
    assert first["tokens_per_second"].isna().tolist() == [True] * 12 + [False] * 8
    assert first["tokens_per_second"].iloc[-1] == 120.0
    assert first["loss"].iloc[-1] == 2.0


def test_what_was_watched_has_a_row_for_each_look_and_length(results):
    table = reporting.watched_table(results.plan, results.store)
    assert table["model"].unique().tolist() == ["tiny-1024"]
    assert table["length"].tolist() == [256, 1024] * 2
    assert table["perplexity"].isna().tolist() == [False, True, False, False]


def lines_of(axes):
    return {line.get_label(): list(line.get_ydata()) for line in axes.get_lines()}


def test_the_figure_has_a_panel_for_each_model_and_quantity(results, tmp_path):
    figure = draw(results, note="The model is a stand-in: a toy.")
    assert "a toy" in figure.get_suptitle()
    # loss, perplexity, learning rate, gradient norm, speed
    assert len(figure.axes) == 5 * 2
    assert [axes.get_title() for axes in figure.axes[:2]] == ["tiny-1024", "tiny-2048"]
    loss = lines_of(figure.axes[0])
    assert loss["each step"][:2] == pytest.approx([3.9, 3.8])
    # over 20 / 10 = 2 steps
    assert loss["running mean"][:3] == pytest.approx([3.9, 3.85, 3.75])
    perplexity = lines_of(figure.axes[2])
    assert perplexity["original length"] == [9.0, 9.5]
    assert perplexity["target length"][-1] == 10.0
    assert figure.axes[3].texts[0].get_text() == "not watched"
    svg, png = tmp_path / "training.svg", tmp_path / "training.png"
    importlib.import_module("figures").save(figure, svg, png)
    assert svg.read_text().rstrip().endswith("</svg>")
    assert png.read_bytes().startswith(b"\x89PNG")


def test_quantities_that_no_model_has_get_no_panel(results):
    key = next(key for key in results.nodes if "1024" in key)
    for name in ("measured", "watched"):
        (results.store / key / f"{name}.jsonl").unlink()
    assert len(draw(results).axes) == 3 * 2


def test_an_experiment_without_a_fine_tuning_gets_a_figure_that_says_so(results):
    results.nodes = {}
    results.save_plan()
    assert "fine-tunes no model" in draw(results).axes[0].texts[0].get_text()
