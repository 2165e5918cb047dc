"""Tallies against scikit-learn, which sees the rows that a tally only counts."""

from itertools import pairwise
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn import metrics as oracle

from wardround.errors import RemoteError
from wardround.tally import (
    FRACTION_BITS,
    LOGIT_LIMIT,
    ClassificationSpec,
    MeansSpec,
    MomentsSpec,
    RegressionSpec,
    Tally,
    TallySpec,
    decode_spec,
    encode_spec,
    fixed_point,
)
from wardround.vector import F64, I64

ONE = 1 << FRACTION_BITS


def random(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=seed))


def bin_of(probability: F64, bins: int) -> I64:
    """The bin of each probability, from the definition: equal intervals of log-odds."""
    with np.errstate(divide="ignore"):
        logit = np.log(probability) - np.log1p(-probability)
    return np.clip(np.floor((logit + LOGIT_LIMIT) / (2 * LOGIT_LIMIT) * bins), 0, bins - 1).astype(np.int64)


def middle(index: I64, bins: int) -> F64:
    """The probability in the middle of a bin."""
    logit = (index + 0.5) / bins * 2 * LOGIT_LIMIT - LOGIT_LIMIT
    value: F64 = 1 / (1 + np.exp(-logit))
    return value


def counted(spec: ClassificationSpec, y: I64, probability: F64, loss: F64) -> Tally:
    """A tally of rows with class probabilities of shape (n, classes), counted row by row."""
    counts = np.zeros(spec.size, dtype=np.int64)
    counts[:2] = len(y), np.rint(loss.sum() * ONE)
    tally = Tally(spec, counts)
    curves = range(1, 2) if spec.classes == 2 else range(spec.classes)
    for row, label in enumerate(y):
        tally.confusion[label, probability[row].argmax()] += 1
        for curve, positive in enumerate(curves):
            where = bin_of(probability[row, positive : positive + 1], spec.bins)[0]
            tally.histograms[curve, int(label == positive), where] += 1
    return tally


def rows(n: int, classes: int, seed: int) -> tuple[I64, F64]:
    """Labels, every class among them, and probabilities that know something about them."""
    generator = random(seed)
    y = np.concatenate((np.arange(classes), generator.integers(0, classes, n - classes)))
    logits = generator.normal(size=(n, classes)) * 1.5 + 1.2 * np.eye(classes)[y]
    odds = np.exp(logits)
    return y, odds / odds.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("bins", [16, 512])
@pytest.mark.parametrize("seed", range(4))
def test_two_classes(seed: int, bins: int) -> None:
    y, probability = rows(300, 2, seed)
    loss = -np.log(probability[np.arange(len(y)), y])
    tally = counted(ClassificationSpec(classes=2, bins=bins), y, probability, loss)
    found = tally.metrics()
    score = bin_of(probability[:, 1], bins)
    said = probability[:, 1] > 0.5
    assert tally.n == 300
    assert found["loss"] == pytest.approx(oracle.log_loss(y, probability), abs=1e-6)
    assert found["accuracy"] == pytest.approx(oracle.accuracy_score(y, said))
    assert found["sensitivity"] == pytest.approx(oracle.recall_score(y, said))
    assert found["specificity"] == pytest.approx(oracle.recall_score(y, said, pos_label=0))
    assert found["auc"] == pytest.approx(oracle.roc_auc_score(y, score), abs=1e-12)
    assert found["brier"] == pytest.approx(oracle.brier_score_loss(y, middle(score, bins)), abs=1e-12)
    if bins == 512:  # fine enough that binning is lost in rounding
        assert found["auc"] == pytest.approx(oracle.roc_auc_score(y, probability[:, 1]), abs=2e-3)
        assert found["brier"] == pytest.approx(oracle.brier_score_loss(y, probability[:, 1]), abs=1e-3)
    assert np.array_equal(tally.confusion, oracle.confusion_matrix(y, said))


@pytest.mark.parametrize("seed", range(3))
def test_more_classes(seed: int) -> None:
    y, probability = rows(200, 4, seed)
    tally = counted(ClassificationSpec(classes=4), y, probability, np.zeros(200))
    areas = [oracle.roc_auc_score(y == k, bin_of(probability[:, k], 512)) for k in range(4)]
    found = tally.metrics()
    assert found["auc"] == pytest.approx(np.mean(areas), abs=1e-12)
    assert found["auc"] == pytest.approx(oracle.roc_auc_score(y, probability, multi_class="ovr"), abs=2e-3)
    assert found["accuracy"] == pytest.approx(oracle.accuracy_score(y, probability.argmax(axis=1)))
    assert "sensitivity" not in found


