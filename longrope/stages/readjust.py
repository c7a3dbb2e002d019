"""Search short-length factors of the extended model, and put all its factors into one table.

Consumes  model      the tuned model with the factors it was tuned under
          tokens     token store of validation documents
          tokenizer  under the objective `needle`: of the model, to plant keys
          factors-i  nodes that hold factors.json for the long lengths
Produces  factor_table.json         entries by length, see factors.FactorTable
          history-{length}.jsonl    one line per candidate
Source: Ding et al. 2024 (arXiv:2402.13753), section 3.3.
"""

from pathlib import Path

import numpy as np

from longrope.models.score_context import geometry_for_scoring, score_memory, window_begin
from longrope.rope.factors import FactorTable, RopeFactors
from longrope.rope.methods import Geometry, closed_form
from longrope.runtime import Inputs, Runtime
from longrope.search.algorithms.problem import Problem, closed_form_seeds, space_for
from longrope.search.driver import run_search
from longrope.search.objective import Objective, search_objective
from longrope.search.workers.pools import open_pool
from longrope.settings.nodes import ReadjustNode


def run(settings: ReadjustNode, inputs: Inputs, out: Path, runtime: Runtime) -> None:
    """Search every short length and write the table."""
    shape = geometry_for_scoring(settings, inputs["model"])
    tuned = RopeFactors.read(inputs["model"].path / "factors.json")
    entries = [
        RopeFactors.read(source.path / "factors.json")
        for role, source in inputs.items()
        if role.startswith("factors-")
    ]
    tokens, begin = inputs["tokens"], window_begin(settings, inputs["model"])
    memory = score_memory(inputs["model"], tokens, settings.dtype, runtime, begin=begin)
    with open_pool(settings, inputs["model"], runtime) as pool:
        for length in settings.lengths:
            objective = search_objective(
                pool,
                settings,
                tokens,
                memory,
                length=length,
                begin=begin,
                tokenizer=inputs.get("tokenizer"),
            )
            problem = _problem(settings, shape, tuned, length)
            entries.append(_searched(settings, problem, objective, begin, out))
    table = FactorTable(entries=tuple(sorted(entries, key=lambda entry: entry.target_length)))
    table.save(out / "factor_table.json")


def _searched(
    settings: ReadjustNode,
    problem: Problem,
    objective: Objective,
    begin: tuple[int, ...],
    out: Path,
) -> RopeFactors:
    """Return the entry of one length."""
    history = out / f"history-{problem.target_length}.jsonl"
    best = run_search(settings, problem, objective, history, begin=begin)
    best = with_best_attention_scale(best, objective, settings.num_attention_scales)
    if problem.target_length > problem.geometry.original_length:
        return best
    return or_pretrained(best, problem.geometry, objective)


def or_pretrained(factors: RopeFactors, geometry: Geometry, objective: Objective) -> RopeFactors:
    """Return the pretrained embedding if it is at least as good as some factors within the window.

    A search under the attention scale of the tuning may pass it over, and a model trained with mixed windows
    is best under it.
    """
    pretrained = closed_form("none", geometry, factors.target_length)
    searched_perplexity, pretrained_perplexity = objective.perplexities([factors, pretrained])
    if pretrained_perplexity > searched_perplexity:
        return factors
    provenance = factors.provenance | {"perplexity": pretrained_perplexity}
    return pretrained.model_copy(update={"method": factors.method, "provenance": provenance})


def with_best_attention_scale(
    factors: RopeFactors, objective: Objective, num_scales: int
) -> RopeFactors:
    """Return factors under the best of some attention scales, from their own evenly down to 1.

    A short length wants less than the scale its model was tuned under, but not as little as none.
    """
    scales = np.linspace(factors.attention_scale, 1.0, num_scales).tolist()
    tried = [factors.model_copy(update={"attention_scale": scale}) for scale in scales]
    perplexities = objective.perplexities(tried)
    index = min(range(num_scales), key=perplexities.__getitem__)
    facts = {"perplexity": perplexities[index], "num_attention_scales": num_scales}
    best = tried[index]
    return best.model_copy(update={"provenance": factors.provenance | facts})


def _problem(settings: ReadjustNode, shape: Geometry, tuned: RopeFactors, length: int) -> Problem:
    """Return the search of one short length: no composition, bound by the tuned scale.

    The search is under the attention scale of the tuning, or starts there. Seeds are the closed forms at
    this length and the tuned factors. Under a critical dimension the lower bound is this length's scale.
    """
    scale = max(1.0, length / settings.original_length)
    space = space_for(
        shape, settings.search, tuned.scale, least=scale, attention_scale=tuned.attention_scale
    )
    seeds = closed_form_seeds(space, shape, scale)
    seeds["tuned"] = space.nearest(tuned.factors, tuned.num_start_tokens)
    return Problem(
        space=space,
        geometry=shape,
        base=(1.0,) * shape.num_pairs,
        seeds=seeds,
        attention_scale=tuned.attention_scale,
        source_length=settings.original_length,
        target_length=length,
    )
