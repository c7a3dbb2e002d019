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

from longrope.data.tokenizers import bos_label
from longrope.models.score_context import score_memory, scored_geometry, window_begin
from longrope.rope.factors import RopeFactors
from longrope.rope.methods import Geometry, attention_scale
from longrope.runtime import Inputs, Runtime
from longrope.search.algorithms.problem import Problem, closed_form_seeds, space_for
from longrope.search.algorithms.registry import make
from longrope.search.driver import search, search_provenance
from longrope.search.objective import Objective, objective_on
from longrope.search.workers.pools import Pool, open_pool
from longrope.settings.nodes import SearchNode

HELD_OUT_SEED = 0
"""draws the same held-out documents for every search of a study"""


def run(settings: SearchNode, inputs: Inputs, out: Path, runtime: Runtime) -> None:
    """Search factors and write them with the history of all candidates."""
    shape = scored_geometry(settings, inputs["model"])
    problem = _problem(settings, inputs, shape)
    provenance = {
        **search_provenance(settings),
        "bos": bos_label(window_begin(settings, inputs["model"])),
    }
    with open_pool(settings, inputs["model"], runtime) as pool:
        objective = _objective(settings, inputs, runtime, pool)
        provenance |= objective.counts
        algorithm = make(
            problem,
            settings.search.algorithm,
            num_documents=len(objective.documents),
            seed=settings.seed,
        )
        best = search(problem, algorithm, objective, out / "history.jsonl", provenance)
        if "held_out" in inputs:
            best = _with_held_out(best, settings, inputs, runtime, pool)
    best.save(out / "factors.json")


def _with_held_out(
    best: RopeFactors,
    settings: SearchNode,
    inputs: Inputs,
    runtime: Runtime,
    pool: Pool,
) -> RopeFactors:
    """Return factors with their perplexity on documents that no search sees, the same for all seeds."""
    tokens = inputs["held_out"]
    assert settings.num_held_out is not None, "a study says it"
    begin = window_begin(settings, inputs["model"])
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


def _problem(settings: SearchNode, inputs: Inputs, shape: Geometry) -> Problem:
    target, source = settings.target_length, settings.source_length
    original = settings.original_length
    tuned = source > original
    base = RopeFactors.read(inputs["model"].path / "factors.json").factors if tuned else None
    rule = attention_scale(
        settings.attention_scale, scale=target / original, original_length=original
    )
    space = space_for(shape, settings.search, target / source, attention_scale=rule)
    return Problem(
        space=space,
        geometry=shape,
        base=base or (1.0,) * shape.num_pairs,
        seeds=closed_form_seeds(space, shape, target / source),
        attention_scale=rule,
        source_length=source,
        target_length=target,
    )


def _objective(settings: SearchNode, inputs: Inputs, runtime: Runtime, pool: Pool) -> Objective:
    tokens = inputs["tokens"]
    begin = window_begin(settings, inputs["model"])
    return objective_on(
        pool,
        tokens,
        score_memory(inputs["model"], tokens, settings.dtype, runtime, begin=begin),
        length=settings.target_length,
        count=settings.search.num_documents,
        seed=settings.seed,
        what=f"search documents for target length {settings.target_length}",
        begin=begin,
        tokenizer=inputs["tokenizer"] if settings.search.objective == "needle" else None,
    )
