import threading
from typing import Any

import numpy as np
import pytest
from torch import nn

from tests.private_rows import keyed, private_plan
from tests.sites_of_rows import INPUTS, fit_jobs, sites_of
from wardround.client.trainer import private_mode
from wardround.client.trainer.bundle import load_task
from wardround.client.trainer.flat_model import initial_vector
from wardround.client.trainer.private_gradient import Mode, PrivateGradient
from wardround.client.trainer.private_trainer import PrivateTrainer
from wardround.errors import LocalError
from wardround.orders import SiteId
from wardround.plan import Plan
from wardround.simulations.executors.flat_loop import one_thread
from wardround.simulations.executors.private_loop import PrivateLoop
from wardround.task import Task

SIZES = [20, 64, 5, 33, 64, 7]


def _trainers(task: Task, plan: Plan, mode: Mode | None = Mode.GHOST) -> dict[SiteId, PrivateTrainer]:
    """Each site's own stream, so that the order in which sites train does not matter."""
    return {
        data.site: PrivateTrainer(task, plan, data, random=keyed(place), mode=mode)
        for place, data in enumerate(sites_of(SIZES))
    }


@pytest.mark.parametrize(("workers", "block_size"), [(1, 1), (1, 4), (2, 4), (3, 6)])
def test_results_are_the_trainers_own_whatever_the_number_of_workers(workers: int, block_size: int) -> None:
    plan = private_plan({"batch_size": 5, "steps": 4})
    task, jobs = load_task(plan), fit_jobs(sites_of(SIZES))
    model, alone = initial_vector(task, plan, 1), _trainers(task, plan)
    with one_thread():
        expected = [alone[job.site].fit(job, model) for job in jobs]
    loop = PrivateLoop(task, plan, _trainers(task, plan).__getitem__, workers=workers, block_size=block_size)
    assert loop.block_size == block_size
    for result, wanted in zip(loop.fit(iter(jobs), model), expected, strict=True):
        assert np.array_equal(result.update, wanted.update)
        assert result.num_examples == 1 and result.tally.n == 0


def test_two_rounds_and_two_runs_differ() -> None:
    plan = private_plan({"batch_size": 5, "steps": 2})
    task, jobs = load_task(plan), fit_jobs(sites_of(SIZES))
    model, updates = initial_vector(task, plan, 1), set()
    for _ in range(2):
        trainers = {data.site: PrivateTrainer(task, plan, data, mode=Mode.GHOST) for data in sites_of(SIZES)}
        loop = PrivateLoop(task, plan, trainers.__getitem__, workers=2, block_size=3)
        for _ in range(2):
            updates |= {result.update.tobytes() for result in loop.fit(jobs, model)}
    assert len(updates) == 4 * len(SIZES)


def test_several_threads_train_and_one_of_them_chooses_the_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = private_plan({"batch_size": 5, "steps": 2})
    task, jobs = load_task(plan), fit_jobs(sites_of([30, 30]))
    trainers = {data.site: PrivateTrainer(task, plan, data) for data in sites_of([30, 30])}
    meeting, timed = threading.Barrier(2, timeout=30), list[int]()
    original = private_mode.time_modes

    def meet(site: SiteId) -> PrivateTrainer:
        meeting.wait()  # passes only when both sites are at work at once
        return trainers[site]

    def counted(gradient: PrivateGradient, *others: Any, **named: Any) -> Any:
        timed.append(1)
        return original(gradient, *others, **named)

    monkeypatch.setattr(private_mode, "_fastest", {})
    monkeypatch.setattr(private_mode, "time_modes", counted)
    loop = PrivateLoop(task, plan, meet, workers=2, block_size=2)
    assert len(list(loop.fit(jobs, initial_vector(task, plan, 0)))) == 2
    assert len(timed) == 1
    assert len({trainer.mode for trainer in trainers.values()}) == 1


def test_a_site_that_cannot_keep_its_claim_is_named_and_the_loop_works_on() -> None:
    plan = private_plan({"batch_size": 10})
    task, sites = load_task(plan), sites_of([20, 8, 20])
    trainers = {data.site: PrivateTrainer(task, plan, data) for data in sites}
    loop = PrivateLoop(task, plan, trainers.__getitem__, workers=2, block_size=3)
    jobs, model = fit_jobs(sites), initial_vector(task, plan, 0)
    with pytest.raises(LocalError, match="expected at most the 8 rows of a site, got 10"):
        list(loop.fit(jobs, model))
    assert len(list(loop.fit([jobs[0], jobs[2]], model))) == 2


class _Own:
    def __init__(self, task: Task, *parts: nn.Module) -> None:
        self._task, self._parts = task, parts

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)

    def model(self, seed: int) -> nn.Module:
        return nn.Sequential(nn.Linear(INPUTS, 3), *self._parts)


def test_dropout_needs_one_worker_and_an_unsupported_layer_is_refused_at_once() -> None:
    plan = private_plan()
    dropping: Any = _Own(load_task(plan), nn.Dropout(0.5))
    trainers = _trainers(dropping, plan).__getitem__
    with pytest.raises(LocalError, match=r"simulation\.workers: expected 1"):
        PrivateLoop(dropping, plan, trainers, workers=2)
    PrivateLoop(dropping, plan, trainers)
    recurrent: Any = _Own(load_task(plan), nn.LSTM(3, 3))
    with pytest.raises(LocalError, match=r"plan\.task\.model: .* got '1: LSTM'"):
        PrivateLoop(recurrent, plan, trainers)
