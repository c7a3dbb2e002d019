"""Tables and figures from a synthetic results folder: no model, no scoring."""

import csv
import math
import random
import re
import subprocess
import sys
from types import SimpleNamespace

import jinja2
import pandas as pd
import pytest
import yaml
from docutils.core import publish_parts
from node_settings import node_settings
from repository import ROOT
from results_folder import (
    BOOKS,
    CURVES,
    GEOMETRY,
    LENGTHS,
    MODEL_STAND_IN,
    ResultsFolder,
    history,
    searched,
)

from longrope.errors import UserError
from longrope.plan.nodes import Node, Plan
from longrope.reports import costs as costing
from longrope.reports import products
from longrope.reports import results as results_of
from longrope.reports import tables as reporting
from longrope.reports.figures import passkey, perplexity, style
from longrope.rope.methods import METHODS, closed_form

CONFIGURATIONS = sorted(set((ROOT / "config").glob("*.yaml")) - {ROOT / "config/hardware.yaml"})


@pytest.fixture
def results(tmp_path):
    """A plan file and its store, as the stages would leave them."""
    return ResultsFolder(tmp_path).fill()


def document(nll, tokens) -> dict:
    return {"name": "book", "nll": nll, "tokens": tokens}


# Perplexity and its interval ----------------------------------------------------------------------


def test_perplexity_sums_nats_and_tokens_and_divides_once():
    # (100 ln 2 + 300 ln 4) / 400 = 1.75 ln 2; the mean over documents would give 1.5 ln 2.
    short, long = document(100 * math.log(2), 100), document(300 * math.log(4), 300)
    assert reporting.perplexity([short, long]) == pytest.approx(2**1.75)


def test_perplexity_of_no_documents_is_missing():
    assert math.isnan(reporting.perplexity([]))


def test_an_exploded_perplexity_is_infinite_without_a_warning():
    exploded = [document(1e6, 10), document(1e5, 10)]
    assert reporting.perplexity(exploded) == math.inf
    assert reporting.bootstrap_interval(exploded) == (math.inf, math.inf)


@pytest.mark.parametrize("seed", range(5))
def test_the_interval_of_many_alike_documents_contains_the_perplexity(seed):
    rng = random.Random(seed)
    drawn = [document(rng.gauss(200, 20), 100) for _ in range(30)]
    low, high = reporting.bootstrap_interval(drawn, seed)
    assert low < reporting.perplexity(drawn) < high


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng = random.Random(0)
    covered = 0
    for _ in range(100):
        low, high = reporting.bootstrap_interval(
            [document(rng.gauss(200, 20), 100) for _ in range(40)]
        )
        covered += low < math.exp(2) < high
    assert 87 <= covered <= 100


def test_the_interval_narrows_with_more_documents():
    rng = random.Random(0)
    drawn = [document(rng.gauss(200, 20), 100) for _ in range(160)]
    few, many = (reporting.bootstrap_interval(drawn[:n], 0) for n in (10, 160))
    assert 0 < many[1] - many[0] < 0.5 * (few[1] - few[0])


def test_the_interval_has_its_hand_computed_value_for_two_documents():
    # Resamples are (a, a), (a, b), (b, b) with chances 1/4, 1/2, 1/4: the ends are a and b alone.
    two = [document(10 * math.log(2), 10), document(10 * math.log(8), 10)]
    assert reporting.bootstrap_interval(two) == pytest.approx((2, 8))


def test_equal_seeds_give_equal_intervals_and_others_do_not():
    rng = random.Random(0)
    drawn = [document(rng.gauss(200, 20), 100) for _ in range(20)]
    assert reporting.bootstrap_interval(drawn, 3) == reporting.bootstrap_interval(drawn, 3)
    assert reporting.bootstrap_interval(drawn, 3) != reporting.bootstrap_interval(drawn, 4)


def test_one_document_has_no_interval():
    assert all(map(math.isnan, reporting.bootstrap_interval([document(1.0, 1)])))


# Tables -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        (
            "perplexity",
            "corpus,stand_in,variant,method,length,protocol,bos,documents,tokens,ppl,ppl_low,ppl_high",
        ),
        ("passkey", "variant,method,length,depth,bos,trials,correct"),
        (
            "benchmarks",
            "variant,method,task,few_shot,bos,items,metric,value,stderr,chance,stand_in",
        ),
        (
            "cost",
            "kind,label,seconds,estimated_seconds,peak_memory_mb,estimated_memory_mb,"
            "scored_tokens,estimated_tokens,device,node",
        ),
    ],
)
def test_each_table_has_exactly_the_promised_columns(results, name, columns):
    table, markdown = results.table(name)
    lines = table.read_text().splitlines()
    assert lines[0] == columns
    assert len(lines) > 1
    assert MODEL_STAND_IN in markdown.read_text(), "a stand-in says so wherever it shows"


