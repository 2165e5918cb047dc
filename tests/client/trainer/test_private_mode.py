from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.private_rows import batch_of, private_plan
from tests.sites_of_rows import INPUTS, rows_of
from wardround.client.trainer import private_mode
from wardround.client.trainer.bundle import load_task
from wardround.client.trainer.flat_model import FlatModel
from wardround.client.trainer.private_gradient import Mode, PrivateGradient
from wardround.client.trainer.private_mode import ModeChoice, time_modes
from wardround.plan_sections import BatchNorm
from wardround.task import Batch, Task


@pytest.fixture(autouse=True)
def _nothing_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(private_mode, "_fastest", {})


class _Own:
    def __init__(self, model: Callable[[], nn.Module]) -> None:
        self._model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(load_task(private_plan()), name)

    def model(self, seed: int) -> nn.Module:
        return self._model()


def _gradient(task: Task) -> PrivateGradient:
    model = FlatModel(task.model(0), BatchNorm.AVERAGE)
    model.module.train()
    return PrivateGradient(task, private_plan(), model)


class _Clock:
    """A machine on which each mode takes its own time; it notes what ran."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: dict[Mode, float]) -> None:
        self.now, self.ran, self._seconds = 0.0, list[tuple[Mode, int]](), seconds
        original = PrivateGradient.add_to

        def noted(gradient: PrivateGradient, total: Any, rows: Any, index: Tensor, shares: Any, mode: Mode) -> Any:
            self.now += seconds[mode]
            self.ran.append((mode, len(index)))
            return original(gradient, total, rows, index, shares, mode)

        monkeypatch.setattr(PrivateGradient, "add_to", noted)

    def __call__(self) -> float:
        return self.now


_QUICK = (Mode.GHOST, Mode.HOOKS, Mode.VMAP)


@pytest.mark.parametrize("fastest", _QUICK)
def test_the_fastest_mode_is_chosen_once_for_a_model_and_a_size(fastest: Mode, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = _Clock(monkeypatch, {mode: 1.0 if mode is fastest else 1.1 for mode in Mode})
    task, rows = load_task(private_plan()), batch_of(rows_of(50, 1))
    choice = ModeChoice(_gradient(task))
    assert choice(rows, None, 32, clock=clock) is fastest
    assert (fastest, 32) in clock.ran
    done = len(clock.ran)
    assert choice(rows, None, 40, clock=clock) is fastest and len(clock.ran) == done
    other = ModeChoice(_gradient(task))  # of the same form: compared again, and not timed
    assert other(rows, None, 32, clock=clock) is fastest
    assert {size for _, size in clock.ran[done:]} == {4}
    choice(rows, None, 3, clock=clock)
    assert (fastest, 3) in clock.ran


def test_a_mode_that_takes_far_longer_is_not_timed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = _Clock(monkeypatch, {Mode.GHOST: 1.0, Mode.HOOKS: 60.0, Mode.VMAP: 1.5})
    rows = batch_of(rows_of(8, 1))
    times = time_modes(_gradient(load_task(private_plan())), rows, None, 8, _QUICK, clock=clock)
    assert times == {Mode.GHOST: 1.0, Mode.HOOKS: 60.0, Mode.VMAP: 1.5}
    assert [mode for mode, _ in clock.ran].count(Mode.HOOKS) == 1
    assert [mode for mode, _ in clock.ran].count(Mode.VMAP) > 1


class _Centred(nn.Module):
    """Mixes rows without a parameter or a buffer: its type does not tell."""

    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0)


class _Outside(nn.Module):
    """One layer is called, and its weights are used once more without it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(INPUTS, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.layer(x)) * (1 + self.layer.weight.sum())


