"""One thread's place to train in: a model in flat buffers, reused by every job and every site."""

from contextlib import ExitStack

import numpy as np
import torch
from torch import Tensor

from wardround.client.trainer.batches import Batches, seed_array
from wardround.client.trainer.flat_model import FlatModel, SiteState
from wardround.client.trainer.gradient import gradients_of
from wardround.client.trainer.local_optimizer import num_moments, optimizer_step
from wardround.client.trainer.private_model import model_of
from wardround.plan import Plan
from wardround.task import Batch, Task
from wardround.vector import F32

__all__ = ["Workspace"]

_GATHERED_BYTES = 32 << 20
"""Batches are gathered for many steps in one go, up to this size."""
_SCORED_BYTES = 1 << 20
"""Rows are scored in pieces of this size: a convolution's activations are many times as large."""


class Workspace:
    """Trains and scores one site at a time; not for two threads at once.

    Training is deterministic for a seed. A model with dropout draws from torch's global generator, which is
    seeded for the job and restored afterwards: only one thread of a process may train such a model.
    """

    def __init__(self, task: Task, plan: Plan) -> None:
        self.task, self.plan = task, plan
        self.model = FlatModel(model_of(task, plan, 0), plan.training.batch_norm)
        self._parameters = self.model.trained_views(self.model.vector)
        self._state = torch.zeros(num_moments(plan.training), self.model.layout.size)
        self._moments = [self.model.trained_views(row) for row in self._state]
        self._global, self._drift = torch.empty(2, self.model.layout.size)
        self._drifts = self.model.trained_views(self._drift)
        self._means: dict[int, Tensor] = {}

    def train(
        self,
        rows: Batch,
        weights: Tensor | None,
        batches: Batches,
        model: F32,
        *,
        seed: int,
        lr: float,
        state: SiteState | None = None,
    ) -> float:
        """Train `self.model` from `model` on `rows`; the sum of the loss of every row that was used.

        `weights`, shape (n,), weigh the rows in a batch's mean. The loss is not weighted and has no proximal term.
        """
        self.model.load(model, state, training=True)
        self._state.zero_()
        if self.plan.training.proximal_mu:
            self._global.copy_(self.model.vector)
        with ExitStack() as stack:
            if self.model.is_stochastic:
                stack.enter_context(torch.random.fork_rng(devices=[]))
                torch.manual_seed(seed)
            return self._train(rows, weights, batches, seed, lr)

    def _train(self, rows: Batch, weights: Tensor | None, batches: Batches, seed: int, lr: float) -> float:
        module, task, trained = self.model.module, self.task, tuple(self.model.trained)
        seeds = seed_array(seed)
        at_once = max(1, _GATHERED_BYTES // max(1, batches.batch_size * rows.x[0].nbytes))
        total = 0.0
        for start in range(0, batches.steps, at_once):
            stop = min(start + at_once, batches.steps)
            index = torch.from_numpy(batches.index(seeds, start, stop).reshape(-1))
            x, y = self._gather(rows.x, index, batches), self._gather(rows.y, index, batches)
            w = None if weights is None else self._gather(weights, index, batches)
            seen = []
            for at, size in enumerate(batches.sizes(start, stop).tolist()):
                batch = Batch(x[at], y[at]) if size == batches.batch_size else Batch(x[at][:size], y[at][:size])
                losses = task.loss(module(batch.x), batch)
                share = self._mean(size) if w is None else w[at][:size] / w[at][:size].sum()
                self._step(lr, start + at + 1, gradients_of(losses, share, trained))
                seen.append(losses.detach())
            total += float(torch.cat(seen).sum(dtype=torch.float64))
        return total

    def _step(self, lr: float, step: int, gradients: tuple[Tensor, ...]) -> None:
        training = self.plan.training
        if training.proximal_mu:  # Li et al. 2020, the gradient of ½ mu ‖w − w_global‖²
            torch.sub(self.model.vector, self._global, out=self._drift)
            gradients = torch._foreach_add(gradients, self._drifts, alpha=training.proximal_mu)
        if training.gradient_clip_norm is not None:
            norm = torch.stack(torch._foreach_norm(gradients)).norm()
            gradients = torch._foreach_mul(gradients, (training.gradient_clip_norm / norm).clamp(max=1.0))
        optimizer_step(training, lr, step, self._parameters, gradients, self._moments)

    def _mean(self, size: int) -> Tensor:
        """The weights of a plain mean over `size` rows."""
        if size not in self._means:
            self._means[size] = torch.full((size,), 1.0 / size)
        return self._means[size]

    @staticmethod
    def _gather(values: Tensor, index: Tensor, batches: Batches) -> tuple[Tensor, ...]:
        return values.index_select(0, index).reshape(-1, batches.batch_size, *values.shape[1:]).unbind(0)

    def outputs(self, x: Tensor) -> list[Tensor]:
        """The loaded model's outputs for rows `x`, in order, in pieces."""
        at_once = max(1, min(1024, _SCORED_BYTES * len(x) // max(1, x.nbytes)))
        with torch.inference_mode():
            return [self.model.module(part) for part in torch.split(x, at_once)]

    def update(self, model: F32, out: F32) -> F32:
        """The trained vector − `model`, into `out`; all of shape (d,)."""
        return np.subtract(self.model.array, model, out=out)