def test_perplexity_rows_stand_by_corpus_variant_method_and_length(results):
    table = reporting.perplexity_table(results.results)
    series = list(table[["variant", "method"]].drop_duplicates().itertuples(index=False, name=None))
    assert series == list(CURVES)
    assert table["corpus"].tolist() == ["pg19"] * 28 + ["proof_pile"] * 28
    assert table["length"].tolist() == [*LENGTHS] * 14


def test_a_corpus_that_is_a_stand_in_says_so_in_its_rows_and_another_does_not(results):
    table = reporting.perplexity_table(results.results)
    assert set(table.loc[table["corpus"] == "pg19", "stand_in"]) == {BOOKS}
    assert set(table.loc[table["corpus"] == "proof_pile", "stand_in"]) == {""}


def test_a_corpus_under_another_name_in_the_table_keeps_its_stand_in(results):
    results.save_plan(corpora={"pile": "wrong", "proof_pile": "formal proofs"})
    node, _ = results_of.evaluations(results.results, "perplexity")[0]
    assert results_of.corpus_stand_in(results.plan, node, "proofs") == "formal proofs"
    assert results_of.corpus_stand_in(results.plan, node, "unheard-of") == ""


def test_a_benchmark_without_items_keeps_its_row_with_an_empty_value(results):
    table = reporting.multiple_choice_table(results.results)
    assert table["task"].tolist() == ["arc_challenge", "mmlu"] * 2
    assert table["value"].isna().tolist() == [True, False] * 2


def test_cost_counts_the_tokens_of_searches_and_perplexities_only(results):
    table = costing.cost_table(results.results)
    assert table["kind"].unique().tolist() == ["tokenize", "search", "readjust", "evaluate"]
    counted = table.groupby("kind")["scored_tokens"].max()
    assert counted["search"] == 200_000
    assert counted["readjust"] == 2 * 200_000
    assert counted["evaluate"] == 2 * (6 * (256 + 1024 + 2048) + 8192)
    assert pd.isna(counted["tokenize"])


EVOLUTION = {"name": "evolution", "population_size": 8, "num_mutations": 3}
EVOLUTION |= {"num_crossovers": 3, "num_iterations": 3}
SEARCH = {"algorithm": EVOLUTION, "num_documents": 2, "target_length": 1000, "dtype": "float32"}
TOY = {"num_hidden_layers": 1, "hidden_size": 64, "num_attention_heads": 1}
TOY |= {"intermediate_size": 64, "vocab_size": 100}


@pytest.fixture
def costed(results):
    """Two searches and what they read, in a plan that tells machine and shape."""
    results.nodes = {}
    for label in ("one", "two"):
        results.add(
            "search",
            label,
            SEARCH,
            **{"history.jsonl": history(1)},
        )
    results.add("tokenize", "tokens", {})
    results.save_plan(hardware="cpu", shape=TOY)
    return results


def test_the_cost_table_puts_the_estimate_beside_what_was_measured(costed):
    table = costing.cost_table(costed.results)
    assert table["kind"].tolist() == ["tokenize", "search", "search"]
    # (8 + 3 * 6 + 1) candidates on 2 documents of 1000 tokens
    assert table["estimated_tokens"].tolist()[1:] == [54_000] * 2
    # a layer of 4 + 3 matrices, attention over 500 500 pairs, logits of 100 tokens
    flops = 54 * (2 * 7 * 64**2 * 1000 + 4 * 64 * 500_500 + 2 * 64 * 100 * 1000)
    assert table["estimated_seconds"].tolist()[1:] == pytest.approx([flops / 47.5e9] * 2)
    # 770 MiB of a process, 0.2 of weights and 2.4 of states and temporaries
    assert table["estimated_memory_mb"].iloc[1] == pytest.approx(772.6, abs=0.1)
    assert table.iloc[0][["estimated_seconds", "estimated_tokens"]].isna().all()


def test_sums_by_stage_leave_out_what_has_no_estimate(costed):
    table = costing.cost_table(costed.results)
    sums = costing.stage_table(table)
    assert sums["kind"].tolist() == ["search"]
    assert sums["nodes"].tolist() == [2]
    assert sums["seconds"].tolist() == [25.0]
    assert sums["ratio"].iloc[0] == pytest.approx(table["estimated_seconds"].sum() / 25.0)


