from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.sites_of_rows import INPUTS, fit_jobs, rows_plan, sites_of, trainers_of
from wardround.client.trainer.bundle import load_task
from wardround.client.trainer.flat_model import FlatModel, initial_vector
from wardround.errors import LocalError
from wardround.orders import LocalResult
from wardround.plan import Plan
from wardround.plan_sections import BatchNorm
from wardround.simulations.executors import blocks as blocks_module
from wardround.simulations.executors.blocks import Blocks, bytes_per_client, why_not_blocks
from wardround.simulations.executors.executor import Executor
from wardround.simulations.executors.flat_loop import FlatLoop
from wardround.task import Task

SIZES = [20, 33, 5, 20, 64, 1, 33]

SETTINGS: list[dict[str, Any]] = [
    {},
    {"epochs": 3, "batch_size": 7},
    {"epochs": 2, "momentum": 0.9},
    {"epochs": 2, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
    {"epochs": 2, "optimizer": "adam", "lr": 0.01, "weight_decay": 0.01},
    {"epochs": 2, "optimizer": "adamw", "lr": 0.01, "weight_decay": 0.1},
    {"steps": 9, "batch_size": 6},
    {"steps": 5, "proximal_mu": 0.5, "momentum": 0.5},
    {"epochs": 2, "gradient_clip_norm": 0.2},
    {"epochs": 2, "class_weights": [1.0, 4.0, 0.5], "proximal_mu": 0.1, "gradient_clip_norm": 0.5},
    {"epochs": 2, "class_weights": "balanced", "optimizer": "adam", "lr": 0.01, "gradient_clip_norm": 0.5},
]

NETWORKS: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    ({"name": "tabular-classifier", "hidden": [5, 4], "options": {"inputs": INPUTS}}, {}, {}),
    ({"name": "tabular-classifier", "model": "logistic", "options": {"inputs": INPUTS}}, {}, {}),
    (
        {"name": "tabular-regressor", "hidden": [5], "options": {"inputs": INPUTS}},
        {"target": {"name": "y", "range": [0.0, 1.0]}},
        {"classes": 0},
    ),
    (
        {"name": "image-classifier", "options": {"width": 16, "dense": 6}},
        {"image": {"shape": [1, 6, 6]}},
        {"shape": (1, 6, 6)},
    ),
]


def _results(executor: Executor, jobs: Sequence[Any], model: Any) -> tuple[np.ndarray[Any, Any], list[LocalResult]]:
    """Copies of the updates, taken while they are valid, and the results."""
    updates, results = [], []
    for result in executor.fit(jobs, model):
        updates.append(result.update.copy())
        results.append(result)
    return np.array(updates), results


def _agree(plan: Plan, kind: dict[str, Any], block_size: int) -> None:
    task, sites = load_task(plan), sites_of(SIZES, **kind)
    trainers, jobs = trainers_of(task, plan, sites), fit_jobs(sites, round_number=3)
    model = initial_vector(task, plan, 1)
    flat, flat_results = _results(FlatLoop(task, plan, trainers.__getitem__), jobs, model)
    stacked, results = _results(Blocks(task, plan, trainers.__getitem__, block_size=block_size), jobs, model)
    np.testing.assert_allclose(stacked, flat, atol=1e-5)
    assert np.abs(flat).max(1).min() > 1e-4
    for one, other in zip(flat_results, results, strict=True):
        assert one.num_examples == other.num_examples and one.tally.n == other.tally.n
        assert one.tally.metrics()["loss"] == pytest.approx(other.tally.metrics()["loss"], abs=1e-5)


@pytest.mark.parametrize("training", SETTINGS)
@pytest.mark.parametrize("block_size", [3, 7])
def test_blocks_agree_with_the_flat_loop(training: dict[str, Any], block_size: int) -> None:
    _agree(rows_plan({"batch_size": 10, "schedule": "cosine", **training}), {}, block_size)


@pytest.mark.parametrize(("task", "data", "kind"), NETWORKS)
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_every_built_in_network_agrees(
    task: dict[str, Any], data: dict[str, Any], kind: dict[str, Any], optimizer: str
) -> None:
    # With a smaller eps, AdamW makes a step of the rounding error of a gradient that is nearly 0.
    training = {"batch_size": 10, "epochs": 2, "optimizer": optimizer, "lr": 0.01, "eps": 1e-4}
    _agree(rows_plan(training, task, data), kind, 7)


