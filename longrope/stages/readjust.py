"""Search short-length factors of the extended model, and put all its factors into one table.

Consumes  model      the tuned model with the factors it was tuned under
          tokens     token store of validation documents
          factors-i  nodes that hold factors.json for the long lengths
Produces  factor_table.json         entries by length, see factors.FactorTable
          history-{length}.jsonl    one line per candidate
Source: Ding et al. 2024 (arXiv:2402.13753), section 3.3.
"""

from pathlib import Path

import numpy as np

from longrope.factors import FactorTable, RopeFactors
from longrope.methods import Geometry
from longrope.models import geometry
from longrope.runtime import Inputs, Runtime, Settings
from longrope.scored import load_for_scoring, score_memory
from longrope.search.algorithms import ALGORITHMS
from longrope.search.driver import Problem, closed_form_seeds, search, space_for
from longrope.search.objective import Objective, objective_on


def run(settings: Settings, inputs: Inputs, out: Path, runtime: Runtime) -> None:
    """Search every short length and write the table."""
    model = load_for_scoring(settings, inputs["model"])
    shape = geometry(model, settings["original_length"])
    tuned = RopeFactors.read(inputs["model"].path / "factors.json")
    memory = score_memory(inputs["model"], inputs["tokens"], settings["dtype"], runtime)
    entries = [
        RopeFactors.read(source.path / "factors.json")
        for role, source in inputs.items()
        if role.startswith("factors-")
    ]
    for length in settings["lengths"]:
        objective = objective_on(
            model,
            inputs["tokens"],
            memory,
            runtime,
            length=length,
            count=settings["num_documents"],
            seed=settings["seed"],
            what=f"readjustment documents for length {length}",
        )
        problem = _problem(settings, shape, tuned, length)
        scale = max(1.0, length / settings["original_length"])
        algorithm = ALGORITHMS[settings["algorithm"]](
            problem.space, shape, scale, problem.seeds, settings
        )
        provenance = {name: settings[name] for name in ("model", "algorithm", "seed")}
        history = out / f"history-{length}.jsonl"
        best = search(problem, algorithm, objective, history, provenance)
        entries.append(with_best_attention_scale(best, objective, settings["num_attention_scales"]))
    table = FactorTable(entries=tuple(sorted(entries, key=lambda entry: entry.target_length)))
    table.save(out / "factor_table.json")


def with_best_attention_scale(
    factors: RopeFactors, objective: Objective, num_scales: int
) -> RopeFactors:
    """Return factors under the best of some attention scales, from their own evenly down to 1.

    A short length wants less than the scale its model was tuned under, but not as little as none.
    """
    scales = np.linspace(factors.attention_scale, 1.0, num_scales).tolist()
    tried = [factors.model_copy(update={"attention_scale": scale}) for scale in scales]
    best = min(tried, key=objective.perplexity)
    facts = {"perplexity": objective.perplexity(best), "num_attention_scales": num_scales}
    return best.model_copy(update={"provenance": factors.provenance | facts})


def _problem(settings: Settings, shape: Geometry, tuned: RopeFactors, length: int) -> Problem:
    """Return the search of one short length: no composition, bound by the tuned scale.

    The search is under the attention scale of the tuning. Seeds are the closed forms at this length
    and the tuned factors.
    """
    space = space_for(shape, settings, tuned.scale)
    scale = max(1.0, length / settings["original_length"])
    seeds = closed_form_seeds(space, shape, scale)
    seeds["tuned"] = space.nearest(tuned.factors, tuned.num_start_tokens)
    return Problem(
        space=space,
        base=(1.0,) * shape.num_pairs,
        seeds=seeds,
        attention_scale=tuned.attention_scale,
        original_length=settings["original_length"],
        target_length=length,
    )
