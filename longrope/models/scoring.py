"""Exact scoring of one document in bounded memory, layer by layer.

The whole document is known, so layers are the outer loop and chunks of the document the inner one:
only one layer's keys and values are alive at a time, not all layers' as in a cache for generation.
Results are those of one forward pass up to rounding. Letters of shapes: T tokens, H hidden size, N
tokens of a chunk, K keys, D dimension of a head.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from transformers import AttentionInterface, PreTrainedModel

from longrope.architectures import ARCHITECTURES
from longrope.models import loading as models
from longrope.models.rotary import LongRopeRotary, install
from longrope.rope.factors import RopeFactors
from longrope.settings.common import CHUNK_LENGTH

ATTENTION = "longrope_block_causal"
"""name of `block_causal_attention` in transformers' registry"""

HEAD_ROWS = 256
"""tokens whose logits are alive at once; measured faster than torch's fused loss and than 1024"""


def token_nlls(
    model: PreTrainedModel,
    tokens: Tensor,
    *,
    factors: RopeFactors,
    chunk_length: int = CHUNK_LENGTH,
) -> NDArray[np.float32]:
    """Return the negative log-likelihood of every token but the first, in nats.

    Args:
        model: of a supported architecture, in evaluation mode; its rotary embedding becomes a
            LongRopeRotary set to `factors`.
        tokens: shape (T,), at least 2 token ids.
        factors: rotary factors for the whole document.
        chunk_length: tokens per chunk; bounds memory, changes results by rounding only.

    Returns:
        Shape (T - 1,); entry i is the loss of token i + 1 given tokens 0 to i.

    Raises:
        ValueError: if there are fewer than 2 tokens, or factors of another number of pairs.
    """
    if len(tokens) < 2:
        raise ValueError(f"scoring needs at least 2 tokens, got {len(tokens)}")
    rotary_of(model, factors.original_length).use(factors)
    hidden = hidden_states(model, tokens, chunk_length=chunk_length)[:-1]
    targets = tokens[1:].to(hidden.device)
    # filled in place: small results between large temporaries would fragment the memory
    losses = torch.empty(len(targets), dtype=torch.float32, device=hidden.device)
    batches = (torch.split(tensor, HEAD_ROWS) for tensor in (hidden, targets, losses))
    with torch.inference_mode():
        for rows, row_targets, row_losses in zip(*batches, strict=True):
            # in float32, or bfloat16 would round every loss to two digits
            logits = _logits(model, rows).float()
            row_losses.copy_(functional.cross_entropy(logits, row_targets, reduction="none"))
    return _to_numpy(losses, np.float32)


def greedy_matches(
    model: PreTrainedModel,
    tokens: Tensor,
    *,
    factors: RopeFactors,
    chunk_length: int,
    num_last: int,
) -> NDArray[np.bool_]:
    """Return whether the likeliest token is the true one, for each of the last tokens.

    All of them being true means that greedy decoding would have written these tokens.

    Args:
        model: as for `token_nlls`.
        tokens: shape (T,), token ids of prompt and answer.
        factors: rotary factors for the whole document.
        chunk_length: tokens per chunk.
        num_last: tokens of the answer, from 1 to T - 1.

    Returns:
        Shape (num_last,).

    Raises:
        ValueError: if `num_last` is out of range, or factors of another number of pairs.
    """
    if not 1 <= num_last < len(tokens):
        raise ValueError(f"num_last must lie in 1..{len(tokens) - 1}, got {num_last}")
    rotary_of(model, factors.original_length).use(factors)
    hidden = hidden_states(model, tokens, chunk_length=chunk_length)[-num_last - 1 : -1]
    with torch.inference_mode():
        guesses = [_logits(model, rows).argmax(-1) for rows in torch.split(hidden, HEAD_ROWS)]
        matches = torch.cat(guesses) == tokens[-num_last:].to(hidden.device)
    return _to_numpy(matches, np.bool_)


@torch.inference_mode()
def hidden_states(model: PreTrainedModel, tokens: Tensor, *, chunk_length: int) -> Tensor:
    """Return the hidden states after the final norm, which the model's head reads.

    Args:
        model: as for `token_nlls`; its rotary embedding is used as set, at the length of `tokens`.
        tokens: shape (T,), token ids.
        chunk_length: tokens per chunk.

    Returns:
        Shape (T, H), on the model's device and in its dtype.

    Raises:
        ValueError: if the model is in training mode or the chunk length is not positive.
    """
    if model.training:
        raise ValueError("the model is in training mode; call model.eval() before scoring")
    if chunk_length < 1:
        raise ValueError(f"chunk_length must be positive, got {chunk_length}")
    body: Any = model.base_model
    hidden: Tensor = model.get_input_embeddings()(tokens.to(model.device)[None])
    rotary = rotary_of(model, model.config.max_position_embeddings)
    keyword = ARCHITECTURES[model.config.model_type].cache_keyword
    with block_causal(model):
        for layer in body.layers:
            _run_layer(layer, hidden, rotary, chunk_length, keyword)
    norm = final_norm(model)
    for chunk in torch.split(hidden, chunk_length, dim=1):
        chunk.copy_(norm(chunk))
    return hidden[0]


def final_norm(model: PreTrainedModel) -> torch.nn.Module:
    """Return the norm behind the last layer, whose name differs between architectures."""
    kind = ARCHITECTURES[model.config.model_type]
    norm: torch.nn.Module = getattr(model.base_model, kind.final_norm)
    return norm


