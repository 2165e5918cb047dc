import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus.layers import DPLSTM
from torch import Tensor, nn

from tests.private_rows import batch_of, clipped, gradients_one_by_one, private_plan
from tests.sites_of_rows import INPUTS, rows_of
from wardround.client.trainer.bundle import load_task
from wardround.client.trainer.flat_model import FlatModel
from wardround.client.trainer.private_gradient import Mode, PrivateGradient
from wardround.client.trainer.private_pieces import Values
from wardround.errors import LocalError
from wardround.plan import Plan
from wardround.plan_privacy import UnitClipping
from wardround.plan_sections import BatchNorm
from wardround.task import Batch, Task
from wardround.vector import F64

CLIP = 0.5


class Custom:
    """A task with another model, of outputs (n, ...) that are summed up to a loss of each row."""

    def __init__(self, model: Callable[[], nn.Module]) -> None:
        self._model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(load_task(private_plan()), name)

    def model(self, seed: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self._model()

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        return (outputs.flatten(1) * torch.linspace(-1, 1, outputs[0].numel())).sum(1).sin() + batch.y


def _gradient(task: Task, plan: Plan, seed: int = 0) -> PrivateGradient:
    model = FlatModel(task.model(seed), BatchNorm.AVERAGE)
    model.module.train()
    return PrivateGradient(task, plan, model)


def _sum(gradient: PrivateGradient, rows: Batch, mode: Mode, shares: Tensor | None = None) -> F64:
    total = torch.zeros(gradient.size, dtype=torch.float64)
    gradient.add_to(gradient.views(total), rows, torch.arange(len(rows.y)), shares, mode)
    return total.double().numpy()


LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(6, 3), (6,)),
    "linear without bias": (lambda: nn.Linear(6, 3, bias=False), (6,)),
    "linear on positions": (lambda: nn.Linear(6, 3), (4, 6)),
    "linear on a grid": (lambda: nn.Linear(6, 3), (2, 4, 6)),
    "in place": (lambda: nn.Sequential(nn.Linear(6, 5), nn.ReLU(inplace=True), nn.Linear(5, 3)), (6,)),
    "conv1d": (lambda: nn.Conv1d(2, 4, 3, padding=1, stride=2), (2, 9)),
    "conv2d": (lambda: nn.Conv2d(2, 4, 3, padding=1), (2, 5, 4)),
    "conv2d large": (lambda: nn.Conv2d(4, 6, (3, 2), padding=(2, 1), stride=(1, 2), dilation=2, groups=2), (4, 12, 19)),
    "conv2d large without bias": (lambda: nn.Conv2d(2, 3, 3, bias=False), (2, 10, 10)),
    "conv2d same": (lambda: nn.Conv2d(2, 3, 3, padding="same"), (2, 9, 9)),
    "conv2d circular": (lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"), (2, 9, 9)),
    "conv3d": (lambda: nn.Conv3d(2, 3, 2, padding=1), (2, 3, 4, 3)),
    "transposed": (lambda: nn.ConvTranspose2d(2, 3, 3), (2, 4, 4)),
    "group norm": (lambda: nn.Sequential(nn.Conv2d(2, 8, 1), nn.GroupNorm(2, 8)), (2, 3, 3)),
    "instance norm": (lambda: nn.Sequential(nn.Conv2d(2, 8, 1), nn.InstanceNorm2d(8, affine=True)), (2, 3, 3)),
    "layer norm": (lambda: nn.Sequential(nn.Linear(6, 4), nn.LayerNorm(4)), (6,)),
    "layer norm without bias": (lambda: nn.Sequential(nn.Linear(6, 4), nn.LayerNorm(4, bias=False)), (6,)),
    "prelu": (lambda: nn.Sequential(nn.Linear(6, 4), nn.PReLU(4)), (6,)),
    "frozen": (lambda: _frozen(), (6,)),
    "twice": (lambda: _Twice(), (6,)),
    "unused": (lambda: _Unused(), (6,)),
    "own": (lambda: _Own(), (6,)),
    "lstm": (lambda: _Recurrent(), (5, 6)),
}
ONLY_VMAP = {"functional": (lambda: _Functional(), (6,)), "pair": (lambda: _Pair(), (6,))}


def _frozen() -> nn.Module:
    module = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4), nn.Linear(4, 3))
    module[0].requires_grad_(False)
    module[2].bias.requires_grad_(False)
    return module


class _Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.layer(torch.tanh(self.layer(x))))


class _Unused(_Twice):
    """A layer whose outputs have no part in the loss."""

    def forward(self, x: Tensor) -> Tensor:
        self.layer(x)
        return torch.as_tensor(self.other(x))

    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Linear(6, 2)


class _Own(nn.Module):
    """Parameters of its own beside a layer's."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(6, 4), _Scale())

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.inner(x))


class _Scale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(4))
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * torch.tanh(self.layer(x))


class _Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = DPLSTM(6, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.lstm(x)[0])


class _Functional(nn.Module):
    """The layer itself is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.layer.weight, self.layer.bias)


