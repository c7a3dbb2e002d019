"""The gradient of a document's loss with respect to its rotary factors, layer by layer in bounded memory.

Hidden states between layers are kept, everything inside a layer is computed again on the way back: two
forward passes and one backward pass. Letters of shapes: T tokens, H hidden size, P rotary pairs.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from longrope.models.rotary import LongRopeRotary
from longrope.models.scoring import HEAD_ROWS, block_causal, final_norm, rotary_of
from longrope.rope.factors import RopeFactors


@dataclass(frozen=True)
class Gradient:
    """Sum of losses of the predicted tokens, and its derivatives."""

    nll: float
    """nats, summed over the predicted tokens"""
    log_factors: NDArray[np.float64]
    """shape (P,), d nll / d ln factor"""
    log_attention_scale: float
    """d nll / d ln attention scale"""


def nll_gradient(
    model: PreTrainedModel, tokens: Tensor, *, factors: RopeFactors, first: int = 1
) -> Gradient:
    """Return the loss of a document and its gradient at some factors.

    Args:
        model: of a supported architecture, in evaluation mode; its rotary embedding becomes a
            LongRopeRotary set to `factors`, and its parameters stop taking gradients.
        tokens: shape (T,), at least 2 token ids.
        factors: where to differentiate.
        first: first predicted token whose loss counts.

    Raises:
        ValueError: if there are fewer than 2 tokens, or factors of another number of pairs.
    """
    if len(tokens) < 2:
        raise ValueError(f"a gradient needs at least 2 tokens, got {len(tokens)}")
    rotary = rotary_of(model, factors.original_length)
    rotary.use(factors)
    model.requires_grad_(False)
    tokens = tokens.to(model.device)
    with block_causal(model):
        inputs, turns = _forward(model, tokens, rotary)
        nll, slope = _head(model, inputs.pop(), tokens, first)
        for layer in reversed(list(model.base_model.layers)):  # type: ignore[arg-type]
            slope = _backward(layer, inputs.pop(), slope, turns)
    return _chain(turns, factors, rotary, nll)


@dataclass
class _Turns:
    """Cosines and sines of all layers, shape (1, T, 2P), whose derivatives accumulate in `grad`."""

    cos: Tensor
    sin: Tensor

    def like(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Return both in a layer's dtype; derivatives add up in float32."""
        return self.cos.to(hidden.dtype), self.sin.to(hidden.dtype)


def _forward(
    model: PreTrainedModel, tokens: Tensor, rotary: LongRopeRotary
) -> tuple[list[Tensor], _Turns]:
    """Return the input of every layer and the output of the last, with the cosines and sines."""
    body: Any = model.base_model
    hidden: Tensor = model.get_input_embeddings()(tokens[None])
    positions = torch.arange(len(tokens), device=hidden.device)[None]
    cos, sin = rotary.embed(hidden.float(), positions, length=len(tokens))
    turns = _Turns(cos.requires_grad_(), sin.requires_grad_())
    states = [hidden]
    with torch.no_grad():
        for layer in body.layers:
            states.append(_run(layer, states[-1], turns))
    return states, turns


def _run(layer: torch.nn.Module, hidden: Tensor, turns: _Turns) -> Tensor:
    positions = torch.arange(hidden.shape[1], device=hidden.device)[None]
    output: Tensor = layer(
        hidden,
        attention_mask=None,
        position_ids=positions,
        position_embeddings=turns.like(hidden),
        use_cache=False,
    )
    return output


def _head(model: Any, hidden: Tensor, tokens: Tensor, first: int) -> tuple[float, Tensor]:
    """Return the summed loss and its derivative by the last layer's output, few rows at a time."""
    norm = final_norm(model)
    slope = torch.zeros_like(hidden)
    total = 0.0
    for begin in range(first - 1, len(tokens) - 1, HEAD_ROWS):
        end = min(begin + HEAD_ROWS, len(tokens) - 1)
        rows = hidden[:, begin:end].detach().requires_grad_()
        logits = model.get_output_embeddings()(norm(rows)).float()
        loss = functional.cross_entropy(logits[0], tokens[begin + 1 : end + 1], reduction="sum")
        (slope[:, begin:end],) = torch.autograd.grad(loss, rows)
        total += float(loss.detach())
    return total, slope


def _backward(layer: torch.nn.Module, hidden: Tensor, slope: Tensor, turns: _Turns) -> Tensor:
    """Return the derivative by a layer's input; those by cosines and sines add up in their `grad`."""
    hidden = hidden.detach().requires_grad_()
    torch.autograd.backward(_run(layer, hidden, turns), slope)
    assert hidden.grad is not None
    return hidden.grad


def _chain(turns: _Turns, factors: RopeFactors, rotary: LongRopeRotary, nll: float) -> Gradient:
    """Return the gradient by log factors: angle = position * frequency / factor, so d angle = -angle.

    cos and sin carry the attention scale, so their derivative by its logarithm is themselves.
    """
    cos, sin = (leaf.detach()[0].double() for leaf in (turns.cos, turns.sin))
    assert turns.cos.grad is not None and turns.sin.grad is not None
    by_cos, by_sin = (leaf[0].double() for leaf in (turns.cos.grad, turns.sin.grad))
    divisors = torch.tensor(factors.factors, dtype=torch.float64, device=cos.device)
    positions = torch.arange(len(cos), dtype=torch.float64, device=cos.device)[:, None]
    # start tokens turn as in the pretrained model, whatever the factors
    scaled = (positions >= factors.num_start_tokens).double()
    # pair i turns dimensions i and P + i
    by_angle = (by_sin * cos - by_cos * sin).reshape(len(cos), 2, -1).sum(1)
    angles = positions * rotary.inv_freq.to(cos.device).double() / divisors
    by_scale = ((by_cos * cos + by_sin * sin) * scaled).sum()
    return Gradient(nll, (-by_angle * angles * scaled).sum(0).cpu().numpy(), float(by_scale))
