"""A task of one's own: the value that the target stays below in a given share of patients (quantile regression).

Loss: R. Koenker, G. Bassett, "Regression quantiles", Econometrica 46 (1978).
"""

import torch
from network import small_network
from torch import Tensor, nn

from wardround.plan import Plan, PlanError
from wardround.tally import MeansSpec, Tally
from wardround.task import Batch


class QuantileRegressor:
    """Reads `task.options.quantile`. Outputs are the quantile of the target scaled to [0, 1], shape (n, 1)."""

    def __init__(self, plan: Plan) -> None:
        target, quantile = plan.data.target, plan.task.options.get("quantile")
        if target is None or target.range is None:
            raise PlanError("data.target", "a target with a range")
        if not isinstance(quantile, float) or not 0 < quantile < 1:
            raise PlanError("task.options.quantile", "a number between 0 and 1", quantile)
        self.quantile, self.inputs = quantile, plan.data.num_inputs
        self.name, (self.low, self.high) = target.name, target.range

    @property
    def tally_spec(self) -> MeansSpec:
        return MeansSpec(names=("coverage", "loss"))

    def model(self, seed: int) -> nn.Module:
        return small_network(self.inputs, seed)

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        error = batch.y - outputs.squeeze(-1)
        return torch.maximum(self.quantile * error, (self.quantile - 1) * error)

    def tally(self, outputs: Tensor, batch: Batch) -> Tally:
        covered = (batch.y <= outputs.squeeze(-1)).sum().item()
        return Tally.of_means(len(batch.y), {"coverage": covered, "loss": float(self.loss(outputs, batch).sum())})

    def predict(self, outputs: Tensor) -> Tensor:
        return self.low + outputs * (self.high - self.low)

    def output_names(self) -> tuple[str, ...]:
        return (f"{self.name}, {self.quantile:.0%} quantile",)
