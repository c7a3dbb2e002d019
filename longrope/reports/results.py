"""Read access to a plan file and the outputs of its nodes, for tables and figures; imports no torch."""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from longrope import reading
from longrope.errors import UserError, refusals_explained
from longrope.plan.nodes import Node, Plan
from longrope.plan.nodes import read as read_nodes
from longrope.reports.records import HistoryLine, Scores
from longrope.settings.nodes import FinetuneNode, ModelUse

OfKind = TypeVar("OfKind")


@dataclass(frozen=True)
class Results:
    """A plan and the store with the outputs of its nodes."""

    plan: Plan
    store: Path
    tables: Path = Path()
    """folder of the tables that are made already"""
    hardware: Path | None = None
    """the table of hardware; no estimates without it"""


# Reading ----------------------------------------------------------------------------------------


def read_json(path: Path) -> Any:
    """Return a parsed JSON file; raises UserError naming the file if it cannot be read."""
    return _parsed(path, json.loads)


def read_history(path: Path) -> list[HistoryLine]:
    """Return the candidates of a search in order of scoring; raises as `read_json` does."""
    lines: list[HistoryLine] = read_lines(path)
    return lines


def read_lines(path: Path) -> Any:
    """Return the objects of a JSON-lines file; raises as `read_json` does."""
    return _parsed(path, lambda text: [*map(json.loads, text.splitlines())])


def on_all_documents(lines: Sequence[HistoryLine]) -> list[HistoryLine]:
    """Return the lines of a search's history whose candidate was scored on all search documents."""
    most = max((len(line["documents"]) for line in lines), default=0)
    return [line for line in lines if len(line["documents"]) == most]


def read_plan(path: Path) -> Plan:
    """Return a plan file; raises as `read_json` does."""
    with _readable(path):
        return read_nodes(path)


def _parsed(path: Path, parse: Callable[[str], Any]) -> Any:
    with _readable(path):
        return parse(reading.read_text(path))


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        with refusals_explained():
            yield
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{path} cannot be read ({error}); run snakemake again.") from None


def store_of(plan_file: Path) -> Path:
    """Return the store that a plan file stands in, `{store}/plans/{experiment}.json`."""
    return plan_file.parent.parent


def nodes_of(plan: Plan, kind: str) -> list[Node]:
    """Return the nodes of one kind, by label."""
    return sorted(plan.of(kind), key=lambda node: (node.label, node.key))


def with_settings(plan: Plan, kind: type[OfKind]) -> list[tuple[Node, OfKind]]:
    """Return the nodes whose settings are of a class, with these, by label."""
    nodes = sorted(plan, key=lambda node: (node.label, node.key))
    return [(node, node.settings) for node in nodes if isinstance(node.settings, kind)]


def evaluations(results: Results, task: str) -> list[tuple[Node, Scores[Any]]]:
    """Return the node and the scores of every evaluation of one task, by label."""
    return [
        (node, read_json(results.store / node.key / "scores.json"))
        for node in nodes_of(results.plan, "evaluate")
        if node.task == task
    ]


# Stand-ins --------------------------------------------------------------------------------------


def corpus_stand_in(plan: Plan, node: Node, corpus: str) -> str:
    """Describe the stand-in for an evaluated corpus; "" if it is the corpus itself.

    A table may call a corpus otherwise than the configuration does; then the label of the tokenize
    node, `{model}-{corpus}-{split}`, tells which one it is.
    """
    known = plan.stand_ins["corpora"]
    if corpus in known:
        return known[corpus] or ""
    tokens = node.inputs.get(f"tokens-{corpus}")
    label = tokens.label.rpartition("-")[0] if tokens else ""
    named = [name for name in known if label.endswith(f"-{name}")]
    return known[max(named, key=len)] or "" if named else ""


def model_note(plan: Plan) -> str:
    """Return a sentence that says what the model stands in for, or an empty string."""
    stand_in = plan.stand_ins["model"]
    return f"The model is a stand-in: {stand_in}." if stand_in else ""


def original_length(plan: Plan) -> int | None:
    """Return the context window of the pretrained model in tokens, if some node tells it."""
    lengths = (settings.original_length for _, settings in with_settings(plan, ModelUse))
    return next(lengths, None)


def tuning_note(plan: Plan) -> str:
    """Return a sentence on how the tuned variant was trained, or an empty string."""
    tunings = [settings for _, settings in fine_tunings(plan)]
    # Those of another seed are trained alike.
    runs = [_training(settings) for settings in tunings if settings.seed == tunings[0].seed]
    return f"Tuned means fine-tuned: {', then '.join(runs)}." if runs else ""


def fine_tunings(plan: Plan) -> list[tuple[Node, FinetuneNode]]:
    """Return the fine-tuned nodes with their settings, by target length."""
    return sorted(with_settings(plan, FinetuneNode), key=lambda item: _length_in(item[0].label))


def _length_in(label: str) -> int:
    """Return the target length that ends a label, but for its seed; 0 if none does."""
    end = re.search(r"-(\d+)(-seed\d+)?$", label)
    return int(end[1]) if end else 0


def _training(settings: FinetuneNode) -> str:
    training = settings.training
    share = f"{training.passkey_fraction:.0%}"
    steps = f"{training.num_steps} steps of {training.batch_size}"
    rows = f"{steps} x {settings.text_length} tokens"
    return f"{rows} ({share} passkey prompts)"


def table_note(plan: Plan) -> str:
    """Return the note on a table: the stand-in and the tuning mix."""
    return " ".join(note for note in (model_note(plan), tuning_note(plan)) if note)
