"""Perplexity of held-out documents while a model is trained; nothing here changes a weight.

Every process of a job measures all documents, so the state of the training is the same in all of them; all
that they exchange are weights, where DeepSpeed divides them. What was measured is kept in that state, which
a checkpoint holds, so a resumed run ends with the same lines as an uninterrupted one.

Imported by name: the code that measures is no part of a tuned model's digest.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, TrainerCallback

from longrope.data.token_store import TokenStore
from longrope.data.tokenizers import num_unscored
from longrope.models.rotary import LongRopeRotary
from longrope.models.scoring import token_nlls
from longrope.rope.factors import RopeFactors
from longrope.rope.methods import closed_form


class Watch(TrainerCallback):
    """Callback that measures before the first step, every so many steps, and after the last."""

    def __init__(
        self,
        store: TokenStore,
        factors: RopeFactors,
        *,
        num_documents: int,
        every_steps: int,
        chunk_length: int,
        dtype: str,
        begin: Sequence[int] = (),
    ) -> None:
        """Choose the documents: the first that hold the target length.

        Args:
            store: held-out documents.
            factors: those trained under.
            num_documents: that are scored; fewer if there are not so many.
            every_steps: optimizer steps between two measurements.
            chunk_length: tokens per chunk of scoring.
            dtype: of the training; bfloat16 is autocast here as there.
            begin: ids that every window begins with, as tokens of its length.

        Raises:
            UserError: if no document is long enough.
        """
        length = factors.target_length
        room = length - len(begin)
        chosen = store.long_enough(room, f"finetune.watch documents for length {length}")
        self._windows = [
            torch.tensor([*begin, *store.document(document, 0, room).tolist()])
            for document in chosen[:num_documents]
        ]
        self._num_unscored = num_unscored(begin)
        self._factors = factors
        self._every_steps = every_steps
        self._chunk_length = chunk_length
        self._autocast = dtype == "bfloat16"
        self.entries: list[dict[str, Any]] = []
        """step, length, number of documents and perplexity (None if not finite), once the training is over"""

    def on_train_begin(self, args: Any, state: Any, *_: Any, **named: Any) -> None:
        """Measure before the first step."""
        if state.global_step == 0:
            state.log_history += self.measure(0, named["model"])

    def on_step_end(self, args: Any, state: Any, *_: Any, **named: Any) -> None:
        """Measure if one is due; the checkpoint of this step is written afterwards."""
        step = state.global_step
        if step % self._every_steps == 0 or step == state.max_steps:
            state.log_history += self.measure(step, named["model"])

    def on_train_end(self, args: Any, state: Any, *_: Any, **__: Any) -> None:
        """Collect the measured entries from the state."""
        self.entries = [entry for entry in state.log_history if "perplexity" in entry]

    def measure(self, step: int, model: PreTrainedModel) -> list[dict[str, Any]]:
        """Return an entry for the original length, pretrained embedding, and one for the target length.

        Args:
            step: of the training.
            model: with the rotary embedding that it is trained under, which it has again afterwards.
        """
        rotary: Any = model.base_model.rotary_emb
        original = self._factors.original_length
        lengths = (closed_form("none", rotary.geometry, original), self._factors)
        with _measured(model, rotary, self._factors), self._precision(model):
            return [
                {
                    "step": step,
                    "length": factors.target_length,
                    "num_documents": len(self._windows),
                    "perplexity": self._perplexity(model, factors),
                }
                for factors in lengths
            ]

    def _precision(self, model: PreTrainedModel) -> torch.autocast:
        return torch.autocast(model.device.type, torch.bfloat16, enabled=self._autocast)

    def _perplexity(self, model: PreTrainedModel, factors: RopeFactors) -> float | None:
        """Return exp(sum of nats / sum of tokens) over the beginnings of all documents."""
        nlls = np.concatenate([self._nlls(model, window, factors) for window in self._windows])
        with np.errstate(over="ignore"):
            perplexity = float(np.exp(nlls.mean(dtype=np.float64)))
        return perplexity if math.isfinite(perplexity) else None

    def _nlls(self, model: PreTrainedModel, window: Tensor, factors: RopeFactors) -> Any:
        tokens = window[: factors.target_length]
        nlls = token_nlls(model, tokens, factors=factors, chunk_length=self._chunk_length)
        return nlls[self._num_unscored - 1 :]


@contextmanager
def _measured(
    model: PreTrainedModel, rotary: LongRopeRotary, trained: RopeFactors
) -> Iterator[None]:
    """Let a model in training return logits; restore it afterwards."""
    whole: Any = model
    head = whole.get_output_embeddings()
    # `longrope.training.tiling` hides the head's own method behind one that returns a loss
    summed_loss = vars(head).pop("forward", None)
    training = model.training
    whole.eval()
    try:
        yield
    finally:
        model.train(training)
        rotary.use(trained)
        if summed_loss is not None:
            head.forward = summed_loss
