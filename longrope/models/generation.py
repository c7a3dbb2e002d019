"""Generation under a table of factors, by transformers' own `generate`.

A cache never holds keys of two sets of factors: each stretch of a continuation runs under one entry of the
table with a cache of its own, see `longrope.rope.switching`.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
)

from longrope.models import loading, rotary
from longrope.rope.factors import FactorTable
from longrope.rope.switching import Stretch, Switch, require_same_model, stretches
from longrope.settings.common import Count, Seed

Ids = list[int]
WINDOWS = ("max_position_embeddings", "original_max_position_embeddings")
PAD = 0
"""token to the left of a shorter text; masked, so that any will do"""


class Decoding(BaseModel):
    """How a text is continued, which is the same whatever the factors."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_new_tokens: Count
    """fewer are generated where the model ends its text"""
    switch: Switch
    temperature: float = Field(ge=0, allow_inf_nan=False)
    """0 takes the likeliest token"""
    seed: Seed
    """of sampling"""
    prefill_chunk: Count | None
    """prompt tokens computed at once; None: all of them"""
    cache: Literal["dynamic", "static"]
    """dynamic grows with the text; static has its final size from the start"""


@dataclass
class _Text:
    """A text while it grows."""

    tokens: Ids
    stretches: list[Stretch]
    new: Ids = field(default_factory=list)
    ended: bool = False
    """whether the model ended it"""


def generate(
    model: PreTrainedModel,
    table: FactorTable,
    prompts: Sequence[Sequence[int]],
    decoding: Decoding,
) -> list[Ids]:
    """Return the tokens that continue each prompt, with the EOS that ends it.

    A prompt in a batch gets the continuation that it gets alone, and a text that was continued and is given
    again as a prompt the rest of its continuation, but for rounding that decides between equal logits.

    Args:
        model: in evaluation mode, on the device to compute on; its rotary embedding is restored. Of its
            generation config only EOS is read.
        table: its longest entry has room for the prompts and their continuations.
        prompts: at least one, none of them empty.
        decoding: how to continue them.

    Raises:
        UserError: if the factors are of another model.
        ValueError: if the model is in training mode.
    """
    if model.training:
        raise ValueError("the model is in training mode; call model.eval() before generating")
    geometry = loading.geometry(model, table.entries[0].original_length)
    require_same_model(table, geometry, "the model")
    texts = [_Text([*prompt], _stretches(table, len(prompt), decoding)) for prompt in prompts]
    with rotary.restored(model), _plain_settings(model, table), torch.inference_mode():
        embedding = rotary.install(model, geometry)
        for entry in table.entries:
            parts = [(text, part) for text in texts for part in text.stretches]
            chosen = [pair for pair in parts if pair[1].factors is entry and not pair[0].ended]
            if chosen:
                embedding.use(entry)
                _extend(model, chosen, decoding)
    return [text.new for text in texts]


def _stretches(table: FactorTable, num_tokens: int, decoding: Decoding) -> list[Stretch]:
    return stretches(table, num_tokens, num_tokens + decoding.max_new_tokens, decoding.switch)


@contextmanager
def _plain_settings(model: Any, table: FactorTable) -> Iterator[None]:
    """Drop all of a model's generation config but EOS, and move its window to the table's length.

    Past its window transformers warns, and Phi-3 computes its cache anew.
    """
    present = model.generation_config
    windows = {key: getattr(model.config, key) for key in WINDOWS if hasattr(model.config, key)}
    model.generation_config = _config(eos_token_id=present.eos_token_id, pad_token_id=PAD)
    for key in windows:
        setattr(model.config, key, table.entries[-1].target_length)
    try:
        yield
    finally:
        model.generation_config = present
        for key, value in windows.items():
            setattr(model.config, key, value)


def _extend(model: Any, chosen: list[tuple[_Text, Stretch]], decoding: Decoding) -> None:
    """Grow texts to the ends of their stretches, all under the factors in use, with a new cache."""
    width = max(len(text.tokens) for text, _ in chosen)
    padding = [width - len(text.tokens) for text, _ in chosen]
    rows = [[PAD] * pad + text.tokens for pad, (text, _) in zip(padding, chosen, strict=True)]
    masks = [[0] * pad + [1] * (width - pad) for pad in padding]
    ends = [pad + part.end for pad, (_, part) in zip(padding, chosen, strict=True)]
    processors = [_Noise(padding, decoding)] if decoding.temperature else []
    output = model.generate(
        torch.tensor(rows, device=model.device),
        attention_mask=torch.tensor(masks, device=model.device),
        generation_config=_length_and_memory(max(ends) - width, decoding),
        logits_processor=LogitsProcessorList(processors),
    )
    # a row may have run past its end for the sake of others
    for (text, _), end, row in zip(chosen, ends, output.tolist(), strict=True):
        _append(text, row[width:end], model.generation_config.eos_token_id)


def _length_and_memory(max_new_tokens: int, decoding: Decoding) -> GenerationConfig:
    # compiled code was not compared with the rest
    static = {"cache_implementation": "static", "disable_compile": True}
    return _config(
        max_new_tokens=max_new_tokens,
        prefill_chunk_size=decoding.prefill_chunk,
        **(static if decoding.cache == "static" else {}),
    )


def _config(**values: Any) -> GenerationConfig:
    # transformers has no types here
    make: Any = GenerationConfig
    config: GenerationConfig = make(do_sample=False, **values)
    return config


def _append(text: _Text, new: Ids, eos: int | Ids | None) -> None:
    """Append new tokens up to the first EOS."""
    stops = {eos} if isinstance(eos, int) else set(eos or ())
    first = next((index for index, token in enumerate(new) if token in stops), None)
    text.ended = first is not None
    new = new if first is None else new[: first + 1]
    text.tokens += new
    text.new += new


class _Noise(LogitsProcessor):
    """Gumbel noise, under which the largest score is a sample of the softmax of scores / temperature.

    The noise of a token depends on the seed and its position alone, so that a text draws the same in
    another batch and when it is taken up again.
    """

    def __init__(self, padding: list[int], decoding: Decoding) -> None:
        self._padding = padding
        self._decoding = decoding

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        width, size = input_ids.shape[1], scores.shape[1]
        keys = [(self._decoding.seed, width - pad) for pad in self._padding]
        noise = np.stack([np.random.default_rng(key).gumbel(size=size) for key in keys])
        return scores / self._decoding.temperature + torch.from_numpy(noise).to(scores)
