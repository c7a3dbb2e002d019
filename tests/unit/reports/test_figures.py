"""What a sceptical reader looks for in every figure: scales that say so, words that fit, lines promised."""

import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import searches
from repository import ROOT
from results_folder import ResultsFolder

from longrope.reports import tables as reporting
from longrope.reports.figures import (
    convergence,
    search_convergence,
    style,
)
from longrope.reports.figures import search as search_figure
from longrope.reports.figures import training as training_figure
from longrope.search.driver import search

LONG_NOTE = (
    "The model is a stand-in: a Llama of 1.05 million parameters, which was trained on public-domain "
    "books for this demonstration and knows 256 tokens, WHILE_A_NAME_WITHOUT_ANY_SPACE_" + "X" * 150
)
FROM_NODES = ("perplexity", "passkey", "factors", "convergence")
SETTINGS = {"model": "my-llama", "original_length": 256, "source_length": 256}


def study():
    """Return a table of two algorithms whose costs lie three decades apart."""
    rows = [
        {"algorithm": name, "seed": seed, "length": length, "scored_tokens": tokens * (seed + 1)}
        | {"heldout_ppl": 7.0 + seed / 10, "best": 7.0 + seed / 10}
        for name, tokens in (("auto", 9_000), ("evolution", 8_000_000))
        for seed in (0, 1)
        for length in (1024, 2048)
    ]
    return pd.DataFrame(rows)


def training():
    """Return a log of one model, and its perplexities."""
    log = pd.DataFrame({"model": "tiny", "step": [1, 2], "loss": [3.0, 2.0]})
    log = log.reindex(columns=list(reporting.TRAINING_COLUMNS))
    watched = {"model": "tiny", "step": [0, 2] * 2, "length": [256, 256, 1024, 1024]}
    return log, pd.DataFrame(watched | {"perplexity": [6.25, 6.3, 40.0, 7.0]})


@pytest.fixture
def drawn(tmp_path):
    """All figures by name, under a long note."""
    results = ResultsFolder(tmp_path).fill()
    results.save_plan(model=LONG_NOTE.removeprefix("The model is a stand-in: "))
    made = {name: results.figure(name) for name in FROM_NODES}
    made["training"] = training_figure.draw(*training(), note=LONG_NOTE)
    for module in (search_figure, search_convergence):
        made[module.__name__] = module.draw(study(), note=LONG_NOTE)
    return made


def test_every_logarithmic_axis_says_so_and_has_plain_numbers(drawn):
    num_logarithmic = 0
    for name, figure in drawn.items():
        figure.canvas.draw()
        for axes in figure.axes:
            first = axes.get_subplotspec() is None or axes.get_subplotspec().is_first_col()
            for axis in (axes.xaxis, axes.yaxis):
                if axis.get_scale() != "log":
                    assert "log" not in axis.get_label_text(), name
                    continue
                num_logarithmic += 1
                labels = [tick.get_text() for tick in axis.get_ticklabels()]
                assert len(labels) > 1 and all("^" not in label for label in labels), name
                assert not first or axis.get_label_text().endswith("(log\N{NO-BREAK SPACE}scale)")
    # perplexity 2 x 2, factors 5, training 1, search 2, search_convergence 2
    assert num_logarithmic == 14


def test_no_word_of_any_figure_is_cut(drawn):
    for name, figure in drawn.items():
        figure.canvas.draw()
        words = [figure._suptitle, *figure.legends]
        words += [text for axes in figure.axes for text in (axes.title, axes.xaxis.label)]
        words += [axes.yaxis.label for axes in figure.axes]
        for text in words:
            box = text.get_window_extent()
            inside = (box.x0 >= 0, box.y0 >= 0, box.x1 <= figure.bbox.x1, box.y1 <= figure.bbox.y1)
            assert all(inside), (name, text)
        shown = figure.get_suptitle().replace("\n", " ").replace(" ", "")
        assert LONG_NOTE.replace(" ", "") in shown, name


def test_dollar_signs_in_a_note_are_dollar_signs(tmp_path):
    figure, grid = style.panels(1)
    grid[0].plot([1], [1], label="$x$ and $y_{1$")
    done = style.finish(figure, "Title", "a model of $5 and $\\bad{", grid)
    for suffix in ("svg", "png", "pdf"):
        style.save(done, tmp_path / f"a.{suffix}")
    assert "$5 and $\\bad{" in done.get_suptitle()


