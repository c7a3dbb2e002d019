"""Machines that jobs can ask for, read from a table such as config/hardware.yaml."""

from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from longrope import reading
from longrope.errors import UserError, suggestion, validated

TABLE = Path(__file__).resolve().parents[2] / "config" / "hardware.yaml"
"""the table of the clone that this module is part of"""
GIGABYTE = 1e9
"""bytes; datasheets count so, and devices hold a little more"""

Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(gt=0, le=1)]


class Machine(BaseModel):
    """One kind of node; without GPUs its device is one thread."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    gpus_per_node: int = Field(ge=0)
    peak_tflops: Positive
    """1e12 FLOP/s, dense: of a GPU in bfloat16, of a thread in float32"""
    gpu_memory_gb: Positive | None = None
    """1e9 bytes of one GPU"""
    host_memory_gb: Positive
    """1e9 bytes of one node"""
    scoring_fraction: Share
    """share of the peak that scoring reaches"""
    training_fraction: Share
    """share of the peak that fine-tuning reaches"""
    source: str
    """where the numbers come from"""

    @model_validator(mode="after")
    def _has_memory(self) -> Self:
        if bool(self.gpus_per_node) != (self.gpu_memory_gb is not None):
            raise ValueError("give gpu_memory_gb exactly if gpus_per_node is not 0")
        return self

    @property
    def gpu_memory(self) -> float:
        """Bytes of one GPU, 0 where there is none."""
        return GIGABYTE * (self.gpu_memory_gb or 0)

    @property
    def scoring_speed(self) -> float:
        """FLOP/s of one device that scores."""
        return 1e12 * self.peak_tflops * self.scoring_fraction

    @property
    def training_speed(self) -> float:
        """FLOP/s of one device that trains."""
        return 1e12 * self.peak_tflops * self.training_fraction


def read_machine(name: str, table: Path = TABLE) -> Machine:
    """Return a machine of a table.

    Raises:
        UserError: if the table cannot be read, lacks the machine or describes it wrongly.
    """
    entries = _entries(table)
    if name not in entries:
        others = f"it has {', '.join(entries)}."
        near = suggestion(name, entries, others)
        raise UserError(f"hardware: no machine {name!r} in {table}; {near}")
    source = f"{table}: {name}"
    return validated(Machine, entries[name], source=source, see="the entries beside it")


def _entries(table: Path) -> dict[str, object]:
    entries = reading.read_yaml(table, "hardware:", "give a table of machines")
    if not isinstance(entries, dict):
        raise UserError(f"hardware: {table} must be a mapping of machines by name.")
    return {str(name): entry for name, entry in entries.items()}
