"""Server optimisers: how the averaged update changes the model.

Source: Reddi et al. 2021, "Adaptive Federated Optimization" (arXiv 2003.00295), Algorithm 2; FedAvgM: Hsu et
al. 2019 (arXiv 1909.06335), Section 4.1. As in Algorithm 2 there is no bias correction and v starts at tau².
"""

from dataclasses import dataclass

import numpy as np

from wardround.plan_sections import ServerOptimizer, ServerOptimizerName
from wardround.vector import F32, F64

__all__ = ["ServerStep"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerStep:
    """One server optimiser. Its memory is a dict of float64 vectors, which the caller keeps.

    The model's first `num_parameters` values are optimised; the rest are buffers (running statistics), which
    become the average of what the sites have.
    """

    settings: ServerOptimizer
    num_parameters: int

    def apply(self, model: F32, update: F32, memory: dict[str, F64]) -> tuple[F32, dict[str, F64]]:
        """The next model and memory; neither argument is changed. All vectors have shape (d,).

        The model may be non-finite: the caller checks.
        """
        delta = update[: self.num_parameters].astype(np.float64)
        step, memory = self._step(delta, memory)
        parameters = model[: self.num_parameters] + self.settings.lr * step
        buffers = model[self.num_parameters :].astype(np.float64) + update[self.num_parameters :]
        with np.errstate(over="ignore"):  # what overflows is infinite, which the caller refuses
            return np.concatenate((parameters, buffers)).astype(np.float32), memory

    def _step(self, delta: F64, memory: dict[str, F64]) -> tuple[F64, dict[str, F64]]:
        settings = self.settings
        if settings.name is ServerOptimizerName.FEDAVG:
            return delta, {}
        if settings.name is ServerOptimizerName.FEDAVGM:
            momentum = settings.momentum * memory.get("momentum", np.zeros_like(delta)) + delta
            return momentum, {"momentum": momentum}
        first = settings.beta1 * memory.get("first", np.zeros_like(delta)) + (1 - settings.beta1) * delta
        second = memory.get("second", np.full_like(delta, settings.tau**2))
        square = delta**2
        if settings.name is ServerOptimizerName.FEDADAGRAD:
            second = second + square
        elif settings.name is ServerOptimizerName.FEDYOGI:
            second = second - (1 - settings.beta2) * square * np.sign(second - square)
        else:
            second = settings.beta2 * second + (1 - settings.beta2) * square
        return first / (np.sqrt(second) + settings.tau), {"first": first, "second": second}
