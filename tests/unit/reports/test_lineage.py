"""Which nodes stand behind a table, what made them, and what a reader is told of it."""

import csv
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from repository import ROOT
from results_folder import ResultsFolder
from small_store import PRODUCTS, SECOND, SmallStore, manifest

from longrope.plan import build as planning
from longrope.reports import lineage, products
from longrope.reports import tables as reporting
from longrope.settings import loading as configuration
from longrope.store.atomic import write_text
from longrope.store.files import RawFiles


@pytest.fixture(autouse=True)
def _scripts_on_the_path(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "workflow" / "scripts"))


@pytest.fixture
def store(tmp_path):
    return SmallStore(tmp_path)


# Which nodes --------------------------------------------------------------------------------------


def keys_behind(plan, product):
    return [node.key for node in lineage.behind(plan, product)]


def test_the_nodes_behind_a_table_are_its_evaluations_and_all_they_were_made_of(store):
    up = store.upstream
    behind = {name: keys_behind(store.plan, product) for name, product in PRODUCTS.items()}
    assert behind["perplexity"] == [up["fetch"], up["tokens"], store.perplexity]
    assert behind["passkey"] == [up["fetch"], up["tokens"], up["search"], store.passkey]
    assert behind["benchmarks"] == [up["items"], store.benchmarks]
    assert behind["convergence"] == [up["fetch"], up["tokens"], up["search"]]
    assert sorted(behind["cost"]) == sorted(store.nodes)


def test_the_nodes_behind_every_table_of_the_demo_lack_no_input_and_hold_no_stranger(
    monkeypatch, tmp_path
):
    monkeypatch.chdir(ROOT)
    settings = configuration.load(Path("config/config.yaml"))
    plan = planning.build(settings, ROOT, RawFiles(tmp_path / "files"))
    for product in lineage.products_of(plan):
        behind = set(keys_behind(plan, product))
        used = {source.key for key in behind for source in plan.by_key[key].inputs.values()}
        assert used <= behind, "an input is missing"
        assert all(product.reads(plan.by_key[key]) for key in behind - used), "nobody reads it"


def test_an_experiment_without_a_task_has_no_product_of_it(store):
    del store.nodes[store.passkey]
    assert "passkey" not in {product.name for product in lineage.products_of(store.plan)}


# The registry -------------------------------------------------------------------------------------


def test_every_function_of_the_registry_is_there_and_counts_for_the_identity_of_the_tables():
    for product in products.BY_NAME.values():
        for name in filter(None, (product.table, product.blocks, product.figure, product.note)):
            made = products.function(name)
            assert callable(made) and made.__module__ in products.modules(), name


def test_every_product_has_a_caption_in_each_of_its_forms_and_no_caption_has_no_product():
    captions = {path.stem for path in (ROOT / "workflow" / "report").glob("*.rst")}
    assert captions == {"workflow", "provenance_page"} | {
        f"{product.name}_{form}" for product in products.BY_NAME.values() for form in product.forms
    }


def test_every_category_of_the_report_has_each_of_its_items_in_each_of_its_forms():
    # Snakemake draws a switch between the forms and shows nothing where an item lacks one.
    for category in {product.category for product in products.PRODUCTS}:
        shown = [
            (product.item, form)
            for product in products.PRODUCTS
            if product.category == category
            for form in product.forms
        ]
        items, forms = zip(*shown, strict=True)
        assert set(shown) == {(item, form) for item in items for form in forms}, category
        assert len(set(shown)) == len(shown), category


def test_a_plan_can_be_parsed_without_what_makes_tables_and_figures():
    check = (
        "import sys, longrope.reports.places, longrope.reports.products\n"
        "sys.exit(any(name in sys.modules for name in ('matplotlib', 'pandas', 'scipy', 'torch')))"
    )
    assert subprocess.run([sys.executable, "-c", check], cwd=ROOT).returncode == 0


# What made them -----------------------------------------------------------------------------------


