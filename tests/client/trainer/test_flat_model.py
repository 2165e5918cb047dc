import numpy as np
import pytest
import torch
from torch import nn

from tests.sites_of_rows import rows_plan
from wardround.client.trainer.bundle import load_task
from wardround.client.trainer.flat_model import FlatModel, initial_vector, is_stochastic, layout_of
from wardround.errors import LocalError
from wardround.plan_sections import BatchNorm


def _normed() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))


def test_the_vector_is_the_model() -> None:
    flat = FlatModel(_normed(), BatchNorm.AVERAGE)
    rng = np.random.default_rng(0)
    model = rng.random(flat.layout.size).astype(np.float32)
    flat.load(model, None, training=False)
    state = flat.module.state_dict()
    for name, values in flat.layout.split(model).items():
        np.testing.assert_array_equal(state[name].numpy(), values)
    with torch.no_grad():
        flat.module.get_parameter("2.bias").add_(1.0)
    assert (flat.array != model).sum() == 2


def test_averaged_statistics_follow_the_parameters_and_counters_are_left_out() -> None:
    layout = FlatModel(_normed(), BatchNorm.AVERAGE).layout
    assert [tensor.name for tensor in layout.tensors if tensor.buffer] == ["1.running_mean", "1.running_var"]
    assert layout.size == layout.num_parameters + 6


def test_local_statistics_stay_with_the_site() -> None:
    flat = FlatModel(_normed(), BatchNorm.LOCAL)
    assert flat.layout.size == flat.layout.num_parameters
    model = flat.array.copy()
    flat.load(model, None, training=True)
    flat.module(torch.randn(8, 4) + 5)
    state = flat.site_state()
    assert state is not None
    assert sorted(state) == ["1.num_batches_tracked", "1.running_mean", "1.running_var"]
    assert state["1.num_batches_tracked"] == 1 and np.abs(state["1.running_mean"]).max() > 0
    flat.load(model, None, training=True)  # another site: nothing of the first one is left
    fresh = flat.site_state()
    assert fresh is not None and not fresh["1.running_mean"].any() and fresh["1.num_batches_tracked"] == 0
    flat.load(model, state, training=False)
    again = flat.site_state()
    assert again is not None
    for name, values in state.items():
        np.testing.assert_array_equal(again[name], values)


def test_counters_and_other_buffers_start_anew_for_every_site() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(2, 1)
            self.calls: torch.Tensor
            self.register_buffer("calls", torch.zeros(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            return self.linear(x) + self.calls  # type: ignore[no-any-return]

    flat = FlatModel(Counting(), BatchNorm.AVERAGE)
    model = flat.array.copy()
    flat.load(model, None, training=True)
    first = flat.module(torch.ones(1, 2)).detach().clone()
    flat.load(model, None, training=True)
    assert torch.equal(flat.module(torch.ones(1, 2)), first)


def test_a_model_without_state_has_none() -> None:
    assert FlatModel(nn.Linear(2, 2), BatchNorm.LOCAL).site_state() is None


def test_frozen_parameters_travel_and_are_not_trained() -> None:
    module = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    module.get_parameter("0.weight").requires_grad_(False)
    flat = FlatModel(module, BatchNorm.AVERAGE)
    assert flat.layout.size == 6 + 3 + 3 + 1
    assert [tuple(view.shape) for view in flat.trained_views(flat.vector)] == [(3,), (1, 3), (1,)]


@pytest.mark.parametrize(
    ("module", "message"),
    [(nn.Linear(2, 2).double(), "float32 tensors, got torch.float64"), (nn.ReLU(), "at least one parameter")],
)
def test_unusable_models_are_refused(module: nn.Module, message: str) -> None:
    with pytest.raises(LocalError, match=message):
        FlatModel(module, BatchNorm.AVERAGE)


def test_a_model_of_another_size_is_refused() -> None:
    with pytest.raises(LocalError, match=r"a vector of 6 values, got shape \(5,\)"):
        FlatModel(nn.Linear(2, 2), BatchNorm.AVERAGE).load(np.zeros(5, np.float32), None, training=True)


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.1)), True),
        (nn.Dropout(0.0), False),
        (nn.RReLU(), True),
        (nn.LSTM(2, 2, num_layers=2, dropout=0.5), True),
        (nn.MultiheadAttention(4, 2, dropout=0.2), True),
        (nn.Linear(2, 2), False),
    ],
)
def test_models_that_draw_random_numbers(module: nn.Module, expected: bool) -> None:
    assert is_stochastic(module) is expected


def test_initial_vectors_depend_on_the_seed_alone() -> None:
    plan = rows_plan()
    task = load_task(plan)
    before = torch.get_rng_state()
    first = initial_vector(task, plan, 1)
    torch.manual_seed(99)
    assert np.array_equal(initial_vector(task, plan, 1), first)
    assert not np.array_equal(initial_vector(task, plan, 2), first)
    torch.set_rng_state(before)
    initial_vector(task, plan, 3)
    assert torch.equal(torch.get_rng_state(), before)
    assert layout_of(task, plan).size == len(first)
    names = [tensor.name for tensor in layout_of(task, plan).tensors]
    assert names == list(task.model(0).state_dict())
