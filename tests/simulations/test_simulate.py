"""The Python API: whole runs, in memory and in a run directory."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from wardround.client.trainer.tasks.tabular import TabularClassifier
from wardround.errors import LocalError
from wardround.orders import SiteId
from wardround.plan import Plan, PlanError, parse_plan
from wardround.plan_source import find_plan
from wardround.server.runs.run_directory import RunDirectory, read_lines
from wardround.simulations.simulate import simulate
from wardround.strategies.records import RoundRecord, RunState
from wardround.tally import ClassificationSpec
from wardround.task import Batch
from wardround.vector import F32, I64

Sites = dict[str, tuple[F32, I64]]


def sites(count: int = 3, rows: int = 60) -> Sites:
    """Two classes that a line separates well; each site sees another part of the line."""
    random = np.random.Generator(np.random.Philox(key=5))
    given: Sites = {}
    for number in range(count):
        x = random.normal(size=(rows, 4)).astype(np.float32) + np.float32(0.3 * number)
        given[f"ward {number}"] = x, (x @ np.array([1, -1, 2, 0]) + 0.3 * random.normal(size=rows) > 0).astype(np.int64)
    return given


def arrays_plan(*settings: str) -> Plan:
    table = {
        "name": "arrays",
        "rounds": 4,
        "task": {"name": "tabular-classifier", "model": "mlp", "hidden": [8]},
        "data": {"source": "arrays", "target": {"name": "ill", "classes": ["no", "yes"]}},
        "training": {"batch_size": 16, "lr": 0.2},
        "simulation": {"sites": 3, "bootstrap": 50},
    }
    return parse_plan(table).override(settings)


def test_arrays_in_arrays_out() -> None:
    given = sites()
    result = simulate(arrays_plan("rounds=30"), data=given)
    assert result.metrics["auc"] > 0.9 and result.comparison is not None
    assert [line["round"] for line in result.rounds] == list(range(1, 31))
    x, y = given["ward 1"]
    probability = result.predict(x)
    assert probability.shape == (60, 2)
    np.testing.assert_allclose(probability.sum(axis=1), 1, rtol=1e-5)
    assert ((probability[:, 1] > 0.5) == y).mean() > 0.85
    module = TabularClassifier(result.plan).model(0)
    module.load_state_dict(result.state_dict())
    with torch.no_grad():
        np.testing.assert_allclose(torch.softmax(module(torch.from_numpy(x)), 1).numpy(), probability, atol=1e-6)


def test_a_notebook_shows_the_report() -> None:
    result = simulate(arrays_plan("rounds=1"), data=sites())
    assert "<iframe" in result._repr_html_() and "plotly" in result._repr_html_()
    assert repr(result).startswith("<Result of 'arrays': 1 rounds; test loss ")
    bare = simulate(arrays_plan("rounds=1"), data=sites(), report=False)
    assert bare.comparison is None and "<iframe" not in bare._repr_html_()


class Doubled(TabularClassifier):
    """A task of a notebook's own: the same model, twice the loss."""

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        return 2 * super().loss(outputs, batch)


def test_a_task_from_python_replaces_the_plans() -> None:
    plan = arrays_plan("task.options.inputs=4", "training.lr=0.1")
    ours = simulate(plan, task=Doubled(plan), data=sites(), report=False)
    same = simulate(plan.override(["training.lr=0.2"]), data=sites(), report=False)
    np.testing.assert_allclose(ours.model, same.model, rtol=1e-4, atol=1e-6)


def test_the_same_plan_gives_the_same_bits() -> None:
    plan = arrays_plan("simulation.executor=blocks", "simulation.block_size=2", "cohort.size=2")
    first, second = (simulate(plan, data=sites(), report=False).model for _ in range(2))
    assert first.tobytes() == second.tobytes()
    assert simulate(plan.override(["seed=1"]), data=sites(), report=False).model.tobytes() != first.tobytes()


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_both_executors_reach_the_same_model(optimizer: str) -> None:
    plan = arrays_plan(f"training.optimizer={optimizer}", "training.lr=0.01", "rounds=1", "training.epochs=2")
    flat = simulate(plan.override(["simulation.executor=flat"]), data=sites(), report=False)
    blocks = simulate(plan.override(["simulation.executor=blocks"]), data=sites(), report=False)
    np.testing.assert_allclose(flat.model, blocks.model, atol=1e-5)


def test_workers_do_not_change_a_bit() -> None:
    one, two = (
        simulate(arrays_plan("simulation.executor=flat", f"simulation.workers={n}"), data=sites(), report=False)
        for n in (1, 2)
    )
    assert one.model.tobytes() == two.model.tobytes()


class Normed(TabularClassifier):
    """A task with BatchNorm."""

    def model(self, seed: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2))


@pytest.mark.parametrize("batch_norm", ["average", "local"])
def test_batch_norm_survives_a_resume(tmp_path: Path, batch_norm: str) -> None:
    plan = arrays_plan("task.options.inputs=4", f"training.batch_norm={batch_norm}", "rounds=5")
    task = Normed(plan)
    whole = simulate(plan, task=task, data=sites(), report=False)

    class Stop(Exception):
        pass

    class StopAfterTwo:
        def round_done(self, record: RoundRecord, state: RunState) -> None:
            if record.round == 2:
                raise Stop

    with pytest.raises(Stop):
        simulate(plan, task=task, data=sites(), out=tmp_path / "run", observer=StopAfterTwo(), report=False)
    resumed = simulate(task=task, data=sites(), out=tmp_path / "run", resume=True, report=False)
    assert resumed.model.tobytes() == whole.model.tobytes() and resumed.metrics == whole.metrics
    assert [line["round"] for line in resumed.rounds] == [1, 2, 3, 4, 5]
    averaged = any(tensor.buffer for tensor in resumed.layout.tensors)
    assert averaged == (batch_norm == "average")