class LayerCache:
    """Keys and values of one layer, with the methods that transformers calls on a cache."""

    def __init__(self, num_tokens: int) -> None:
        """Make room for a document of `num_tokens`, on first use."""
        self.num_seen = 0
        self._num_tokens = num_tokens
        self._keys: Tensor | None = None
        self._values: Tensor | None = None

    def get_seq_length(self, *_: Any) -> int:
        """Return the number of tokens held."""
        return self.num_seen

    def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Append keys and values of shape (1, heads, N, D); return all so far, uncopied."""
        if self._keys is None or self._values is None:
            self._keys = _room_for(keys, self._num_tokens)
            self._values = _room_for(values, self._num_tokens)
        begin, self.num_seen = self.num_seen, self.num_seen + keys.shape[2]
        self._keys[:, :, begin : self.num_seen] = keys
        self._values[:, :, begin : self.num_seen] = values
        return self._keys[:, :, : self.num_seen], self._values[:, :, : self.num_seen]


def block_causal_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attend from the last N positions to all K positions, without a mask of N by K.

    The chunk attends to itself causally and to everything before it fully; the two results are
    weighted by their shares of the softmax's denominator.

    Args:
        module: the attention module that calls.
        query: shape (1, heads, N, D).
        key: shape (1, key-value heads, K, D), K >= N; the last N belong to the queries.
        value: as `key`.
        attention_mask: must be None.
        scaling: factor of the logits; 1 / sqrt(D) if None.

    Returns:
        Shape (1, N, heads, D), and None for the attention weights.
    """
    del module
    assert attention_mask is None, "block-causal attention takes no mask"
    # under autocast they come rotated in float32
    query, key = query.to(value.dtype), key.to(value.dtype)
    num_past = key.shape[2] - query.shape[2]
    if num_past == 0:
        output = functional.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=scaling, enable_gqa=True
        )
        return output.transpose(1, 2).contiguous(), None
    past = _attend(query, key[:, :, :num_past], value[:, :, :num_past], scaling, is_causal=False)
    recent = _attend(query, key[:, :, num_past:], value[:, :, num_past:], scaling, is_causal=True)
    return _merge(past, recent).transpose(1, 2).contiguous(), None


def _attend(
    query: Tensor, key: Tensor, value: Tensor, scaling: float | None, *, is_causal: bool
) -> tuple[Tensor, Tensor]:
    """Return the output and the log-sum-exp of its logits, (1, heads, N, D) and (1, heads, N).

    These operators of torch are private, but its public function does not return the log-sum-exp.
    Both let several query heads share a key-value head.
    """
    aten = torch.ops.aten
    if query.device.type == "cpu":
        output, logsumexp = aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, 0.0, is_causal, scale=scaling
        )
    else:
        # CUDA, float16 and bfloat16 only; written from the operator's signature, not run so far
        output, logsumexp = aten._scaled_dot_product_flash_attention(
            query, key, value, 0.0, is_causal, False, scale=scaling
        )[:2]
    return output, logsumexp


def _merge(left: tuple[Tensor, Tensor], right: tuple[Tensor, Tensor]) -> Tensor:
    """Return the attention over two disjoint sets of keys from the attention over each."""
    total = torch.logaddexp(left[1], right[1])
    parts = [output * (part - total).exp()[..., None] for output, part in (left, right)]
    return (parts[0] + parts[1]).to(left[0].dtype)


def _run_layer(
    layer: torch.nn.Module,
    hidden: Tensor,
    rotary: LongRopeRotary,
    chunk_length: int,
    cache_keyword: str,
) -> None:
    """Replace hidden states of shape (1, T, H) by a layer's output, chunk after chunk."""
    num_tokens = hidden.shape[1]
    cache = LayerCache(num_tokens) if num_tokens > chunk_length else None
    positions = torch.arange(num_tokens, device=hidden.device)[None]
    chunks = torch.split(hidden, chunk_length, dim=1)
    for chunk, chunk_positions in zip(
        chunks, torch.split(positions, chunk_length, dim=1), strict=True
    ):
        output = layer(
            chunk,
            attention_mask=None,
            position_ids=chunk_positions,
            position_embeddings=rotary.embed(chunk, chunk_positions, length=num_tokens),
            use_cache=cache is not None,
            **{cache_keyword: cache},
        )
        chunk.copy_(output)
    # a wrong keyword would be swallowed, and every chunk would see itself only
    assert cache is None or cache.num_seen == num_tokens, "the layer did not use its cache"


def rotary_of(model: PreTrainedModel, original_length: int) -> LongRopeRotary:
    """Return the installed LongRopeRotary, or install the pretrained embedding as one."""
    present: Any = model.base_model.rotary_emb
    if isinstance(present, LongRopeRotary):
        return present
    return install(model, models.geometry(model, original_length))


def _logits(model: Any, hidden: Tensor) -> Tensor:
    logits: Tensor = model.get_output_embeddings()(hidden)
    return logits


def _room_for(states: Tensor, num_tokens: int) -> Tensor:
    batch, heads, _, head_dim = states.shape
    return states.new_empty(batch, heads, num_tokens, head_dim)


def _to_numpy(values: Tensor, dtype: Any) -> NDArray[Any]:
    return values.cpu().numpy().astype(dtype, copy=False)


@contextmanager
def block_causal(model: PreTrainedModel) -> Iterator[None]:
    """Use block-causal attention inside the block, and the model's own afterwards."""
    config: Any = model.config
    before = config._attn_implementation
    config._attn_implementation = ATTENTION
    try:
        yield
    finally:
        config._attn_implementation = before


AttentionInterface.register(ATTENTION, block_causal_attention)
