"""One thread's place to train in with DP-SGD."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from wardround.client.trainer.private_gradient import Mode, PrivateGradient
from wardround.client.trainer.private_mode import ModeChoice
from wardround.client.trainer.private_sample import Units
from wardround.client.trainer.workspace import Workspace
from wardround.decoding import PlanError
from wardround.plan import Plan
from wardround.strategies.privacy.secure_random import SecureRandom
from wardround.strategies.privacy.terms import Terms
from wardround.task import Batch, Task
from wardround.vector import F32

__all__ = ["PrivateWorkspace", "Trained"]

_STATE_AT, _STATE_WORDS = 24, 624
"""Where torch's Mersenne Twister keeps its state, a word in 8 bytes each."""


@dataclass(frozen=True, slots=True)
class Trained:
    """What became of one training, for the site alone; none of it is private.

    The mode; the share of drawn rows that were clipped, None when none was drawn; the expected norm of the noise over
    that of the clipped sums (root mean square over the steps), None when all were 0.
    """

    mode: Mode
    clipped_share: float | None
    noise_to_signal: float | None


class PrivateWorkspace(Workspace):
    """A workspace that sums clipped gradients and adds noise; not for two threads at once.

    Source: Abadi et al. 2016, "Deep Learning with Differential Privacy", Algorithm 1, with Poisson samples divided by
    their expected size. Sampling and noise are `random`'s, never a seed's.
    """

    def __init__(self, task: Task, plan: Plan) -> None:
        super().__init__(task, plan)
        self.gradient = PrivateGradient(task, plan, self.model)
        self._mode = ModeChoice(self.gradient)
        self._sum = torch.zeros(self.gradient.size, dtype=torch.float64)
        self._mean_gradient = torch.zeros(self.gradient.size)
        self._sums, self._gradients = self.gradient.views(self._sum), tuple(self.gradient.views(self._mean_gradient))
        self._buffers = [(name, buffer, buffer.clone()) for name, buffer in self.model.module.named_buffers()]

    def train_privately(
        self,
        rows: Batch,
        weights: Tensor | None,
        units: Units,
        terms: Terms,
        model: F32,
        *,
        random: SecureRandom,
        lr: float,
        mode: Mode | None = None,
    ) -> Trained:
        """Train `self.model` from `model`, shape (d,), for `terms.steps` noisy steps on `rows`.

        `weights`, shape (n,), weigh the rows' losses before their gradients are clipped.
        Raises PlanError for a model that keeps something of the rows it has seen; nothing of it must be released.
        """
        self.model.load(model, None, training=True)
        self._state.zero_()
        if self.plan.training.proximal_mu:
            self._global.copy_(self.model.vector)
        with torch.random.fork_rng(devices=[]):
            if mode is None:
                mode = self._mode(rows, weights, max(1, round(terms.rate * len(rows.y))))
            clipped, drawn, signal = 0, 0, 0.0
            for step in range(1, terms.steps + 1):
                _draw_in_secret(random)
                index = torch.from_numpy(units.draw(terms, random))
                self._sum.zero_()
                clipped += self.gradient.add_to(self._sums, rows, index, weights, mode)[0]
                drawn += len(index)
                signal += float(self._sum.square().sum())
                self._add_noise(terms, random)
                self._step(lr, step, self._gradients)
        for name, buffer, first in self._buffers:
            if not torch.equal(buffer, first):
                where = type(self.model.module.get_submodule(name.rpartition(".")[0])).__name__
                raise PlanError("task.model", "layers that keep nothing of the rows they have seen", f"{name}: {where}")
        noise = terms.noise_std * (terms.steps * self.gradient.size) ** 0.5
        return Trained(mode, clipped / drawn if drawn else None, noise / signal**0.5 if signal else None)

    def _add_noise(self, terms: Terms, random: SecureRandom) -> None:
        """The noisy sum over the expected batch, into the mean gradient; also when no row was drawn."""
        noise = torch.from_numpy(random.normal(self.gradient.size))
        noise.mul_(terms.noise_std).add_(self._sum).div_(terms.drawn)
        self._mean_gradient.copy_(noise)


def _draw_in_secret(random: SecureRandom) -> None:
    """Give torch's generator a state of which nobody knows a bit: seeds have 32 of them, which can be tried.

    Whoever knew what a model draws (dropout, noise of its own) by a row's place in its batch would see one row more
    move all others.
    """
    torch.manual_seed(0)  # sets the generator to its beginning
    state = torch.get_rng_state()
    words = (random.words(_STATE_WORDS) & np.uint64(0xFFFFFFFF)).astype("<u8")
    state.numpy()[_STATE_AT : _STATE_AT + 8 * _STATE_WORDS] = words.view(np.uint8)
    torch.set_rng_state(state)