def test_the_roc_curve() -> None:
    y, probability = rows(150, 2, 5)
    spec = ClassificationSpec(classes=2, bins=64)
    false, true = counted(spec, y, probability, np.zeros(150)).roc()
    expected = oracle.roc_curve(y, bin_of(probability[:, 1], 64), drop_intermediate=False)
    assert (false[0], true[0], false[-1], true[-1]) == (0, 0, 1, 1)
    points = set(zip(false.round(12).tolist(), true.round(12).tolist(), strict=True))
    assert points == set(zip(expected[0].round(12).tolist(), expected[1].round(12).tolist(), strict=True))
    assert oracle.auc(false, true) == pytest.approx(oracle.roc_auc_score(y, bin_of(probability[:, 1], 64)))


def test_calibration_groups_rows_by_their_probability() -> None:
    y, probability = rows(400, 2, 6)
    tally = counted(ClassificationSpec(classes=2), y, probability, np.zeros(400))
    p = middle(bin_of(probability[:, 1], 512), 512)
    group = np.minimum((p * 10).astype(int), 9)
    used = np.unique(group)
    predicted, observed, count = tally.calibration()
    assert count.tolist() == [int((group == g).sum()) for g in used]
    assert predicted == pytest.approx([p[group == g].mean() for g in used])
    assert observed == pytest.approx([y[group == g].mean() for g in used])
    gap = np.average(np.abs(predicted - observed), weights=count)
    assert tally.metrics()["calibration_error"] == pytest.approx(gap)


@pytest.mark.parametrize("only", [0, 1])
def test_what_one_class_cannot_say_is_absent(only: int) -> None:
    _, probability = rows(20, 2, 7)
    found = counted(ClassificationSpec(classes=2), np.full(20, only), probability, np.zeros(20)).metrics()
    assert "auc" not in found
    assert ("sensitivity" in found, "specificity" in found) == (only == 1, only == 0)


def test_a_class_that_is_missing_leaves_no_mean_auc() -> None:
    y, probability = rows(40, 3, 8)
    found = counted(ClassificationSpec(classes=3), np.minimum(y, 1), probability, np.zeros(40)).metrics()
    assert "auc" not in found
    assert "accuracy" in found


@pytest.mark.parametrize("seed", range(3))
def test_regression(seed: int) -> None:
    generator = random(seed)
    y = generator.uniform(20, 80, 200)
    predicted = y + generator.normal(0, 7, 200)
    low, high = 10.0, 110.0
    scaled, error = (y - low) / (high - low), (predicted - y) / (high - low)
    sums = [(error**2).sum(), error.sum(), np.abs(error).sum(), (error**2).sum(), scaled.sum(), (scaled**2).sum()]
    counts = np.array([200, *(round(value * ONE) for value in sums)], dtype=np.int64)
    found = Tally(RegressionSpec(low=low, high=high), counts).metrics()
    assert found["rmse"] == pytest.approx(oracle.root_mean_squared_error(y, predicted), rel=1e-5)
    assert found["mae"] == pytest.approx(oracle.mean_absolute_error(y, predicted), rel=1e-5)
    assert found["r2"] == pytest.approx(oracle.r2_score(y, predicted), rel=1e-4)


def test_targets_without_spread_have_no_r2() -> None:
    counts = np.array([4, ONE, 0, ONE, ONE, 2 * ONE, ONE], dtype=np.int64)
    found = Tally(RegressionSpec(low=0, high=1), counts).metrics()
    assert "r2" not in found
    assert found["loss"] == 0.25


def test_means() -> None:
    tally = Tally.of_means(4, {"b": 1.0, "a": -3.0}) + Tally.of_means(6, {"a": 1.0, "b": 0.5})
    assert tally.metrics() == {"a": -0.2, "b": 0.15}
    assert Tally.empty(MeansSpec(names=("a",))).metrics() == {}


@given(st.integers(2, 5), st.lists(st.integers(0, 30), min_size=1, max_size=5), st.integers(0, 2**32))
def test_the_sum_over_sites_is_the_tally_of_all_rows(classes: int, sizes: list[int], seed: int) -> None:
    spec = ClassificationSpec(classes=classes, bins=8)
    y, probability = rows(sum(sizes) + classes, classes, seed)
    loss = random(seed).integers(0, 1000, len(y)) / 8  # exact in fixed point
    ends = np.cumsum([classes, *sizes])
    pieces = [slice(0, classes), *(slice(a, b) for a, b in pairwise(ends.tolist()))]
    total = Tally.empty(spec)
    for piece in pieces:
        total = total + counted(spec, y[piece], probability[piece], loss[piece])
    whole = counted(spec, y, probability, loss)
    assert np.array_equal(total.counts, whole.counts)
    assert total.metrics() == whole.metrics()


def test_only_tallies_of_the_same_thing_are_added() -> None:
    with pytest.raises(ValueError, match="expected a tally of"):
        Tally.empty(ClassificationSpec(classes=2)) + Tally.empty(ClassificationSpec(classes=3))


