"""Networks with a parabola for ReLU: the arithmetic, where it may stand, and that every executor trains them."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.sites_of_rows import INPUTS, rows_plan
from wardround.client.trainer.bundle import load_task
from wardround.client.trainer.tasks.tabular import Quadratic
from wardround.plan import Plan, PlanError
from wardround.simulations.executors.stacked_gradient import Chain


def quadratic(**task: Any) -> Plan:
    options = {"inputs": INPUTS, "quadratic": True}
    return rows_plan(task={"name": "tabular-classifier", "hidden": [5], "options": options, **task})


def test_the_parabola() -> None:
    x = torch.linspace(-6, 6, 101, dtype=torch.float64)
    torch.testing.assert_close(Quadratic()(x), x**2 / 8 + x / 2 + 0.25)
    near = torch.linspace(-4, 4, 101)
    assert (Quadratic()(near) - near.relu()).abs().max() <= 0.2501


def test_it_takes_the_place_of_relu_between_the_same_layers() -> None:
    with_relu = rows_plan(task={"name": "tabular-classifier", "hidden": [5], "options": {"inputs": INPUTS}})
    one, other = load_task(quadratic()).model(3), load_task(with_relu).model(3)
    assert {name: tuple(p.shape) for name, p in one.named_parameters()} == {
        name: tuple(p.shape) for name, p in other.named_parameters()
    }
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(9, INPUTS)).astype(np.float32))
    parts = dict(one.named_children())
    hidden = parts["hidden1"](x)
    torch.testing.assert_close(one(x), parts["output"](hidden**2 / 8 + hidden / 2 + 0.25))
    torch.testing.assert_close(other(x), nn.functional.linear(hidden.relu(), *parts["output"].parameters()))


def test_blocks_do_not_take_it_for_relu() -> None:
    task = load_task(quadratic())
    assert Chain.of(task, task.model(0)) is None


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ({"model": "logistic"}, "expected false, since 'logistic' has no hidden layers"),
        ({"options": {"inputs": INPUTS, "quadratic": 1}}, "expected true or false"),
    ],
)
def test_where_it_has_no_place_it_is_refused(task: dict[str, Any], words: str) -> None:
    with pytest.raises(PlanError, match=f"task.options.quadratic: {words}"):
        load_task(quadratic(**task))
