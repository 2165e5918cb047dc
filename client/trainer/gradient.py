"""Gradients of weighted losses, straight from torch's autograd engine."""

import torch
from torch import Tensor

from wardround.errors import LocalError

__all__ = ["gradients_of"]


def gradients_of(losses: Tensor, shares: Tensor, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The gradient of Σ shares x losses with respect to each of `inputs`; 0 where it is not used.

    `shares` is shaped like `losses`. What torch.autograd.grad computes, without what it does around the engine: that
    takes a fifth of a step of a small model, and imports sympy (0.7 s) when it is given `shares`.
    Raises LocalError unless there is one loss for each row.
    """
    if losses.shape != shares.shape:
        raise LocalError(f"task: expected a loss for each row, shape {tuple(shares.shape)}, got {tuple(losses.shape)}")
    engine = torch.autograd.Variable._execution_engine
    found = engine.run_backward((losses,), (shares,), False, False, inputs, True, accumulate_grad=False)
    return tuple(
        torch.zeros_like(tensor) if gradient is None else gradient
        for gradient, tensor in zip(found, inputs, strict=True)
    )
