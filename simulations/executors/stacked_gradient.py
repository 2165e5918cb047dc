"""Loss and gradient of many clients' models at once, each client with its own parameters and its own batch."""

from collections.abc import Iterable
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call

from wardround.client.trainer.gradient import gradients_of
from wardround.client.trainer.local_optimizer import Tensors
from wardround.task import Batch, Task

__all__ = ["Chain", "StackedGradient", "Vmapped", "stacked_gradient"]


class StackedGradient(Protocol):
    def __call__(
        self, parameters: list[Tensor], x: Tensor, y: Tensor, share: Tensor, out: list[Tensor]
    ) -> tuple[Tensor, Tensors]:
        """The losses, and the gradient of Σ share x loss for each client.

        For k clients with batches of b rows: `parameters` (k, ...) in the layout's order, x (k, b, ...), y and
        `share` (k, b). Returns losses (k, b) and gradients like `parameters`, which may lie in `out`.
        """
        ...


def _losses(task: Task, outputs: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Losses (k, b) of outputs (k, b, ...). A loss depends on its own row only, so clients need not be told apart."""
    flat = Batch(x.reshape(-1, *x.shape[2:]), y.reshape(-1))
    return task.loss(outputs.reshape(-1, *outputs.shape[2:]), flat).view(y.shape)


class Chain:
    """Linear layers with ReLU between them, differentiated by hand.

    Products are batched matrix products that write gradients where the optimiser reads them. For 100 MLPs this
    takes 0.6 of the time of `Vmapped`, whose gradients come transposed.
    """

    def __init__(self, task: Task, biases: Iterable[bool]) -> None:
        self._task = task
        self._layers: list[tuple[int, int | None]] = []
        place = 0
        for bias in biases:
            self._layers.append((place, place + 1 if bias else None))
            place += 1 + bias

    @classmethod
    def of(cls, task: Task, module: nn.Module) -> "Chain | None":
        """The chain that `module` is, None when it is something else."""
        layers = list(module.children()) if type(module) is nn.Sequential else [module]
        linear = [layer for layer in layers[::2] if type(layer) is nn.Linear]
        between = [layer for layer in layers[1::2] if type(layer) is nn.ReLU]
        if len(linear) + len(between) != len(layers) or len(linear) != len(between) + 1:
            return None
        if len(set(linear)) != len(linear):
            return None
        return cls(task, [layer.bias is not None for layer in linear])

    @torch.no_grad()
    def __call__(
        self, parameters: list[Tensor], x: Tensor, y: Tensor, share: Tensor, out: list[Tensor]
    ) -> tuple[Tensor, Tensors]:
        inputs: list[Tensor] = []
        hidden = x
        for weight, bias in self._layers:
            if inputs:
                hidden = hidden.relu_()
            inputs.append(hidden)
            transposed = parameters[weight].mT
            if bias is None:
                hidden = torch.bmm(hidden, transposed)
            else:
                hidden = torch.baddbmm(parameters[bias].unsqueeze(1), hidden, transposed)
        with torch.enable_grad():
            losses = _losses(self._task, hidden.requires_grad_(), x, y)
            (gradient,) = gradients_of(losses, share, (hidden,))
        for layer in reversed(range(len(self._layers))):
            weight, bias = self._layers[layer]
            torch.bmm(gradient.mT, inputs[layer], out=out[weight])
            if bias is not None:
                torch.sum(gradient, 1, out=out[bias])
            if layer:
                gradient = torch.bmm(gradient, parameters[weight])
                gradient = torch.ops.aten.threshold_backward(gradient, inputs[layer], 0)
        return losses.detach(), out


class Vmapped:
    """Any model that `torch.func.vmap` can batch: its forward pass batched, then one backward pass."""

    def __init__(self, task: Task, module: nn.Module) -> None:
        self._task, self._module = task, module
        self._names = [name for name, _ in module.named_parameters()]
        self._forward = torch.func.vmap(self._outputs)

    def _outputs(self, parameters: tuple[Tensor, ...], x: Tensor) -> Tensor:
        outputs: Tensor = functional_call(self._module, dict(zip(self._names, parameters, strict=True)), (x,))
        return outputs

    @torch.enable_grad()
    def __call__(
        self, parameters: list[Tensor], x: Tensor, y: Tensor, share: Tensor, out: list[Tensor]
    ) -> tuple[Tensor, Tensors]:
        leaves = tuple(parameter.detach().requires_grad_() for parameter in parameters)
        losses = _losses(self._task, self._forward(leaves, x), x, y)
        return losses.detach(), gradients_of(losses, share, leaves)


def stacked_gradient(task: Task, module: nn.Module) -> StackedGradient:
    """The fastest that computes `module`."""
    return Chain.of(task, module) or Vmapped(task, module)
