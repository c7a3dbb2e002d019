"""`plan`: every node with its state, and for what is not there the reason."""

import json
import os
import time
from pathlib import Path

import command_line
import pytest
from command_line import STORE, call, edit, finish, planned
from node_settings import node_settings

from longrope.cli import common, listing
from longrope.cli.listing import list_nodes, list_origins, size_text
from longrope.plan import status as standing
from longrope.plan.nodes import Node, Plan
from longrope.store import commit, files


@pytest.fixture(autouse=True)
def work(tmp_path, monkeypatch):
    """A working directory with a configuration of four nodes and nothing computed."""
    monkeypatch.chdir(command_line.write_files(tmp_path / "work"))


def printed(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Return the lines of `longrope plan`."""
    assert call("plan", "config.yaml") == 0
    return capsys.readouterr().out.splitlines()


def states(lines: list[str]) -> dict[str, str]:
    """Return the state of every node that is printed, by its directory."""
    rows = [line.split() for line in lines if line[:4].strip().isdigit()]
    return {row[-1]: row[1] for row in rows}


def test_every_node_is_printed_once_with_its_state(capsys):
    nodes = {node.kind: node for node in planned() if node.label != "tiny-own-test"}
    finish(nodes["tokenize"])
    hold(nodes["search"].key)
    lines = printed(capsys)
    expected = {node.key: "missing" for node in planned()}
    expected |= {nodes["tokenize"].key: "done", nodes["search"].key: "running"}
    assert states(lines) == expected
    assert lines[-1] == "1 of 4 nodes done, 1 running, 0 stale, 2 missing"


def test_json_says_the_same_of_every_node(capsys):
    nodes = {node.kind: node for node in planned() if node.label != "tiny-own-test"}
    finish(nodes["tokenize"])
    assert call("plan", "config.yaml", "--json") == 0
    content = json.loads(capsys.readouterr().out)
    rows = {node["node"]: node for node in content["nodes"]}
    assert {key: row["state"] for key, row in rows.items()} == states(printed(capsys))
    done, search = rows[nodes["tokenize"].key], rows[nodes["search"].key]
    assert done["bytes"] == 1500 and done["seconds"] >= 0
    assert search["bytes"] is None
    assert nodes["tokenize"].key in search["inputs"].values()


def hold(key: str, age: float = 0.0) -> None:
    """Claim a node as a job does that gave its last sign of life some seconds ago."""
    lock = STORE / ".work" / f"{key}.lock"
    lock.mkdir(parents=True)
    (lock / ("0" * 32)).touch()
    os.utime(lock / ("0" * 32), (time.time() - age,) * 2)


def test_a_node_whose_job_gives_no_sign_of_life_is_missing(capsys):
    hold(planned().of("search")[0].key, age=6 * commit.HEARTBEAT)
    assert set(states(printed(capsys)).values()) == {"missing"}


def test_a_directory_that_snakemake_made_beforehand_is_not_a_finished_node(capsys):
    for node in planned():
        (STORE / node.key).mkdir(parents=True)
    assert set(states(printed(capsys)).values()) == {"missing"}


def test_a_finished_node_has_its_size_and_time_and_what_it_reads_by_number(capsys):
    finish(*planned())
    rows = [line.split() for line in printed(capsys) if line[:4].strip().isdigit()]
    # by kind: two tokenize nodes, the search reads the first, perplexity the second
    assert [row[:6] for row in rows] == [
        [number, "done", "1.5", "kB", "0.0", "s"] for number in "1234"
    ]
    assert [row[6:-1] for row in rows] == [[], [], ["1"], ["2"]]


def test_a_stale_node_says_what_changed_and_the_state_of_what_it_reads(capsys):
    finish(*planned())
    Path("own.txt").write_text("two")
    edit("split: train}}", "split: train}, population_size: 12, num_parents: 6}")
    lines = [line.strip() for line in printed(capsys)]
    search = next(i for i, line in enumerate(lines) if "search/" in line)
    assert lines[search + 1 : search + 4] == [
        "setting search.algorithm.num_parents: 32 -> 6",
        "setting search.algorithm.population_size: 64 -> 12",
        "input tokens: tokenize/tiny-own-train is another one (1, stale)",
    ]
    assert "file own.txt (documents) has other contents" in lines
    assert lines[-1] == "2 of 4 nodes done, 2 stale, 0 missing"


def test_a_stale_node_is_compared_with_the_newest_finished_one(capsys):
    for number, population_size in enumerate((64, 12, 20), start=1):
        Path("config.yaml").write_text(command_line.CONFIG)
        edit("split: train}}", f"split: train}}, population_size: {population_size}}}")
        finish(*planned())
        manifest = STORE / planned().of("search")[0].key / "manifest.json"
        # the second is the newest
        os.utime(manifest, ((number % 3) * 100,) * 2)
    edit("population_size: 20", "population_size: 40")
    assert "setting search.algorithm.population_size: 12 -> 40" in "\n".join(printed(capsys))


def test_changed_code_is_named_with_the_command_that_accepts_it(capsys, monkeypatch):
    (before,) = (node for node in planned() if node.kind == "evaluate")
    spec = before.to_json() | {"code": "0123456789abcdef", "parts": before.parts | {"a": "1"}}
    final = STORE / "evaluate" / f"{before.label}-{'0' * 12}"
    commit.run(STORE, str(final.relative_to(STORE)), spec, lambda work: None, dict)
    text = "\n".join(printed(capsys))
    assert "code changed: a is gone\n" in text
    assert (
        "if that alters no result: longrope accept evaluate.perplexity 0123456789abcdef\n" in text
    )


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"node": 1, "files": {}}'])
def test_a_manifest_that_cannot_be_read_stops_nothing(capsys, text):
    finish(*planned())
    for path in STORE.glob("*/*/manifest.json"):
        path.write_text(text)
    edit("split: train}}", "split: train}, population_size: 12}")
    text = "\n".join(printed(capsys))
    assert "the manifest of the finished node does not tell what changed" in text
    assert "3 of 4 nodes done, 1 stale, 0 missing" in text


# Where finished nodes come from -------------------------------------------------------------------

NOW = {
    "python": "3.11.7",
    "versions": {"torch": "2.13.0", "numpy": "2.4.0"},
    "git": {"commit": "b" * 40, "dirty": False},
}


def made(**changes: object) -> standing.NodeStatus:
    """Return a finished node whose manifest says other facts than now."""
    return standing.NodeStatus("done", NOW | changes)


def test_nodes_of_other_commits_and_packages_are_counted():
    git = {"commit": "a" * 40, "dirty": False}
    statuses = [
        *[made(git=git)] * 2,
        made(git=git | {"dirty": True}),
        made(versions={"torch": "2.12.0", "gone": "1"}, python="3.12.0"),
        made(),
        standing.NodeStatus("missing"),
        standing.NodeStatus("done", {}),
    ]
    assert list(list_origins(statuses, NOW)) == [
        "made at other commits: aaaaaaa (2), aaaaaaa with edits (1) of 6 finished nodes",
        "made with other packages: python 3.12.0 (1), torch 2.12.0 (1) of 6 finished nodes",
        "6 of 7 nodes done, 0 stale, 1 missing",
    ]


def test_nodes_made_as_they_would_be_now_are_not_mentioned():
    assert list(list_origins([made()], NOW)) == ["1 of 1 nodes done, 0 stale, 0 missing"]


# Large plans, other columns -----------------------------------------------------------------------


def large(num_nodes: int) -> Plan:
    """Return a plan of a chain of searches."""
    settings = node_settings("search", {})
    nodes: dict[str, Node] = {}
    last: dict[str, Node] = {}
    for number in range(num_nodes):
        node = Node("search", f"tiny-{number}", settings.model_copy(update={"seed": number}), last)
        last = {"model": node} if number % 50 else {}
        nodes[node.label] = node
    return Plan("large", nodes)


@pytest.mark.parametrize("num_nodes", [10, 500])
def test_folders_of_the_store_are_listed_once_for_all_nodes(monkeypatch, num_nodes):
    finish(*planned())
    kinds = sorted((STORE / ".work").glob("*"))
    listed = []
    listdir = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: listed.append(path) or listdir(path))
    standing.survey(large(num_nodes), STORE)
    assert listed == [STORE / ".work", *kinds, STORE / "search"]


def test_another_column_of_times_can_be_given_for_what_is_not_finished():
    plan = planned()
    finish(plan.of("tokenize")[0])
    lines = list_nodes(plan, standing.survey(plan, STORE), lambda node: f"~{len(node.inputs)} h")
    times = [line[25:34].strip() for line in lines if line[:4].strip().isdigit()]
    assert times == ["0.0 s", "~0 h", "~1 h", "~1 h"]


@pytest.mark.parametrize(
    ("size", "text"),
    [
        *[(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (999_499, "999.5 kB")],
        *[(1.5e6, "1.5 MB"), (13e9, "13.0 GB"), (2e12, "2.0 TB")],
    ],
)
def test_sizes_are_read_in_decimal_units(size, text):
    assert size_text(size) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, ""), (0.04, "0.0 s"), (59.94, "59.9 s"), (90, "1.5 min"), (5400, "1.5 h")],
)
def test_times_are_read_in_the_largest_unit(seconds, text):
    assert listing.time_text(seconds) == text


@pytest.mark.parametrize(
    ("numbers", "text"),
    [([], ""), ([3], "3"), ([1, 2], "1, 2"), ([1, 2, 3], "1-3"), ([1, 3, 3, 4, 5, 9], "1, 3-5, 9")],
)
def test_runs_of_numbers_are_drawn_together(numbers, text):
    assert listing._ranges(numbers) == text


def test_a_large_file_is_read_at_the_first_parse_and_when_its_contents_change(monkeypatch):
    read = []
    whole = files.file_digest
    monkeypatch.setattr(files, "file_digest", lambda path: read.append(path.name) or whole(path))
    Path("own.txt").write_bytes(b"a" * 5_000_000)
    digests = [planned_as_verb().digest for _ in range(2)]
    assert digests[0] == digests[1]
    assert sorted(read) == sorted(
        ["config.json", "model.safetensors", "tokenizer.json", "own.txt", "other.txt"]
    )
    read.clear()
    Path("own.txt").write_bytes(b"b" * 5_000_000)
    assert planned_as_verb().digest != digests[0]
    assert read == ["own.txt"]


def planned_as_verb() -> Plan:
    """Return the plan as each parse and each verb makes it, with the memory of the store."""
    return common.planned(Path("config.yaml"), STORE)


def test_the_manifest_is_not_changed_by_looking():
    finish(*planned())
    before = {path: path.read_bytes() for path in STORE.rglob("*") if path.is_file()}
    call("plan", "config.yaml")
    after = {path: path.read_bytes() for path in STORE.rglob("*") if path.is_file()}
    del after[STORE / ".raw-files.json"]
    assert after == before
    assert json.loads((STORE / ".raw-files.json").read_text())
