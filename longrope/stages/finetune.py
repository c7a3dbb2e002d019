"""Fine-tune a model under searched factors.

Consumes  model      the base model, or the one tuned in the step before
          factors    node with the factors.json to train under
          tokens     token store of training documents
          short_tokens  with mixed windows: token store of the documents that pieces are made of
          tokenizer  the base model's folder
          watched    if watched: token store of held-out documents
Produces  model/        safetensors, plain RoPE in its config: it needs the factors beside it
          factors.json  the factors it was tuned under
          log.jsonl     loss, learning rate and gradient norm of every step
          measured.jsonl  speed and memory of every step: no run repeats them
          watched.jsonl  if watched: perplexity of the held-out documents at two lengths, before, while, after
While it trains, `_log.jsonl`, `_measured.jsonl` and `_watched.jsonl` in the work folder have the lines
so far. Under torchrun all processes train and the first writes. A killed run resumes from its last
checkpoint and ends with the same weights.
"""

import json
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset
from transformers import PreTrainedModel

from longrope.data.special_ids import end_token
from longrope.data.token_store import TokenStore
from longrope.data.tokenizers import load_encoder
from longrope.models.loading import config_changes, geometry, load_config, load_model
from longrope.models.rotary import install
from longrope.models.score_context import model_folder, window_begin
from longrope.rope.factors import RopeFactors
from longrope.runtime import Input, Inputs, Runtime
from longrope.settings.nodes import FinetuneNode
from longrope.training.lora import add_adapters, merged, remove_adapters
from longrope.training.recording import Recorder
from longrope.training.rows import Chunks, Mix, Mixed, Skipped, Windows
from longrope.training.trainer import Trained, train
from longrope.training.validation import Watch


def run(settings: FinetuneNode, inputs: Inputs, out: Path, runtime: Runtime) -> None:
    """Train, then write model, factors and log."""
    recorder = _recorder(settings, out, runtime)
    factors = RopeFactors.read(inputs["factors"].path / "factors.json")
    # First: too little data ends the job before many gigabytes are read.
    rows = _rows(settings, inputs, factors)
    # Weights are trained in float32; the Trainer computes in bfloat16 where the settings say so.
    changes = config_changes(settings)
    model = load_model(model_folder(inputs["model"]), dtype="float32", **changes)
    install(model, geometry(model, factors.original_length)).use(factors)
    lora = settings.training.lora
    if lora is not None:
        add_adapters(model, lora, seed=settings.seed)
    watch = _watch(settings, inputs, factors, runtime)
    trained = train(
        model,
        rows,
        settings.training,
        seed=settings.seed,
        work=out,
        micro_batch_size=runtime.options.micro_batch_size,
        parallel=runtime.options.parallel,
        callbacks=[recorder] if watch is None else [recorder, watch],
    )
    if int(os.environ.get("RANK", "0")) == 0:
        weights = trained.weights
        if lora is not None:
            weights = merged(model.state_dict() if weights is None else weights, lora)
            remove_adapters(model)
        _write(model, replace(trained, weights=weights), factors, inputs["tokenizer"].path, out)
        _write_lines(out / "measured.jsonl", recorder.measured)
        if watch is not None:
            _write_lines(out / "watched.jsonl", watch.entries)


def _recorder(settings: FinetuneNode, out: Path, runtime: Runtime) -> Recorder:
    tokens = settings.training.batch_size * settings.text_length
    # `store.gc` knows curves by the name of their node
    curves = (
        runtime.store / ".tensorboard" / out.name if runtime.options.parallel.tensorboard else None
    )
    return Recorder(out, tokens_per_step=tokens, curves=curves)


def _watch(
    settings: FinetuneNode, inputs: Inputs, factors: RopeFactors, runtime: Runtime
) -> Watch | None:
    chosen = runtime.options.watch
    if chosen is None:
        return None
    return Watch(
        TokenStore(inputs["watched"].path),
        factors,
        chunk_length=runtime.options.chunk_length,
        dtype=settings.training.dtype,
        begin=window_begin(settings, inputs["model"]),
        every_steps=chosen.every_steps,
        num_documents=chosen.num_documents,
    )


def _write(
    model: PreTrainedModel, trained: Trained, factors: RopeFactors, tokenizer: Path, out: Path
) -> None:
    """Write model, tokenizer, factors and log; gathered weights replace the model's."""
    model.save_pretrained(out / "model", state_dict=trained.weights)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        source = tokenizer / name
        if source.is_file():
            shutil.copy(source, out / "model" / name)
    factors.save(out / "factors.json")
    _write_lines(out / "log.jsonl", trained.log)


def _write_lines(path: Path, entries: Sequence[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(entry, sort_keys=True) + "\n" for entry in entries))


def _rows(
    settings: FinetuneNode, inputs: Inputs, factors: RopeFactors
) -> Dataset[dict[str, Tensor]]:
    """Return the rows of the run: text and passkeys, with skipped positions or between short pieces."""
    seed = settings.seed
    tokenizer = load_encoder(inputs["tokenizer"].path)
    mix = _mix(settings, inputs["model"])
    chunks = Chunks(TokenStore(inputs["tokens"].path), tokenizer, mix)
    rows: Dataset[dict[str, Tensor]] = chunks
    if settings.training.position_skipping:
        rows = Skipped(rows, factors.target_length, seed)
    mixed = settings.training.mixed_window
    if mixed is None:
        _say(_supply("rows", mix.text_length, mix.num_rows, chunks.num_available))
        return rows
    window, fraction = factors.original_length, mixed.short_fraction
    num_windows = mix.num_rows * (mix.text_length // window)
    windows = Windows(
        TokenStore(inputs["short_tokens"].path),
        replace(mix, text_length=window, num_rows=num_windows),
    )
    long = _supply("rows", mix.text_length, (1 - fraction) * mix.num_rows, chunks.num_available)
    short = _supply("windows", window, fraction * num_windows, windows.num_available)
    _say(f"{long}; {short}")
    return Mixed(rows, windows, fraction, seed)


def _supply(what: str, length: int, num_rows: float, available: int) -> str:
    """Describe how many epochs of its documents a run takes."""
    return (
        f"{num_rows:,.0f} {what} of {length:,} tokens, of {available:,} that the documents fill: "
        f"{num_rows / available:.2f} epochs"
    )


def _say(line: str) -> None:
    """Print a line once, however many processes train."""
    if int(os.environ.get("RANK", "0")) == 0:
        print(f"finetune: {line}", file=sys.stderr)


def _mix(settings: FinetuneNode, model: Input) -> Mix:
    """Return the specification of the training rows."""
    training = settings.training
    config = load_config(model_folder(model), **config_changes(settings))
    return Mix(
        text_length=settings.text_length,
        num_rows=training.num_steps * training.batch_size,
        passkey_fraction=training.passkey_fraction,
        begin=window_begin(settings, model),
        end_token=end_token(model_folder(model), config.eos_token_id),
        seed=settings.seed,
        batch_size=training.batch_size,
        packed=training.pack_documents,
    )
