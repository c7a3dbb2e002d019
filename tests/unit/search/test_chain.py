"""One search after another: what the first finds is where the second begins."""

import pytest
from pydantic import ValidationError
from searches import SETTINGS, hill, make, run

from longrope.cost.search import scored_documents
from longrope.settings.search import SearchSettings


@pytest.mark.parametrize("name", ["evolution", "cma"])
@pytest.mark.parametrize("start", ["auto", "gradient"])
def test_what_the_first_finds_is_a_seed_of_the_second(name, start):
    first = make(start)
    before = run(first, hill)
    groups = run(make(name, start=start), hill)
    assert groups[: len(before)] == before
    seeds = [c for c in groups[len(before)] if c.origin.startswith("seed:")]
    # the result of a search is a closed form where that is best
    assert first.best.individual in [seed.individual for seed in seeds]
    assert {"seed:linear", "seed:ntk", "seed:yarn"} <= {seed.origin for seed in seeds}
    if start == "auto":
        assert seeds[-1].origin == "seed:auto"


def test_the_second_runs_to_its_own_end_and_never_ends_worse_than_the_first():
    first, chained = make("auto"), make("evolution", start="auto")
    tells = len(run(first, hill)) + 1 + SETTINGS["num_iterations"]
    assert len(run(chained, hill)) == tells == chained.iteration
    assert chained.best.loss <= first.best.loss


def test_its_candidates_race_like_any_other():
    asked = run(make("evolution", start="gradient", racing_error=0.1), hill)
    children = [c for group in asked for c in group if c.origin in ("mutation", "crossover")]
    assert {len(c.documents) for c in children} == {1, 2, 3}


def test_it_costs_as_much_as_both():
    given = {"documents": {"corpus": "a", "split": "b"}, "algorithm": "evolution"}
    settings = SearchSettings.model_validate(given).model_dump()
    # 1,344 candidates on 5 documents; 3 times 6 closed forms and ramps, 5 gradients of 4, 4 numbers of start
    # tokens, 4 candidates on 5 documents
    assert scored_documents(settings | {"start": "gradient"}) == 1344 * 5 + 18 + 20 + 4 + 20


@pytest.mark.parametrize(
    ("algorithm", "start"), [("auto", "cma"), ("evolution-public", "auto"), ("cma", "cma")]
)
def test_a_start_before_what_takes_none_is_refused_by_name(algorithm, start):
    given = {"documents": {"corpus": "a", "split": "b"}, "algorithm": algorithm, "start": start}
    with pytest.raises(ValidationError, match=f"start {start} .* algorithm {algorithm}"):
        SearchSettings.model_validate(given)
