from typing import Any

import pytest
import torch
from torch import nn

from tests.sites_of_rows import rows_plan
from wardround.client.trainer.bundle import load_task
from wardround.plan import Plan, PlanError


def _plan(shape: list[int] | None, **options: Any) -> Plan:
    data = {} if shape is None else {"image": {"shape": shape}}
    return rows_plan(task={"name": "image-classifier", "options": options}, data=data)


@pytest.mark.parametrize("shape", [[1, 8, 8], [3, 32, 32], [2, 28, 20]])
@pytest.mark.parametrize("options", [{}, {"norm": False}, {"padding": 0, "pools": 1}, {"kernel": 5, "padding": 2}])
def test_images_of_many_sizes(shape: list[int], options: dict[str, Any]) -> None:
    task = load_task(_plan(shape, **options))
    module = task.model(0)
    assert module(torch.zeros(2, *shape)).shape == (2, 3)
    assert any(isinstance(part, nn.GroupNorm) for part in module.modules()) is options.get("norm", True)
    assert list(task.output_names()) == ["probability_a", "probability_b", "probability_c"]


def test_linear_is_one_layer_for_images_of_any_size() -> None:
    plan = rows_plan(task={"name": "image-classifier", "model": "linear"}, data={"image": {"shape": [1, 2, 3]}})
    module = load_task(plan).model(0)
    assert module(torch.zeros(5, 1, 2, 3)).shape == (5, 3)
    assert [tuple(parameter.shape) for parameter in module.parameters()] == [(3, 6), (3,)]
    again = load_task(plan).model(0)
    assert all(map(torch.equal, module.parameters(), again.parameters()))
    with pytest.raises(PlanError, match=r"task\.options\.width"):
        load_task(plan.override(["task.options.width=8"]))


def test_the_benchmarks_network_has_the_parameters_that_its_docstring_says() -> None:
    target = {"target": {"name": "y", "classes": [str(label) for label in range(10)]}}
    section = {"name": "image-classifier", "options": {"norm": False, "padding": 0, "pools": 1}}
    plan = rows_plan(task=section, data={"image": {"shape": [3, 32, 32]}, **target})
    module = load_task(plan).model(0)
    assert sum(parameter.numel() for parameter in module.parameters()) == 1_626_442
    assert [type(part).__name__ for part in module.children()] == [
        "Conv2d", "ReLU", "Conv2d", "ReLU", "MaxPool2d", "Flatten", "Linear", "ReLU", "Linear",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("shape", "options", "path"),
    [
        (None, {}, "data.image"),
        ([1, 3, 3], {}, "data.image.shape"),
        ([1, 8, 8], {"kernl": 5}, "task.options.kernl"),
        ([1, 8, 8], {"norm": 1}, "task.options.norm"),
        ([1, 8, 8], {"kernel": 0}, "task.options.kernel"),
        ([1, 8, 8], {"width": 12}, "task.options.width"),
        ([1, 8, 8], {"pools": 3}, "task.options.pools"),
    ],
)
def test_what_does_not_fit_is_refused(shape: list[int] | None, options: dict[str, Any], path: str) -> None:
    with pytest.raises(PlanError) as caught:
        load_task(_plan(shape, **options))
    assert caught.value.path == path
