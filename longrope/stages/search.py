"""Search one factor per rotary pair, and the start tokens, for one target length.

Consumes  model      the base model, or a tuned one whose factors the found ones multiply
          tokens     token store of validation documents
          tokenizer  under the objective `needle`: of the model, to plant keys
          held_out   in a study: token store of documents the search does not see
Produces  factors.json    best factors: values, start tokens, attention scale, lengths, provenance
          history.jsonl   one line per candidate, in order of scoring
A killed search starts over from the score memory: it scores nothing twice and ends with the same bytes.
"""

from pathlib import Path

from longrope.models.score_context import geometry_for_scoring, score_memory, window_begin
from longrope.rope.factors import RopeFactors
from longrope.runtime import Input, Inputs, Runtime
from longrope.search.algorithms.problem import extension_problem
from longrope.search.driver import run_search
from longrope.search.objective import objective_on, search_objective
from longrope.search.workers.pools import Pool, open_pool
from longrope.settings.nodes import SearchNode

HELD_OUT_SEED = 0
"""draws the same held-out documents for every search of a study"""


def run(settings: SearchNode, inputs: Inputs, out: Path, runtime: Runtime) -> None:
    """Search factors and write them with the history of all candidates."""
    shape = geometry_for_scoring(settings, inputs["model"])
    problem = extension_problem(settings, shape, _base(settings, inputs["model"]))
    tokens, begin = inputs["tokens"], window_begin(settings, inputs["model"])
    memory = score_memory(inputs["model"], tokens, settings.dtype, runtime, begin=begin)
    with open_pool(settings, inputs["model"], runtime) as pool:
        objective = search_objective(
            pool,
            settings,
            tokens,
            memory,
            length=settings.target_length,
            begin=begin,
            tokenizer=inputs.get("tokenizer"),
        )
        best = run_search(settings, problem, objective, out / "history.jsonl", begin=begin)
        if "held_out" in inputs:
            best = _with_held_out(best, settings, inputs, runtime, pool, begin)
    best.save(out / "factors.json")


def _with_held_out(
    best: RopeFactors,
    settings: SearchNode,
    inputs: Inputs,
    runtime: Runtime,
    pool: Pool,
    begin: tuple[int, ...],
) -> RopeFactors:
    """Return factors with their perplexity on held-out documents, the same for all seeds."""
    tokens = inputs["held_out"]
    assert settings.num_held_out is not None, "a study says it"
    objective = objective_on(
        pool,
        tokens,
        score_memory(inputs["model"], tokens, settings.dtype, runtime, begin=begin),
        length=settings.target_length,
        count=settings.num_held_out,
        seed=HELD_OUT_SEED,
        what=f"held-out documents for length {settings.target_length}",
        begin=begin,
    )
    facts = {
        "held_out_perplexity": objective.perplexity(best),
        **{f"held_out_{name}": count for name, count in objective.counts.items()},
    }
    return best.model_copy(update={"provenance": best.provenance | facts})


def _base(settings: SearchNode, model: Input) -> tuple[float, ...] | None:
    """Return the factors the model was tuned under, None for the pretrained one."""
    if settings.source_length == settings.original_length:
        return None
    return RopeFactors.read(model.path / "factors.json").factors
