"""Fine-tuning under searched factors, and its spread over processes."""

import math
from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from longrope.architectures import ARCHITECTURES
from longrope.errors import UserError
from longrope.settings.common import (
    NOT_IN_DIGEST,
    UNLESS_DEFAULT,
    Dtype,
    Fraction,
    Settings,
    SplitRef,
    Tokens,
)


class ParallelSettings(Settings):
    """Spread of fine-tuning over processes and memory; all of it changes results by rounding only."""

    zero_stage: Literal[0, 2, 3] = Field(
        3,
        description="what DeepSpeed divides among several processes: 0 nothing, 2 gradients and "
        "optimizer, 3 the weights too",
    )
    offload: Literal["none", "optimizer", "all"] = Field(
        "none", description="what DeepSpeed keeps in main memory; all is optimizer and weights"
    )
    sequence_parallel: int | None = Field(
        None,
        gt=0,
        le=1024,
        description="processes that share a row; as many of the job's as can if null",
    )
    tile_length: Tokens | None = Field(
        None, description="tokens whose logits are there at once; all if null"
    )
    tiled_mlp: bool = Field(False, description="whether tile_length bounds MLPs too")
    offload_activations: bool = Field(
        False, description="whether what checkpointing keeps of a layer waits in main memory"
    )
    tensorboard: bool = Field(
        False,
        description="whether curves are also written for TensorBoard, to results/.tensorboard",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.offload == "all" and self.zero_stage != 3:
            raise ValueError("offload: all needs zero_stage 3, which alone divides the weights")
        if self.offload == "optimizer" and self.zero_stage == 0:
            raise ValueError("offload: optimizer needs zero_stage 2 or 3")
        if (self.sequence_parallel or 1) > 1 and self.zero_stage == 0:
            raise ValueError("sequence_parallel above 1 needs zero_stage 2 or 3")
        if self.tiled_mlp and self.tile_length is None:
            raise ValueError("tiled_mlp needs tile_length, the tokens of a tile")
        return self

    def group_size(self, world_size: int, divided: int) -> int:
        """Return how many of the job's processes share a row.

        Args:
            world_size: all processes.
            divided: what those of a row must divide, as `divided_by_sharing` returns it.
        """
        return self.sequence_parallel or (math.gcd(world_size, divided) if self.zero_stage else 1)

    def can_spread(
        self, world_size: int, divided: int, *, batch_size: int, micro_batch_size: int
    ) -> bool:
        """Return whether so many processes form groups among which the rows of a step can be divided."""
        size = self.group_size(world_size, divided)
        at_once = micro_batch_size * (world_size // size)
        return world_size % size == 0 and batch_size % at_once == 0


def divided_by_sharing(text_length: int, config: Mapping[str, object]) -> int:
    """Return the number that the processes of a row must divide; any divisor of it is a valid size.

    Args:
        text_length: tokens per row.
        config: keys of the model's config.json; absent numbers of heads do not count.
    """
    if _unshared(config):
        return 1
    return math.gcd(*_divided(text_length, config).values())


def _unshared(config: Mapping[str, object]) -> bool:
    """Return whether rows cannot be shared: DeepSpeed asks for num_key_value_heads, which some lack."""
    kind = ARCHITECTURES.get(str(config.get("model_type")))
    return kind is not None and not kind.grouped


def _divided(text_length: int, config: Mapping[str, object]) -> dict[str, int]:
    counts = {
        "text length": text_length,
        "query heads": config.get("num_attention_heads"),
        "key-value heads": config.get("num_key_value_heads"),
    }
    return {name: count for name, count in counts.items() if isinstance(count, int)}


def check_division(size: int, text_length: int, config: Mapping[str, object]) -> None:
    """Refuse a length or a model that cannot be divided among the processes that share a row.

    Args:
        size: processes that share a row.
        text_length: tokens per row.
        config: keys of the model's config.json; absent numbers of heads are not checked.

    Raises:
        UserError: naming what does not divide.
    """
    if size > 1 and _unshared(config):
        raise UserError(
            f"{size} processes share a row, and DeepSpeed asks for num_key_value_heads, which a "
            f"{config['model_type']} model does not have; set finetune.parallel.sequence_parallel to 1."
        )
    near = _nearest_divisor(size, divided_by_sharing(text_length, config))
    for name, count in _divided(text_length, config).items():
        if count % size:
            raise UserError(
                f"{size} processes share a row, which must divide the {count} {name}; set "
                f"finetune.parallel.sequence_parallel to {near}."
            )


def check_batch(batch_size: int, micro_batch_size: int) -> None:
    """Refuse a batch that no number of processes can be given in whole micro-batches.

    Raises:
        UserError: naming both keys.
    """
    if batch_size % micro_batch_size:
        raise UserError(
            f"micro_batch_size {micro_batch_size} must divide finetune.batch_size {batch_size}; set "
            f"micro_batch_size to {_nearest_divisor(micro_batch_size, batch_size)}."
        )


def _nearest_divisor(limit: int, number: int) -> int:
    """Return the largest divisor of a number that is at most `limit`."""
    return next(size for size in range(min(limit, number), 0, -1) if number % size == 0)


class MixedWindowSettings(Settings):
    """Rows of short pieces under the original embedding, between the long ones."""

    short_fraction: float = Field(
        gt=0, lt=1, description="fraction of rows that are of short pieces"
    )
    documents: Annotated[SplitRef | None, NOT_IN_DIGEST] = Field(
        None,
        description="documents of any length for the pieces; those of the long rows if null",
    )


class Watched(Settings):
    """Frequency and extent of the measurements of perplexity while training."""

    every_steps: int = Field(50, gt=0, description="steps between two looks")
    num_documents: int = Field(2, gt=0, description="documents that are scored at each look")


class WatchSettings(Watched):
    """Perplexity of held-out documents while training; it changes no weight and is in no digest."""

    documents: SplitRef = Field(description="held-out documents; the first of the target length")


class LoraSettings(Settings):
    """Low-rank adapters, merged into the weights at the end."""

    rank: int = Field(8, gt=0, description="of the adapters")
    alpha: float = Field(16.0, gt=0, description="an adapter counts alpha / rank times")
    norms_and_embeddings: bool = Field(
        True, description="whether norms and embeddings are trained too, all of them (LongLoRA)"
    )


class TrainingSettings(Settings):
    """Recipe of a training, apart from its documents."""

    num_steps: int = Field(gt=0, description="optimizer steps")
    text_length: Tokens | None = Field(
        None, description="tokens per chunk; the target length if null"
    )
    passkey_fraction: Fraction = Field(
        0.0, description="fraction of chunks that are passkey prompts instead of text"
    )
    pack_documents: Annotated[bool, UNLESS_DEFAULT] = Field(
        False,
        description="cut chunks from all documents, one after the other in random order, so that none is too "
        "short; else each from one document that fills a chunk with BOS, where model.bos has it, and EOS",
    )
    batch_size: int = Field(
        32, gt=0, le=2**20, description="chunks per optimizer step, over all devices"
    )
    learning_rate: float = Field(2e-5, gt=0, description="peak learning rate")
    schedule: Literal["linear", "constant", "cosine"] = Field("linear", description="after warm-up")
    warmup_steps: int = Field(20, ge=0, description="steps of linear warm-up")
    weight_decay: float = Field(0.0, ge=0, description="AdamW weight decay")
    max_grad_norm: float = Field(1.0, gt=0, description="gradient norm is clipped to this")
    adam_betas: tuple[Fraction, Fraction] = Field((0.9, 0.95), description="AdamW betas")
    dtype: Dtype = Field("bfloat16", description="training precision")
    checkpoint_steps: int = Field(50, gt=0, description="steps between resumable checkpoints")
    mixed_window: Annotated[MixedWindowSettings | None, UNLESS_DEFAULT] = Field(
        None,
        description="train the original embedding too, on pieces of at most the original length (LongRoPE2)",
    )
    position_skipping: Annotated[bool, UNLESS_DEFAULT] = Field(
        False,
        description="let positions jump once in each row, so that rows of text_length reach the target "
        "length (PoSE)",
    )
    lora: Annotated[LoraSettings | None, UNLESS_DEFAULT] = Field(
        None, description="train low-rank adapters instead of all weights; unlike the paper"
    )


class FinetuneSettings(TrainingSettings):
    """Fine-tuning under searched factors."""

    documents: SplitRef = Field(description="training documents")
    watch: WatchSettings | None = Field(
        None, description="measure perplexity of held-out documents while training"
    )
    parallel: ParallelSettings = Field(
        ParallelSettings(),
        description="processes and memory; speed, not results",
    )


def check_rows(
    finetune: TrainingSettings, text_length: int, original_length: int, target_length: int
) -> None:
    """Refuse lengths of rows that do not fit the way rows are made.

    Args:
        finetune: how rows are made.
        text_length: tokens per row.
        original_length: context window of the pretrained model, tokens.
        target_length: context window that is trained for, tokens.

    Raises:
        UserError: naming the key.
    """
    if finetune.mixed_window is not None and text_length % original_length:
        raise UserError(
            f"finetune.mixed_window cuts rows into pieces of model.original_length {original_length}, which "
            f"must divide the {text_length} tokens of a row; set finetune.text_length to a multiple of it."
        )
    if finetune.position_skipping and text_length >= target_length:
        raise UserError(
            f"finetune.position_skipping is for rows shorter than the target length {target_length}, got "
            f"{text_length} tokens; set finetune.text_length below it or position_skipping false."
        )
