"""State of a run: its jobs, what they have taken against their estimates, and the time that is left."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from longrope.cost.estimate import PRODUCT_SECONDS, estimate, start_seconds
from longrope.cost.shapes import Shape
from longrope.plan.nodes import KINDS, Node, Plan
from longrope.settings.hardware import Machine

IGNORED = "all"
"""rule that makes nothing and only collects"""


def seconds_of(plan: Plan, machine: Machine) -> dict[str, float] | None:
    """Return the estimated seconds of each node of a plan; None if the model's shape is not known."""
    shape = Shape.of(plan.shape)
    if shape is None:
        return None
    return {
        node.key: start_seconds([node.kind]) + (estimate(node, shape, machine).seconds or 0)
        for node in plan
    }


@dataclass(frozen=True)
class Job:
    """A job that was started."""

    name: str
    kind: str
    """jobs of a kind differ from their estimates alike"""
    nodes: tuple[Node, ...]
    started: float
    """seconds of a clock"""


class Watch:
    """Jobs of one run; times are seconds of one clock."""

    def __init__(self, stats: Mapping[str, int], slots: int, began: float) -> None:
        """Begin.

        Args:
            stats: rule -> number of its jobs, as Snakemake counts them.
            slots: jobs that run at once.
            began: time of the beginning.
        """
        self.counts = {rule: n for rule, n in stats.items() if rule not in ("total", IGNORED)}
        self.total = sum(self.counts.values())
        self.num_done = 0
        self.num_failed = 0
        self.began = began
        self.running: dict[int, Job] = {}
        self._slots = slots
        self._left: dict[str, Node] = {}
        self._by_key: Mapping[str, Node] = {}
        self._seconds: Mapping[str, float] | None = None
        self._others = Counter(
            kind
            for rule, n in self.counts.items()
            if (kind := _kind(rule)) not in KINDS
            for _ in range(n)
        )
        """kind -> jobs that make no node and have not ended"""
        self._pace: dict[str, tuple[float, float]] = {}
        """kind -> measured and estimated seconds of finished jobs"""

    def expect(self, plan: Plan, store: Path, seconds: Mapping[str, float] | None) -> None:
        """Take the nodes that are not there, and their estimated seconds, None if there are none."""
        kinds = set(map(_kind, self.counts))
        self._by_key = plan.by_key
        self._left = {
            node.key: node
            for node in plan
            if node.kind in kinds and not (store / node.key / "DONE").is_file()
        }
        self._seconds = seconds

    def start(self, number: int, rule: str, outputs: Sequence[str], now: float) -> None:
        """Take a job that starts; it may have failed before."""
        keys = ["/".join(Path(path).parts[-3:-1]) for path in outputs]
        nodes = tuple(self._by_key[key] for key in keys if key in self._by_key)
        self.running[number] = Job(_name(rule, nodes), _kind(rule), nodes, now)

    def finish(self, number: int, now: float) -> tuple[str, float] | None:
        """Take the end of a job; return its name and seconds, None for a job that is not shown."""
        job = self.running.pop(number, None)
        if job is None:
            return None
        taken = now - job.started
        measured, estimated = self._pace.get(job.kind, (0.0, 0.0))
        self._pace[job.kind] = measured + taken, estimated + self._estimated(job)
        for node in job.nodes:
            self._left.pop(node.key, None)
        if not job.nodes:
            self._others[job.kind] -= 1
        self.num_done += 1
        return job.name, taken

    def fail(self, number: int, now: float) -> tuple[str, float] | None:
        """Take the failure of a job; return its name and seconds, None for a job that is not known."""
        job = self.running.pop(number, None)
        self.num_failed += 1
        return None if job is None else (job.name, now - job.started)

    def seconds_left(self, now: float) -> float | None:
        """Return the time that is left; None if there are no estimates.

        It is the larger of the time of all jobs over those at once, and of the longest chain of nodes. An
        estimate counts as many times as jobs of its kind have taken theirs, or all jobs where none of it has.
        """
        if self._seconds is None:
            return None
        left = {key: self._pace_of(n.kind) * self._seconds[key] for key, n in self._left.items()}
        others = sum(n * self._pace_of(kind) * PRODUCT_SECONDS for kind, n in self._others.items())
        for job in self.running.values():
            passed = now - job.started
            for node in job.nodes:
                spent = min(passed, left.get(node.key, 0.0))
                left[node.key] = left.get(node.key, 0.0) - spent
                passed -= spent

        @cache
        def chain(key: str) -> float:
            inputs = [node.key for node in self._by_key[key].inputs.values() if node.key in left]
            return left[key] + max(map(chain, inputs), default=0.0)

        longest = max(map(chain, self._left), default=0.0)
        return max((sum(left.values()) + others) / self._slots, longest)

    def _estimated(self, job: Job) -> float:
        """Return the estimated seconds of a job, before any pace."""
        known = self._seconds or {}
        return sum(known.get(node.key, 0.0) for node in job.nodes) or PRODUCT_SECONDS

    def _pace_of(self, kind: str) -> float:
        """Return measured over estimated seconds, of a kind or else of all jobs that ended, or else 1."""
        paces = [self._pace[kind]] if kind in self._pace else [*self._pace.values()]
        measured, estimated = (sum(pace[part] for pace in paces) for part in (0, 1))
        return measured / estimated if estimated else 1.0


def _kind(rule: str) -> str:
    """Return the kind of node that a rule makes; of other rules the first word."""
    return rule.partition("_")[0]


def _name(rule: str, nodes: Sequence[Node]) -> str:
    if not nodes:
        return rule.replace("_", " ")
    more = f" and {len(nodes) - 1} more" if len(nodes) > 1 else ""
    return f"{nodes[0].kind} {nodes[0].label}{more}"


def about(seconds: float) -> str:
    """Return a time that is only known roughly, in words."""
    if seconds < 55:
        return f"about {max(10, 10 * round(seconds / 10))} s"
    if seconds < 90 * 60:
        return f"about {round(seconds / 60)} min"
    return f"about {seconds / 3600:.1f} h"