def test_a_manifest_becomes_one_row_per_table(store):
    made = manifest(
        dirty=True, host="n1", finished="2026-01-02T03:04:05+00:00", device="NVIDIA H100"
    )
    store.write(store.passkey, made)
    table = lineage.provenance_table(store.results)
    assert tuple(table.columns) == lineage.COLUMNS
    (row,) = table[(table["kind"] == "evaluate") & (table["table"] == "passkey")].to_dict("records")
    assert row == {
        "table": "passkey",
        "kind": "evaluate",
        "label": "m-passkey-base-longrope",
        "digest": store.nodes[store.passkey].digest[:12],
        "finished": "2026-01-02T03:04:05+00:00",
        "commit": "a1b2c3d+",
        "longrope": "0.1.0",
        "torch": "2.13.0",
        "transformers": "5.23.0",
        "lm-eval": "0.4.13",
        "machine": "x86_64",
        "device": "NVIDIA H100",
        "host": "n1",
        "seconds": 1.5,
    }


def test_a_node_whose_directory_was_deleted_keeps_its_row_with_empty_cells(store):
    shutil.rmtree(store.folder / store.upstream["tokens"])
    row = store.rows()[1]
    assert row["label"] == "m-words-test"
    assert {row[name] for name in ("commit", "torch", "finished", "host")} == {""}
    assert row["seconds"] is None


def test_a_manifest_without_a_commit_is_not_called_changed(store):
    store.write(store.perplexity, {"git": {"commit": "", "dirty": True}})
    assert store.rows()[-1]["commit"] == ""


# The sentence -------------------------------------------------------------------------------------


def test_one_commit_and_one_version_make_a_plain_sentence(store):
    assert store.sentence() == "Made at commit a1b2c3d with torch 2.13.0, transformers 5.23.0."


def test_only_benchmarks_name_the_version_of_lm_eval(store):
    assert "lm-eval 0.4.13" in store.sentence("benchmarks")
    assert "lm-eval" not in store.sentence("cost")


def test_several_commits_and_versions_are_counted_the_most_frequent_first(store):
    store.write(store.perplexity, manifest(SECOND, True, "2.12.0+cu126"))
    assert store.sentence() == (
        "Nodes behind this table were made at 2 commits: a1b2c3d (2 nodes), d4e5f6a+ (1 node);"
        " with 2 versions of torch: 2.13.0 (2 nodes), 2.12.0+cu126 (1 node);"
        " with transformers 5.23.0; + marks uncommitted changes."
    )


def test_what_no_manifest_tells_is_counted_and_is_no_second_commit(store):
    (store.folder / store.upstream["tokens"] / "manifest.json").unlink()
    assert "at commit a1b2c3d (2 nodes), not recorded (1 node);" in store.sentence()
    assert not lineage.is_mixed(store.rows(), PRODUCTS["perplexity"])


def test_manifests_that_tell_nothing_make_no_sentence(store):
    for key in store.nodes:
        store.write(key, {})
    assert store.sentence() == ""


@pytest.mark.parametrize(
    ("made", "mixed"),
    [
        (manifest(SECOND), True),
        (manifest(dirty=True), True),
        (manifest(torch="2.13.1"), True),
        (manifest(host="elsewhere", device="NVIDIA H100", seconds=9.0), False),
    ],
)
def test_nodes_are_mixed_by_code_and_packages_and_not_by_machines(store, made, mixed):
    store.write(store.upstream["fetch"], made)
    assert lineage.is_mixed(store.rows(), PRODUCTS["perplexity"]) is mixed
    assert not lineage.is_mixed(store.rows("benchmarks"), PRODUCTS["benchmarks"])


@pytest.mark.parametrize("name", ["perplexity", "passkey", "benchmarks", "cost"])
def test_every_markdown_table_says_at_which_commit_it_was_made(tmp_path, name):
    made = ResultsFolder(tmp_path).fill()
    for key in made.nodes:
        (made.store / key / "manifest.json").write_text(json.dumps(manifest()))
    _, markdown = made.table(name)
    assert "Made at commit a1b2c3d with torch 2.13.0" in markdown.read_text()


