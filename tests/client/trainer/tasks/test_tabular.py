from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn import metrics

from tests.sites_of_rows import INPUTS, rows_plan
from wardround.client.trainer.bundle import load_task
from wardround.plan import Plan, PlanError
from wardround.tally import ClassificationSpec
from wardround.task import Batch, Task

REGRESSION = {"target": {"name": "y", "range": [20.0, 120.0]}}


def _classes(count: int) -> Plan:
    return rows_plan(data={"target": {"name": "y", "classes": [str(label) for label in range(count)]}})


def _regressor(**task: Any) -> Plan:
    return rows_plan(task={"name": "tabular-regressor", "options": {"inputs": INPUTS}, **task}, data=REGRESSION)


def test_architectures() -> None:
    plan = rows_plan()
    assert [tuple(p.shape) for p in load_task(plan).model(0).parameters()] == [
        (5, INPUTS), (5,), (4, 5), (4,), (3, 4), (3,),
    ]  # fmt: skip
    logistic = rows_plan(task={"name": "tabular-classifier", "model": "logistic", "options": {"inputs": INPUTS}})
    assert [tuple(p.shape) for p in load_task(logistic).model(0).parameters()] == [(3, INPUTS), (3,)]
    assert [tuple(p.shape) for p in load_task(_regressor(model="linear")).model(0).parameters()] == [(1, INPUTS), (1,)]
    assert load_task(_regressor(hidden=[2])).model(0)(torch.zeros(7, INPUTS)).shape == (7, 1)


def test_columns_give_the_width() -> None:
    columns = [{"name": "age"}, {"name": "stage", "type": "category", "categories": ["I", "II", "III"]}]
    plan = rows_plan(task={"name": "tabular-classifier", "model": "logistic"}, data={"columns": columns})
    assert load_task(plan).model(0)(torch.zeros(1, 4)).shape == (1, 3)


@pytest.mark.parametrize(
    ("task", "data", "path", "words"),
    [
        ({"model": "logistc"}, {}, "task.model", "did you mean 'logistic'"),
        ({"options": {}}, {}, "task.options.inputs", "the number of inputs"),
        ({"options": {"input": 3}}, {}, "task.options.input", "did you mean 'inputs'"),
        ({"options": {"inputs": True}}, {}, "task.options.inputs", "a whole number"),
        ({"options": {"inputs": 3}}, {"columns": [{"name": "age"}]}, "task.options.inputs", "the 1 inputs"),
        ({}, REGRESSION, "data.target", "a target with classes"),
        ({"name": "tabular-regressor"}, {}, "data.target", "a target with a range"),
        ({"name": "tabular-regressor", "model": "logistic"}, REGRESSION, "task.model", "known: linear, mlp"),
    ],
)
def test_what_does_not_fit_is_refused(task: dict[str, Any], data: dict[str, Any], path: str, words: str) -> None:
    plan = rows_plan(task={"name": "tabular-classifier", "options": {"inputs": INPUTS}, **task}, data=data)
    with pytest.raises(PlanError) as caught:
        load_task(plan)
    assert caught.value.path == path and words in str(caught.value)


def test_built_in_tasks_are_tasks() -> None:
    assert isinstance(load_task(rows_plan()), Task) and isinstance(load_task(_regressor()), Task)


@settings(max_examples=30)
@example(classes=4, n=158, seed=16866, scale=5.984375)  # a score beyond the last bin
@given(st.integers(2, 5), st.integers(1, 200), st.integers(0, 2**32 - 1), st.floats(0.1, 6))
def test_a_tally_says_what_scikit_learn_says(classes: int, n: int, seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    outputs = (scale * rng.standard_normal((n, classes))).astype(np.float32)
    y = rng.integers(0, classes, n)
    task = load_task(_classes(classes))
    tally = task.tally(torch.from_numpy(outputs), Batch(torch.zeros(n, 1), torch.from_numpy(y)))
    probability = task.predict(torch.from_numpy(outputs)).double().numpy()
    labels = np.arange(classes)
    found = tally.metrics()
    assert (tally.confusion == metrics.confusion_matrix(y, outputs.argmax(1), labels=labels)).all()
    assert found["loss"] == pytest.approx(-np.log(probability[np.arange(n), y]).mean(), rel=1e-4, abs=1e-5)
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(y, outputs.argmax(1)))
    for curve in range(tally.histograms.shape[0]):
        positive = y == (1 if classes == 2 else curve)
        own = 1 if classes == 2 else curve
        rest = np.logaddexp.reduce(np.delete(outputs, own, 1).astype(np.float64), axis=1)
        odds = outputs[:, own].astype(np.float64) - rest
        score = np.minimum(np.floor((np.clip(odds, -12, 12) + 12) / 24 * 512), 511)  # scores that share a bin tie
        assert tally.histograms[curve].sum(1).tolist() == [(~positive).sum(), positive.sum()]
        if 0 < positive.sum() < n:
            false, true = tally.roc(curve)
            assert np.trapezoid(true, false) == pytest.approx(metrics.roc_auc_score(positive, score), abs=1e-9)


def test_scores_fall_into_the_bin_of_their_log_odds() -> None:
    task = load_task(_classes(2))
    spec = task.tally_spec
    assert isinstance(spec, ClassificationSpec)
    odds = torch.tensor([-50.0, -12.0, -0.01, 0.01, 5.0, 11.99, 12.0, 80.0])
    outputs = torch.stack([torch.zeros(8), odds], 1)
    tally = task.tally(outputs, Batch(torch.zeros(8, 1), torch.tensor([0, 0, 0, 1, 1, 1, 1, 1])))
    bins = spec.bins
    assert np.flatnonzero(tally.histograms[0, 0]).tolist() == [0, bins // 2 - 1]
    expected = [bins // 2, int((5 + 12) / 24 * bins), bins - 1]
    assert np.flatnonzero(tally.histograms[0, 1]).tolist() == expected
    assert tally.histograms[0, 1, bins - 1] == 3


def test_certain_and_meaningless_scores_are_counted() -> None:
    task = load_task(_classes(3))
    outputs = torch.tensor([[1e4, 0, 0], [float("nan"), 0, 0], [float("inf"), 0, 0]])
    tally = task.tally(outputs, Batch(torch.zeros(3, 1), torch.tensor([0, 1, 2])))
    assert tally.n == 3 and (tally.histograms.sum((1, 2)) == 3).all()


@settings(max_examples=30)
@given(st.integers(20, 200), st.integers(0, 2**32 - 1))
def test_regression_tallies_say_what_scikit_learn_says(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    y = rng.random(n).astype(np.float32)
    outputs = torch.from_numpy((y + 0.2 * rng.standard_normal(n)).astype(np.float32))[:, None]
    task = load_task(_regressor(model="linear"))
    batch = Batch(torch.zeros(n, 1), torch.from_numpy(y))
    found = task.tally(outputs, batch).metrics()
    truth, predicted = 20 + 100 * y.astype(np.float64), task.predict(outputs).double().numpy()[:, 0]
    assert found["mae"] == pytest.approx(metrics.mean_absolute_error(truth, predicted), abs=1e-3)
    assert found["rmse"] == pytest.approx(metrics.root_mean_squared_error(truth, predicted), abs=1e-3)
    assert found["r2"] == pytest.approx(metrics.r2_score(truth, predicted), abs=1e-2)
    assert task.loss(outputs, batch).shape == (n,)
    assert found["loss"] == pytest.approx(task.loss(outputs, batch).mean().item(), abs=1e-5)
    assert list(task.output_names()) == ["y"]
