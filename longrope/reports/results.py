"""The plan file and what its nodes left behind, as tables and figures read them; imports no torch."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from longrope import reading
from longrope.errors import UserError, refusals_explained


class PlanNode(TypedDict):
    """Fields of a node in the plan file that reports read."""

    kind: str
    label: str
    settings: dict[str, Any]
    runtime: dict[str, Any]
    inputs: dict[str, str]
    raw: dict[str, Any]


class StandIns(TypedDict):
    """Descriptions of the model and the corpora that stand in for others."""

    model: str | None
    corpora: dict[str, str | None]


class PlanFile(TypedDict):
    """The plan of one experiment: `nodes` by their directory inside the store."""

    experiment: str
    names: dict[str, str]
    nodes: dict[str, PlanNode]
    stand_ins: StandIns
    hardware: NotRequired[str]
    shape: NotRequired[dict[str, Any]]


@dataclass(frozen=True)
class Results:
    """A plan with what its nodes left behind, of which tables and figures are made."""

    plan: PlanFile
    store: Path
    tables: Path = Path()
    """folder of the tables that are made already"""
    hardware: Path | None = None
    """the table of hardware; no estimates without it"""


# Reading ----------------------------------------------------------------------------------------


def read_json(path: Path) -> Any:
    """Return a parsed JSON file; raises UserError naming the file if it cannot be read."""
    return _parsed(path, json.loads)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a JSON-lines file; raises as `read_json` does."""
    lines: list[dict[str, Any]] = _parsed(path, lambda s: [*map(json.loads, s.splitlines())])
    return lines


def on_all_documents(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the lines of a search's history whose candidate was scored on all search documents."""
    most = max((len(line["documents"]) for line in lines), default=0)
    return [line for line in lines if len(line["documents"]) == most]


def _parsed(path: Path, parse: Callable[[str], Any]) -> Any:
    try:
        with refusals_explained():
            return parse(reading.read_text(path))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); run snakemake again.") from None


def read_plan(path: Path) -> PlanFile:
    """Return a plan file; raises as `read_json` does."""
    plan: PlanFile = read_json(path)
    return plan


def store_of(plan_file: Path) -> Path:
    """Return the store that a plan file stands in, `{store}/plans/{experiment}.json`."""
    return plan_file.parent.parent


def nodes_of(plan: PlanFile, kind: str) -> list[tuple[str, PlanNode]]:
    """Return the nodes of one kind with their keys, by label."""
    found = [(key, node) for key, node in plan["nodes"].items() if node["kind"] == kind]
    return sorted(found, key=lambda item: (item[1]["label"], item[0]))


def evaluations(results: Results, task: str) -> list[tuple[PlanNode, dict[str, Any]]]:
    """Return the node and the scores of every evaluation of one task, by label."""
    return [
        (node, read_json(results.store / key / "scores.json"))
        for key, node in nodes_of(results.plan, "evaluate")
        if task_of(node) == task
    ]


def task_of(node: PlanNode) -> str | None:
    """Return the name of the task of an evaluation."""
    task = node["settings"].get("task")
    return None if task is None else str(task["name"])


# Stand-ins --------------------------------------------------------------------------------------


def corpus_stand_in(plan: PlanFile, node: PlanNode, corpus: str) -> str:
    """Return what the documents of an evaluated corpus are, or "" if they are the corpus itself.

    A table may call a corpus otherwise than the configuration does; then the label of the tokenize
    node, `{model}-{corpus}-{split}`, tells which one it is.
    """
    known = plan["stand_ins"]["corpora"]
    if corpus in known:
        return known[corpus] or ""
    key = node["inputs"].get(f"tokens-{corpus}")
    label = plan["nodes"][key]["label"].rpartition("-")[0] if key else ""
    named = [name for name in known if label.endswith(f"-{name}")]
    return known[max(named, key=len)] or "" if named else ""


def model_note(plan: PlanFile) -> str:
    """Return a sentence that says what the model stands in for, or an empty string."""
    stand_in = plan["stand_ins"]["model"]
    return f"The model is a stand-in: {stand_in}." if stand_in else ""


def original_length(plan: PlanFile) -> int | None:
    """Return the context window of the pretrained model in tokens, if some node tells it."""
    told = [node["settings"].get("original_length") for node in plan["nodes"].values()]
    return next((int(length) for length in told if length), None)


def tuning_note(plan: PlanFile) -> str:
    """Return a sentence on how the tuned variant was trained, or an empty string."""
    runs = [_training(node["settings"]) for _, node in fine_tunings(plan)]
    return f"Tuned means fine-tuned: {', then '.join(runs)}." if runs else ""


def fine_tunings(plan: PlanFile) -> list[tuple[str, PlanNode]]:
    """Return the fine-tuned nodes with their keys, by target length."""
    return sorted(nodes_of(plan, "finetune"), key=lambda item: _length_in(item[1]["label"]))


def _length_in(label: str) -> int:
    """Return the target length that ends a label, 0 if none does."""
    end = label.rpartition("-")[2]
    return int(end) if end.isdigit() else 0


def _training(settings: dict[str, Any]) -> str:
    training = settings["training"]
    share = f"{training['passkey_fraction']:.0%}"
    rows = f"{training['num_steps']} steps of {training['batch_size']} x {training['text_length']} tokens"
    return f"{rows} ({share} passkey prompts)"


def table_note(plan: PlanFile) -> str:
    """Return what a reader of a table must know: the stand-in and the tuning mix."""
    return " ".join(note for note in (model_note(plan), tuning_note(plan)) if note)
