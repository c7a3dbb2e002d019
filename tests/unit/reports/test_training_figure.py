"""The curves of fine-tunings: tables from the files of nodes, and the figure."""

import json

import pytest
from results_folder import ResultsFolder

from longrope.reports import tables as reporting
from longrope.reports.figures import style, training


def as_lines(entries):
    return "".join(json.dumps(entry) + "\n" for entry in entries)


def log(num_steps):
    steps = range(1, num_steps + 1)
    return as_lines(
        {"step": n, "loss": 4 - n / 10, "learning_rate": 0.1, "grad_norm": 1.5} for n in steps
    )


@pytest.fixture
def results(tmp_path):
    """One model that was watched, and measured on a CPU from step 13 on, and one with its log alone."""
    folder = ResultsFolder(tmp_path)
    measured = (
        {
            "step": n,
            "tokens_per_second": 100.0 + n,
            "resident_memory_mb": 50.0 + n,
            "peak_memory_so_far_mb": 90.0,
        }
        for n in range(13, 21)
    )
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
    made = [make(results.results) for make in tables]
    return training.draw(*made, note=note)


def test_every_step_has_a_row_and_those_that_were_measured_speed_and_memory(results):
    table = reporting.training_table(results.results)
    assert table["model"].tolist() == ["tiny-1024"] * 20 + ["tiny-2048"] * 5
    assert table["step"].tolist() == [*range(1, 21), *range(1, 6)]
    first = table[table["model"] == "tiny-1024"]
    assert first["tokens_per_second"].isna().tolist() == [True] * 12 + [False] * 8
    assert first["tokens_per_second"].iloc[-1] == 120.0
    assert first["resident_memory_mb"].isna().tolist() == [True] * 12 + [False] * 8
    assert first["resident_memory_mb"].iloc[-1] == 70.0
    assert first["peak_memory_so_far_mb"].iloc[-1] == 90.0
    assert first["peak_gpu_memory_mb"].isna().all()
    assert first["loss"].iloc[-1] == 2.0


def test_what_was_watched_has_a_row_for_each_look_and_length(results):
    table = reporting.watched_table(results.results)
    assert table["model"].unique().tolist() == ["tiny-1024"]
    assert table["length"].tolist() == [256, 1024] * 2
    assert table["perplexity"].isna().tolist() == [False, True, False, False]


def lines_of(axes):
    return {line.get_label(): list(line.get_ydata()) for line in axes.get_lines()}


def test_the_figure_has_a_panel_for_each_model_and_quantity(results, tmp_path):
    figure = draw(results, note="The model is a stand-in: a toy.")
    assert "a toy" in figure.get_suptitle()
    # loss, perplexity, learning rate, gradient norm, speed, memory
    assert len(figure.axes) == 6 * 2
    assert [axes.get_title() for axes in figure.axes[:2]] == ["tiny-1024", "tiny-2048"]
    loss = lines_of(figure.axes[0])
    assert loss["each step"][:2] == pytest.approx([3.9, 3.8])
    # over 20 / 10 = 2 steps
    assert loss["running mean"][:3] == pytest.approx([3.9, 3.85, 3.75])
    perplexity = lines_of(figure.axes[2])
    assert perplexity["original length"] == [9.0, 9.5]
    assert perplexity["target length"][-1] == 10.0
    empty = {5: "not measured", 1: "not watched", 4: "not measured"}
    for row, words in empty.items():
        axes = figure.axes[2 * row + 1]
        assert (axes.axison, axes.texts[0].get_text()) == (False, words)
    memory = lines_of(figure.axes[10])
    assert memory.keys() == {"main memory: step's end", "main memory: peak so far"}
    assert memory["main memory: step's end"][-8:] == [63.0 + n for n in range(8)]
    assert memory["main memory: peak so far"][-1] == 90.0
    svg, png = tmp_path / "training.svg", tmp_path / "training.png"
    for path in (svg, png):
        style.save(figure, path)
    assert svg.read_text().rstrip().endswith("</svg>")
    assert png.read_bytes().startswith(b"\x89PNG")


def test_the_peaks_of_a_gpu_are_a_line_of_their_own(results):
    key = next(key for key in results.nodes if "1024" in key)
    lines = [
        {"step": n, "resident_memory_mb": 70.0, "peak_gpu_memory_mb": 100.0 * n} for n in (1, 2)
    ]
    (results.store / key / "measured.jsonl").write_text(as_lines(lines))
    # no speed: loss, perplexity, learning rate, gradient norm, memory
    memory = lines_of(draw(results).axes[8])
    assert memory["GPU: peak of the step"][:2] == [100.0, 200.0]
    assert memory["main memory: step's end"][:2] == [70.0, 70.0]
    assert len(memory) == 2


def test_quantities_that_no_model_has_get_no_panel(results):
    key = next(key for key in results.nodes if "1024" in key)
    for name in ("measured", "watched"):
        (results.store / key / f"{name}.jsonl").unlink()
    assert len(draw(results).axes) == 3 * 2


def test_an_experiment_without_a_fine_tuning_gets_a_figure_that_says_so(results):
    results.nodes = {}
    results.save_plan()
    assert "fine-tunes no model" in draw(results).axes[0].texts[0].get_text()
