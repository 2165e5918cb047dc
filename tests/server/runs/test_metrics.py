"""Exact metrics against scikit-learn, and against the tallies that a federation computes them from."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from sklearn import metrics as oracle

from wardround.plan_sections import Target
from wardround.server.runs.curves import calibration, confusion, roc
from wardround.server.runs.metrics import PRIMARY, Kind, auc, metrics
from wardround.tally import LOGIT_LIMIT, ClassificationSpec, Tally
from wardround.vector import F64


def weighted(kind: Kind, y: F64, predicted: F64, counts: list[int]) -> dict[str, float]:
    """The metrics of rows that count `counts` times."""
    weights = np.array(counts, dtype=np.float64)[:, None]
    return {name: float(values[0]) for name, values in metrics(kind, y, predicted, weights).items()}


@st.composite
def binary_rows(draw: st.DrawFn) -> tuple[F64, F64, list[int]]:
    """Labels of both classes, probabilities with many ties, and how often each row counts."""
    n = draw(st.integers(4, 40))
    y = np.array([0, 1, *draw(st.lists(st.integers(0, 1), min_size=n - 2, max_size=n - 2))], dtype=np.float64)
    scores = np.array(draw(st.lists(st.integers(0, 12), min_size=n, max_size=n))) / 12
    return y, scores, [1, 1, *draw(st.lists(st.integers(0, 3), min_size=n - 2, max_size=n - 2))]


@settings(max_examples=30)
@given(binary_rows())
def test_binary_metrics_are_those_of_scikit_learn(rows: tuple[F64, F64, list[int]]) -> None:
    y, probability, counts = rows
    found = weighted(Kind.BINARY, y, probability, counts)
    said = probability > 0.5
    expected = {
        "auc": oracle.roc_auc_score(y, probability, sample_weight=counts),
        "accuracy": oracle.accuracy_score(y, said, sample_weight=counts),
        "sensitivity": oracle.recall_score(y, said, sample_weight=counts, zero_division=0),
        "specificity": oracle.recall_score(1 - y, ~said, sample_weight=counts, zero_division=0),
        "brier": oracle.brier_score_loss(y, probability, sample_weight=counts),
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-12)


@settings(max_examples=30)
@given(binary_rows())
def test_a_row_that_counts_twice_is_two_rows(rows: tuple[F64, F64, list[int]]) -> None:
    y, probability, counts = rows
    repeated = np.repeat(np.arange(len(y)), counts)
    once = weighted(Kind.BINARY, y[repeated], probability[repeated], [1] * len(repeated))
    assert weighted(Kind.BINARY, y, probability, counts) == pytest.approx(once, abs=1e-12)


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1))
def test_multiclass_metrics_are_those_of_scikit_learn(seed: int) -> None:
    generator = np.random.Generator(np.random.Philox(key=seed))
    y = np.concatenate((np.arange(4), generator.integers(0, 4, 30))).astype(np.float64)
    predicted = generator.dirichlet(np.ones(4), len(y))
    found = weighted(Kind.MULTICLASS, y, predicted, [1] * len(y))
    assert found["accuracy"] == pytest.approx(oracle.accuracy_score(y, predicted.argmax(axis=1)))
    assert found["auc"] == pytest.approx(oracle.roc_auc_score(y, predicted, multi_class="ovr", average="macro"))
    assert found["brier"] == pytest.approx(float(((predicted - np.eye(4)[y.astype(int)]) ** 2).sum(axis=1).mean()))


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1))
def test_regression_metrics_are_those_of_scikit_learn(seed: int) -> None:
    generator = np.random.Generator(np.random.Philox(key=seed))
    y = generator.normal(150, 50, 30)
    predicted, counts = y + generator.normal(0, 20, 30), generator.integers(1, 4, 30).tolist()
    assert weighted(Kind.REGRESSION, y, predicted, counts) == pytest.approx(
        {
            "rmse": oracle.root_mean_squared_error(y, predicted, sample_weight=counts),
            "mae": oracle.mean_absolute_error(y, predicted, sample_weight=counts),
            "r2": oracle.r2_score(y, predicted, sample_weight=counts),
        }
    )


def test_what_one_class_cannot_say_is_nan() -> None:
    found = weighted(Kind.BINARY, np.ones(3), np.array([0.2, 0.7, 0.9]), [1, 1, 1])
    assert np.isnan(found["auc"])
    assert np.isnan(found["specificity"])
    assert found["sensitivity"] == pytest.approx(2 / 3)
    assert np.isnan(weighted(Kind.REGRESSION, np.full(4, 7.0), np.arange(4.0), [1] * 4)["r2"])


def test_auc_of_ties_counts_one_half() -> None:
    positive = np.array([True, False, True, False])
    assert auc(positive, np.array([0.5, 0.5, 0.5, 0.5]), np.ones((4, 1))).tolist() == [0.5]
    assert auc(positive, np.array([0.9, 0.5, 0.5, 0.1]), np.ones((4, 1))).tolist() == [0.875]


def test_the_tallys_histograms_agree_with_the_exact_metrics() -> None:
    generator = np.random.Generator(np.random.Philox(key=11))
    y = generator.integers(0, 2, 2000)
    logit = generator.normal(2.0 * y - 1, 1.5)
    probability = 1 / (1 + np.exp(-logit))
    spec = ClassificationSpec(classes=2, bins=512)
    counts = np.zeros(spec.size, dtype=np.int64)
    counts[0] = len(y)
    np.add.at(counts[2:6].reshape(2, 2), (y, (probability > 0.5).astype(int)), 1)
    place = np.clip((logit + LOGIT_LIMIT) / (2 * LOGIT_LIMIT) * spec.bins, 0, spec.bins - 1).astype(int)
    np.add.at(counts[6:].reshape(2, spec.bins), (y, place), 1)
    binned = Tally(spec, counts).metrics()
    exact = weighted(Kind.BINARY, y.astype(np.float64), probability, [1] * len(y))
    assert {name: binned[name] for name in exact} == pytest.approx(exact, abs=2e-3)
    assert binned["accuracy"] == exact["accuracy"]


@settings(max_examples=30)
@given(binary_rows())
def test_the_roc_curve_encloses_the_auc(rows: tuple[F64, F64, list[int]]) -> None:
    y, probability, _ = rows
    curve = roc(Kind.BINARY, y, probability, model="federated")
    assert curve is not None
    false, true = np.array(curve.false_positive_rate), np.array(curve.true_positive_rate)
    assert (false[0], true[0], false[-1], true[-1]) == (0, 0, 1, 1)
    assert oracle.auc(false, true) == pytest.approx(oracle.roc_auc_score(y, probability))
    assert len(false) <= len(oracle.roc_curve(y, probability)[0]) + 1


def test_no_roc_of_one_class_or_a_number() -> None:
    assert roc(Kind.BINARY, np.ones(3), np.array([0.1, 0.2, 0.3]), model="federated") is None
    assert roc(Kind.REGRESSION, np.ones(3), np.ones(3), model="federated") is None


def test_the_curve_of_many_classes_is_the_average_of_each_against_the_rest() -> None:
    generator = np.random.Generator(np.random.Philox(key=3))
    y = generator.integers(0, 3, 400).astype(np.float64)
    predicted = generator.dirichlet(np.ones(3), 400) + np.eye(3)[y.astype(int)] * 0.3
    predicted /= predicted.sum(axis=1, keepdims=True)
    curve = roc(Kind.MULTICLASS, y, predicted, model="pooled")
    assert curve is not None
    area = oracle.auc(curve.false_positive_rate, curve.true_positive_rate)
    assert area == pytest.approx(oracle.roc_auc_score(y, predicted, multi_class="ovr"), abs=0.01)


def test_calibration_groups_rows_of_similar_probability() -> None:
    y, probability = np.array([0.0, 1.0, 1.0, 1.0]), np.array([0.12, 0.18, 0.95, 1.0])
    found = calibration(Kind.BINARY, y, probability, model="federated")
    assert found.predicted == pytest.approx((0.15, 0.975))
    assert (found.observed, found.count) == ((0.5, 1.0), (2, 2))
    error = weighted(Kind.BINARY, y, probability, [1] * 4)["calibration_error"]
    assert error == pytest.approx(abs(0.15 - 0.5) / 2 + abs(0.975 - 1) / 2)


def test_calibration_of_a_number_takes_tenths_of_the_rows() -> None:
    predicted = np.arange(100.0)
    found = calibration(Kind.REGRESSION, predicted + 1, predicted[:], model="federated")
    assert found.count == (10,) * 10
    assert np.subtract(found.observed, found.predicted) == pytest.approx(np.ones(10))


def test_confusion_counts_label_by_prediction() -> None:
    y = np.array([0.0, 0.0, 1.0, 1.0, 1.0])
    assert confusion(Kind.BINARY, y, np.array([0.1, 0.9, 0.8, 0.5, 0.6]), 2).tolist() == [[1, 1], [1, 2]]
    scores = np.eye(3)[[0, 2, 1, 1, 2]]
    assert confusion(Kind.MULTICLASS, y, scores, 3).tolist() == [[1, 0, 1], [0, 2, 1], [0, 0, 0]]


def test_every_kind_leads_with_a_metric_that_it_has() -> None:
    targets = (
        Target(name="y", classes=("a", "b")),
        Target(name="y", classes=("a", "b", "c")),
        Target(name="y", range=(0, 1)),
    )
    for target in targets:
        kind = Kind.of(target)
        predicted = np.full((4, 3), 1 / 3) if kind is Kind.MULTICLASS else np.full(4, 0.4)
        assert PRIMARY[kind] in metrics(kind, np.array([0.0, 1.0, 1.0, 0.0]), predicted, np.ones((4, 1)))