class _Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Bilinear(6, 6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.layer(x, x.flip(1)))


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("kind", [*LAYERS, *ONLY_VMAP])
def test_each_way_gives_the_sum_of_the_rows_one_by_one(kind: str, mode: Mode) -> None:
    model, shape = (LAYERS | ONLY_VMAP)[kind]
    task: Any = Custom(model)
    gradient, rows = _gradient(task, private_plan(clip_norm=CLIP)), batch_of(rows_of(5, 1, shape=shape))
    if kind in ONLY_VMAP and mode not in (Mode.VMAP, Mode.ALONE):
        with pytest.raises(ValueError, match=r"used outside of it|more than one tensor"):
            _sum(gradient, rows, mode)
        return
    each = gradients_one_by_one(task, task.model(0), rows)
    expected = sum(clipped(one, CLIP) for one in each)
    found = _sum(gradient, rows, mode)
    assert np.abs(found - expected).max() <= 1e-5
    lengths = np.array([np.linalg.norm(np.concatenate(one)) for one in each])
    assert (lengths > CLIP).any()  # something was there to be clipped


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("clip_norm", [0.01, 0.7, 100.0])
def test_each_way_agrees_per_layer_and_with_weights(mode: Mode, clip_norm: float) -> None:
    plan = private_plan(clip_norm=clip_norm, clipping=UnitClipping.PER_LAYER)
    task = load_task(plan)
    gradient, rows = _gradient(task, plan), batch_of(rows_of(9, 2))
    shares = torch.linspace(0.1, 3.0, 9)
    expected = sum(
        clipped([float(share) * part for part in one], clip_norm, per_layer=True)
        for share, one in zip(shares, gradients_one_by_one(task, task.model(0), rows), strict=True)
    )
    assert np.abs(_sum(gradient, rows, mode, shares) - expected).max() <= 1e-5 * max(1.0, clip_norm)


@pytest.mark.parametrize("clipping", [UnitClipping.FLAT, UnitClipping.PER_LAYER])
@pytest.mark.parametrize("mode", Mode)
@settings(max_examples=40)
@given(scale=st.floats(-12, 12), weight=st.floats(-12, 12), clip=st.floats(-6, 4), seed=st.integers(0, 50))
def test_no_row_adds_more_than_the_clip_norm(
    mode: Mode, clipping: UnitClipping, scale: float, weight: float, clip: float, seed: int
) -> None:
    plan = private_plan(clip_norm=10.0**clip, clipping=clipping)
    gradient = _gradient(load_task(plan), plan, seed)
    row = rows_of(1, seed)
    row.x[:] *= np.float32(10.0**scale)
    total = torch.zeros(gradient.size, dtype=torch.float64)
    shares = torch.tensor([10.0**weight])
    gradient.add_to(gradient.views(total), batch_of(row), torch.arange(1), shares, mode)
    assert float(total.double().norm()) <= 10.0**clip
    if clipping is UnitClipping.PER_LAYER:
        parts = gradient.views(total)
        assert max(float(part.double().norm()) for part in parts) <= 10.0**clip / len(parts) ** 0.5


@pytest.mark.parametrize("mode", Mode)
def test_a_row_more_moves_the_sum_by_the_clip_norm_at_most_however_long_its_gradient_is(mode: Mode) -> None:
    plan = private_plan(clip_norm=CLIP)
    gradient, rows = _gradient(load_task(plan), plan), rows_of(9, 3)
    rows.x[-1] *= 1e6
    before = _sum(gradient, batch_of(rows.take(np.arange(8))), mode)
    after = _sum(gradient, batch_of(rows), mode)
    moved = float(np.linalg.norm(after - before))
    assert 0.99 * CLIP <= moved <= CLIP * (1 + 1e-6)


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e38], ids=str)
def test_a_row_whose_gradient_is_not_finite_adds_nothing(mode: Mode, value: float) -> None:
    plan = private_plan(clip_norm=CLIP)
    gradient, rows = _gradient(load_task(plan), plan), rows_of(6, 3)
    expected = _sum(gradient, batch_of(rows.take(np.array([0, 1, 3, 4, 5]))), mode)
    rows.x[2, 1] = value
    total = torch.zeros(gradient.size, dtype=torch.float64)
    counts = gradient.add_to(gradient.views(total), batch_of(rows), torch.arange(6), None, mode)
    found = total.double().numpy()
    if value == 1e38:  # finite: it may add, but no more than any other
        assert np.linalg.norm(found - expected) <= CLIP * (1 + 1e-6)
        return
    assert np.abs(found - expected).max() <= 1e-6
    assert counts[1] == 1 and counts[0] >= 1


@pytest.mark.parametrize("mode", Mode)
def test_a_model_that_is_not_finite_adds_nothing(mode: Mode) -> None:
    plan = private_plan()
    task = load_task(plan)
    model = FlatModel(task.model(0), BatchNorm.AVERAGE)
    model.array[:] = np.nan
    gradient = PrivateGradient(task, plan, model)
    assert not _sum(gradient, batch_of(rows_of(4, 0)), mode).any()