def test_gathering_in_pieces_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = rows_plan({"batch_size": 6, "epochs": 3, "momentum": 0.5})
    task, sites = load_task(plan), sites_of(SIZES)
    trainers, jobs, model = trainers_of(task, plan, sites), fit_jobs(sites), initial_vector(task, plan, 1)
    executor = Blocks(task, plan, trainers.__getitem__, block_size=7)
    whole, _ = _results(executor, jobs, model)
    monkeypatch.setattr(blocks_module, "_GATHERED_BYTES", 5 * 7 * 6 * INPUTS * 4)
    pieces, _ = _results(executor, jobs, model)
    assert np.array_equal(whole, pieces)


def test_a_block_is_the_same_every_time() -> None:
    plan = rows_plan({"batch_size": 10, "optimizer": "adam", "lr": 0.01})
    task, sites = load_task(plan), sites_of(SIZES)
    trainers, jobs, model = trainers_of(task, plan, sites), fit_jobs(sites), initial_vector(task, plan, 1)
    first, _ = _results(Blocks(task, plan, trainers.__getitem__, block_size=4), jobs, model)
    second, _ = _results(Blocks(task, plan, trainers.__getitem__, block_size=4), list(jobs), model.copy())
    assert np.array_equal(first, second)


def test_a_diverged_client_leaves_the_others_alone() -> None:
    plan = rows_plan({"batch_size": 10})
    task, sites = load_task(plan), sites_of([20, 20, 20])
    trainers, jobs, model = trainers_of(task, plan, sites), fit_jobs(sites), initial_vector(task, plan, 1)
    executor = Blocks(task, plan, trainers.__getitem__, block_size=3)
    expected, _ = _results(executor, jobs, model)
    sites[1].train.x[3] = np.inf
    updates, results = _results(executor, jobs, model)
    assert not np.isfinite(updates[1]).all() and results[1].tally.metrics()["loss"] > 1e6
    assert np.array_equal(updates[[0, 2]], expected[[0, 2]])


class _Module:
    """The task of a plan, with another network."""

    def __init__(self, task: Task, module: nn.Module) -> None:
        self._task, self._module = task, module

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)

    def model(self, seed: int) -> nn.Module:
        return self._module


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (nn.Sequential(nn.Linear(INPUTS, 3), nn.Dropout(0.5)), "dropout"),
        (nn.Sequential(nn.Linear(INPUTS, 3), nn.BatchNorm1d(3)), "layer '1' is BatchNorm1d"),
        (nn.Sequential(nn.Linear(INPUTS, 3), nn.BatchNorm1d(3, track_running_stats=False)), "BatchNorm1d"),
        (nn.Sequential(nn.InstanceNorm1d(3, track_running_stats=True), nn.Linear(3, 3)), "InstanceNorm1d"),
        (nn.Sequential(nn.Linear(INPUTS, 3).requires_grad_(False), nn.Linear(3, 3)), "frozen"),
        (nn.Sequential(nn.Linear(INPUTS, 3), nn.GroupNorm(1, 3)), ""),
    ],
)
def test_what_blocks_cannot_train_is_refused_with_the_reason(module: nn.Module, reason: str) -> None:
    found = why_not_blocks(FlatModel(module, BatchNorm.AVERAGE))
    assert (reason in found) if reason else found == ""
    if reason:
        plan = rows_plan()
        task: Task = _Module(load_task(plan), module)
        with pytest.raises(LocalError, match=reason):
            Blocks(task, plan, trainers_of(task, plan, []).__getitem__, block_size=2)


def test_a_site_without_rows_is_named() -> None:
    plan = rows_plan()
    task, sites = load_task(plan), sites_of([5, 0])
    executor = Blocks(task, plan, trainers_of(task, plan, sites).__getitem__, block_size=2)
    with pytest.raises(LocalError, match="site site-1: expected at least one training row"):
        list(executor.fit(fit_jobs(sites), initial_vector(task, plan, 0)))


def test_the_estimate_of_memory_counts_parameters_rows_and_activations() -> None:
    plan = rows_plan({"batch_size": 10})
    model, x = FlatModel(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2)), BatchNorm.AVERAGE), torch.zeros(50, 4)
    assert bytes_per_client(model, plan, x) == 4 * (5 * 58 + 3 * 10 * 10) + 2 * 800
    adam = rows_plan({"batch_size": 10, "optimizer": "adam", "proximal_mu": 1.0})
    assert bytes_per_client(model, adam, x) - bytes_per_client(model, plan, x) == 4 * 3 * 58