@pytest.mark.parametrize("lacking", ["machine", "shape"])
def test_without_a_machine_or_a_shape_the_cost_table_has_no_estimates(costed, lacking):
    costed.save_plan(**({"shape": TOY} if lacking == "machine" else {"hardware": "cpu"}))
    written = costed.table("cost")
    assert pd.read_csv(written[0])["estimated_seconds"].isna().all()
    assert "Estimates" not in written[1].read_text()


def test_the_markdown_of_the_cost_has_sums_by_stage_above_its_rows(costed):
    text = costed.table("cost")[1].read_text()
    assert "Estimates are for the machine `cpu`" in text
    head = [row[0] for row in cells_of(text)]
    assert head == ["kind", "---", "search", "kind", "---", "tokenize", "search", "search"]


def test_an_experiment_without_a_task_has_a_table_without_rows(results):
    results.nodes = {k: n for k, n in results.nodes.items() if n.kind == "search"}
    results.save_plan()
    for make in (
        reporting.passkey_table,
        reporting.perplexity_table,
        reporting.multiple_choice_table,
    ):
        assert make(results.results).empty


def test_equal_results_give_equal_bytes_whatever_the_order_of_the_plan(results, tmp_path):
    written = []
    for turn in range(2):
        results.nodes = dict(reversed(results.nodes.items()))
        results.save_plan()
        table = reporting.perplexity_table(results.results)
        reporting.write_table(table, tmp_path / f"{turn}.csv", tmp_path / f"{turn}.md")
        written.append((tmp_path / f"{turn}.csv").read_bytes())
    assert written[0] == written[1]


def test_a_missing_result_is_refused_by_its_path(results):
    (results.store / next(k for k in results.nodes if "passkey" in k) / "scores.json").unlink()
    with pytest.raises(UserError, match=r"passkey-\S+/scores.json cannot be read"):
        reporting.passkey_table(results.results)


# Searches -----------------------------------------------------------------------------------------


def test_searched_factors_stand_by_length_and_readjusted_ones_appear_once(results):
    entries = reporting.searched_factors(results.results)
    assert [(each.factors.target_length, each.stage, each.where) for each in entries] == [
        (256, "readjusted", "tiny, readjusted"),
        (512, "readjusted", "tiny, readjusted"),
        (1024, "base", "tiny"),
        (2048, "base", "tiny"),
        (8192, "base", "tiny"),
        (8192, "tuned", "tiny, tuned at 2,048 tokens"),
    ]


def test_the_figure_of_factors_has_the_rotary_base_that_they_were_searched_under():
    assert reporting.geometry_of(searched(1024, 256)) == GEOMETRY
    unsaid = searched(1024, 256).model_copy(update={"rope_theta": None})
    with pytest.raises(UserError, match="1024 tokens do not say their rope_theta; search again"):
        reporting.geometry_of(unsaid)


def test_the_best_perplexity_never_rises_and_skips_candidates_without_a_score(results):
    table = reporting.convergence_table(results.results)
    assert len(table) == 6 * 199, "without the candidate that was scored on one document"
    for _, rows in table.groupby(["length", "search"]):
        best = rows["best"].dropna()
        assert best.is_monotonic_decreasing
        assert best.iloc[-1] == rows["perplexity"].min() > 1.5


def test_the_note_of_a_table_states_the_tuning_mix_of_every_step():
    first = {"num_steps": 40, "batch_size": 4, "text_length": 1024, "passkey_fraction": 0.5}
    longer = first | {"num_steps": 60, "text_length": 2048, "passkey_fraction": 0.0}
    nodes = {
        label: Node("finetune", label, node_settings("finetune", settings))
        for label, settings in (("m-1024", first), ("m-2048", longer))
    }
    plan = Plan("e", nodes, {"model": "a toy", "corpora": {}})
    assert results_of.table_note(plan) == (
        "The model is a stand-in: a toy. Tuned means fine-tuned: 40 steps of 4 x 1024 tokens "
        "(50% passkey prompts), then 60 steps of 4 x 2048 tokens (0% passkey prompts)."
    )


# Figures ------------------------------------------------------------------------------------------


def test_every_figure_is_drawn_and_names_the_stand_ins(results, tmp_path):
    num_panels = {"perplexity": 2, "passkey": 4 + 1, "factors": 5, "convergence": 6}
    drawn = {name: results.figure(name) for name in num_panels}
    assert {name: len(figure.axes) for name, figure in drawn.items()} == num_panels
    assert drawn["perplexity"].axes[0].get_title() == f"pg19 (stand-in: {BOOKS})"
    for name, figure in drawn.items():
        assert MODEL_STAND_IN in figure.get_suptitle()
        svg, png = tmp_path / f"{name}.svg", tmp_path / f"{name}.png"
        for path in (svg, png):
            style.save(figure, path)
        assert svg.read_text().rstrip().endswith("</svg>")
        assert png.read_bytes().startswith(b"\x89PNG")