# What a search starts from ------------------------------------------------------------------------


@pytest.fixture
def searched(tmp_path):
    """Return a function that runs a real search and gives its convergence table and figure."""

    def run(algorithm):
        results = ResultsFolder(tmp_path)
        settings = {"model": "my-llama", "target_length": 2048}
        settings |= {"source_length": 256, "original_length": 256}
        key = results.add("search", "my-llama-2048", settings)
        results.save_plan()
        path = results.store / key / "history.jsonl"
        objective = searches.FakeObjective(searches.away_from_four)
        search(searches.PROBLEM, searches.make(algorithm), objective, path, {})
        table = reporting.convergence_table(results.results)
        return path, table, convergence.draw(table)

    return run


def loss_of(levels_of):
    """Return the perplexity of a start of the small problem, from its factors alone."""
    factors = searches.PROBLEM.compose(levels_of)
    by_document = [searches.away_from_four(factors, document) for document in range(3)]
    return float(np.exp(np.mean(by_document)))


def test_an_evolutions_closed_forms_are_drawn_at_what_they_were_scored(searched):
    _, table, figure = searched("evolution")
    expected = {name: loss_of(individual) for name, individual in searches.SEEDS.items()}
    starts = table[table["start"] != ""].set_index("start")["perplexity"].to_dict()
    assert starts == pytest.approx(expected)
    (axes,) = figure.axes
    assert axes.get_title() == "2k tokens, my-llama"
    lines = {line.get_label(): line.get_ydata()[0] for line in axes.get_lines()}
    names = {"linear": "linear (PI)", "ntk": "NTK-aware", "yarn": "YaRN"}
    above = axes.texts[0].get_text() if axes.texts else ""
    for name, label in names.items():
        if expected[name] > axes.get_ylim()[1]:
            assert f"{label}: {expected[name]:.4g}" in above
        else:
            assert lines[f"start: {label}"] == pytest.approx(expected[name])


@pytest.mark.parametrize("algorithm", ["auto", "cma", "gradient"])
def test_the_one_start_that_a_curve_search_scores_on_all_documents_has_its_name(
    searched, algorithm
):
    path, table, _ = searched(algorithm)
    history = [json.loads(line) for line in path.read_text().splitlines()]
    seeds = [line for line in history if line["origin"].startswith("seed:")]
    best = min(seeds, key=lambda line: line["perplexity"])
    (begun,) = [line for line in history if line["origin"] == "selection:start"]
    assert begun["factors"] == best["factors"]
    starts = table[table["start"] != ""]
    assert starts["start"].tolist() == [best["origin"].removeprefix("seed:")]
    assert starts["perplexity"].tolist() == [begun["perplexity"]]


@pytest.mark.parametrize("form", ["svg", "png"])
def test_a_figure_that_is_killed_while_it_is_written_is_not_there(tmp_path, form):
    kill = (
        "import os, pathlib, signal, sys\n"
        "from longrope.reports.figures import style\n"
        "def savefig(path, **options):\n"
        "    open(path, 'w').write('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "figure, _ = style.panels(1)\n"
        "figure.savefig = savefig\n"
        "style.save(figure, pathlib.Path(sys.argv[1]))"
    )
    path = tmp_path / f"a.{form}"
    done = subprocess.run([sys.executable, "-c", kill, path], cwd=ROOT, check=False)
    assert done.returncode == -9
    assert not path.exists()


def test_figures_follow_neither_a_users_matplotlibrc_nor_jupyters_backend(tmp_path):
    (tmp_path / "matplotlibrc").write_text("axes.facecolor: black\nfont.size: 40\n")
    draw = (
        "from longrope.reports.figures import style\n"
        "matplotlib = style.matplotlib\n"
        "print(matplotlib.rcParams['axes.facecolor'], matplotlib.get_backend())"
    )
    changed = {"MPLBACKEND": "module://matplotlib_inline.backend_inline", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", draw],
        cwd=tmp_path,
        env=os.environ | changed,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["white", "agg"]
