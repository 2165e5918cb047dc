"""The sum over rows of their clipped gradients, by the fastest of three ways.

All ways end in the same clip. It holds for the numbers that are summed, whatever way they were found: a way that is
wrong about a model gives a worse direction, and never a row more than its clip norm, as long as rows are not mixed.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.func import functional_call, grad, vmap

from wardround.client.trainer.flat_model import FlatModel
from wardround.client.trainer.gradient import gradients_of
from wardround.client.trainer.private_layers import layer_pieces
from wardround.client.trainer.private_pieces import Piece, Values, total_of
from wardround.errors import LocalError
from wardround.plan import Plan
from wardround.plan_privacy import UnitClipping
from wardround.task import Batch, Task

__all__ = ["Mode", "PrivateGradient"]

_HAIR = 1 - 2.0**-18
"""Rows are clipped to so much of the clip norm, so that no rounding of lengths, factors and sums passes the limit."""


class Mode(StrEnum):
    """How the gradients of single rows are found.

    GHOST: one backward pass to the layers' outputs; those of Linear layers are never made (Goodfellow 2015; Li et al.
    2022; Bu et al. 2023). HOOKS: the same with all of them made, by Opacus's formulas. VMAP: `torch.func.vmap` over
    rows, for any model; no row can see another.
    """

    GHOST = "ghost"
    HOOKS = "hooks"
    VMAP = "vmap"
    ALONE = "alone"
    """A forward and a backward pass for each row: for models that no other way is right about."""


class PrivateGradient:
    """The clipped gradients of one model, which only one thread may use at a time.

    A row's gradient is scaled to an L2 norm of at most privacy.clip_norm; with clipping = "per-layer" each of its L
    tensors to at most clip_norm / √L. A row whose gradient is not finite counts as 0. At most so many rows are worked
    on at once that they take about simulation.memory_mib.
    """

    def __init__(self, task: Task, plan: Plan, model: FlatModel) -> None:
        self._task, self.module, self._memory = task, model.module, plan.simulation.memory_mib << 20
        self._named = [(name, tensor) for name, tensor in model.module.named_parameters() if tensor.requires_grad]
        self._trained = tuple(tensor for _, tensor in self._named)
        self.size = sum(tensor.numel() for tensor in self._trained)
        self._per_layer = plan.privacy.clipping is UnitClipping.PER_LAYER
        self.clip_norm = plan.privacy.clip_norm
        self._limit = _HAIR * plan.privacy.clip_norm / (len(self._trained) ** 0.5 if self._per_layer else 1.0)
        self._layers = list(_layers(model.module))
        self._per_row: Callable[..., tuple[Tensor, ...]] = vmap(
            grad(self._loss_of_row), in_dims=(None, 0, 0, 0), randomness="different"
        )
        self._at_once: dict[tuple[torch.Size, Mode], int] = {}

    def views(self, vector: Tensor) -> list[Tensor]:
        """Each trained tensor as a view into `vector`, shape (size,)."""
        parts = torch.split_with_sizes(vector, [tensor.numel() for tensor in self._trained])
        return [part.view(tensor.shape) for part, tensor in zip(parts, self._trained, strict=True)]

    def add_to(
        self, total: Sequence[Tensor], rows: Batch, index: Tensor, shares: Tensor | None, mode: Mode
    ) -> tuple[int, int]:
        """Add the clipped gradients of the rows at `index` to `total`, a tensor for each trained one.

        `shares`, shape (n,), weigh each row's loss before it is clipped. Returns how many rows were longer than the
        clip norm, and how many of those were not finite. Raises whatever the model raises, and ValueError for a model
        that `mode` does not fit.
        """
        if mode is Mode.ALONE:
            batch = Batch(rows.x.index_select(0, index), rows.y.index_select(0, index))
            return self.add_one_by_one(total, batch, None if shares is None else shares.index_select(0, index))
        clipped = wild = 0
        for part in torch.split(index, self.rows_at_once(rows, mode)) if len(index) else ():
            batch = Batch(rows.x.index_select(0, part), rows.y.index_select(0, part))
            weights = torch.ones(len(part)) if shares is None else shares.index_select(0, part)
            longer, endless = self._add_clipped(total, self._pieces(batch, weights, mode), len(part))
            clipped, wild = clipped + longer, wild + endless
        return clipped, wild

    def add_one_by_one(self, total: Sequence[Tensor], rows: Batch, shares: Tensor | None) -> tuple[int, int]:
        """`add_to` of all rows by one forward and backward pass for each: what every way is measured by."""
        clipped = wild = 0
        for at in range(len(rows.y)):
            batch = Batch(rows.x[at : at + 1], rows.y[at : at + 1])
            weights = torch.ones(1) if shares is None else shares[at : at + 1]
            gradients = gradients_of(self._losses(batch), weights, self._trained)
            longer, endless = self._add_clipped(total, [Values(gradient.unsqueeze(0)) for gradient in gradients], 1)
            clipped, wild = clipped + longer, wild + endless
        return clipped, wild

    def length_of(self, row: Batch, share: Tensor) -> tuple[float, bool]:
        """L2 norm of the gradient of one row before it is clipped, and whether it is not finite."""
        gradients = gradients_of(self._losses(row), share, self._trained)
        length = float(torch.stack([gradient.double().norm() for gradient in gradients]).norm())
        return length, not math.isfinite(length)

    @contextmanager
    def clipping_at(self, limit: float) -> Iterator[None]:
        """With another clip norm, over all tensors, for comparing ways."""
        before = self._limit, self._per_layer
        self._limit, self._per_layer = limit, False
        try:
            yield
        finally:
            self._limit, self._per_layer = before

    def can_vmap(self, rows: Batch, shares: Tensor | None) -> bool:
        """Whether torch.vmap takes the model."""
        total = torch.zeros(self.size, dtype=torch.float64)
        try:
            self.add_to(self.views(total), rows, torch.zeros(1, dtype=torch.int64), shares, Mode.VMAP)
        except Exception:  # what a user's layers cannot do
            return False
        return True

    def _losses(self, batch: Batch) -> Tensor:
        return self._task.loss(self.module(batch.x), batch)

    @torch.no_grad()
    def _add_clipped(self, total: Sequence[Tensor], pieces: Sequence[Piece | None], n: int) -> tuple[int, int]:
        zero = torch.zeros(n, dtype=torch.float64)
        norms = torch.stack([zero if piece is None else piece.norms() for piece in pieces])
        if not self._per_layer:
            norms = torch.linalg.vector_norm(norms, dim=0, keepdim=True)
        factors = (self._limit / norms).clamp(max=1.0)
        wild = ~torch.isfinite(norms).all(dim=0)  # a NaN passes every comparison, and 0 x inf is NaN: take them out
        if num_wild := int(wild.sum()):
            factors = factors.masked_fill(wild, 0.0)
            pieces = [None if piece is None else piece.without(wild) for piece in pieces]
        for into, piece, factor in zip(total, pieces, factors.expand(len(pieces), n), strict=True):
            if piece is not None:
                piece.add_to(into, factor)
        return int((factors < 1).any(dim=0).sum()), num_wild

    def _pieces(self, batch: Batch, shares: Tensor, mode: Mode) -> list[Piece | None]:
        """The gradients of each trained tensor; None where the loss does not depend on it."""
        if mode is Mode.VMAP:
            tensors = tuple(tensor.detach() for tensor in self._trained)
            return [Values(values) for values in self._per_row(tensors, batch.x, batch.y, shares)]
        found: dict[Tensor, Piece] = {}
        for layer, x, gradient in self._backward(batch, shares):
            if gradient is None:
                continue
            for parameter, piece in layer_pieces(layer, x, gradient, len(shares), ghost=mode is Mode.GHOST).items():
                found[parameter] = total_of(found[parameter], piece) if parameter in found else piece
        return [found.get(tensor) for tensor in self._trained]

    def _backward(self, batch: Batch, shares: Tensor) -> list[tuple[nn.Module, Tensor, Tensor | None]]:
        """Each call of a layer with parameters: its input and its output's gradient, of one pass over all rows."""
        calls: list[tuple[nn.Module, Tensor, GradientEdge]] = []

        def note(layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            if len(inputs) != 1 or not isinstance(output, Tensor):
                raise ValueError(f"{type(layer).__name__} takes or gives more than one tensor")
            # the edge, not the tensor, which an operation in place may turn into another
            calls.append((layer, inputs[0].detach(), get_gradient_edge(output)))

        handles = [layer.register_forward_hook(note) for layer in self._layers]
        try:
            losses = self._losses(batch)
        finally:
            for handle in handles:
                handle.remove()
        called = {layer for layer, _, _ in calls}
        if missed := [layer for layer in self._layers if layer not in called]:
            raise ValueError(f"the parameters of a {type(missed[0]).__name__} are used outside of it")
        if losses.shape != shares.shape:
            got = f"shape {tuple(shares.shape)}, got {tuple(losses.shape)}"
            raise LocalError(f"task: expected a loss for each row, {got}")
        engine: Any = torch.autograd.Variable._execution_engine  # as in `gradients_of`
        edges = tuple(edge for _, _, edge in calls)
        gradients = engine.run_backward((losses,), (shares,), False, False, edges, True, accumulate_grad=False)
        return [(layer, x, gradient) for (layer, x, _), gradient in zip(calls, gradients, strict=True)]

    def _loss_of_row(self, tensors: tuple[Tensor, ...], x: Tensor, y: Tensor, share: Tensor) -> Tensor:
        named = {name: tensor for (name, _), tensor in zip(self._named, tensors, strict=True)}
        batch = Batch(x.unsqueeze(0), y.unsqueeze(0))
        losses = self._task.loss(functional_call(self.module, named, (batch.x,)), batch)
        if losses.shape != (1,):
            raise LocalError(f"task: expected a loss for each row, shape (1,), got {tuple(losses.shape)}")
        return losses[0] * share

    def rows_at_once(self, rows: Batch, mode: Mode) -> int:
        """How many rows `mode` works on at once: estimated from what is made of one, at least 1."""
        shape = rows.x.shape[1:]
        if (shape, mode) not in self._at_once:
            made = sum(
                tensor.numel()
                for layer in self._layers
                for tensor in layer.parameters()
                if not (mode is Mode.GHOST and type(layer) is nn.Linear and tensor.dim() > 1)
            )
            self._at_once[shape, mode] = max(1, self._memory // (4 * (2 * made + 4 * self._count(rows.x[:1]))))
        return self._at_once[shape, mode]

    def _count(self, x: Tensor) -> int:
        """Numbers that the layers give for one row `x`, and that a convolution's input is unfolded to."""
        count = x.numel()

        def note(layer: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            nonlocal count
            for tensor in (output,) if isinstance(output, Tensor) else ():
                kernel = getattr(layer, "kernel_size", 1)
                sides = kernel if isinstance(kernel, tuple) else (kernel,)
                unfolded = torch.Size(sides).numel() if list(layer.parameters(recurse=False)) else 1
                count += tensor.numel() + unfolded * sum(part.numel() for part in inputs if isinstance(part, Tensor))

        leaves = [part for part in self.module.modules() if not list(part.children())]
        handles = [leaf.register_forward_hook(note) for leaf in leaves]
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                self.module(x)
        finally:
            for handle in handles:
                handle.remove()
        return count


def _layers(module: nn.Module) -> Iterator[nn.Module]:
    """The modules that have trained parameters of their own; what is inside of one belongs to it."""
    inner = {id(parameter) for child in module.children() for parameter in child.parameters()}
    if any(parameter.requires_grad and id(parameter) not in inner for parameter in module.parameters(recurse=False)):
        yield module
        return
    for child in module.children():
        yield from _layers(child)