def test_a_figure_drawn_twice_has_the_same_bytes(results, tmp_path):
    written = []
    for _ in range(2):
        svg, png = tmp_path / "figure.svg", tmp_path / "figure.png"
        table = reporting.passkey_table(results.results).head(25)
        for path in (svg, png):
            style.save(passkey.draw(table), path)
        written.append((svg.read_bytes(), png.read_bytes()))
    assert written[0] == written[1]
    assert b"dc:date" not in written[0][0]


def test_a_table_read_back_draws_the_same_panels(results, tmp_path):
    table = reporting.perplexity_table(results.results)
    reporting.write_table(table, tmp_path / "table.csv", tmp_path / "table.md")
    back = reporting.read_table(tmp_path / "table.csv")
    pd.testing.assert_frame_equal(back, table, rtol=1e-5, check_dtype=False)


def test_an_experiment_without_a_task_gets_a_figure_that_says_so(results):
    for module, make in (
        (perplexity, reporting.perplexity_table),
        (passkey, reporting.passkey_table),
    ):
        figure = module.draw(make(results.results).iloc[:0])
        assert "this experiment evaluates no" in figure.axes[0].texts[0].get_text()


def test_every_method_has_one_label_one_colour_and_one_marker():
    names = [*METHODS, "longrope"]
    assert list(reporting.METHOD_ORDER) == names
    for each in (style.LABELS, style.COLOURS, style.MARKERS):
        assert list(each) == names
        assert len(set(each.values())) == len(names)
    assert style.TUNED_COLOUR not in style.COLOURS.values()


# Markdown -----------------------------------------------------------------------------------------


def test_markdown_keeps_every_cell():
    table = pd.DataFrame(
        {"name": ["a|b", "c"], "count": [1, 2_000_000], "value": [1 / 3, math.nan]}
    )
    head, rule, *rows = reporting.to_markdown(table).splitlines()
    assert head == "| name | count | value |"
    assert rule == "| --- | ---: | ---: |"
    assert rows == [r"| a\|b | 1 | 0.333333 |", "| c | 2000000 |  |"]


def cells_of(markdown: str) -> list[list[str]]:
    """Parse what `to_markdown` writes, notes skipped."""
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines]
    return [[cell.strip().replace("\\|", "|") for cell in row] for row in rows]


@pytest.mark.parametrize("name", ["perplexity", "passkey", "benchmarks", "cost"])
def test_long_markdown_and_csv_of_one_table_say_the_same(results, tmp_path, name):
    table = products.function(products.BY_NAME[name].table)(results.results)
    reporting.write_table(table, tmp_path / "t.csv", tmp_path / "t.md", note="A note.")
    markdown = (tmp_path / "t.md").read_text()
    assert markdown.startswith("A note.\n\n|")
    head, _, *rows = cells_of(markdown)
    assert [head, *rows] == list(csv.reader((tmp_path / "t.csv").read_text().splitlines()))


def test_markdown_with_a_bar_in_a_cell_parses_back():
    *_, row = cells_of(reporting.to_markdown(pd.DataFrame({"name": ["a|b"], "count": [3]})))
    assert row == ["a|b", "3"]


def test_reporting_does_not_import_torch():
    check = "import sys, longrope.reports.tables; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], cwd=ROOT).returncode == 0


def test_closed_forms_of_the_figure_are_those_of_the_library(results):
    axes = results.figure("factors").axes[2]
    lines = {line.get_label(): line.get_ydata() for line in axes.get_lines()}
    assert list(lines["YaRN"]) == list(closed_form("yarn", GEOMETRY, 1024).factors)


# Captions -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", CONFIGURATIONS, ids=lambda p: p.stem)
@pytest.mark.parametrize(
    "caption", sorted((ROOT / "workflow" / "report").glob("*.rst")), ids=lambda p: p.stem
)
def test_every_caption_reads_well_for_every_shipped_config(config, caption):
    settings = yaml.safe_load(config.read_text())
    html = rendered(caption, settings)
    assert "System Message" not in html, "docutils found a mistake"
    assert settings["model"].get("stand_in", "").partition(",")[0] in html
    if caption.stem in ("workflow", "perplexity_figure"):
        stand_ins = [c["stand_in"] for c in settings["corpora"].values() if c.get("stand_in")]
        assert html.count("<li>") == len(stand_ins)


def rendered(caption, settings) -> str:
    """Render a caption as Snakemake does."""
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(caption.read_text())
    text = template.render(snakemake=SimpleNamespace(config=settings))
    parts = publish_parts(text, writer="html", settings_overrides={"report_level": 2})
    return parts["body"]