@pytest.mark.parametrize(
    "model",
    [lambda: nn.Sequential(nn.Linear(INPUTS, 4), _Centred(), nn.Tanh(), nn.Linear(4, 3)), _Outside],
    ids=["mixes rows", "used outside"],
)
def test_a_model_that_its_layers_do_not_tell_about_is_trained_row_by_row(
    model: Callable[[], nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = _Clock(monkeypatch, {Mode.GHOST: 1.0, Mode.HOOKS: 1.0, Mode.VMAP: 9.0})
    task: Any = _Own(model)
    choice = ModeChoice(_gradient(task))
    assert choice(batch_of(rows_of(20, 1)), None, 16, clock=clock) is Mode.VMAP


def test_one_row_does_not_decide_for_many(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = _Clock(monkeypatch, {Mode.GHOST: 1.0, Mode.HOOKS: 1.5, Mode.VMAP: 9.0})
    scaled: Any = _Own(lambda: nn.Sequential(nn.Linear(INPUTS, 3), _Shared()))
    choice = ModeChoice(_gradient(scaled))
    assert choice(batch_of(rows_of(1, 1)), None, 1, clock=clock) is Mode.GHOST
    assert choice(batch_of(rows_of(20, 1)), None, 1, clock=clock) is Mode.VMAP


class _Shared(nn.Module):
    """Of one row it is the identity."""

    def forward(self, x: Tensor) -> Tensor:
        return x + (x.sum(0) - x).flip(0) * (len(x) > 1)


def test_where_nothing_can_be_compared_rows_are_kept_apart_and_nothing_is_remembered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = _Clock(monkeypatch, {Mode.GHOST: 1.0, Mode.HOOKS: 2.0, Mode.VMAP: 9.0})
    choice = ModeChoice(_gradient(load_task(private_plan())))
    wild = rows_of(20, 1)
    wild.x[:, 0] = float("nan")
    assert choice(batch_of(wild), None, 16, clock=clock) is Mode.VMAP
    assert choice(batch_of(rows_of(20, 1)), None, 16, clock=clock) is Mode.GHOST


class _Branching(nn.Module):
    """Looks at values, which vmap cannot."""

    def forward(self, x: Tensor) -> Tensor:
        return x if x.detach().numpy().any() else -x


def test_gradients_next_to_zero_refuse_no_model() -> None:
    """Logits in the thousands: what is left of a gradient underflows in some ways and not in others."""
    task, rows = load_task(private_plan()), batch_of(rows_of(50, 1))
    gradient = _gradient(task)
    with torch.no_grad():
        for parameter in gradient.module.parameters():
            parameter.mul_(1e4)
        outputs = gradient.module(rows.x).argmax(1)
    assert ModeChoice(gradient)(Batch(rows.x, outputs), None, 32) is Mode.VMAP


def test_a_model_that_no_quick_mode_is_right_about_is_trained_row_by_row() -> None:
    """An error would come of rows, and would tell of them."""
    task: Any = _Own(lambda: nn.Sequential(_Branching(), nn.Linear(INPUTS, 4), _Centred(), nn.Tanh(), nn.Linear(4, 3)))
    assert ModeChoice(_gradient(task))(batch_of(rows_of(20, 1)), None, 16) is Mode.ALONE
    wild = rows_of(20, 1)
    wild.x[:, 0] = float("nan")
    assert ModeChoice(_gradient(task))(batch_of(wild), None, 16) is Mode.ALONE


def test_dropout_does_not_keep_a_mode_from_being_right_and_the_generator_is_left_alone() -> None:
    task: Any = _Own(lambda: nn.Sequential(nn.Linear(INPUTS, 40), nn.Dropout(0.5), nn.Linear(40, 3)))
    gradient = _gradient(task)
    before = torch.get_rng_state()
    assert private_mode._right_modes(gradient, batch_of(rows_of(20, 1)), None) == list(_QUICK)
    ModeChoice(gradient)(batch_of(rows_of(20, 1)), None, 16)
    assert torch.equal(torch.get_rng_state(), before)
    assert gradient.module.training


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_ghost_is_taken_for_a_wide_network_of_linear_layers(one_thread: None) -> None:
    task: Any = _Own(lambda: nn.Sequential(nn.Linear(INPUTS, 600), nn.ReLU(), nn.Linear(600, 600), nn.Linear(600, 3)))
    assert ModeChoice(_gradient(task))(batch_of(rows_of(64, 1)), None, 64) is Mode.GHOST
