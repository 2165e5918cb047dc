"""Tasks on columns: `tabular-classifier` and `tabular-regressor`."""

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from wardround.client.trainer.tasks.classification import Classification
from wardround.client.trainer.tasks.options import architecture, options
from wardround.client.trainer.tasks.regression import Regression
from wardround.plan import Plan, PlanError

__all__ = ["Quadratic", "TabularClassifier", "TabularRegressor"]

_OPTIONS = {"inputs": 0, "quadratic": False}


class Quadratic(nn.Module):
    """x²/8 + x/2 + 1/4: a parabola near ReLU from −4 to 4, which can be evaluated on encrypted numbers."""

    def forward(self, x: Tensor) -> Tensor:
        return 0.125 * (x + 2).square() - 0.25


def _inputs(plan: Plan) -> int:
    """Width of the input: of the plan's columns, or `task.options.inputs` for arrays without columns."""
    given = options(plan, _OPTIONS)["inputs"]
    if plan.data.num_inputs and given not in (0, plan.data.num_inputs):
        raise PlanError("task.options.inputs", f"the {plan.data.num_inputs} inputs of data.columns, or nothing", given)
    width = plan.data.num_inputs or given
    if width < 1:
        raise PlanError("task.options.inputs", "the number of inputs, since the plan has no data.columns")
    return width


def _hidden(plan: Plan, linear: str) -> tuple[tuple[int, ...], bool]:
    """Widths of the hidden layers, and whether Quadratic takes ReLU's place; `linear` is the model without any."""
    deep, quadratic = architecture(plan, ("mlp", linear)) == "mlp", bool(options(plan, _OPTIONS)["quadratic"])
    if quadratic and not deep:
        raise PlanError("task.options.quadratic", f"false, since {linear!r} has no hidden layers", True)
    return plan.task.hidden if deep else (), quadratic


def _network(seed: int, widths: Sequence[int], quadratic: bool) -> nn.Module:
    """Linear layers with ReLU, or Quadratic, between them; `widths` from input to output."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for place, (width, following) in enumerate(pairwise(widths[:-1]), start=1):
            layers[f"hidden{place}"] = nn.Linear(width, following)
            layers[f"quadratic{place}" if quadratic else f"relu{place}"] = Quadratic() if quadratic else nn.ReLU()
        layers["output"] = nn.Linear(widths[-2], widths[-1])
    return nn.Sequential(layers)


class TabularClassifier(Classification):
    """`mlp` (`task.hidden` layers with ReLU) or `logistic` (one linear layer) on columns, with cross-entropy.

    With `task.options.quadratic`, `mlp` has Quadratic for ReLU.
    """

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        hidden, self._quadratic = _hidden(plan, "logistic")
        self._widths = (_inputs(plan), *hidden, len(self.labels))

    def model(self, seed: int) -> nn.Module:
        """A new network, its parameters drawn from `seed`."""
        return _network(seed, self._widths, self._quadratic)


class TabularRegressor(Regression):
    """`mlp` (`task.hidden` layers with ReLU) or `linear` (one linear layer) on columns, with the squared error.

    With `task.options.quadratic`, `mlp` has Quadratic for ReLU.
    """

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        hidden, self._quadratic = _hidden(plan, "linear")
        self._widths = (_inputs(plan), *hidden, 1)

    def model(self, seed: int) -> nn.Module:
        """A new network, its parameters drawn from `seed`."""
        return _network(seed, self._widths, self._quadratic)