@pytest.mark.parametrize("mode", Mode)
def test_a_batch_is_worked_off_in_pieces_that_fit_the_memory(mode: Mode) -> None:
    plan = private_plan(task={"name": "tabular-classifier", "hidden": [2000, 300], "options": {"inputs": INPUTS}})
    task = load_task(plan)
    rows = batch_of(rows_of(25, 3))
    whole, pieces = _gradient(task, plan), _gradient(task, private_plan(simulation={"memory_mib": 16}))
    assert whole.rows_at_once(rows, mode) > 50
    if mode is not Mode.GHOST:  # which makes no gradient of 600 thousand values for each row
        assert pieces.rows_at_once(rows, mode) == 3
    assert np.abs(_sum(whole, rows, mode) - _sum(pieces, rows, mode)).max() <= 1e-4


def test_no_rows_add_nothing() -> None:
    plan = private_plan()
    gradient = _gradient(load_task(plan), plan)
    total = torch.zeros(gradient.size, dtype=torch.float64)
    none = torch.arange(0)
    assert gradient.add_to(gradient.views(total), batch_of(rows_of(3, 0)), none, None, Mode.GHOST) == (0, 0)
    assert not total.any()


def test_clipped_rows_are_counted() -> None:
    task = load_task(private_plan())
    rows = batch_of(rows_of(40, 3))
    lengths = [np.linalg.norm(np.concatenate(one)) for one in gradients_one_by_one(task, task.model(0), rows)]
    clip_norm = 1.02 * float(np.quantile(lengths, 0.3))
    gradient = _gradient(task, private_plan(clip_norm=clip_norm))
    total = gradient.views(torch.zeros(gradient.size, dtype=torch.float64))
    expected = int(sum(length > clip_norm for length in lengths))
    assert 10 < expected < 35
    for mode in Mode:
        assert gradient.add_to(total, rows, torch.arange(40), None, mode) == (expected, 0)


class _Mean(Custom):
    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        return super().loss(outputs, batch).mean()


@pytest.mark.parametrize("mode", Mode)
def test_a_loss_of_all_rows_together_is_refused(mode: Mode) -> None:
    task: Any = _Mean(lambda: nn.Linear(6, 3))
    gradient = _gradient(task, private_plan())
    with pytest.raises(LocalError, match="task: expected a loss for each row"):
        _sum(gradient, batch_of(rows_of(4, 0)), mode)


def test_nothing_is_left_on_the_model() -> None:
    plan = private_plan()
    task = load_task(plan)
    model = FlatModel(task.model(0), BatchNorm.AVERAGE)
    before = copy.deepcopy(model.module.state_dict())
    gradient = PrivateGradient(task, plan, model)
    for mode in Mode:
        _sum(gradient, batch_of(rows_of(4, 0)), mode)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.module.state_dict().items())
    assert not any(part._forward_hooks or part._backward_hooks for part in model.module.modules())
    assert all(parameter.grad is None for parameter in model.module.parameters())


def test_the_sum_of_many_rows_is_moved_by_one_row_no_more_than_by_the_clip_norm() -> None:
    """In float32 the rounding of a long sum moves it by more: halves are rounded away, or up, by what came before."""
    rows = 4096
    values = torch.full((rows, 1), 0.999)
    values[0] = 3e7  # clipped
    pieces = Values(values), Values(values[1:])
    factors = (1 / values[:, 0].double().abs()).clamp(max=1.0)
    totals = torch.zeros(2, 1, dtype=torch.float64)
    pieces[0].add_to(totals[0], factors)
    pieces[1].add_to(totals[1], factors[1:])
    assert float((totals[0] - totals[1]).abs()) <= 1 + 1e-9
    assert totals.dtype == torch.float64


@pytest.mark.parametrize("mode", [Mode.GHOST, Mode.HOOKS, Mode.VMAP, Mode.ALONE])
@pytest.mark.parametrize("size", [1e18, 3.77e22, 1e30])
def test_a_row_whose_clip_is_next_to_nothing_adds_no_more_than_the_clip_norm(mode: Mode, size: float) -> None:
    """Factors below float32's smallest would be rounded up to it."""
    plan = private_plan()
    task = load_task(plan)
    gradient, rows = _gradient(task, plan), batch_of(rows_of(1, 1))
    huge = Batch(torch.full_like(rows.x, size), rows.y)
    assert np.linalg.norm(_sum(gradient, huge, mode)) <= plan.privacy.clip_norm


class _Tempered(nn.Module):
    """A layer, and a learned number without a dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.heat = nn.Linear(INPUTS, 3), nn.Parameter(torch.tensor(0.7))

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.layer(x)) * self.heat


@pytest.mark.parametrize("mode", [Mode.VMAP, Mode.ALONE])
def test_a_learned_number_has_a_gradient_for_each_row(mode: Mode) -> None:
    task: Any = Custom(_Tempered)
    gradient, rows = _gradient(task, private_plan(clip_norm=CLIP)), batch_of(rows_of(5, 1))
    expected = sum(clipped(one, CLIP) for one in gradients_one_by_one(task, task.model(0), rows))
    assert np.abs(_sum(gradient, rows, mode) - expected).max() <= 1e-5
