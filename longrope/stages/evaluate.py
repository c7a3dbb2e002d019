"""Evaluate one task on one model under one method.

Consumes  model          the base model or the tuned one
          factors-{L}    searches on the base model, for `longrope` without tuning
          table          the factor table of the extended model, for `longrope` with tuning
          and what the task needs: tokens-{corpus}, tokenizer, items
Produces  scores.json    task, variant, method, whether windows begin with BOS, and the task's rows
"""

import importlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from longrope.data.tokenizers import bos_label
from longrope.models.evaluated_model import EvaluatedModel
from longrope.models.loading import config_changes, geometry
from longrope.models.score_context import load_for_scoring, model_folder, window_begin
from longrope.rope.factors import FactorTable, RopeFactors
from longrope.rope.methods import Geometry, closed_form
from longrope.runtime import Inputs, Runtime
from longrope.settings.nodes import EvaluateNode
from longrope.settings.tasks import PerplexityTask


def run(settings: EvaluateNode, inputs: Inputs, out: Path, runtime: Runtime) -> None:
    """Evaluate and write the rows."""
    model = load_for_scoring(
        model_folder(inputs["model"]),
        dtype=settings.dtype,
        **config_changes(settings),
    )
    shape = geometry(model, settings.original_length)
    evaluated = EvaluatedModel(
        model=model,
        geometry=shape,
        method=settings.method,
        table=_table(inputs, shape),
        begin=window_begin(settings, inputs["model"]),
    )
    # By name: the plan counts the task's module in this node, and no other task's.
    task = importlib.import_module(f"longrope.tasks.{settings.task.module}")
    result: dict[str, Any] = {
        "task": settings.task.name,
        "variant": settings.variant,
        "method": settings.method,
        "bos": bos_label(evaluated.begin),
    }
    if isinstance(settings.task, PerplexityTask):
        result["protocol"] = settings.task.protocol
    result["rows"] = task.evaluate(evaluated, settings, inputs, replace(runtime, scratch=out))
    (out / "scores.json").write_text(json.dumps(result, indent=1) + "\n")


def _table(inputs: Inputs, shape: Geometry) -> FactorTable | None:
    """Return the factors by length of a searched method, None for a closed form.

    Without tuning, lengths inside the original window keep the original embedding.
    """
    if "table" in inputs:
        folder = inputs["table"].path
        path = folder / "factor_table.json"
        if path.is_file():
            return FactorTable.read(path)
        return FactorTable(entries=(RopeFactors.read(folder / "factors.json"),))
    searched = [
        RopeFactors.read(source.path / "factors.json")
        for role, source in inputs.items()
        if role.startswith("factors-")
    ]
    if not searched:
        return None
    original = closed_form("none", shape, shape.original_length)
    return FactorTable(entries=(original, *sorted(searched, key=lambda entry: entry.target_length)))
