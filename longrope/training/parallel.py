"""Fine-tuning over several processes: the division of tokens, and DeepSpeed's configuration.

A job has W processes. S neighbours share each row (Ulysses sequence parallelism): each holds T / S of its
tokens, and in attention a share of its heads for all tokens. The W / S groups work on different rows. ZeRO
divides optimizer, gradients and weights over all W.

Sources: Jacobs et al. 2023, DeepSpeed Ulysses (arXiv:2309.14509); Rajbhandari et al. 2020, ZeRO
(arXiv:1910.02054), section 5.
"""

import importlib.util
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler
from transformers import PreTrainedModel
from transformers.utils.import_utils import is_flash_attn_2_available

from longrope.errors import UserError
from longrope.settings.training import ParallelSettings, check_division, divided_by_sharing
from longrope.training.tiling import IGNORED


@dataclass(frozen=True)
class Layout:
    """The place of this process among those of the job."""

    world_size: int = 1
    """W, all processes"""
    rank: int = 0
    group_size: int = 1
    """S, processes that share a row"""
    zero_stage: int = 0
    offload: str = "none"

    @classmethod
    def of(
        cls, parallel: ParallelSettings, text_length: int, model_config: Mapping[str, Any]
    ) -> "Layout":
        """Return the layout of the job that torchrun started, or of a process on its own.

        Args:
            parallel: what is asked for.
            text_length: tokens per row.
            model_config: content of the model's config.json.

        Raises:
            UserError: if the job's processes cannot form groups of the size asked for, or those of a group
                not share a row.
        """
        world_size = int(os.environ.get("WORLD_SIZE", "1"))
        rank = int(os.environ.get("RANK", "0"))
        group_size = parallel.group_size(world_size, divided_by_sharing(text_length, model_config))
        if world_size % group_size:
            raise UserError(
                f"finetune.parallel.sequence_parallel {group_size} must divide the number of "
                f"processes, got {world_size}; start that many with torchrun, one per GPU."
            )
        check_division(group_size, text_length, model_config)
        return cls(world_size, rank, group_size, parallel.zero_stage, parallel.offload)

    @property
    def num_groups(self) -> int:
        """Groups, each of which works on a row of its own."""
        return self.world_size // self.group_size

    @property
    def uses_deepspeed(self) -> bool:
        """Whether weights or optimizer are divided or offloaded."""
        return self.offload != "none" or (self.zero_stage > 0 and self.world_size > 1)

    @property
    def loss_scale(self) -> int:
        """Factor of a process's share of the loss that makes DeepSpeed's gradient that of the whole loss.

        ZeRO-2 divides the sum of all gradients by the number of groups, ZeRO-3 (with its default
        `reduce_scatter`) by the number of processes: read in 0.19.8, and compared by gradient norms.
        """
        return self.group_size if self.zero_stage == 3 else 1

    @property
    def name(self) -> str:
        """Name of the checkpoints' folder: checkpoints of one layout do not fit another."""
        if not self.uses_deepspeed and self.world_size == 1:
            return "_checkpoints"
        return f"_checkpoints-zero{self.zero_stage}-{self.world_size}x{self.group_size}"

    def accumulation(self, batch_size: int, micro_batch_size: int) -> int:
        """Return the number of micro-batches per group in an optimizer step.

        Raises:
            UserError: if the batch cannot be divided like this.
        """
        at_once = micro_batch_size * self.num_groups
        if batch_size % at_once:
            sharing = f" of {self.group_size} processes" if self.group_size > 1 else ""
            raise UserError(
                f"micro_batch_size {micro_batch_size} times {self.num_groups} devices{sharing} must "
                f"divide finetune.batch_size {batch_size}."
            )
        return batch_size // at_once


def deepspeed_config(layout: Layout, *, autocast: bool, pinned: bool) -> dict[str, Any]:
    """Return DeepSpeed's configuration; values that the Trainer derives are `auto`.

    Weights, gradients and optimizer are float32 as in training on one device, also while they travel, and
    bfloat16 is autocast: DeepSpeed's own bfloat16 mode would round the weights that are written at the end.
    """
    zero: dict[str, Any] = {
        "stage": layout.zero_stage,
        "stage3_gather_16bit_weights_on_model_save": True,
    }
    place = {"device": "cpu", "pin_memory": pinned}
    if layout.offload in ("optimizer", "all"):
        zero["offload_optimizer"] = place
    if layout.offload == "all":
        zero["offload_param"] = place
    return {
        "zero_optimization": zero,
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "bf16": {"enabled": False},
        "fp16": {"enabled": False},
        # of the modules named here, by default all linear ones, weights and gradients travel in bfloat16
        "torch_autocast": {
            "enabled": autocast,
            "dtype": "bfloat16",
            "lower_precision_safe_modules": [],
        },
        # torch's AdamW: DeepSpeed's own for the CPU is compiled when first used
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }


