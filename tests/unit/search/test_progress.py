"""The progress bar of a search: one total, what it counts, and that its perplexities are comparable."""

import json
import math

import numpy as np
import pytest
from fake_workers import fake_scorer, unit
from hypothesis import given
from hypothesis import strategies as st
from node_settings import node_settings
from searches import (
    HIGH,
    LOW,
    PROBLEM,
    SMALL,
    SPACE,
    FakeObjective,
    Scripted,
    away_from_four,
    make,
    small,
)
from tqdm import tqdm

from longrope.search import progress
from longrope.search.algorithms.algorithm import Candidate
from longrope.search.driver import run_search, search
from longrope.search.objective import Objective
from longrope.search.progress import Progress
from longrope.search.workers.pools import InProcess
from longrope.store.score_memory import ScoreMemory


class Bar(tqdm):
    """Notes tokens, total and text whenever its text is set."""

    def __init__(self, *arguments, **named):
        super().__init__(*arguments, **named)
        self.steps = []

    def set_postfix_str(self, s="", refresh=True):
        super().set_postfix_str(s, refresh)
        self.steps.append((self.n, self.total, s))


@pytest.fixture
def bars(monkeypatch):
    """All bars that are made."""
    made = []

    def bar(*arguments, **named):
        made.append(Bar(*arguments, **named))
        return made[-1]

    monkeypatch.setattr(progress, "tqdm", bar)
    return made


def most(name, num_documents=3):
    """Return the most scorings of an algorithm on the small problem."""
    return small(name).max_scorings(num_documents, len(SPACE.start_tokens))


def searched(name, objective, history):
    """Run an algorithm on the small problem, with a total."""
    return search(PROBLEM, make(name), objective, history, {}, max_scorings=most(name))


def shown(text):
    """Return the number of candidates and the perplexity of a bar's text, None if it has none."""
    candidates, _, perplexity = text.partition(" candidates")
    value = perplexity.rpartition(" on all documents ")[2]
    return int(candidates), float(value) if value else None


def test_tokens_time_left_candidates_and_the_best_perplexity_are_shown(capsys):
    with Progress(12_000) as bar:
        bar.count(3_000)
        bar._bar._time = lambda: bar._bar.start_t + 60
        bar.show(2, 12.3456)
    # 3,000 tokens a minute, and 9,000 are left
    line = "3.00k/12.0k [01:00<03:00, 50.0token/s, 2 candidates, best perplexity on all documents 12.346]"
    assert line in capsys.readouterr().err


@pytest.mark.parametrize("name", SMALL)
def test_the_total_stays_the_tokens_are_those_of_the_search_and_the_bar_ends_full(
    name, tmp_path, bars
):
    history = tmp_path / "h.jsonl"
    searched(name, FakeObjective(away_from_four, lengths=(100, 250, 70)), history)
    counted = [json.loads(line)["scored_tokens"] for line in history.read_text().splitlines()]
    (bar,) = bars
    # three more scorings for the best without start tokens, each of the longest document
    assert {total for _, total, _ in bar.steps} == {(most(name) + 3) * 250}
    assert [n for n, _, _ in bar.steps] == [counted[shown(text)[0] - 1] for *_, text in bar.steps]
    assert bar.n == bar.total == bar.steps[0][1]


@pytest.mark.parametrize("name", SMALL)
def test_the_perplexities_shown_are_the_best_on_all_documents_so_far(name, tmp_path, bars):
    history = tmp_path / "h.jsonl"
    # the second document is easy: a candidate scored on it alone seems better than all
    searched(name, FakeObjective(lambda f, d: away_from_four(f, d) - 3 * (d == 1)), history)
    lines = [json.loads(line) for line in history.read_text().splitlines()]
    for *_, text in bars[0].steps:
        number, perplexity = shown(text)
        whole = [x["perplexity"] for x in lines[:number] if x["documents"] == [0, 1, 2]]
        assert perplexity == (pytest.approx(min(whole), abs=5e-4) if whole else None)
    assert perplexity is not None, "the last iteration compares on all documents"


class Counted(FakeObjective):
    """A fake with the counts that the provenance tells."""

    @property
    def counts(self):
        return {"num_documents": 3, "num_texts": 3}


def test_a_search_node_has_the_total_of_its_settings(tmp_path, bars):
    settings = node_settings("search", {"algorithm": {"name": "auto", **SMALL["auto"]}})
    run_search(settings, PROBLEM, Counted(away_from_four), tmp_path / "h.jsonl", begin=[])
    assert bars[0].total == (most("auto") + 3) * 100


@given(losses=st.lists(st.floats(0, 5), min_size=6, max_size=6))
def test_a_candidate_on_few_documents_never_shows(losses, tmp_path_factory):
    made = []

    class Noted(Progress):
        def show(self, num_candidates, best):
            made.append(best)

    groups = [[Candidate(LOW, "a", (0,))], [Candidate(HIGH, "b", (0, 1, 2))]]
    objective = FakeObjective(lambda f, d: losses[d + 3 * (f.factors[0] > 1)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("longrope.search.driver.Progress", Noted)
        history = tmp_path_factory.mktemp("h") / "h.jsonl"
        search(PROBLEM, Scripted(*groups), objective, history, {})
    assert made == [math.inf, pytest.approx(math.exp(np.mean(losses[3:])))]


def test_more_than_the_most_fills_the_bar_and_moves_no_total(bars):
    with Progress(100) as bar:
        bar.count(80)
        bar.count(80)
        bar.show(1, math.inf)
    assert bars[0].steps == [(100, 100, "1 candidates")]


def test_what_a_killed_search_left_counts_in_the_next_as_well(tmp_path, bars):
    texts = [unit(number).text for number in range(3)]
    for name in ("marks", "scores"):
        (tmp_path / name).mkdir()
    for _ in range(2):
        pool = InProcess(fake_scorer(tmp_path / "marks").open())
        objective = Objective(pool, ScoreMemory(tmp_path / "scores", {}), texts)
        searched("auto", objective, tmp_path / "h.jsonl")
    first, second = bars
    assert first.steps == second.steps
    assert first.n == second.n > 0


def test_a_bar_that_an_error_ends_is_not_full(bars):
    with pytest.raises(KeyboardInterrupt), Progress(30) as bar:
        bar.count(10)
        raise KeyboardInterrupt
    assert (bars[0].n, bars[0].total) == (10, 30)