# Files --------------------------------------------------------------------------------------------


def test_the_provenance_table_is_written_with_a_row_per_table_and_node(store, tmp_path):
    table, markdown = tmp_path / "p.csv", tmp_path / "p.md"
    reporting.write_table(lineage.provenance_table(store.results), table, markdown)
    rows = list(csv.DictReader(table.read_text().splitlines()))
    # 3 behind perplexity, 4 passkey, 2 benchmarks, 3 each figure of searches, 7 cost
    assert len(rows) == 3 + 4 + 2 + 3 + 3 + 7
    assert {row["commit"] for row in rows} == {"a1b2c3d"}
    assert markdown.read_text().count("\n") == 2 + len(rows)


def test_a_reader_of_a_table_that_is_written_again_goes_on_reading_the_old_one(store, tmp_path):
    path, markdown = tmp_path / "t.csv", tmp_path / "t.md"
    table = lineage.provenance_table(store.results)
    reporting.write_table(table, path, markdown)
    old = path.read_text()
    with path.open() as reader:
        reporting.write_table(table.iloc[:1], path, markdown)
        assert reader.read() == old
    assert len(path.read_text().splitlines()) == 2


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "t.md"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "\ud800")
    assert [item.name for item in tmp_path.iterdir()] == ["t.md"]
    assert path.read_text() == "old"


# The page -----------------------------------------------------------------------------------------


def without_graphviz(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))


def body_of(page):
    """Read the page as XML, which is stricter than HTML."""
    return ElementTree.fromstring(page.removeprefix("<!DOCTYPE html>\n"))


def test_the_page_has_a_row_for_every_table_and_node(store):
    sections = body_of(store.page()).iter("details")
    counted = [len(list(section.iter("tr"))) - 1 for section in sections]
    assert counted == [3, 4, 2, 3, 3, 7]


def test_the_page_needs_nothing_from_elsewhere(store):
    page = store.page()
    assert not re.search(r"<(script|link|img|iframe|object)\b|\bsrc=|@import|url\(", page)
    assert not re.search(r"\bhref=", page)


def test_the_page_warns_of_mixed_commits_and_marks_the_odd_cell(store):
    assert 'class="warning"' not in store.page()
    store.write(store.perplexity, manifest(SECOND))
    page = store.page()
    warning = page.split('<div class="warning">')[1].split("</div>")[0]
    assert re.findall(r"<b>(\w+)</b>", warning) == ["perplexity", "cost"]
    assert page.count('<td class="other">d4e5f6a</td>') == 2
    assert 'class="other">a1b2c3d' not in page


def test_what_stands_in_names_is_text_on_the_page(store, monkeypatch, tmp_path):
    without_graphviz(monkeypatch, tmp_path)
    store.add("fetch", "<script>alert(1)</script>")
    page = store.page()
    assert "<script" not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;-") == 1


def test_without_graphviz_the_page_says_so_and_lists_what_every_node_reads(
    store, monkeypatch, tmp_path
):
    without_graphviz(monkeypatch, tmp_path)
    page = store.page()
    assert "has no graphviz" in page and "<svg" not in page
    for key, node in store.nodes.items():
        (entry,) = re.findall(rf"<li>[^<]*\({re.escape(key)}\)([^<]*)</li>", page)
        for role, source in node.inputs.items():
            assert f"{role} from {source.key}" in entry


@pytest.mark.skipif(shutil.which("dot") is None, reason="graphviz is not installed")
def test_with_graphviz_the_page_holds_both_drawings(store):
    svg = "{http://www.w3.org/2000/svg}"
    body = body_of(store.page())
    kinds, nodes = body.iter(f"{svg}svg")
    names = [element.get("id") for element in body.iter() if element.get("id")]
    assert len(set(names)) == len(names), "the drawings share a name"
    assert "m-words-test" in "".join(nodes.itertext())
    assert "1 node, 1 done" in "".join(kinds.itertext())
