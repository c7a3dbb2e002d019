"""Locate a model and open its score memory, for stages and tasks that score it."""

import sys
from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedModel

from longrope.data.model_config import check_config, length_warning
from longrope.data.tokenizers import begin_tokens
from longrope.models.loading import config_changes, load_geometry, load_model, pick_device
from longrope.rope.methods import Geometry
from longrope.runtime import Input, Runtime
from longrope.settings.nodes import ModelUse
from longrope.store.score_memory import ScoreMemory


def model_folder(source: Input) -> Path:
    """Return the folder with config.json and safetensors of a raw, fetched or tuned model."""
    inside = source.path / "model"
    return inside if inside.is_dir() else source.path


def load_for_scoring(
    folder: Path, *, dtype: str, full_attention: bool, rope_scaling: str = "refuse"
) -> PreTrainedModel:
    """Return a model on the GPU if there is one; arguments and errors of `load_model`."""
    model = load_model(
        folder, dtype=dtype, full_attention=full_attention, rope_scaling=rope_scaling
    )
    model.to(pick_device())  # type: ignore[arg-type]  # transformers wraps it without its type
    return model


def geometry_for_scoring(use: ModelUse, source: Input) -> Geometry:
    """Return the geometry of the model that a stage scores, without its weights."""
    changes = config_changes(use)
    # The plan warns about local files; a fetched model's config.json is first read here.
    if not source.files:
        config = check_config(model_folder(source), **changes)
        warning = length_warning(config, use.original_length)
        if warning is not None:
            print(f"longrope: warning: {warning}", file=sys.stderr)
    return load_geometry(model_folder(source), use.original_length, **changes)


def window_begin(use: ModelUse, model: Input) -> tuple[int, ...]:
    """Return the ids that every window of a node begins with; errors of `begin_tokens`."""
    return begin_tokens(model_folder(model), use.bos)


def score_memory(
    model: Input,
    tokens: Input,
    dtype: str,
    runtime: Runtime,
    *,
    begin: Sequence[int],
    **more: str,
) -> ScoreMemory:
    """Return the memory of scores of a model on a token store, in a precision, by the code that scores.

    `begin` are the ids that every window begins with; `more` sets apart scores of another kind.
    """
    context = {
        "model": model.identity,
        "tokens": tokens.identity,
        "dtype": dtype,
        "code": runtime.scoring_code,
        "begin": list(begin),
        **more,
    }
    return ScoreMemory(runtime.store / ".scores", context)
