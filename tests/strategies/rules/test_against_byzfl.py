"""Ours beside ByzFL 0.0.11, which the development environment has for this only (`pip install --no-deps byzfl`).

The rows are float32, and ByzFL gets them as float64: it is the exact one. Agreement is to 1e-6 of the largest value.
ByzFL's package imports torchvision and matplotlib before anything else, so that only its aggregators are loaded here.
"""

import importlib
import importlib.util
import sys
from collections.abc import Callable
from functools import cache
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
import pytest

from wardround.strategies.rules.caf import Caf
from wardround.strategies.rules.centered_clipping import CenteredClipping
from wardround.strategies.rules.equal_mean import EqualMean
from wardround.strategies.rules.geometric_median import GeometricMedian
from wardround.strategies.rules.krum import Krum
from wardround.strategies.rules.median import Median
from wardround.strategies.rules.multi_krum import MultiKrum
from wardround.strategies.rules.preaggregators.arc import Arc
from wardround.strategies.rules.preaggregators.bucketing import Bucketing
from wardround.strategies.rules.preaggregators.clipping import Clipping
from wardround.strategies.rules.preaggregators.nnm import Nnm
from wardround.strategies.rules.preaggregators.preaggregator import PreAggregator
from wardround.strategies.rules.robust import Robust, chain
from wardround.strategies.rules.rule import RoundContext, VectorRule
from wardround.strategies.rules.trimmed_mean import TrimmedMean
from wardround.strategies.rules.vectors import Vectors
from wardround.vector import F32, F64, MemoryVector

AGREEMENT = 1e-6
SIZES = [(10, 1, 400), (10, 3, 1), (10, 4, 7), (7, 2, 300), (9, 3, 3000)]
"""n, f and d, for rules that need 2f < n."""


@cache
def byzfl() -> Any:
    """ByzFL's aggregators and pre-aggregators. Where it is not installed this fails: the oracle is no option."""
    spec = importlib.util.find_spec("byzfl")  # finds the folder and runs nothing
    assert spec is not None and spec.submodule_search_locations, "pip install --no-deps -c constraints.txt byzfl"
    if "byzfl" not in sys.modules:
        bare = ModuleType("byzfl")
        bare.__path__ = list(spec.submodule_search_locations)
        sys.modules["byzfl"] = bare
    return importlib.import_module("byzfl.aggregators")


def rows_of(n: int, size: int, num_byzantine: int, seed: int = 0) -> F32:
    """Normal rows, of which the last ones are three times as long and beside the others."""
    generator = np.random.Generator(np.random.Philox(key=seed))
    rows = generator.normal(size=(n, size))
    rows[n - num_byzantine :] = rows[n - num_byzantine :] * 3 + 2
    return rows.astype(np.float32)


def exact(rows: F32) -> F64:
    return rows.astype(np.float64)


def ours(rule: VectorRule | Robust, rows: F32) -> F32:
    robust = rule if isinstance(rule, Robust) else chain(rule)
    vector = robust.aggregate(rows).vector
    assert vector is not None
    return vector


def mixtures(part: PreAggregator, rows: F32, context: RoundContext | None = None) -> F32:
    """The mixtures themselves, as the rule that follows sees them."""
    vectors = Vectors.of([MemoryVector(row) for row in rows])
    mixed = vectors.mix(part.mix(vectors, context or RoundContext(size=rows.shape[1])))
    return np.concatenate([block for _, block in [(at, block.copy()) for at, block in mixed.blocks()]], axis=1)


def assert_agrees(found: F32, expected: F64, rows: F32) -> None:
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=AGREEMENT * float(np.abs(rows).max()))


@pytest.mark.parametrize(("n", "f", "size"), SIZES)
@pytest.mark.parametrize(
    ("rule", "theirs"),
    [
        (lambda f: EqualMean(), lambda f: byzfl().Average()),
        (lambda f: Median(f), lambda f: byzfl().Median()),
        (lambda f: TrimmedMean(f), lambda f: byzfl().TrMean(f)),
    ],
    ids=["mean", "median", "trimmed_mean"],
)
def test_coordinate_wise_rules(
    rule: Callable[[int], VectorRule], theirs: Callable[[int], Any], n: int, f: int, size: int
) -> None:
    rows = rows_of(n, size, f)
    assert_agrees(ours(rule(f), rows), theirs(f)(exact(rows)), rows)


