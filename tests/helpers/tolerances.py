"""Tolerances of float32 results that differ in the order of their sums alone, on any processor."""

from typing import Any

REORDERED = 1e-5
"""relative, of a mean loss: batches, chunks, threads and instruction sets divide the same sums differently;
up to 1e-6 was seen, and a lost term or factor changes 1e-3 and more"""
REORDERED_NORM = 5e-5
"""relative, of a norm of gradients: up to 7e-6 was seen between processors with and without AMX"""
LOGITS: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-4}
"""of single logits of random models, whose size is about 1"""
TOKEN_LOSSES: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-5}
"""of the losses of single tokens, which do not average out as their means do"""
