"""What Ding et al. 2024 report that their stages took, to stand beside an estimate.

Source: arXiv:2402.13753, read in public transcriptions of the paper. The models are LLaMA2-7B and
Mistral-7B, all devices A100.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

K = 1024
MODEL_PARAMETERS = (6.5e9, 7.5e9)
"""between which a model counts as one of the paper's"""


@dataclass(frozen=True)
class Reported:
    """The devices and days of one stage."""

    kind: str
    lengths: tuple[int, int]
    """tokens, both inclusive: target length of a search, text length of a fine-tuning"""
    gpus: int
    days: float
    at_most: bool
    """whether the paper says "within" """

    def __str__(self) -> str:
        sign = "<= " if self.at_most else ""
        return f"{sign}{self.gpus * self.days * 24:.0f}"


REPORTED = (
    Reported("search", (1, 256 * K), 1, 3, at_most=True),
    Reported("search", (512 * K, 512 * K), 2, 5, at_most=True),
    Reported("search", (1024 * K, 1024 * K), 4, 5, at_most=True),
    Reported("search", (2048 * K, 2048 * K), 8, 5, at_most=True),
    # Mistral-7B, in chunks of 16k
    Reported("finetune", (16 * K, 16 * K), 4, 2, at_most=False),
    Reported("finetune", (128 * K, 128 * K), 8, 7, at_most=False),
    Reported("finetune", (256 * K, 256 * K), 16, 14, at_most=False),
)


def reported(kind: str, settings: Mapping[str, Any], parameters: int) -> Reported | None:
    """Return what the paper reports for a stage like this one, if it does."""
    least, most = MODEL_PARAMETERS
    length = settings.get("target_length") or settings.get("text_length") or 0
    alike = [
        entry
        for entry in REPORTED
        if entry.kind == kind and entry.lengths[0] <= length <= entry.lengths[1]
    ]
    return alike[0] if alike and least <= parameters <= most else None