@pytest.mark.parametrize(("n", "f", "size"), [(10, 1, 400), (10, 3, 5), (7, 2, 300), (9, 3, 3000)])
def test_krum_and_multi_krum(n: int, f: int, size: int) -> None:
    """Krum looks at the n − f − 2 nearest others in Blanchard et al., at n − f − 1 in ByzFL: it is told one more.

    Its Multi-Krum then takes n − f − 1 vectors.
    """
    rows = rows_of(n, size, f)
    np.testing.assert_array_equal(ours(Krum(f), rows), byzfl().Krum(f + 1)(exact(rows)).astype(np.float32))
    found = ours(MultiKrum(f, selected=n - f - 1), rows)
    assert_agrees(found, byzfl().MultiKrum(f + 1)(exact(rows)), rows)


@pytest.mark.parametrize(("n", "f", "size"), SIZES[:1] + SIZES[2:])  # on one line medians are not unique
def test_geometric_median_is_what_byzfl_approaches(n: int, f: int, size: int) -> None:
    """ByzFL stops after 3 steps from zero and keeps distances above 0.1; given more of both it comes to the median."""
    rows = rows_of(n, size, f)
    found = ours(GeometricMedian(f), rows)
    assert_agrees(found, byzfl().GeometricMedian(nu=1e-9, T=1000)(exact(rows)), rows)
    errors = [float(np.abs(byzfl().GeometricMedian(T=steps)(exact(rows)) - found).max()) for steps in (1, 3, 9)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[1] > 10 * AGREEMENT


def test_geometric_median_has_no_larger_sum_of_distances_on_a_line() -> None:
    rows = rows_of(10, 1, 3)
    theirs = byzfl().GeometricMedian(nu=1e-9, T=1000)(exact(rows))
    sums = [
        float(np.linalg.norm(exact(rows) - place, axis=1).sum()) for place in (ours(GeometricMedian(3), rows), theirs)
    ]
    assert sums[0] <= sums[1] * (1 + AGREEMENT)


@pytest.mark.parametrize(("n", "f", "size"), SIZES)
@pytest.mark.parametrize("iterations", [1, 4])
def test_centered_clipping_over_three_rounds(n: int, f: int, size: int, iterations: int) -> None:
    radius = float(np.sqrt(size))
    rule = chain(CenteredClipping(f, radius=radius, iterations=iterations))
    theirs = byzfl().CenteredClipping(L=iterations, tau=radius)  # keeps its centre, as ours does in the memory
    context = RoundContext(size=size)
    for seed in range(3):
        rows = rows_of(n, size, f, seed)
        made = rule.aggregate(rows, context)
        assert made.vector is not None
        assert_agrees(made.vector, theirs(exact(rows)), rows)
        context = RoundContext(size=size, memory=made.memory)


def converged(caf: Any) -> Any:
    """ByzFL's CAF with 500 steps of the power method; as it comes it takes 1, from a random direction."""
    code = type(caf).__call__.__code__
    assert code.co_consts.count((1,)) == 1  # the default of `max_iters`
    patched = code.replace(co_consts=tuple((500,) if const == (1,) else const for const in code.co_consts))
    return FunctionType(patched, type(caf).__call__.__globals__).__get__(caf)


def filtered(rows: F64, num_byzantine: int, everybody: bool) -> F64:
    """CAF on the vectors themselves. `everybody`: those without weight count in the largest projection, as in ByzFL."""
    best: F64 = rows[0]
    weights, smallest = np.ones(len(rows)), np.inf
    while weights.sum() > len(rows) - 2 * num_byzantine:
        mean = weights @ rows / weights.sum()
        centred = rows - mean
        _, values, directions = np.linalg.svd(centred * np.sqrt(weights / weights.sum())[:, None], full_matrices=False)
        if values[0] < smallest:
            smallest, best = values[0], mean
        squares = (centred @ directions[0]) ** 2
        weights = np.maximum(weights * (1 - squares / (squares if everybody else squares[weights > 0]).max()), 0.0)
    return best


@pytest.mark.parametrize(("n", "f", "size"), [(10, 1, 400), (10, 3, 30), (10, 4, 30), (9, 3, 3000)])
def test_caf_but_for_two_differences(n: int, f: int, size: int) -> None:
    """ByzFL finds its directions by one random step, so that two calls differ; here by as many as it takes.

    It also scales by the largest projection of all vectors, not of those that still have weight. One that lost all its
    weight may stay the farthest for ever: with bad vectors 1e6 times as long ByzFL's loop did not end in 5 s.
    """
    rows = rows_of(n, size, f)
    assert_agrees(ours(Caf(f), rows), filtered(exact(rows), f, everybody=False), rows)
    theirs = converged(byzfl().CAF(f))(exact(rows))
    np.testing.assert_allclose(theirs, filtered(exact(rows), f, everybody=True), rtol=0, atol=1e-8)


@pytest.mark.parametrize(("n", "f", "size"), [(10, 1, 400), (9, 2, 30)])
def test_caf_where_the_farthest_still_has_weight(n: int, f: int, size: int) -> None:
    """The bad ones are off in a direction in which the others do not differ: then there is one difference only."""
    rows = rows_of(n, size, 0)
    rows[:, -1] = 0.0
    rows[n - f :, -1] = 7 * np.sqrt(size)
    rows[n - f :, :-1] = rows[: n - f, :-1].mean(axis=0)
    found = ours(Caf(f), rows)
    assert_agrees(found, converged(byzfl().CAF(f))(exact(rows)), rows)
    assert np.abs(found - exact(rows).mean(axis=0)).max() > 0.1  # it did filter


@pytest.mark.parametrize(("n", "f", "size"), SIZES)
def test_nearest_neighbour_mixing(n: int, f: int, size: int) -> None:
    rows = rows_of(n, size, f)
    assert_agrees(mixtures(Nnm(f), rows), byzfl().NNM(f)(exact(rows)), rows)


@pytest.mark.parametrize(("n", "size", "in_bucket"), [(10, 400, 2), (10, 30, 3), (9, 5, 9), (7, 3000, 1)])
def test_bucketing_in_the_same_order(n: int, size: int, in_bucket: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = rows_of(n, size, 0)
    vectors = Vectors.of([MemoryVector(row) for row in rows])
    part, context = Bucketing(0, size=in_bucket), RoundContext(size=size, seed=11)
    order = np.concatenate([np.flatnonzero(row) for row in part.mix(vectors, context)])
    assert sorted(order) == list(range(n))  # every vector is in one bucket
    monkeypatch.setattr(np.random, "permutation", lambda given: given[order])
    assert_agrees(mixtures(part, rows, context), byzfl().Bucketing(in_bucket)(exact(rows)), rows)


@pytest.mark.parametrize(("n", "f", "size"), SIZES)
def test_clipping(n: int, f: int, size: int) -> None:
    rows = rows_of(n, size, f)
    radius = float(np.median(np.linalg.norm(rows, axis=1)))
    assert_agrees(mixtures(Clipping(f, radius=radius), rows), byzfl().Clipping(radius)(exact(rows)), rows)


@pytest.mark.parametrize(("n", "f", "size"), [*SIZES, (10, 0, 20)])
def test_adaptive_robust_clipping(n: int, f: int, size: int) -> None:
    rows = rows_of(n, size, f)
    assert_agrees(mixtures(Arc(f), rows), byzfl().ARC(f)(exact(rows)), rows)


@pytest.mark.parametrize(("n", "f", "size"), SIZES)
def test_a_pre_aggregator_and_a_rule(n: int, f: int, size: int) -> None:
    rows = rows_of(n, size, f)
    theirs = byzfl().TrMean(f)(byzfl().NNM(f)(byzfl().ARC(f)(exact(rows))))
    assert_agrees(ours(chain(Arc(f), Nnm(f), TrimmedMean(f)), rows), theirs, rows)
