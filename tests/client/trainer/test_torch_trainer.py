import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.sites_of_rows import INPUTS, fit_jobs, plain_training, rows_of, rows_plan, site_of, sites_of
from wardround.client.data.site_data import Rows, SiteData
from wardround.client.trainer.bundle import load_task
from wardround.client.trainer.flat_model import initial_vector
from wardround.client.trainer.torch_trainer import TorchTrainer, predict
from wardround.client.trainer.workspace import Workspace
from wardround.errors import LocalError
from wardround.orders import EvalJob, Order, OrderKind, SiteId, Split
from wardround.plan import Plan
from wardround.standardization import standardize, statistics_of
from wardround.tally import MeansSpec, Tally
from wardround.task import Batch, Task

SETTINGS: list[dict[str, Any]] = [
    {"lr": 0.2},
    {"lr": 0.2, "epochs": 3, "batch_size": 7, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
    {"lr": 0.2, "steps": 11, "batch_size": 8, "proximal_mu": 0.5, "gradient_clip_norm": 0.3},
    {"lr": 0.01, "epochs": 2, "optimizer": "adam", "batch_size": 9, "weight_decay": 0.1, "proximal_mu": 0.1},
    {"lr": 0.01, "epochs": 2, "optimizer": "adamw", "weight_decay": 0.1, "class_weights": [1.0, 3.0, 0.5]},
    {"lr": 0.2, "epochs": 2, "batch_size": 7, "class_weights": "balanced", "gradient_clip_norm": 0.2},
]


@pytest.mark.parametrize("training", SETTINGS)
def test_training_is_that_of_plain_torch(training: dict[str, Any]) -> None:
    plan = rows_plan({"batch_size": 10, **training})
    task, data = load_task(plan), site_of("a", 33, 1)
    weights = None
    if training.get("class_weights") == "balanced":
        weights = torch.tensor([33 / (3 * (data.train.y == label).sum()) for label in range(3)], dtype=torch.float32)
    elif "class_weights" in training:
        weights = torch.tensor(training["class_weights"])
    (job,) = fit_jobs([data])
    model = initial_vector(task, plan, 4)
    result = TorchTrainer(task, plan, data).fit(job, model)
    expected = plain_training(task.model(4), plan, data.train, job.seed, plan.training.lr, weights)
    np.testing.assert_allclose(result.update, expected, atol=2e-6)
    assert result.update.dtype == np.float32 and np.abs(expected).max() > 1e-3


def test_regression_and_schedule() -> None:
    task_section = {"name": "tabular-regressor", "model": "linear", "options": {"inputs": INPUTS}}
    target = {"target": {"name": "y", "range": [0.0, 10.0]}}
    plan = rows_plan({"schedule": "step", "schedule_every": 2, "schedule_factor": 0.1}, task_section, target)
    task, data = load_task(plan), site_of("a", 33, 1, classes=0)
    (job,) = fit_jobs([data], round_number=3)
    result = TorchTrainer(task, plan, data).fit(job, initial_vector(task, plan, 4))
    expected = plain_training(task.model(4), plan, data.train, job.seed, plan.training.lr * 0.1)
    np.testing.assert_allclose(result.update, expected, atol=1e-7)


def test_the_loss_is_summed_over_every_row_that_was_used() -> None:
    plan = rows_plan({"lr": 1e-12, "epochs": 2, "batch_size": 8, "class_weights": [1.0, 5.0, 2.0]})
    task, data = load_task(plan), site_of("a", 21, 1)
    result = TorchTrainer(task, plan, data).fit(fit_jobs([data])[0], initial_vector(task, plan, 4))
    outputs = task.model(4)(torch.from_numpy(data.train.x))
    expected = nn.CrossEntropyLoss()(outputs, torch.from_numpy(data.train.y)).item()
    assert result.num_examples == 21 and result.tally.n == 42
    assert result.tally.metrics()["loss"] == pytest.approx(expected, abs=1e-5)


def test_training_depends_on_the_seed_and_not_on_what_the_workspace_did_before() -> None:
    plan = rows_plan({"optimizer": "adam", "lr": 0.01, "batch_size": 8})
    task, (one, other) = load_task(plan), sites_of([20, 31])
    model, workspace = initial_vector(task, plan, 0), Workspace(load_task(plan), plan)
    first, second = fit_jobs([one, other])
    expected = TorchTrainer(task, plan, one).fit(first, model).update
    TorchTrainer(task, plan, other, workspace).fit(second, model)
    trainer = TorchTrainer(task, plan, one, workspace)
    assert np.array_equal(trainer.fit(first, model).update, expected)
    assert np.array_equal(trainer.fit(first, model).update, expected)
    assert not np.array_equal(trainer.fit(dataclasses.replace(first, seed=1), model).update, expected)


def test_read_only_rows_and_models_are_taken_and_left_alone() -> None:
    plan = rows_plan()
    task, data = load_task(plan), site_of("a", 12, 0)
    model = initial_vector(task, plan, 0)
    kept = [array.copy() for array in (data.train.x, data.train.y, model)]
    for array in (data.train.x, data.train.y, model):
        array.flags.writeable = False
    TorchTrainer(task, plan, data).fit(fit_jobs([data])[0], model)
    for array, copy in zip((data.train.x, data.train.y, model), kept, strict=True):
        assert np.array_equal(array, copy)


def test_a_model_that_is_not_finite_trains_and_its_loss_counts_as_the_largest() -> None:
    plan = rows_plan()
    task, data = load_task(plan), site_of("a", 12, 0)
    model = initial_vector(task, plan, 0)
    model[0] = np.nan
    result = TorchTrainer(task, plan, data).fit(fit_jobs([data])[0], model)
    assert np.isnan(result.update).any()
    assert result.tally.metrics()["loss"] > 1e6


def test_a_site_without_training_rows_is_named() -> None:
    plan = rows_plan()
    data = site_of("st-mary", 0, 0)
    with pytest.raises(LocalError, match="site st-mary: expected at least one training row, got none"):
        TorchTrainer(load_task(plan), plan, data).fit(fit_jobs([data])[0], initial_vector(load_task(plan), plan, 0))


def _evaluation(plan: Plan, data: SiteData, split: Split = Split.VALIDATION, **order: Any) -> EvalJob:
    return EvalJob(
        order=Order(run_id="r", plan_digest="p", kind=OrderKind.EVALUATE, round=1, split=split, **order), site=data.site
    )


def test_evaluation_counts_the_rows_of_the_split() -> None:
    plan = rows_plan()
    task, data = load_task(plan), site_of("a", 2100, 0)  # more than one piece
    trainer, model = TorchTrainer(task, plan, data), initial_vector(task, plan, 0)
    for split in (Split.TRAIN, Split.VALIDATION):
        rows = data.split(split)
        tally = trainer.evaluate(_evaluation(plan, data, split), model)
        outputs = task.model(0)(torch.from_numpy(rows.x)).detach()
        assert tally.n == len(rows)
        assert tally.metrics()["accuracy"] == pytest.approx((outputs.argmax(1).numpy() == rows.y).mean())
        loss = nn.CrossEntropyLoss()(outputs, torch.from_numpy(rows.y)).item()
        assert tally.metrics()["loss"] == pytest.approx(loss, abs=1e-5)
    empty = trainer.evaluate(_evaluation(plan, data, Split.TEST), model)
    assert empty.n == 0 and empty.spec == task.tally_spec


def test_a_model_that_is_not_finite_is_evaluated() -> None:
    plan = rows_plan()
    task, data = load_task(plan), site_of("a", 12, 0)
    model = initial_vector(task, plan, 0)
    model[:] = np.inf
    tally = TorchTrainer(task, plan, data).evaluate(_evaluation(plan, data), model)
    assert tally.n == 7 and tally.metrics()["loss"] > 1e6


def test_rows_are_standardised_by_the_orders_statistics() -> None:
    columns = [{"name": f"c{i}", "range": [-9.0, 9.0]} for i in range(INPUTS)]
    section = {"name": "tabular-classifier", "model": "logistic"}
    plan = rows_plan(task=section, data={"columns": columns, "standardize": "federated"})
    task, data = load_task(plan), site_of("a", 40, 0)
    trainer, model = TorchTrainer(task, plan, data), initial_vector(task, plan, 0)
    statistics = statistics_of(plan.data, trainer.statistics())
    x = standardize(plan.data, data.train.x, statistics)
    assert np.abs(x.mean(0)).max() < 1e-3 and np.abs(x.std(0) - 1).max() < 1e-3
    result = trainer.fit(fit_jobs([data], statistics=statistics)[0], model)
    expected = plain_training(task.model(0), plan, Rows(x, data.train.y), 7, plan.training.lr)
    np.testing.assert_allclose(result.update, expected, atol=1e-6)
    shifted = dataclasses.replace(statistics, mean=tuple(m + 1 for m in statistics.mean))
    other = trainer.fit(fit_jobs([data], statistics=shifted)[0], model)
    assert np.abs(other.update - result.update).max() > 1e-3
    assert np.array_equal(trainer.fit(fit_jobs([data], statistics=statistics)[0], model).update, result.update)
    outputs = predict(task, plan, model, data.train.x, statistics)
    expected_outputs = torch.softmax(task.model(0)(torch.from_numpy(x)), 1).detach().numpy()
    np.testing.assert_allclose(outputs, expected_outputs, atol=1e-6)
    with pytest.raises(Exception, match="expected an order with federated statistics"):
        trainer.evaluate(_evaluation(plan, data), model)


class _Foreign:
    """A third party's task: binary, with whatever network."""

    def __init__(self, network: Callable[[], nn.Module]) -> None:
        self._network = network

    @property
    def tally_spec(self) -> MeansSpec:
        return MeansSpec(names=("hits",))

    def model(self, seed: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self._network()

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        return nn.functional.cross_entropy(outputs, batch.y, reduction="none")

    def tally(self, outputs: Tensor, batch: Batch) -> Tally:
        return Tally.of_means(len(batch.y), {"hits": float((outputs.argmax(1) == batch.y).sum())})

    def predict(self, outputs: Tensor) -> Tensor:
        return outputs

    def output_names(self) -> Sequence[str]:
        return ("a", "b", "c")


def _normed() -> nn.Module:
    return nn.Sequential(nn.Linear(INPUTS, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3))


def test_averaged_batch_norm_statistics_are_part_of_the_update() -> None:
    plan = rows_plan({"batch_size": 30})
    task: Task = _Foreign(_normed)
    data = site_of("a", 30, 0)
    model = initial_vector(task, plan, 0)
    trainer = TorchTrainer(task, plan, data)
    layout = trainer.workspace.model.layout
    update = layout.split(trainer.fit(fit_jobs([data])[0], model).update)
    first: Any = task.model(0)[0]  # type: ignore[index]
    hidden = first(torch.from_numpy(data.train.x)).detach().numpy()
    np.testing.assert_allclose(update["1.running_mean"], 0.1 * hidden.mean(0), atol=1e-6)
    np.testing.assert_allclose(update["1.running_var"], 0.1 * (hidden.var(0, ddof=1) - 1), atol=1e-6)
    assert trainer.state is None


def test_local_batch_norm_statistics_last_from_round_to_round_and_can_be_restored() -> None:
    plan = rows_plan({"batch_size": 10, "batch_norm": "local"})
    task, (one, other) = _Foreign(_normed), sites_of([30, 30])
    model, workspace = initial_vector(task, plan, 0), Workspace(_Foreign(_normed), plan)
    jobs = fit_jobs([one, other])
    trainer, neighbour = (TorchTrainer(task, plan, data, workspace) for data in (one, other))
    trainer.fit(jobs[0], model)
    saved = trainer.state
    assert saved is not None and saved["1.num_batches_tracked"] == 3
    neighbour.fit(jobs[1], model)
    assert neighbour.state is not None
    assert not np.array_equal(neighbour.state["1.running_mean"], saved["1.running_mean"])
    trainer.fit(jobs[0], model)
    assert trainer.state is not None and trainer.state["1.num_batches_tracked"] == 6
    resumed = TorchTrainer(task, plan, one)
    resumed.state = saved
    resumed.fit(jobs[0], model)
    assert resumed.state is not None
    for name, values in trainer.state.items():
        np.testing.assert_array_equal(resumed.state[name], values)
    seen = resumed.evaluate(_evaluation(plan, one), model)
    module = task.model(0).eval()
    module.load_state_dict({n: torch.from_numpy(np.array(v)) for n, v in resumed.state.items()}, strict=False)
    hits = (module(torch.from_numpy(one.validation.x)).argmax(1).numpy() == one.validation.y).sum()
    assert seen.metrics()["hits"] == pytest.approx(hits / 7)


def test_dropout_is_drawn_from_the_jobs_seed_and_leaves_the_generator_alone() -> None:
    plan = rows_plan()
    task = _Foreign(lambda: nn.Sequential(nn.Linear(INPUTS, 8), nn.Dropout(0.5), nn.Linear(8, 3)))
    data = site_of("a", 20, 0)
    model, (job,) = initial_vector(task, plan, 0), fit_jobs([data])
    trainer = TorchTrainer(task, plan, data)
    before = torch.get_rng_state()
    first = trainer.fit(job, model).update
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(5)
    assert np.array_equal(trainer.fit(job, model).update, first)
    dropout: Any = trainer.workspace.model.module
    dropout[1].p = 0.0
    assert not np.array_equal(trainer.fit(job, model).update, first)


def test_a_failing_task_is_reported_in_one_line_that_names_the_site() -> None:
    plan = rows_plan()
    task = _Foreign(lambda: nn.Linear(INPUTS + 1, 3))
    data = site_of("st-mary", 20, 0)
    with pytest.raises(LocalError, match="site st-mary: training in round 1 failed: RuntimeError") as caught:
        TorchTrainer(task, plan, data).fit(fit_jobs([data])[0], initial_vector(task, plan, 0))
    assert "\n" not in str(caught.value)


def test_parameters_that_the_loss_does_not_use_stay() -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = nn.Linear(INPUTS, 3), nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)  # type: ignore[no-any-return]

    plan = rows_plan()
    data = SiteData(site=SiteId("a"), train=rows_of(20, 0), validation=rows_of(1, 1), test=rows_of(1, 1))
    trainer = TorchTrainer(_Foreign(Idle), plan, data)
    update = trainer.fit(fit_jobs([data])[0], initial_vector(trainer.task, plan, 0)).update
    parts = trainer.workspace.model.layout.split(update)
    assert not parts["idle.weight"].any() and parts["used.weight"].all()
