"""Each row's gradient with respect to a layer's parameters, from the layer's input and its output's gradient."""

import logging
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import grad

from wardround.client.trainer.private_pieces import Outer, Piece, Values

__all__ = ["layer_pieces"]

_Sampler = Callable[[nn.Module, list[Tensor], Tensor], Mapping[Tensor, Tensor]]

_GROUPED_FROM = 64
"""Positions from which a convolution with a group for each row takes less time than a product of unfolded rows."""


@torch.no_grad()
def layer_pieces(layer: nn.Module, x: Tensor, gradient: Tensor, n: int, *, ghost: bool) -> dict[Tensor, Piece]:
    """The gradients of each trained parameter of `layer` for the input `x` and the output's `gradient`, (n, ...) both.

    With `ghost` those of a Linear layer's weights are not made. Raises ValueError where rows do not come first.
    """
    if not len(x) == len(gradient) == n:
        raise ValueError(f"{type(layer).__name__} makes {len(gradient)} rows of {len(x)}, in a batch of {n}")
    if type(layer) is nn.Linear and ghost and x.dim() == 2:
        found: dict[Tensor, Piece] = {layer.weight: Outer(gradient, x)}
        if layer.bias is not None:
            found[layer.bias] = Values(gradient)
    elif type(layer) is nn.Conv2d and ghost and _is_large(layer, gradient):
        found = _convolution(layer, x, gradient)
    else:
        sampler, functorch = _samplers()
        made = sampler.get(type(layer), functorch) if _is_right(layer) else functorch
        found = {parameter: Values(values) for parameter, values in made(layer, [x], gradient).items()}
    return {parameter: piece for parameter, piece in found.items() if parameter.requires_grad}


def _is_large(layer: nn.Conv2d, gradient: Tensor) -> bool:
    positions = gradient.shape[2:].numel()
    return positions >= _GROUPED_FROM and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)


def _convolution(layer: nn.Conv2d, x: Tensor, gradient: Tensor) -> dict[Tensor, Piece]:
    """A convolution of all rows at once in which each row is a group of its own (Rochette et al. 2019)."""
    n, groups = len(x), len(x) * layer.groups
    weight_gradient: Any = grad.conv2d_weight
    weights = weight_gradient(
        x.reshape(1, -1, *x.shape[2:]),
        (n * layer.weight.shape[0], *layer.weight.shape[1:]),
        gradient.reshape(1, -1, *gradient.shape[2:]),
        layer.stride,
        layer.padding,
        layer.dilation,
        groups,
    )
    found: dict[Tensor, Piece] = {layer.weight: Values(weights.view(n, *layer.weight.shape))}
    if layer.bias is not None:
        found[layer.bias] = Values(gradient.flatten(2).sum(2))
    return found


def _is_right(layer: nn.Module) -> bool:
    """Whether Opacus's formula holds: not for convolutions that pad with anything but zeros, nor without a bias."""
    return getattr(layer, "padding_mode", "zeros") == "zeros" and not (
        isinstance(layer, nn.LayerNorm) and layer.bias is None
    )


@cache
def _samplers() -> tuple[Mapping[type, _Sampler], _Sampler]:
    """Opacus's formulas by type of layer, and one for any other layer.

    Opacus makes the root logger print to stderr when it is imported; that is undone.
    """
    handlers = list(logging.root.handlers)
    from opacus.grad_sample import GradSampleModule
    from opacus.grad_sample.functorch import ft_compute_per_sample_gradient

    logging.root.handlers[:] = handlers
    samplers: Any = GradSampleModule.GRAD_SAMPLERS
    return samplers, ft_compute_per_sample_gradient
