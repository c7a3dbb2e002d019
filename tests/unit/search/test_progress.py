"""The progress bar of a search: what it shows, and that it counts what the search counts."""

import json

import pytest
from fake_workers import fake_scorer, unit
from searches import PROBLEM, SMALL, FakeObjective, away_from_four, make
from tqdm import tqdm

from longrope.search import progress
from longrope.search.driver import search
from longrope.search.objective import Objective
from longrope.search.progress import Progress
from longrope.search.workers.pools import InProcess
from longrope.store.score_memory import ScoreMemory


class Bar(tqdm):
    """Notes tokens, total and candidates whenever it is told of candidates."""

    def __init__(self, *arguments, **named):
        super().__init__(*arguments, **named)
        self.steps = []

    def set_postfix_str(self, s="", refresh=True):
        super().set_postfix_str(s, refresh)
        self.steps.append((self.n, self.total, int(s.split()[0])))


@pytest.fixture
def bars(monkeypatch):
    """All bars that are made."""
    made = []

    def bar(*arguments, **named):
        made.append(Bar(*arguments, **named))
        return made[-1]

    monkeypatch.setattr(progress, "tqdm", bar)
    return made


def test_tokens_time_left_candidates_and_the_best_perplexity_are_shown(capsys):
    with Progress() as bar:
        bar.begin(0, 3_000, 2, 8)
        bar.count(3_000)
        bar._bar._time = lambda: bar._bar.start_t + 60
        bar.show(2, 12.3456)
    # 3,000 tokens a minute, and 9,000 are left
    line = "3.00k/12.0k [01:00<03:00, 50.0token/s, 2 candidates, best perplexity 12.346]"
    assert line in capsys.readouterr().err


def test_an_iteration_is_reckoned_to_cost_what_the_one_before_did_until_it_costs_more():
    with Progress() as bar:

        def total(*asked):
            bar.begin(*asked)
            bar.count(asked[1])
            return bar._bar.total

        # four candidates of twelve on a document of 10 tokens; then two of them on another one
        assert total(0, 40, 4, 12) == 120
        assert total(0, 20, 2, 12) == 12 * (40 + 20) / 4
        # 60 tokens so far; eight candidates are left, and 15 tokens for each
        assert total(1, 40, 4, 8) == 60 + 8 * 15
        assert total(1, 80, 4, 8) == 60 + 8 * 30
        assert total(2, 7, 1, 0) == 180 + 7


@pytest.mark.parametrize("name", SMALL)
def test_the_bar_counts_what_the_search_counts_and_ends_full(name, tmp_path, bars):
    history = tmp_path / "h.jsonl"
    objective = FakeObjective(away_from_four, lengths=(100, 250, 70))
    best = search(PROBLEM, make(name), objective, history, {})
    counted = [json.loads(line)["scored_tokens"] for line in history.read_text().splitlines()]
    (bar,) = bars
    assert [n for n, _, _ in bar.steps] == [counted[number - 1] for _, _, number in bar.steps]
    assert all(n <= total for n, total, _ in bar.steps)
    assert bar.n == bar.total == best.provenance["scored_tokens"]


def test_what_a_killed_search_left_counts_in_the_next_as_well(tmp_path, bars):
    texts = [unit(number).text for number in range(3)]
    for name in ("marks", "scores"):
        (tmp_path / name).mkdir()
    for _ in range(2):
        pool = InProcess(fake_scorer(tmp_path / "marks").open())
        objective = Objective(pool, ScoreMemory(tmp_path / "scores", {}), texts)
        search(PROBLEM, make("auto"), objective, tmp_path / "h.jsonl", {})
    first, second = bars
    assert first.steps == second.steps
    assert first.n == second.n > 0


def test_a_bar_that_an_error_ends_is_not_full(bars):
    with pytest.raises(KeyboardInterrupt), Progress() as bar:
        bar.begin(0, 10, 1, 3)
        raise KeyboardInterrupt
    assert (bars[0].n, bars[0].total) == (0, 30)