def prepare_deepspeed(layout: Layout) -> None:
    """Set DeepSpeed up in this process before it is first used.

    Raises:
        UserError: if it is not installed.
    """
    if importlib.util.find_spec("deepspeed") is None:
        raise UserError(
            "training over several processes or with offload needs DeepSpeed; "
            "pip install 'longrope[train]', or set finetune.parallel.zero_stage and offload to 0 and none."
        )
    if layout.world_size == 1:
        # without these DeepSpeed looks for MPI; port 0 is any free one
        places = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "MASTER_PORT": 0}
        for name, value in places.items():
            os.environ.setdefault(name, str(value))
        os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    if not torch.cuda.is_available():
        import deepspeed

        # It would compile three minutes for a faster all-reduce between processes of one host.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        # accelerate does it on GPUs only
        deepspeed.init_distributed("gloo", auto_mpi_discovery=False, verbose=False)


def sequence_parallelism(layout: Layout, attention: str) -> Any:
    """Return accelerate's configuration of Ulysses, None where no row is shared.

    Args:
        layout: of the job.
        attention: the model's implementation; Ulysses wraps the one of this name.
    """
    if layout.group_size == 1:
        return None
    from accelerate.parallelism_config import ParallelismConfig
    from accelerate.utils import DeepSpeedSequenceParallelConfig

    return ParallelismConfig(
        dp_replicate_size=layout.num_groups,
        sp_backend="deepspeed",
        sp_size=layout.group_size,
        sp_handler=DeepSpeedSequenceParallelConfig(
            sp_seq_length_is_variable=True, sp_attn_implementation=attention
        ),
    )


def choose_attention(model: PreTrainedModel, *, dtype: str) -> str:
    """Select flash-attn where it is installed and supported; return the implementation in use."""
    if torch.cuda.is_available() and dtype == "bfloat16" and is_flash_attn_2_available():
        model.set_attn_implementation("flash_attention_2")
    return str(model.config._attn_implementation)


class MicroBatchSampler(Sampler[list[int]]):
    """The rows of each micro-batch of this process's group, in the order of one process's run."""

    def __init__(self, layout: Layout, num_rows: int, micro_batch_size: int) -> None:
        self._first = layout.rank // layout.group_size
        self._step = layout.num_groups
        self._size = micro_batch_size
        self._num_batches = num_rows // (micro_batch_size * layout.num_groups)

    def __len__(self) -> int:
        return self._num_batches

    def __iter__(self) -> Iterator[list[int]]:
        for number in range(self._num_batches):
            begin = (self._first + number * self._step) * self._size
            yield list(range(begin, begin + self._size))


class RowShards(Dataset[dict[str, Tensor]]):
    """The shard of every row for this process, with the targets of its tokens.

    Positions cover the whole row, because attention needs them.
    """

    def __init__(self, rows: Dataset[dict[str, Tensor]], layout: Layout) -> None:
        self._rows = rows
        self._number = layout.rank % layout.group_size
        self._count = layout.group_size

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        row = self._rows[index]
        length = len(row["input_ids"])
        # shifted before it is cut: the last token of a piece predicts the first of the next
        targets = torch.cat([row["labels"][1:], torch.tensor([IGNORED])])
        if "positions" in row:
            # the last token of a document does not predict the first of the next
            targets[:-1][row["positions"][1:] == 0] = IGNORED
        # the model's positions say who attends to whom; `positions` of a row, where its tokens stand
        predictions = {"position_ids": torch.arange(length), "targets": targets}
        whole = {name: values for name, values in row.items() if name != "labels"} | predictions
        size = length // self._count
        piece = slice(self._number * size, (self._number + 1) * size)
        return {
            name: values[piece] if name in ("input_ids", *predictions) else values
            for name, values in whole.items()
        }
