"""A torch model whose parameters are views into one flat vector."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from wardround.client.trainer.private_model import model_of
from wardround.errors import LocalError
from wardround.plan import Plan
from wardround.plan_sections import BatchNorm
from wardround.task import Task
from wardround.vector import F32, Layout, TensorSpec

__all__ = ["FlatModel", "SiteState", "initial_vector", "is_stochastic", "layout_of"]

SiteState = dict[str, NDArray[np.generic]]
"""What a site keeps between rounds, by tensor name: the statistics of BatchNorm when they stay local."""


def is_stochastic(module: nn.Module) -> bool:
    """Whether training draws random numbers: dropout of any kind, RReLU."""
    return any(
        (isinstance(part, _DropoutNd) and part.p > 0)
        or isinstance(part, nn.RReLU)
        or (isinstance(dropout := getattr(part, "dropout", None), float) and dropout > 0)
        for part in module.modules()
    )


def _running(module: nn.Module, names: tuple[str, ...]) -> Iterator[tuple[str, Tensor]]:
    """The named buffers of every BatchNorm that keeps running statistics."""
    for path, part in module.named_modules():
        if isinstance(part, _BatchNorm) and part.track_running_stats:
            for name in names:
                yield (f"{path}.{name}" if path else name), part.get_buffer(name)


class FlatModel:
    """A module, its `layout`, and the `vector` of shape (d,) that its tensors are views of.

    The vector holds the parameters, then BatchNorm's running mean and variance where the plan averages them;
    `num_batches_tracked` never leaves the site. `array` is the same memory for numpy. Other buffers are put back
    to their first values before a site trains, so that nothing passes from one site to another.
    Raises LocalError for a parameter that is not float32.
    """

    def __init__(self, module: nn.Module, batch_norm: BatchNorm) -> None:
        self.module = module
        parameters = dict(module.named_parameters())
        average = batch_norm is BatchNorm.AVERAGE
        shared = parameters | (dict(_running(module, ("running_mean", "running_var"))) if average else {})
        for name, tensor in shared.items():
            if tensor.dtype != torch.float32:
                raise LocalError(f"model: expected float32 tensors, got {tensor.dtype} for {name!r}")
        self.layout = Layout(
            tuple(
                TensorSpec(name=name, shape=tuple(tensor.shape), buffer=name not in parameters)
                for name, tensor in shared.items()
            )
        )
        self.vector = torch.empty(self.layout.size)
        self.array: F32 = self.vector.numpy()
        for tensor, view in zip(shared.values(), self.views(self.vector), strict=True):
            view.copy_(tensor.detach())
            tensor.data = view
        self.trained = [parameter for parameter in parameters.values() if parameter.requires_grad]
        if not self.trained:
            raise LocalError("model: expected at least one parameter that requires a gradient, got none")
        own = {name: tensor for name, tensor in module.named_buffers() if name not in shared}
        local = {"running_mean", "running_var", "num_batches_tracked"}
        self._kept = {} if average else {n: b for n, b in own.items() if n.rpartition(".")[2] in local}
        self._first = [(buffer, buffer.clone()) for buffer in own.values()]
        self.is_stochastic = is_stochastic(module)

    def views(self, vector: Tensor) -> list[Tensor]:
        """Each tensor of the layout as a view into `vector`."""
        sizes = [tensor.size for tensor in self.layout.tensors]
        parts = zip(torch.split_with_sizes(vector, sizes), self.layout.tensors, strict=True)
        return [part.view(tensor.shape) for part, tensor in parts]

    def trained_views(self, vector: Tensor) -> list[Tensor]:
        """The views into `vector` of the parameters that are trained, in the order of `trained`."""
        flags = [parameter.requires_grad for parameter in self.module.parameters()]
        return [view for view, flag in zip(self.views(vector), flags, strict=False) if flag]

    def load(self, model: F32, state: SiteState | None, *, training: bool) -> None:
        """Take over `model`, shape (d,), and what the site has kept."""
        if model.shape != self.array.shape:
            raise LocalError(f"model: expected a vector of {self.layout.size} values, got shape {model.shape}")
        np.copyto(self.array, model)
        for buffer, first in self._first:
            buffer.copy_(first)
        if state is not None:
            for name, buffer in self._kept.items():
                buffer.copy_(torch.from_numpy(np.array(state[name])))
        if self.module.training is not training:
            self.module.train(training)

    def site_state(self) -> SiteState | None:
        """What the site keeps: copies, or None when there is nothing."""
        return {name: buffer.numpy().copy() for name, buffer in self._kept.items()} or None


def layout_of(task: Task, plan: Plan) -> Layout:
    """The layout of the task's update vector."""
    return FlatModel(model_of(task, plan, 0), plan.training.batch_norm).layout


def initial_vector(task: Task, plan: Plan, seed: int) -> F32:
    """The parameters (and averaged buffers) of a new model drawn from `seed`, shape (d,)."""
    return FlatModel(model_of(task, plan, seed), plan.training.batch_norm).array.copy()
