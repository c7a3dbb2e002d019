"""Overhead of a search beside scoring, and how soon cheap algorithms beat a short evolution.

    python benchmarks/search.py [--text FILE] [--length 1024] [--documents 5] [--iterations 4]

All run on the embedded model, in one process with one thread and from an empty score memory. The text is cut
into stretches spread evenly over it. The default one is short and like nothing the model was trained on: it
serves for `beside`; give a book, such as one that the demo fetched, for the others. About two minutes.

documents   scored documents, as the driver counts tokens: a gradient counts as 4
beside      CPU seconds of everything but scoring (algorithm, history, score memory, progress) over all of
            them: the rest is the model's, whatever is searched with; the goal is below 2 %
perplexity  of the best, on the documents of the search
below       documents until a candidate scored on all of them is below the best of `evolution`; empty: never.
            An algorithm that compares on all documents at its end alone is not below it earlier
share       of the documents that `evolution` scored

One short evolution on one text: `config/search-study.yaml` is what compares the algorithms.
"""

import argparse
import contextlib
import io
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from tokenizers import Tokenizer

from longrope.models.loading import load_geometry
from longrope.reports.results import on_all_documents, read_lines
from longrope.rope.methods import attention_scale
from longrope.search.algorithms.problem import Problem, closed_form_seeds, space_for
from longrope.search.algorithms.registry import make
from longrope.search.driver import search
from longrope.search.objective import Objective
from longrope.search.workers.pools import Pool
from longrope.search.workers.recipe import Scorer
from longrope.search.workers.units import Score, Text, Unit, Worker
from longrope.settings.algorithms import AlgorithmSettings
from longrope.settings.search import SearchMethod
from longrope.store.score_memory import ScoreMemory

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "resources" / "tiny-llama"
WINDOW = 256
"""tokens, of the embedded model"""
ALGORITHMS = ("evolution", "evolution-public", "cma", "gradient", "auto")
SMALL = {"population_size": 16, "num_mutations": 6, "num_crossovers": 6, "num_parents": 8}
"""of the evolutions, so that all algorithms end within two minutes"""


class Timed:
    """A pool that adds up the CPU seconds of scoring."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self.seconds = 0.0

    def scores(self, units: Sequence[Unit]) -> Iterator[tuple[int, Score]]:
        """Score units one after the other."""
        for position, unit in enumerate(units):
            began = time.process_time()
            score = self._worker.score(unit)
            self.seconds += time.process_time() - began
            yield position, score


@dataclass(frozen=True)
class Run:
    """One search."""

    history: list[dict[str, Any]]
    seconds: float
    """CPU seconds of all of it"""
    scoring: float
    """of the model"""

    @property
    def on_all(self) -> list[dict[str, Any]]:
        """The lines of its history that compare: with a perplexity, on all documents."""
        return [line for line in on_all_documents(self.history) if line["perplexity"] is not None]

    @property
    def best(self) -> float:
        """The least perplexity on all documents."""
        return min(line["perplexity"] for line in self.on_all)

    def tokens_below(self, perplexity: float) -> float:
        """Return the tokens scored until a candidate is below a perplexity on all documents, or NaN."""
        below = [line["scored_tokens"] for line in self.on_all if line["perplexity"] < perplexity]
        return below[0] if below else np.nan


def main() -> None:
    """Print one row per algorithm."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--text", type=Path, default=ROOT / "tests" / "helpers" / "prose.txt")
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--documents", type=int, default=5)
    parser.add_argument("--iterations", type=int, default=4, help="of the evolutions")
    options = parser.parse_args()
    torch.set_num_threads(1)
    texts = stretches(options.text, options.length, options.documents)
    worker = Scorer(MODEL, "float32", full_attention=False, chunk_length=8192).open()
    problem = problem_at(options.length)
    warm_up(worker, problem, texts)
    runs = {}
    for name in ALGORITHMS:
        settings = settings_of(name, options.iterations)
        runs[name] = searched(problem, settings, Timed(worker), texts)
    print(table_of(runs, options.length).to_markdown(index=False, floatfmt=".4g"))


def stretches(path: Path, length: int, count: int) -> list[Text]:
    """Return stretches of a text, spread evenly over it."""
    tokenizer = Tokenizer.from_file(str(MODEL / "tokenizer.json"))
    tokens = np.array(tokenizer.encode(path.read_text()).ids, dtype=np.int64)
    begins = np.linspace(0, len(tokens) - length, count).astype(int)
    return [Text(tokens[b : b + length], {"begin": int(b), "length": length}) for b in begins]


def problem_at(length: int) -> Problem:
    """Return the search of the embedded model at a length."""
    geometry = load_geometry(MODEL, WINDOW, full_attention=False)
    scale = length / WINDOW
    space = space_for(geometry, SearchMethod(), scale)
    return Problem(
        space=space,
        geometry=geometry,
        base=(1.0,) * geometry.num_pairs,
        seeds=closed_form_seeds(space, geometry, scale),
        attention_scale=attention_scale("yarn", scale=scale, original_length=WINDOW),
        source_length=WINDOW,
        target_length=length,
    )


def settings_of(name: str, num_iterations: int) -> AlgorithmSettings:
    """Return the default settings of an algorithm, but small evolutions."""
    changes = {**SMALL, "num_iterations": num_iterations} if name.startswith("evolution") else {}
    return SearchMethod.model_validate({"algorithm": {"name": name, **changes}}).algorithm


def warm_up(worker: Worker, problem: Problem, texts: Sequence[Text]) -> None:
    """Load the model and allocate the buffers of both kinds of scores."""
    factors = problem.compose(problem.seeds["yarn"])
    for gradient in (False, True):
        worker.score(Unit(factors, texts[0], gradient))


def searched(
    problem: Problem, settings: AlgorithmSettings, pool: Timed, texts: Sequence[Text]
) -> Run:
    """Run a search from an empty score memory, and drop its progress bar."""
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        history = Path(folder) / "history.jsonl"
        began = time.process_time()
        objective = objective_of(pool, Path(folder), texts)
        algorithm = make(problem, settings, num_documents=len(texts), seed=0)
        search(problem, algorithm, objective, history, {})
        seconds = time.process_time() - began
        return Run(read_lines(history), seconds, pool.seconds)


def objective_of(pool: Pool, folder: Path, texts: Sequence[Text]) -> Objective:
    """Return the objective on texts with a score memory of its own."""
    return Objective(pool, ScoreMemory(folder, {}), texts)


def table_of(runs: dict[str, Run], length: int) -> pd.DataFrame:
    """Return one row per search, beside that of `evolution`."""
    evolution = runs["evolution"]
    spent = evolution.history[-1]["scored_tokens"]
    rows = []
    for name, run in runs.items():
        below = run.tokens_below(evolution.best)
        rows.append(
            {
                "algorithm": name,
                "documents": run.history[-1]["scored_tokens"] / length,
                "CPU s": run.seconds,
                "beside, %": 100 * (1 - run.scoring / run.seconds),
                "perplexity": run.best,
                "below": below / length,
                "share": below / spent,
            }
        )
    return pd.DataFrame(rows)


if __name__ == "__main__":
    main()
