"""Fine-tuning under searched factors."""

from typing import Literal

from pydantic import Field

from longrope.settings.common import Fraction, Settings, SplitRef, Tokens


class FinetuneSettings(Settings):
    """Fine-tuning under searched factors."""

    num_steps: int = Field(gt=0, description="optimizer steps")
    documents: SplitRef = Field(description="training documents")
    text_length: Tokens | None = Field(
        None, description="tokens per chunk; the target length if null"
    )
    passkey_fraction: Fraction = Field(
        0.0, description="fraction of chunks that are passkey prompts instead of text"
    )
    batch_size: int = Field(32, gt=0, description="chunks per optimizer step, over all devices")
    learning_rate: float = Field(2e-5, gt=0, description="peak learning rate")
    schedule: Literal["linear", "constant", "cosine"] = Field("linear", description="after warm-up")
    warmup_steps: int = Field(20, ge=0, description="steps of linear warm-up")
    weight_decay: float = Field(0.0, ge=0, description="AdamW weight decay")
    max_grad_norm: float = Field(1.0, gt=0, description="gradient norm is clipped to this")
    adam_betas: tuple[Fraction, Fraction] = Field((0.9, 0.95), description="AdamW betas")
    dtype: Literal["float32", "bfloat16"] = Field("bfloat16", description="training precision")
    checkpoint_steps: int = Field(50, gt=0, description="steps between resumable checkpoints")