@pytest.mark.parametrize("counts", [np.zeros(2, np.int64), np.zeros(3, np.float64), np.zeros((1, 3), np.int64)])
def test_counts_have_to_fit_the_spec(counts: NDArray[Any]) -> None:
    with pytest.raises(ValueError, match=r"expected int64 counts of shape \(3,\)"):
        Tally(MeansSpec(names=("a", "b")), counts)


@given(st.floats(-1e6, 1e6))
def test_fixed_point_is_the_nearest(value: float) -> None:
    assert abs(fixed_point(value) / ONE - value) <= 0.5 / ONE


SPECS: st.SearchStrategy[TallySpec] = st.one_of(
    st.builds(ClassificationSpec, classes=st.integers(2, 20), bins=st.integers(2, 600)),
    st.builds(lambda low, width: RegressionSpec(low=low, high=low + width), st.floats(-9, 9), st.floats(0.1, 1e9)),
    st.builds(MeansSpec, names=st.lists(st.text(max_size=9), max_size=9).map(tuple)),
    st.builds(MomentsSpec, columns=st.integers(0, 1 << 20), noisy=st.booleans()),
)


@given(SPECS)
def test_a_spec_survives_the_wire(spec: TallySpec) -> None:
    assert decode_spec(encode_spec(spec)) == spec


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"3",
        b"{}",
        b"\xff",
        b"[" * 5000,
        b'{"kind": "other"}',
        b'{"kind": ["means"]}',
        b'{"kind": "means", "names": 3}',
        b'{"kind": "means", "names": ["\\ud800"]}',
        b'{"kind": "means", "surplus": 3}',
        b'{"kind": "moments"}',
        b'{"kind": "moments", "columns": -1}',
        b'{"kind": "moments", "columns": 2097152}',
        b'{"kind": "moments", "columns": 3, "noisy": 1}',
        b'{"kind": "classification", "classes": 1}',
        b'{"kind": "classification", "classes": -5, "bins": 100}',
        b'{"kind": "classification", "classes": 2.0}',
        b'{"kind": "classification", "classes": 1024, "bins": 65536}',
        b'{"kind": "classification", "classes": 1' + b"0" * 400 + b"}",
        b'{"kind": "regression", "low": 0, "high": 0}',
        b'{"kind": "regression", "low": 0, "high": NaN}',
        b'{"kind": "regression", "low": 0, "high": 1e999}',
        b'{"kind": "regression", "low": 0, "high": 1' + b"0" * 400 + b"}",
        b'{"kind": "regression", "low": 0, "high": 1' + b"0" * 5000 + b"}",
    ],
)
def test_a_spec_from_a_peer_is_not_trusted(data: bytes) -> None:
    with pytest.raises(RemoteError, match=r"^tally: expected"):
        decode_spec(data)


def test_a_long_spec_is_refused_before_it_is_remembered() -> None:
    longest = b'{"kind": "means"}'.ljust(1 << 16)
    assert decode_spec(longest) == MeansSpec()
    with (
        mock.patch("wardround.tally._decoded_spec", side_effect=AssertionError("remembered")),
        pytest.raises(RemoteError, match="at most 65536 bytes, got 65537"),
    ):
        decode_spec(longest + b" ")


def _of(spec: ClassificationSpec | RegressionSpec | MeansSpec, *cells: int) -> str:
    return Tally(spec, np.array(cells, dtype=np.int64)).fault()


def test_counts_that_no_honest_site_has_are_named() -> None:
    spec = ClassificationSpec(classes=2, bins=2)
    good = [3, 5, 1, 0, 1, 1, 1, 0, 0, 2]  # n, loss, confusion, then negatives and positives by bin
    assert _of(spec, *good) == ""
    assert _of(spec, -1, *good[1:]).startswith("expected 0 to 4294967296 examples, got -1")
    assert _of(spec, 1 << 40, *good[1:]).startswith("expected 0 to 4294967296 examples")
    assert _of(spec, 3, 1 << 60, *good[2:]).startswith("expected sums of at most")
    assert _of(spec, *good[:2], 1 << 62, *good[3:]).startswith("expected counts from 0 to 3")
    assert _of(spec, *good[:2], -1, *good[3:]).startswith("expected counts from 0 to 3")
    assert _of(spec, *good[:-1], 1) == "expected counts that add up to 3 examples"
    assert _of(spec, *good[:2], 0, *good[3:]) == "expected counts that add up to 3 examples"
    assert _of(RegressionSpec(low=0, high=1), 2, 1, -1, 1, 1, 1, 1) == ""
    assert "not negative" in _of(RegressionSpec(low=0, high=1), 2, 1, 0, 1, -1, 1, 1)
    assert _of(MeansSpec(names=("a",)), 2, -5) == ""
    assert _of(MeansSpec(names=("a",)), 2, -(1 << 60)).startswith("expected sums of at most")
