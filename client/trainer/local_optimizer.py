"""SGD, Adam and AdamW on lists of tensors, for one client and for a block of clients alike.

Every operation is element-wise, so that a tensor may be a parameter, a whole flat buffer, or the parameters of
many clients. The formulas are those of torch.optim.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from wardround.plan_sections import Optimizer, Training

__all__ = ["Tensors", "num_moments", "optimizer_step"]

Tensors = list[Tensor] | tuple[Tensor, ...]


def num_moments(training: Training) -> int:
    """How many state tensors the optimiser keeps for each parameter; all start at 0."""
    if training.optimizer is Optimizer.SGD:
        return 1 if training.momentum else 0
    return 2


def optimizer_step(
    training: Training, lr: float, step: int, parameters: Tensors, gradients: Tensors, moments: Sequence[Tensors]
) -> None:
    """Update `parameters` and `moments` in place; `gradients` are left as they are.

    `step` counts from 1; `moments` are `num_moments` lists shaped like `parameters`.
    """
    if training.optimizer is Optimizer.ADAMW:
        if training.weight_decay:
            torch._foreach_mul_(parameters, 1 - lr * training.weight_decay)
    elif training.weight_decay:
        gradients = torch._foreach_add(gradients, parameters, alpha=training.weight_decay)
    if training.optimizer is not Optimizer.SGD:
        _adam(training, lr, step, parameters, gradients, *moments)
        return
    if training.momentum:
        (velocity,) = moments
        torch._foreach_mul_(velocity, training.momentum)
        torch._foreach_add_(velocity, gradients)
        nesterov = training.nesterov
        gradients = torch._foreach_add(gradients, velocity, alpha=training.momentum) if nesterov else velocity
    torch._foreach_add_(parameters, gradients, alpha=-lr)


def _adam(
    training: Training, lr: float, step: int, parameters: Tensors, gradients: Tensors, first: Tensors, second: Tensors
) -> None:
    """Adam with bias correction (Kingma and Ba 2015, Algorithm 1)."""
    torch._foreach_lerp_(first, gradients, 1 - training.beta1)
    torch._foreach_mul_(second, training.beta2)
    torch._foreach_addcmul_(second, gradients, gradients, 1 - training.beta2)
    scale = torch._foreach_sqrt(second)
    torch._foreach_div_(scale, math.sqrt(1 - training.beta2**step))
    torch._foreach_add_(scale, training.eps)
    torch._foreach_addcdiv_(parameters, first, scale, -lr / (1 - training.beta1**step))
