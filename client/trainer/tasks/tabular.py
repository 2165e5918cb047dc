"""Tasks on columns: `tabular-classifier` and `tabular-regressor`."""

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

from wardround.client.trainer.tasks.classification import Classification
from wardround.client.trainer.tasks.options import architecture, options
from wardround.client.trainer.tasks.regression import Regression
from wardround.plan import Plan, PlanError

__all__ = ["TabularClassifier", "TabularRegressor"]


def _inputs(plan: Plan) -> int:
    """Width of the input: of the plan's columns, or `task.options.inputs` for arrays without columns."""
    given = options(plan, {"inputs": 0})["inputs"]
    if plan.data.num_inputs and given not in (0, plan.data.num_inputs):
        raise PlanError("task.options.inputs", f"the {plan.data.num_inputs} inputs of data.columns, or nothing", given)
    width = plan.data.num_inputs or given
    if width < 1:
        raise PlanError("task.options.inputs", "the number of inputs, since the plan has no data.columns")
    return width


def _network(seed: int, widths: Sequence[int]) -> nn.Module:
    """Linear layers with ReLU between them; `widths` from input to output."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for place, (width, following) in enumerate(pairwise(widths[:-1]), start=1):
            layers[f"hidden{place}"] = nn.Linear(width, following)
            layers[f"relu{place}"] = nn.ReLU()
        layers["output"] = nn.Linear(widths[-2], widths[-1])
    return nn.Sequential(layers)


class TabularClassifier(Classification):
    """`mlp` (`task.hidden` layers with ReLU) or `logistic` (one linear layer) on columns, with cross-entropy."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        hidden = plan.task.hidden if architecture(plan, ("mlp", "logistic")) == "mlp" else ()
        self._widths = (_inputs(plan), *hidden, len(self.labels))

    def model(self, seed: int) -> nn.Module:
        """A new network, its parameters drawn from `seed`."""
        return _network(seed, self._widths)


class TabularRegressor(Regression):
    """`mlp` (`task.hidden` layers with ReLU) or `linear` (one linear layer) on columns, with the squared error."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        hidden = plan.task.hidden if architecture(plan, ("mlp", "linear")) == "mlp" else ()
        self._widths = (_inputs(plan), *hidden, 1)

    def model(self, seed: int) -> nn.Module:
        """A new network, its parameters drawn from `seed`."""
        return _network(seed, self._widths)
