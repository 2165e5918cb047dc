"""What all regressors share: the squared error of targets scaled to [0, 1], and its tally."""

from abc import ABC, abstractmethod

import numpy as np
from torch import Tensor, nn

from wardround.plan import Plan, PlanError
from wardround.tally import RegressionSpec, Tally, fixed_point
from wardround.task import Batch

__all__ = ["Regression"]


class Regression(ABC):
    """Outputs are predictions of the scaled target, shape (n, 1). Raises PlanError when it has no range."""

    def __init__(self, plan: Plan) -> None:
        target = plan.data.target
        if target is None or target.range is None:
            raise PlanError("data.target", "a target with a range, since the task is a regressor")
        self.name = target.name
        self.low, self.high = target.range

    @abstractmethod
    def model(self, seed: int) -> nn.Module: ...

    @property
    def tally_spec(self) -> RegressionSpec:
        return RegressionSpec(low=self.low, high=self.high)

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """½ (output − target)², shape (n,)."""
        return 0.5 * (outputs.squeeze(-1) - batch.y).square()

    def tally(self, outputs: Tensor, batch: Batch) -> Tally:
        """Sums in the plan of `RegressionSpec`."""
        y = batch.y.double().numpy()
        error = outputs.detach().double().squeeze(-1).numpy() - y
        square = error @ error
        sums = (square / 2, error.sum(), np.abs(error).sum(), square, y.sum(), y @ y)
        return Tally(self.tally_spec, np.array([len(y), *(fixed_point(float(s)) for s in sums)], dtype=np.int64))

    def predict(self, outputs: Tensor) -> Tensor:
        """Values in the target's unit, shape (n, 1)."""
        return self.low + outputs * (self.high - self.low)

    def output_names(self) -> tuple[str, ...]:
        return (self.name,)
