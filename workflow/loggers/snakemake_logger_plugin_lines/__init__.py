"""A line on the terminal for every job of a run; Snakemake's own pages stand in its log file alone.

Snakemake finds this logger, `--logger lines`, where the folder above is in PYTHONPATH.
"""

import os
import sys
import time
from datetime import datetime, timedelta
from logging import WARNING, LogRecord
from pathlib import Path
from threading import Timer
from typing import Any

from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent

from longrope.cli.listing import time_text
from longrope.errors import UserError
from longrope.plan import nodes
from longrope.settings.hardware import read_machine
from snakemake_logger_plugin_lines.watch import IGNORED, Watch, about, seconds_of

HARDWARE = Path(__file__).parents[3] / "config" / "hardware.yaml"
PAUSE = 0.5
"""seconds after the end of a job in which the next ones start, so that one line tells both"""
LINES = 10
"""of a failed job's log"""
SHOWN = ("Nothing to be done", "Terminating processes")
"""beginnings of messages that are shown although they are no warnings"""
WHERE = "Complete log(s): "


class LogHandler(LogHandlerBase):
    """Prints what is done, what runs, and about how long the rest takes."""

    writes_to_stream = True
    writes_to_file = False
    has_filter = True
    has_formatter = True
    needs_rulegraph = False

    def __post_init__(self) -> None:
        self._watch: Watch | None = None
        self._slots = 1
        self._planned = False
        self._ended: list[str] = []
        self._timer: Timer | None = None

    def emit(self, record: LogRecord) -> None:
        """Take one of Snakemake's events."""
        said, watch = record.__dict__, self._watch
        event, now = said.get("event"), record.created
        if event == LogEvent.RESOURCES_INFO:
            # cores here, or jobs in the queue of a cluster at once
            self._slots = said.get("cores") or said.get("nodes") or self._slots
        elif event == LogEvent.RUN_INFO:
            self._watch = Watch(said["stats"], self._slots, now)
        elif watch is None or event is None or event == LogEvent.ERROR:
            self._say_message(record)
        else:
            self._take(event, said, watch, now)

    def _say_message(self, record: LogRecord) -> None:
        text, watch = str(record.msg or ""), self._watch
        failed = watch is not None and watch.num_failed
        if watch is not None and getattr(record, "exception", None) == "RuleException":
            return  # the command of a job that failed; its own event follows
        if watch is not None and watch.num_done < watch.total and text.startswith(WHERE):
            _say(f"the whole log of the run: {text.removeprefix(WHERE)}")
        elif text.startswith(SHOWN) or (record.levelno >= WARNING and not failed):
            _say(text)

    def _take(self, event: str, said: dict[str, Any], watch: Watch, now: float) -> None:
        if event == LogEvent.JOB_INFO and said["rule_name"] != IGNORED:
            self._expect(watch)
            watch.start(said["jobid"], said["rule_name"], said["output"], now)
            self._print_soon()
        elif event == LogEvent.JOB_FINISHED and (ended := watch.finish(said["job_id"], now)):
            name, seconds = ended
            self._ended.append(f"{_counted(watch)} {name} done in {time_text(seconds)}")
            self._print_soon()
        elif event == LogEvent.JOB_ERROR:
            name, seconds = watch.fail(said["jobid"], now) or (said["rule_name"], 0.0)
            _say(f"{_counted(watch)} {name} FAILED after {time_text(seconds)}")
            for path in said["log"]:
                _say(f"the end of its log, {path}:\n{last_lines(Path(path))}")

    def _expect(self, watch: Watch) -> None:
        """Read the plan that the run has written, before its first job."""
        if self._planned:
            return
        self._planned = True
        path = Path(os.environ["LONGROPE_PLAN"])
        plan = nodes.read(path)
        try:
            seconds = seconds_of(plan, read_machine(plan.hardware, HARDWARE))
        except UserError:  # the rules refuse it
            seconds = None
        watch.expect(plan, path.parent.parent, seconds)

    def _print_soon(self) -> None:
        if self._timer is None:
            self._timer = Timer(PAUSE, self._print)
            self._timer.daemon = True
            self._timer.start()

    def _print(self) -> None:
        """Print a line for every job that ended, the last of them with what runs and what is left."""
        with self.lock:  # type: ignore[union-attr]
            self._timer = None
            watch = self._watch
            if watch is None:
                return
            *others, last = self._ended or [""]
            self._ended = []
            for text in others:
                _say(text)
            parts = (last, _running(watch), _left(watch, time.time()))
            _say(f"{'' if last else _counted(watch) + ' '}{'; '.join(filter(None, parts))}")

    def close(self) -> None:
        """Print what is not said yet, and the sum."""
        if self._timer is not None:
            self._timer.cancel()
        if self._ended:
            self._print()
        watch = self._watch
        if watch is not None and watch.total:
            passed = time_text(time.time() - watch.began)
            _say(f"{watch.num_done} of {watch.total} jobs done in {passed}")
        self._watch = None  # closed again when Python ends
        super().close()


def _counted(watch: Watch) -> str:
    width = len(str(watch.total))
    return f"[{watch.num_done:{width}} of {watch.total}]"


def _running(watch: Watch) -> str:
    names = [job.name for job in watch.running.values()]
    return f"running: {', '.join(names)}" if names else ""


def _left(watch: Watch, now: float) -> str:
    seconds = watch.seconds_left(now)
    if seconds is None or watch.num_done == watch.total:
        return ""
    end = datetime.fromtimestamp(now) + timedelta(seconds=seconds)
    return f"{about(seconds)} left, until {end:%H:%M}"


def last_lines(path: Path) -> str:
    """Return the end of a log, of each progress bar the last state."""
    try:
        text = path.read_text(errors="replace")
    except OSError as error:
        return f"  ({error})"
    # split at \n alone: a bar is drawn again behind \r
    lines = [line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n") if line.strip()]
    return "\n".join(f"  {line}" for line in lines[-LINES:]) or "  (empty)"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