def test_the_run_directory_holds_what_the_result_says(tmp_path: Path) -> None:
    result = simulate(arrays_plan(), data=sites(), out=tmp_path / "run")
    assert result.report_path == tmp_path / "run" / "report.html" and result.report_path.stat().st_size > 1 << 20
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names >= {"plan.toml", "metrics.jsonl", "checkpoints", "model.safetensors", "model-card.md", "results.json"}
    assert read_lines(tmp_path / "run") == list(result.rounds)
    with RunDirectory.open(tmp_path / "run") as run:
        checkpoint = run.latest()
        assert checkpoint is not None and checkpoint.state.model.tobytes() == result.model.tobytes()


def test_a_resumed_run_needs_the_same_data(tmp_path: Path) -> None:
    simulate(arrays_plan("rounds=1"), data=sites(), out=tmp_path / "run", report=False)
    other = sites()
    other["ward 0"][0][0, 0] += 1
    with pytest.raises(LocalError, match="expected the data that the run was started with, got other rows"):
        simulate(data=other, out=tmp_path / "run", resume=True)


def test_what_cannot_be_simulated_is_refused() -> None:
    with pytest.raises(LocalError, match="expected a plan, or the folder of a run to resume"):
        simulate()
    with pytest.raises(LocalError, match="expected `out`"):
        simulate(resume=True)
    with pytest.raises(PlanError, match="no data were given from Python"):
        simulate(arrays_plan())
    with pytest.raises(PlanError, match="did you mean 'breast-cancer'"):
        simulate("breast-canser")


def test_early_stopping_releases_the_best_model() -> None:
    plan = arrays_plan("rounds=60", "evaluation.patience=2", "evaluation.select=best", "training.lr=3.0")
    result = simulate(plan, data=sites(), report=False)
    assert result.stopped.startswith("no better validation loss in 2 evaluations")
    losses = [line["validation"]["metrics"]["loss"] for line in result.rounds]
    assert result.round == 1 + int(np.argmin(losses)) == len(losses) - 2


def test_drop_outs_are_in_the_records() -> None:
    settings = ("simulation.sites=8", "simulation.dropout=0.4", "cohort.min_replies=1", "rounds=5")
    result = simulate(arrays_plan(*settings), data=sites(8), report=False)
    reasons = {absence["reason"] for line in result.rounds for absence in line["absences"]}
    assert reasons == {"dropped out (simulated)"}


def test_multi_class_and_regression(tmp_path: Path) -> None:
    random = np.random.Generator(np.random.Philox(key=2))
    x = random.normal(size=(240, 3)).astype(np.float32)
    classes = replace(arrays_plan().data.target or pytest.fail(), classes=("a", "b", "c"))
    plan = arrays_plan("rounds=20", "training.lr=0.3")
    three = simulate(replace(plan, data=replace(plan.data, target=classes)), data=(x, x.argmax(axis=1)))
    assert three.metrics["accuracy"] > 0.8 and three.metrics["auc"] > 0.9
    assert isinstance(three.task, TabularClassifier) and three.task.tally_spec == ClassificationSpec(classes=3)
    table = {
        "name": "regression",
        "rounds": 20,
        "task": {"name": "tabular-regressor", "model": "linear"},
        "data": {"source": "arrays", "target": {"name": "dose", "range": [-20, 20], "unit": "mg"}},
        "training": {"lr": 0.3},
        "simulation": {"sites": 4, "bootstrap": 0},
    }
    dose = simulate(parse_plan(table), data=(x, (3 * x[:, 0] - x[:, 2]).astype(np.float32)), out=tmp_path / "run")
    assert dose.metrics["r2"] > 0.95 and dose.metrics["rmse"] < 1
    assert abs(float(dose.predict(np.array([[2, 0, 0]]))[0, 0]) - 6) < 1


@pytest.mark.slow
def test_breast_cancer_reaches_what_is_promised() -> None:
    """Ten hospitals, Dirichlet(0.5): test AUC of five seeds, beside what a hospital reaches alone."""
    federated, alone = [], []
    for seed in range(1, 6):
        result = simulate(find_plan("breast-cancer").override([f"seed={seed}", "simulation.bootstrap=0"]))
        assert result.comparison is not None
        federated.append(result.comparison.overall["federated"]["auc"].value)
        alone.append(result.comparison.overall["alone"]["auc"].value)
    assert np.mean(federated) >= 0.985
    assert np.mean(federated) > np.mean(alone)


@pytest.mark.slow
def test_digits_reach_what_is_promised() -> None:
    """Twenty sites, Dirichlet(0.5)."""
    result = simulate("digits", report=False)
    assert len(result.rounds[0]["cohort"]) == 20 and SiteId("site-20") in result.rounds[0]["cohort"]
    assert result.metrics["accuracy"] >= 0.95
