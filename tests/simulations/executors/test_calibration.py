from collections.abc import Callable
from itertools import count
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.sites_of_rows import INPUTS, fit_jobs, rows_plan, sites_of, trainers_of
from wardround.client.trainer.bundle import load_task
from wardround.client.trainer.flat_model import initial_vector
from wardround.errors import LocalError
from wardround.plan import Plan, PlanError
from wardround.simulations.executors import calibration
from wardround.simulations.executors.blocks import Blocks
from wardround.simulations.executors.calibration import EngineChoice, calibrate, make_executor
from wardround.simulations.executors.flat_loop import FlatLoop
from wardround.task import Batch, Task


class _Altered:
    """The task of a plan, with another network or loss."""

    def __init__(self, task: Task, network: Callable[[], nn.Module] | None = None, loss: Any = None) -> None:
        self._task, self._network = task, network
        if loss is not None:
            self.loss = loss

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)

    def model(self, seed: int) -> nn.Module:
        return self._network() if self._network else self._task.model(seed)


def _choose(
    simulation: dict[str, Any] | None = None,
    *,
    sites: int = 8,
    clock: Callable[[], float] | None = None,
    task: Callable[[Task], Any] = lambda task: task,
    plan: Plan | None = None,
) -> EngineChoice:
    plan = plan or rows_plan({"batch_size": 4}, simulation={"sites": sites, **(simulation or {})})
    chosen: Task = task(load_task(plan))
    data = sites_of([20] * sites)
    model = initial_vector(chosen, plan, 0)
    trainers = trainers_of(chosen, plan, data)
    given = {} if clock is None else {"clock": clock}
    return calibrate(chosen, plan, trainers.__getitem__, [d.site for d in data], model, cores=2, **given)


def _clock(*durations: float) -> Callable[[], float]:
    """A clock whose spans, each from one call to the next, last so long; the last duration repeats."""
    now, spans = 0.0, count()

    def read() -> float:
        nonlocal now
        call = next(spans)
        if call % 2:
            now += durations[min(call // 2, len(durations) - 1)]
        return now

    return read


def test_the_plan_decides_when_it_says_so() -> None:
    flat = _choose({"executor": "flat", "workers": 3, "block_size": 5})
    assert (flat.executor, flat.workers, flat.block_size) == ("flat", 3, 5)
    blocks = _choose({"executor": "blocks", "block_size": 6})
    assert (blocks.executor, blocks.workers, blocks.block_size) == ("blocks", 1, 6)
    assert _choose({"executor": "flat"}).workers == 2  # one per core
    assert _choose({"executor": "flat"}, sites=1).workers == 1


def test_the_faster_one_is_chosen() -> None:
    # one flat job, eight flat jobs, a block of eight twice
    assert _choose(clock=_clock(0.01, 0.08, 0.02, 0.02)).executor == "blocks"
    assert _choose(clock=_clock(0.01, 0.08, 0.05, 0.05)).executor == "flat"
    assert _choose(clock=_clock(0.3)).reason == "one client takes long"
    assert "too few clients" in _choose(clock=_clock(0.01), sites=3).reason
    assert _choose(clock=_clock(0.01, 0.08, 0.02, 0.02)).block_size == 8


def test_real_trials_leave_trainers_and_random_numbers_alone() -> None:
    plan = rows_plan({"batch_size": 4})
    task, data = load_task(plan), sites_of([20] * 8)
    trainers, model = trainers_of(task, plan, data), initial_vector(task, plan, 0)
    kept, before = model.copy(), torch.get_rng_state()
    choice = calibrate(task, plan, trainers.__getitem__, [d.site for d in data], model)
    assert choice.executor in ("flat", "blocks") and "a trial took" in choice.reason
    assert np.array_equal(model, kept) and torch.equal(torch.get_rng_state(), before)
    assert all(not trainer._rows for trainer in trainers.values())


def test_memory_bounds_a_block() -> None:
    def wide(task: Task) -> Any:
        return _Altered(task, lambda: nn.Sequential(nn.Linear(INPUTS, 50_000), nn.ReLU(), nn.Linear(50_000, 3)))

    small = _choose({"executor": "blocks", "memory_mib": 64}, task=wide)
    assert 1 <= small.block_size < 8
    assert _choose({"executor": "blocks", "memory_mib": 4096}, task=wide).block_size == 8


def test_a_loss_that_looks_at_other_rows_is_found_out() -> None:
    def centred(outputs: Tensor, batch: Batch) -> Tensor:
        losses = nn.functional.cross_entropy(outputs, batch.y, reduction="none")
        return (losses - losses.mean()).square()

    assert "another result" in _choose(clock=_clock(0.01), task=lambda task: _Altered(task, loss=centred)).reason


def test_a_model_that_cannot_be_batched_is_trained_one_by_one() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(INPUTS, 3)

        def forward(self, x: Tensor) -> Tensor:
            outputs: Tensor = self.linear(x)
            return outputs if outputs.sum() > 0 else -outputs

    choice = _choose(clock=_clock(0.01), task=lambda task: _Altered(task, Branching))
    assert choice.executor == "flat" and choice.reason.startswith("blocks failed: ") and "\n" not in choice.reason


def test_dropout_means_one_worker() -> None:
    def dropping(task: Task) -> Any:
        return _Altered(task, lambda: nn.Sequential(nn.Linear(INPUTS, 3), nn.Dropout(0.5)))

    assert _choose(task=dropping).workers == 1
    with pytest.raises(PlanError, match=r"simulation\.workers: expected 1"):
        _choose({"workers": 2}, task=dropping)
    with pytest.raises(PlanError, match=r'simulation\.executor: expected "flat" or "auto"'):
        _choose({"executor": "blocks"}, task=dropping)


def test_federated_statistics_are_made_for_the_trial() -> None:
    columns = [{"name": f"c{i}", "range": [-9.0, 9.0]} for i in range(INPUTS)]
    section = {"name": "tabular-classifier", "model": "logistic"}
    plan = rows_plan({"batch_size": 4}, section, {"columns": columns, "standardize": "federated"})
    assert _choose(plan=plan).reason.startswith("a trial took")


def test_the_choice_makes_its_executor() -> None:
    plan = rows_plan({"batch_size": 4})
    task, data = load_task(plan), sites_of([20] * 3)
    trainers, model = trainers_of(task, plan, data).__getitem__, initial_vector(task, plan, 0)
    blocks = make_executor(EngineChoice(executor="blocks", block_size=3, workers=1), task, plan, trainers)
    flat = make_executor(EngineChoice(executor="flat", block_size=2, workers=2), task, plan, trainers)
    assert isinstance(blocks, Blocks) and blocks.block_size == 3
    assert isinstance(flat, FlatLoop) and flat.block_size == 2
    one, other = ([r.update.copy() for r in executor.fit(fit_jobs(data), model)] for executor in (blocks, flat))
    np.testing.assert_allclose(one, other, atol=1e-5)
    with pytest.raises(LocalError, match="engine: expected flat or blocks"):
        EngineChoice(executor="ray", block_size=1, workers=1)


def test_the_largest_block_bounds_memory_for_any_cohort(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "_LARGEST_BLOCK", 4)
    assert _choose({"executor": "blocks"}).block_size == 4
    assert _choose({"executor": "blocks", "block_size": 6}).block_size == 6
