"""Tiled losses and MLPs of long rows, and offloading of checkpointed activations to main memory.

A tile is a stretch of tokens; the large values of only one tile exist at a time. Its logits become a loss
and gradients in the forward pass and are forgotten; the inner values of its MLP are computed again in the
backward pass. Letters of shapes: B rows, T tokens of this process, H hidden size.

Source: Bekman et al. 2025, Arctic Long Sequence Training (arXiv:2506.13996), sections 3.1 and 3.3.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

IGNORED = -100
"""target of a token whose loss does not count"""


def return_summed_loss(
    model: PreTrainedModel, *, tile_length: int | None = None, tiled_mlp: bool = False
) -> None:
    """Let a model return its summed loss instead of logits, and work in tiles.

    Afterwards the model is called with `input_ids`, `position_ids` and `targets`, each of shape (B, T).
    The targets are the next tokens: a row that is cut into pieces is shifted before it is cut. It returns
    the sum of the negative log-likelihoods of the targets, nats, as a float32 scalar.

    Args:
        model: of a supported architecture; its parameters and their names stay as they are.
        tile_length: tokens of a tile, None for one tile.
        tiled_mlp: whether MLPs work in tiles too.
    """
    whole: Any = model
    head = whole.get_output_embeddings()
    # The head is still called as a module, once: that is where ZeRO-3 gathers its weight.
    head.forward = partial(_summed_loss, head, tile_length)
    whole.forward = partial(_forward, model, head)
    if tiled_mlp and tile_length is not None:
        for layer in whole.base_model.layers:
            layer.mlp.forward = partial(_tiled, layer.mlp.forward, tile_length)


def _forward(
    model: Any, head: Any, input_ids: Tensor, position_ids: Tensor, targets: Tensor
) -> Tensor:
    inputs = {"input_ids": input_ids, "position_ids": position_ids, "use_cache": False}
    hidden = model.base_model(**inputs).last_hidden_state
    loss: Tensor = head(hidden, targets)
    return loss


def _summed_loss(
    head: torch.nn.Linear, tile_length: int | None, hidden: Tensor, targets: Tensor
) -> Tensor:
    """Return the summed loss of hidden states (B, T, H) under a head, a tile at a time."""
    if tile_length is None:
        # in float32, or bfloat16 would round every loss to two digits
        logits = functional.linear(hidden, head.weight, head.bias).float()
        flat = logits.flatten(0, 1), targets.flatten()
        return functional.cross_entropy(*flat, ignore_index=IGNORED, reduction="sum")
    apply: Callable[..., Tensor] = _TiledLoss.apply
    return apply(hidden, head.weight, head.bias, targets, tile_length)


class _TiledLoss(torch.autograd.Function):
    """Summed loss whose gradients are computed in the forward pass, while a tile's logits exist.

    The gradient of a loss by its logits is softmax minus one-hot, and needs a factor from the backward pass
    and nothing else. So no product of the head is computed twice.

    Source: Hsu et al. 2024, Liger Kernel (arXiv:2410.10989), section 3.2, fused linear cross-entropy.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, length: int
    ) -> Tensor:
        """Return the loss of hidden states (B, T, H) with targets (B, T), and store its gradients."""
        like = zip((hidden, weight, bias), ctx.needs_input_grad[:3], strict=True)
        gradients = [torch.zeros_like(x) if x is not None and need else None for x, need in like]
        loss = hidden.new_zeros((), dtype=torch.float32)
        for begin in range(0, hidden.shape[1], length):
            place = slice(begin, begin + length)
            states = hidden[:, place].flatten(0, 1)
            loss += _add_tile(states, weight, bias, targets[:, place].flatten(), gradients, place)
        ctx.save_for_backward(*gradients)
        return loss

    @staticmethod
    def backward(ctx: Any, *factors: Tensor) -> Any:
        """Return the stored gradients times that of the loss."""
        gradients = [None if x is None else x * factors[0] for x in ctx.saved_tensors]
        return (*gradients, None, None)


def _add_tile(
    states: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    gradients: list[Tensor | None],
    place: slice,
) -> Tensor:
    """Return the loss of a tile's states (N, H), N = B * tile; add to the accumulated gradients."""
    # in float32, or bfloat16 would round every loss to two digits
    likely = functional.linear(states, weight, bias).float().log_softmax(-1)
    ignored = targets == IGNORED
    places = torch.arange(len(targets), device=targets.device), targets.masked_fill(ignored, 0)
    loss = -likely[places].masked_fill(ignored, 0).sum()
    errors = likely.exp_()
    errors[places] -= 1
    errors[ignored] = 0
    errors = errors.to(states.dtype)
    by_hidden, by_weight, by_bias = gradients
    if by_hidden is not None:
        tile = by_hidden[:, place]
        tile.copy_((errors @ weight).view(tile.shape))
    if by_weight is not None:
        by_weight += errors.t() @ states
    if by_bias is not None:
        by_bias += errors.sum(0)
    return loss


def _tiled(forward: Callable[[Tensor], Tensor], tile_length: int, hidden: Tensor) -> Tensor:
    """Return a token-wise function of hidden states (B, T, H), computed a tile at a time."""
    tiles = torch.split(hidden, tile_length, 1)
    return torch.cat([checkpoint(forward, tile, use_reentrant=False) for tile in tiles], dim=1)


def activations_in_main_memory(hidden_size: int) -> AbstractContextManager[None]:
    """Return a context in which hidden states that the backward pass needs wait in main memory.

    With activation checkpointing these are the inputs of the layers. Other tensors stay: they are small, or
    weights.

    Args:
        hidden_size: H; tensors of shape (B, T, H) are moved.
    """

    def pack(tensor: Tensor) -> tuple[torch.device, Tensor]:
        is_hidden = tensor.dim() == 3 and tensor.shape[-1] == hidden_size
        return tensor.device, _to_host(tensor) if is_hidden else tensor

    def unpack(packed: tuple[torch.device, Tensor]) -> Tensor:
        device, stored = packed
        return stored.to(device, non_blocking=True)

    context: AbstractContextManager[None] = torch.autograd.graph.saved_tensors_hooks(pack, unpack)
    return context


def _to_host(tensor: Tensor) -> Tensor:
    """Return a copy in main memory, pinned where a device reads it."""
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
    return host.copy_(tensor)
