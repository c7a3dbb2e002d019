"""Fine-tuning under fixed factors: transformers' Trainer on one process or on many.

Whole rows without tiles have the loss that transformers computes. Otherwise each process returns the summed
loss of its tokens (`longrope.training.tiling`), and sums are divided by what one process would divide by:
layouts differ by rounding only.
"""

import contextlib
import json
import math
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate
from tqdm import tqdm
from transformers import (
    PreTrainedModel,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from longrope import reading
from longrope.errors import UserError
from longrope.models.rotary import LongRopeRotary
from longrope.settings.training import ParallelSettings, TrainingSettings
from longrope.store import modes
from longrope.training.packed_attention import Packed, attention_within_segments
from longrope.training.parallel import (
    Layout,
    MicroBatchSampler,
    RowShards,
    choose_attention,
    deepspeed_config,
    prepare_deepspeed,
    sequence_parallelism,
)
from longrope.training.termination import EXIT_CODE, Termination
from longrope.training.tiling import activations_in_main_memory, return_summed_loss

DEFAULT = ParallelSettings.model_validate({})


@dataclass(frozen=True)
class Trained:
    """Result of a training, besides the model."""

    log: list[dict[str, Any]]
    """loss, learning rate and gradient norm of every step"""
    weights: dict[str, Tensor] | None
    """the tuned weights if the model does not hold them; of the first process only"""


def train(
    model: PreTrainedModel,
    rows: Dataset[dict[str, Tensor]],
    settings: TrainingSettings,
    *,
    seed: int,
    work: Path,
    micro_batch_size: int,
    parallel: ParallelSettings = DEFAULT,
    callbacks: Sequence[TrainerCallback] = (),
) -> Trained:
    """Train in place; resume from checkpoints in `work` of a job of as many processes.

    Args:
        model: with its rotary embedding installed, on the CPU.
        rows: of the whole run in its order, all of one length; `input_ids` and `labels` of shape (T,), and
            `positions` and `piece_length` as in `longrope.training.rows`.
        settings: what is trained how.
        seed: of all random choices.
        work: folder of the checkpoints, the same for all processes.
        micro_batch_size: rows of a forward pass.
        parallel: how the processes that torchrun started share the work.
        callbacks: called beside, in their order; they must leave the model as it was.

    Raises:
        UserError: if model, rows, batch and processes do not divide each other, or the training diverges.
        SystemExit: if SIGTERM arrives, after a checkpoint was written.
    """
    length = len(rows[0]["input_ids"])
    layout = Layout.of(parallel, length, model.config.to_dict())
    options = _options(settings, layout, parallel, micro_batch_size) | {
        "seed": seed,
        "data_seed": seed,
    }
    attention = choose_attention(model, dtype=settings.dtype)
    if layout.uses_deepspeed:
        prepare_deepspeed(layout)
        options["parallelism_config"] = sequence_parallelism(layout, attention)
    folder = work / layout.name
    rotary = _placeable(model, rows)
    trainer = _RowTrainer(
        model=model,
        args=TrainingArguments(output_dir=str(folder), **options),
        train_dataset=rows,
        callbacks=[*callbacks],
        layout=layout,
        parallel=parallel,
        rotary=rotary,
    )
    trainer.remove_callback(ProgressCallback)
    trainer.add_callback(_Progress())
    trainer.add_callback(_SharedCheckpoints())
    within = attention_within_segments(rotary, attention) if rotary else contextlib.nullcontext()
    with within, trainer.termination:
        trainer.train(resume_from_checkpoint=last_checkpoint(folder, layout))
    if trainer.termination.requested:
        # during the last step, whose checkpoint is there
        raise SystemExit(EXIT_CODE)
    log = [entry for entry in trainer.state.log_history if "loss" in entry]
    return Trained(log, trainer.gathered_weights())


class _RowTrainer(Trainer):
    """Trainer that takes rows in the data set's order, and shards of rows where they are shared."""

    def __init__(
        self,
        *,
        layout: Layout,
        parallel: ParallelSettings,
        rotary: LongRopeRotary | None,
        **named: Any,
    ) -> None:
        self._layout = layout
        self._parallel = parallel
        self._rotary = rotary
        self.termination = Termination()
        self._saved_step: int | None = None
        """of the newest checkpoint, or where this start begins"""
        self._cuts = layout.group_size > 1 or parallel.tile_length is not None or rotary is not None
        if self._cuts:
            return_summed_loss(
                named["model"], tile_length=parallel.tile_length, tiled_mlp=parallel.tiled_mlp
            )
        super().__init__(**named)
        if self.is_deepspeed_enabled:
            # Rows come cut. DeepSpeed's own cutter takes them in another order and cannot resume.
            self.accelerator.deepspeed_ulysses_dl_adapter = lambda loader, model: loader

    def get_train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        rows: Any = self.train_dataset
        size = self.args.per_device_train_batch_size
        return DataLoader(
            RowShards(rows, self._layout) if self._cuts else rows,
            batch_sampler=MicroBatchSampler(self._layout, len(rows), size),
            collate_fn=default_collate,
            pin_memory=self.args.dataloader_pin_memory,
        )

    def compute_loss(self, model: Any, inputs: Any, *more: Any, **named: Any) -> Any:
        if not self._cuts:
            return super().compute_loss(model, inputs, *more, **named)
        if self._rotary is not None:
            whole = inputs.pop("positions"), inputs.pop("piece_length")
            self._rotary.row_positions = Packed.of(*whole, inputs["position_ids"])
        count, length = inputs["input_ids"].shape
        num_targets = count * (length * self._layout.group_size - 1)
        # This process's share of the mean.
        return model(**inputs) * self._layout.loss_scale / num_targets

    def training_step(self, model: Any, *arguments: Any, **named: Any) -> Tensor:
        self._end_on_sigterm(model)
        with self._offloaded_activations():
            loss: Tensor = super().training_step(model, *arguments, **named)
        if self._rotary is not None:
            # not earlier: with activation checkpointing the backward pass computes attention again
            self._rotary.row_positions = None
        # The log shows the mean over all processes, of which those of a group have summands.
        return loss * (self._layout.group_size / self._layout.loss_scale)

    def _end_on_sigterm(self, model: Any) -> None:
        """Save a checkpoint and end, if SIGTERM has arrived.

        Before any micro-batch: weights and optimizer are those of the last whole step, and a step may take
        longer than there is time. The next start computes all micro-batches of the step again.
        """
        step = self.state.global_step
        if self._saved_step is None:
            self._saved_step = step
        if not self.termination.requested_of_any(self.args.device):
            return
        if self._saved_step != step:
            self._save_checkpoint(model, None)
            self.control = self.callback_handler.on_save(self.args, self.state, self.control)
        if self.is_world_process_zero():
            print(f"finetune: told to end; step {step} is saved, resume there", file=sys.stderr)
        raise SystemExit(EXIT_CODE)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        self._saved_step = self.state.global_step

    def log(self, logs: dict[str, float], *more: Any, **named: Any) -> None:
        # Every process has the same numbers here, of every step, and before its checkpoint.
        if "loss" in logs:
            refuse_divergence(logs, step=self.state.global_step, saved_step=self._saved_step or 0)
        super().log(logs, *more, **named)

    def _offloaded_activations(self) -> contextlib.AbstractContextManager[None]:
        if not self._parallel.offload_activations:
            return contextlib.nullcontext()
        model: Any = self.model
        return activations_in_main_memory(model.config.hidden_size)

    def save_model(self, *arguments: Any, **named: Any) -> None:
        # DeepSpeed's part of a checkpoint has the weights.
        if not self.is_deepspeed_enabled:
            super().save_model(*arguments, **named)

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        # The first process writes the state next, which says that the checkpoint is complete.
        self.accelerator.wait_for_everyone()

    def gathered_weights(self) -> dict[str, Tensor] | None:
        """Return the whole tuned weights, on the first process, if DeepSpeed divided them."""
        if not self.is_deepspeed_enabled:
            return None
        weights: dict[str, Tensor] | None = self.accelerator.get_state_dict(self.model_wrapped)
        return weights


def refuse_divergence(logs: Mapping[str, float], *, step: int, saved_step: int) -> None:
    """Stop a training whose loss or gradient norm is not finite.

    Args:
        logs: `loss` and `grad_norm` of one step.
        step: which one.
        saved_step: that of the newest checkpoint, 0 if there is none.

    Raises:
        UserError: if one of the two is not finite.
    """
    loss, norm = logs["loss"], logs.get("grad_norm", 0.0)
    # DeepSpeed calls a norm that is not finite -1.
    norm = norm if norm >= 0 else math.nan
    if math.isfinite(loss) and math.isfinite(norm):
        return
    remaining = (
        f"the checkpoint of step {saved_step} is kept"
        if saved_step
        else "no checkpoint is there yet"
    )
    raise UserError(
        f"the training diverged at step {step}: loss {loss:.4g}, gradient norm {norm:.4g}; nothing was "
        f"committed and {remaining}; lower finetune.learning_rate or finetune.max_grad_norm or raise "
        "finetune.warmup_steps, since the same settings would diverge again."
    )


def _placeable(model: PreTrainedModel, rows: Dataset[dict[str, Tensor]]) -> LongRopeRotary | None:
    """Return the rotary embedding if rows have positions, else None."""
    if "positions" not in rows[0]:
        return None
    rotary = model.base_model.rotary_emb
    if not isinstance(rotary, LongRopeRotary):
        raise ValueError("rows at positions of their own need a LongRopeRotary in the model")
    return rotary


class _Progress(ProgressCallback):
    """Progress bar that estimates the time left from the steps since this start."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.current_step = state.global_step
        if state.is_world_process_zero:
            place = {"total": state.max_steps, "initial": state.global_step}
            bar: Any = tqdm(desc="finetune", unit="step", mininterval=1.0, **place)
            self.training_bar = bar


class _SharedCheckpoints(TrainerCallback):
    """Makes checkpoints readable for all users of the store; safetensors restricts files to their owner."""

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            modes.share(Path(args.output_dir))


def _options(
    settings: TrainingSettings, layout: Layout, parallel: ParallelSettings, micro_batch_size: int
) -> dict[str, Any]:
    """Return the Trainer's arguments, but for its folder."""
    steps = layout.accumulation(settings.batch_size, micro_batch_size)
    if torch.cuda.device_count() > layout.world_size:
        raise UserError(
            f"{torch.cuda.device_count()} GPUs are visible to {layout.world_size} process: set "
            "CUDA_VISIBLE_DEVICES to one of them, or start one process per GPU with torchrun."
        )
    on_gpu = torch.cuda.is_available()
    return _recipe(settings, layout) | {
        "per_device_train_batch_size": micro_batch_size,
        "gradient_accumulation_steps": steps,
        "use_cpu": not on_gpu,
        _checkpointing(): on_gpu or parallel.offload_activations,
        "save_steps": settings.checkpoint_steps,
        "save_total_limit": 1,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "report_to": [],
        "disable_tqdm": False,
        "dataloader_pin_memory": on_gpu,
        "remove_unused_columns": False,
    }


def _checkpointing() -> str:
    """Return the argument's name: renamed in transformers between 5.17 and 5.23, the old one dropped in 6."""
    names = {field.name for field in fields(TrainingArguments)}
    return (
        "activation_checkpointing"
        if "activation_checkpointing" in names
        else "gradient_checkpointing"
    )


def _recipe(settings: TrainingSettings, layout: Layout) -> dict[str, Any]:
    """Return the Trainer's arguments of optimizer, schedule and precision."""
    schedule, autocast = settings.schedule, settings.dtype == "bfloat16"
    recipe = {
        "max_steps": settings.num_steps,
        "learning_rate": settings.learning_rate,
        "lr_scheduler_type": "constant_with_warmup" if schedule == "constant" else schedule,
        "warmup_steps": settings.warmup_steps,
        "weight_decay": settings.weight_decay,
        "max_grad_norm": settings.max_grad_norm,
        "adam_beta1": settings.adam_betas[0],
        "adam_beta2": settings.adam_betas[1],
        "optim": "adamw_torch",
    }
    if layout.uses_deepspeed:
        pinned = torch.cuda.is_available()
        return recipe | {"deepspeed": deepspeed_config(layout, autocast=autocast, pinned=pinned)}
    return recipe | {"bf16": autocast}


def last_checkpoint(work: Path, layout: Layout | None = None) -> str | None:
    """Return the newest complete checkpoint; the first process removes those a kill left half-written."""
    complete: dict[int, Path] = {}
    for folder in reading.entries(work, "checkpoint-*"):
        try:
            # The Trainer writes its state last.
            state = json.loads(reading.read_text(folder / "trainer_state.json"))
            complete[state["global_step"]] = folder
        except (*reading.ABSENT, ValueError, KeyError, TypeError):
            if layout is None or layout.rank == 0:
                shutil.rmtree(folder)
    return str(complete[max(complete)]) if complete else None
