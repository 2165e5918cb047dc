import threading
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.sites_of_rows import INPUTS, fit_jobs, rows_plan, sites_of, trainers_of
from wardround.client.trainer.bundle import load_task
from wardround.client.trainer.flat_model import initial_vector
from wardround.errors import LocalError
from wardround.simulations.executors.flat_loop import FlatLoop
from wardround.task import Task

SIZES = [20, 64, 5, 33, 64, 1, 33, 20, 7]


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_results_are_the_trainers_own_bit_for_bit_whatever_the_number_of_workers(optimizer: str) -> None:
    plan = rows_plan({"optimizer": optimizer, "lr": 0.01, "batch_size": 8, "epochs": 2})
    task, sites = load_task(plan), sites_of(SIZES)
    jobs, model = fit_jobs(sites), initial_vector(task, plan, 1)
    alone = trainers_of(task, plan, sites)
    expected = [alone[job.site].fit(job, model) for job in jobs]
    for workers, block_size in ((1, 1), (1, 4), (2, 4), (3, 9)):
        trainers = trainers_of(task, plan, sites)
        executor = FlatLoop(task, plan, trainers.__getitem__, workers=workers, block_size=block_size)
        assert executor.block_size == block_size
        for _ in range(2):
            for result, wanted in zip(executor.fit(iter(jobs), model), expected, strict=True):
                assert np.array_equal(result.update, wanted.update)
                assert result.num_examples == wanted.num_examples
                assert result.tally.counts.tolist() == wanted.tally.counts.tolist()


def test_results_of_a_block_are_valid_together() -> None:
    plan = rows_plan()
    task, sites = load_task(plan), sites_of(SIZES)
    executor = FlatLoop(task, plan, trainers_of(task, plan, sites).__getitem__, workers=2, block_size=len(SIZES))
    results = list(executor.fit(fit_jobs(sites), initial_vector(task, plan, 1)))
    assert len({result.update.tobytes() for result in results}) == len(SIZES)


def test_torchs_threads_are_restored_between_blocks() -> None:
    plan = rows_plan()
    task, sites = load_task(plan), sites_of([5, 5, 5])
    executor = FlatLoop(task, plan, trainers_of(task, plan, sites).__getitem__, workers=2, block_size=2)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for _ in executor.fit(fit_jobs(sites), initial_vector(task, plan, 0)):
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_several_threads_really_train() -> None:
    plan = rows_plan()
    task, sites = load_task(plan), sites_of([5, 5])
    trainers, meeting = trainers_of(task, plan, sites), threading.Barrier(2, timeout=30)

    def meet(site: Any) -> Any:
        meeting.wait()  # passes only when both sites are at work at once
        return trainers[site]

    executor = FlatLoop(task, plan, meet, workers=2, block_size=2)
    assert len(list(executor.fit(fit_jobs(sites), initial_vector(task, plan, 0)))) == 2


@pytest.mark.parametrize("workers", [1, 2])
def test_after_a_failing_site_the_executor_works_on(workers: int) -> None:
    plan = rows_plan()
    task, sites = load_task(plan), sites_of([20, 0, 20, 20])
    model, jobs = initial_vector(task, plan, 0), fit_jobs(sites)
    executor = FlatLoop(task, plan, trainers_of(task, plan, sites).__getitem__, workers=workers, block_size=4)
    with pytest.raises(LocalError, match="site site-1: expected at least one training row"):
        list(executor.fit(jobs, model))
    assert len(list(executor.fit([jobs[0], *jobs[2:]], model))) == 3


class _Dropping:
    def __init__(self, task: Task) -> None:
        self._task = task

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)

    def model(self, seed: int) -> nn.Module:
        return nn.Sequential(nn.Linear(INPUTS, 3), nn.Dropout(0.5))


def test_dropout_needs_one_worker() -> None:
    plan = rows_plan()
    task: Task = _Dropping(load_task(plan))
    trainers = trainers_of(task, plan, []).__getitem__
    with pytest.raises(LocalError, match=r"simulation\.workers: expected 1"):
        FlatLoop(task, plan, trainers, workers=2)
    FlatLoop(task, plan, trainers, workers=1)
