"""What holds of every registered rule and pre-aggregator, or does not, and why not.

A rule or pre-aggregator without an entry in the tables fails. Examples are derandomised: rules that select are not
continuous, and one chance in a million is one too many for a test that runs for years.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from wardround.contribution import Contribution, Verdict
from wardround.orders import SiteId
from wardround.registry import load, names
from wardround.strategies.rules.preaggregators.preaggregator import PreAggregator
from wardround.strategies.rules.robust import Robust
from wardround.strategies.rules.rule import Aggregate, RoundContext, VectorRule
from wardround.tally import Tally
from wardround.vector import F32, MemoryVector

HOLDS = ""
"""Why a property does not hold; it does."""
ZERO = "it measures from the zero vector, or from the last aggregate, which is zero at first"
LENGTH = "its radius is a fixed length"
TIES = "its last choices are between nearest neighbours of each other, whose scores are equal: the first is taken"
ORDER = "which vectors share a bucket depends on their order; `Robust` therefore sorts them by name"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What is true of a rule: each text is empty when the property holds, else the reason why it does not.

    `vectors` is the least number for 1 Byzantine vector, `too_many` an f and n that are refused with the text `limit`.
    """

    vectors: int = 3
    limit: str = "num_byzantine < n / 2"
    too_many: tuple[int, int] = (5, 10)
    permutation: str = HOLDS
    translation: str = HOLDS
    is_the_mean_without_byzantine: str = "it is another kind of average"
    tolerates: str = HOLDS


@dataclass(frozen=True, slots=True, kw_only=True)
class Pre:
    """What is true of a pre-aggregator, likewise. `options` are for n = 13 vectors of norm about √d, f = 1."""

    permutation: str = HOLDS
    translation: str = HOLDS
    scale: str = HOLDS
    options: dict[str, float] = field(default_factory=dict)


RULES = {
    "mean": Rule(
        limit="num_byzantine < n",
        too_many=(10, 10),
        vectors=2,
        is_the_mean_without_byzantine=HOLDS,
        tolerates="one vector moves it anywhere",
    ),
    "median": Rule(),
    "trimmed_mean": Rule(is_the_mean_without_byzantine=HOLDS),
    "krum": Rule(limit="num_byzantine < (n − 2) / 2", vectors=5),
    "multi_krum": Rule(limit="num_byzantine < (n − 2) / 2", vectors=5, is_the_mean_without_byzantine=HOLDS),
    "bulyan": Rule(
        limit="num_byzantine <= (n − 3) / 4", vectors=7, is_the_mean_without_byzantine=HOLDS, permutation=TIES
    ),
    "geometric_median": Rule(),
    "centered_clipping": Rule(translation=ZERO),
    "caf": Rule(is_the_mean_without_byzantine=HOLDS),
    "dnc": Rule(is_the_mean_without_byzantine=HOLDS),
    "fltrust": Rule(limit="num_byzantine < n", too_many=(10, 10), vectors=2, translation=ZERO),
}
PRE = {
    "nnm": Pre(),
    "bucketing": Pre(permutation=ORDER, options={"size": 2}),
    "clipping": Pre(translation=ZERO, scale=LENGTH, options={"radius": 4.0}),
    "arc": Pre(translation=ZERO),
}
N, F, SIZE = 13, 1, 12
"""Enough for Bulyan behind buckets of two."""
EQUAL = {("nnm", "bulyan")}
"""Mixtures of the same neighbours are equal, and rounding says which Bulyan takes first: see `TIES`."""
CHAINS = [(pre, rule) for rule in RULES for pre in (None, *PRE)]
chains = pytest.mark.parametrize(("pre", "rule"), CHAINS, ids=[f"{pre or 'plain'}-{rule}" for pre, rule in CHAINS])
every_rule = pytest.mark.parametrize("rule", RULES)
Rows = F32 | Sequence[F32]
seeds = st.integers(0, 2**32)
quickly = settings(max_examples=12, derandomize=True)


def rule_of(name: str, num_byzantine: int, **options: float) -> VectorRule:
    made: VectorRule = load("wardround.rules", name)(num_byzantine=num_byzantine, **options)
    return made


def pre_of(name: str, num_byzantine: int) -> PreAggregator:
    made: PreAggregator = load("wardround.preaggregators", name)(num_byzantine=num_byzantine, **PRE[name].options)
    return made


def chain_of(pre: str | None, rule: str, num_byzantine: int = F) -> Robust:
    """Without the check of norms, which would keep far vectors from the rules."""
    before = () if pre is None else (pre_of(pre, num_byzantine),)
    return Robust(rule_of(rule, num_byzantine), before, norm_factor=np.inf)


def rows_of(seed: int, n: int = N, size: int = SIZE) -> F32:
    return np.random.Generator(np.random.Philox(key=seed)).normal(size=(n, size)).astype(np.float32)


def context_of(root: F32) -> RoundContext:
    """Every rule gets a root; only FLTrust looks at it."""
    return RoundContext(size=len(root), seed=7, references={"root": root})


def contributions(rows: Rows) -> list[Contribution]:
    return [
        Contribution(
            members=(SiteId(f"site-{index:03}"),), weight=1, vector=MemoryVector(row), tally=Tally.of_means(0, {})
        )
        for index, row in enumerate(rows)
    ]


def apply(robust: Robust, rows: Rows, root: F32) -> Aggregate:
    return robust.apply(contributions(rows), context_of(root))


def result(robust: Robust, rows: Rows, root: F32) -> F32:
    made = apply(robust, rows, root)
    assert made.vector is not None, made.reason
    assert made.vector.shape == root.shape and made.vector.dtype == np.float32
    return made.vector


def test_the_tables_name_every_rule_and_pre_aggregator() -> None:
    assert set(RULES) == set(names("wardround.rules"))
    assert set(PRE) == set(names("wardround.preaggregators"))


@pytest.mark.parametrize("kind", ["rules", "preaggregators"])
def test_each_says_what_it_is(kind: str) -> None:
    for name in names(f"wardround.{kind}"):
        made = load(f"wardround.{kind}", name)
        for text in (made.summary, made.tolerates, made.cost, made.source):
            assert text and "\n" not in text
        assert "O(" in made.cost and re.search(r" (19|20)\d\d", made.source)


# -- what a transformation of the vectors does to the result --------------------------------------


@chains
@quickly
@given(seeds)
def test_the_order_of_vectors_does_not_matter(pre: str | None, rule: str, seed: int) -> None:
    rows, root, robust = rows_of(seed), rows_of(seed + 1)[0], chain_of(pre, rule)
    order = np.random.Generator(np.random.Philox(key=seed)).permutation(N)
    found, other = result(robust, rows, root), result(robust, rows[order], root)
    if not RULES[rule].permutation and (pre is None or not PRE[pre].permutation):
        np.testing.assert_allclose(other, found, rtol=0, atol=1e-5)


@chains
@quickly
@given(seeds)
def test_the_order_of_arrival_changes_no_bit(pre: str | None, rule: str, seed: int) -> None:
    rows, root, robust = rows_of(seed), rows_of(seed + 1)[0], chain_of(pre, rule)
    rows[3] = rows[5]
    arriving = contributions(rows)
    order = np.random.Generator(np.random.Philox(key=seed)).permutation(N)
    first = robust.apply(arriving, context_of(root))
    second = robust.apply([arriving[index] for index in order], context_of(root))
    np.testing.assert_array_equal(first.vector, second.vector)
    assert first.report == second.report


@chains
@quickly
@given(seeds)
def test_moving_all_vectors_moves_the_result(pre: str | None, rule: str, seed: int) -> None:
    rows, root, robust = rows_of(seed), rows_of(seed + 1)[0], chain_of(pre, rule)
    shift = 3 * rows_of(seed + 2)[0]
    change = result(robust, rows + shift, root) - result(robust, rows, root)
    if not RULES[rule].translation and (pre is None or not PRE[pre].translation) and (pre, rule) not in EQUAL:
        np.testing.assert_allclose(change, shift, rtol=0, atol=1e-4)


@chains
@quickly
@given(seeds, st.sampled_from([1e-6, 0.3, 7.0, 1e6]))
def test_stretching_all_vectors_stretches_the_result(pre: str | None, rule: str, seed: int, factor: float) -> None:
    rows, root, robust = rows_of(seed), rows_of(seed + 1)[0], chain_of(pre, rule)
    found = result(robust, rows * np.float32(factor), root * np.float32(factor))
    if (pre is None or not PRE[pre].scale) and (pre, rule) not in EQUAL:
        np.testing.assert_allclose(found / factor, result(robust, rows, root), rtol=0, atol=1e-4)


def test_a_rule_that_is_said_to_lack_a_property_does() -> None:
    rows, root = rows_of(1), rows_of(2)[0]
    moving = {"centered_clipping": {"iterations": 1}, "fltrust": {}}  # with more it comes to the same from anywhere
    assert moving.keys() == {name for name in RULES if RULES[name].translation}
    for name, options in moving.items():
        robust = Robust(rule_of(name, F, **options))
        assert np.abs(result(robust, rows + 30, root) - 30 - result(robust, rows, root)).max() > 1e-3
    for name in [name for name in RULES if RULES[name].permutation]:
        shuffled = [result(Robust(rule_of(name, F)), rows_of(seed)[::-1], root) for seed in range(20)]
        given = [result(Robust(rule_of(name, F)), rows_of(seed), root) for seed in range(20)]
        assert max(float(np.abs(one - other).max()) for one, other in zip(shuffled, given, strict=True)) > 1e-3


@pytest.mark.parametrize("pre", [name for name in PRE if PRE[name].permutation or PRE[name].translation])
def test_a_pre_aggregator_that_is_said_to_lack_a_property_does(pre: str) -> None:
    rows, root, robust = rows_of(1), rows_of(2)[0], chain_of(pre, "mean")
    plain = result(robust, rows, root)
    if PRE[pre].permutation:
        assert np.abs(result(robust, rows[::-1], root) - plain).max() > 1e-3
    if PRE[pre].translation:
        assert np.abs(result(robust, rows + 30, root) - 30 - plain).max() > 1e-3
    if PRE[pre].scale:
        assert np.abs(result(robust, rows * 30, root) / 30 - plain).max() > 1e-3


# -- special vectors ------------------------------------------------------------------------------


@every_rule
@quickly
@given(seeds, st.integers(3, 20))
def test_without_byzantine_vectors_it_is_the_mean_where_it_says_so(rule: str, seed: int, n: int) -> None:
    rows, root = rows_of(seed, n), rows_of(seed + 1)[0]
    found = result(chain_of(None, rule, 0), rows, root)
    if not RULES[rule].is_the_mean_without_byzantine:
        np.testing.assert_allclose(found, rows.mean(axis=0, dtype=np.float64), rtol=0, atol=2e-6)


@pytest.mark.parametrize("rule", [name for name in RULES if RULES[name].is_the_mean_without_byzantine])
def test_a_rule_that_is_said_not_to_be_the_mean_is_not(rule: str) -> None:
    rows = rows_of(1)
    found = result(chain_of(None, rule, 0), rows, rows_of(2)[0])
    assert np.abs(found - rows.mean(axis=0)).max() > 1e-3


@chains
@quickly
@given(seeds, st.sampled_from([1e-20, 1e-3, 1.0, 1e8]))
def test_of_equal_vectors_it_is_that_vector(pre: str | None, rule: str, seed: int, length: float) -> None:
    one = rows_of(seed)[0] * np.float32(length)
    if pre is not None and PRE[pre].scale:  # within the radius
        one *= np.float32(min(1.0, 1 / length) / np.sqrt(SIZE))
    found = result(chain_of(pre, rule), [one] * N, one)
    np.testing.assert_allclose(found, one, rtol=0, atol=3e-6 * float(np.abs(one).max()))


@chains
def test_of_zeros_it_is_zero(pre: str | None, rule: str) -> None:
    zero = np.zeros(SIZE, np.float32)
    np.testing.assert_array_equal(result(chain_of(pre, rule), [zero] * N, zero), zero)


@chains
@quickly
@given(arrays(np.int8, (N, 3), elements=st.integers(-2, 2)))
def test_ties_and_duplicates_are_decided_the_same_way_every_time(pre: str | None, rule: str, places: F32) -> None:
    rows, robust = places.astype(np.float32), chain_of(pre, rule)
    root = np.ones(3, np.float32)
    first, second = apply(robust, rows, root), apply(robust, rows.copy(), root)
    assert first.vector is not None and np.isfinite(first.vector).all()
    np.testing.assert_array_equal(first.vector, second.vector)
    assert first.report == second.report


FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)


@chains
@quickly
@given(arrays(np.float32, (N, 3), elements=FINITE), arrays(np.float32, (3,), elements=st.floats(-1e6, 1e6, width=32)))
def test_finite_vectors_give_a_finite_result_or_a_reason(pre: str | None, rule: str, rows: F32, root: F32) -> None:
    made = apply(chain_of(pre, rule), rows, root)
    if made.vector is None:
        assert made.reason
    else:
        assert np.isfinite(made.vector).all()
    assert all(np.isfinite(line.weight) for line in made.report.lines)


@chains
@pytest.mark.parametrize("length", [1e-44, 1e-30, 1e-10, 1e10, 1e14])
def test_vectors_of_any_length_that_is_let_in_give_a_finite_result(pre: str | None, rule: str, length: float) -> None:
    rows = rows_of(5) * np.float32(length)
    found = result(chain_of(pre, rule), rows, rows_of(6)[0] * np.float32(length))
    assert np.isfinite(found).all()
    assert np.abs(found).max() <= np.abs(rows).max() * (1 + 1e-5) + 1e-40


@chains
def test_nothing_that_is_given_is_changed(pre: str | None, rule: str) -> None:
    rows, root, robust = rows_of(3), rows_of(4)[0], chain_of(pre, rule)
    rows[0] *= 1000
    copy = rows.copy()
    for array in (rows, root):
        array.setflags(write=False)  # whoever tries raises
    first = robust.apply(contributions(rows), context_of(root))
    memory = {name: array.copy() for name, array in first.memory.items()}
    for array in first.memory.values():
        array.setflags(write=False)
    context = RoundContext(size=SIZE, references={"root": root}, memory=first.memory)
    assert robust.apply(contributions(rows), context).vector is not None
    np.testing.assert_array_equal(rows, copy)
    assert memory.keys() == first.memory.keys()
    assert all(np.array_equal(memory[name], first.memory[name]) for name in memory)
    assert all(array.dtype == np.float64 for array in memory.values())


# -- bad vectors ----------------------------------------------------------------------------------


def attacked(rows: F32, num_byzantine: int, length: float, place: str, seed: int) -> F32:
    """The rows with the last ones replaced by vectors of so many times the others' norm."""
    rows, unit = rows.copy(), length * np.sqrt(SIZE)
    bad = np.zeros((num_byzantine, SIZE))
    if place == "one place":
        bad[:] = rows_of(seed + 9)[0]
    elif place == "opposite places":
        bad[:] = np.where(np.arange(num_byzantine) % 2, 1, -1)[:, None] * rows_of(seed + 9)[0]
    elif place == "many directions":
        bad[np.arange(num_byzantine), np.arange(num_byzantine)] = 1.0
    else:
        bad[:] = rows_of(seed + 9, num_byzantine) * 10.0 ** -np.arange(num_byzantine)[:, None]
    rows[len(rows) - num_byzantine :] = bad / np.linalg.norm(bad[0]) * unit
    return rows


PLACES = ["one place", "opposite places", "many directions", "many lengths"]


def bound(num_byzantine: int) -> float:
    """How far from the honest ones' mean, in units of the farthest of them, an attack of any length may bring it."""
    return 2 * N / (N - 2 * num_byzantine)


def deviation(robust: Robust, rows: F32, bad: F32, num_byzantine: int) -> float:
    """How far the result is from the mean of the honest vectors, in units of the farthest honest one."""
    honest = rows[: len(rows) - num_byzantine].astype(np.float64)
    mean = honest.mean(axis=0)
    found = result(robust, bad, mean.astype(np.float32))
    return float(np.linalg.norm(found - mean) / np.linalg.norm(honest - mean, axis=1).max())


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("rule", [name for name in RULES if not RULES[name].tolerates])
@quickly
@given(seeds, st.sampled_from([3.0, 1e3, 1e6, 1e12]))
def test_as_many_far_vectors_as_it_tolerates_leave_it_near_the_honest(
    rule: str, place: str, seed: int, length: float
) -> None:
    f = {"krum": 5, "multi_krum": 5, "bulyan": 2}.get(rule, 6)
    rows = rows_of(seed)
    rows += 5 * rows[0]  # not around zero
    robust = chain_of(None, rule, f)
    with pytest.raises(ValueError):
        chain_of(None, rule, f + 1 if rule != "fltrust" else N).check(N)  # it is the most that it tolerates
    assert deviation(robust, rows, attacked(rows, f, length, place, seed), f) <= bound(f)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("rule", [name for name in RULES if not RULES[name].tolerates])
@pytest.mark.parametrize("pre", PRE)
@quickly
@given(seeds, st.sampled_from([3.0, 1e3, 1e6, 1e12]))
def test_a_far_vector_leaves_a_chain_near_the_honest(pre: str, rule: str, place: str, seed: int, length: float) -> None:
    rows = rows_of(seed)
    assert deviation(chain_of(pre, rule), rows, attacked(rows, F, length, place, seed), F) <= bound(F)


def test_a_rule_that_is_said_to_tolerate_nothing_does_not() -> None:
    intolerant = [name for name in RULES if RULES[name].tolerates]
    assert intolerant
    for rule in intolerant:
        rows = rows_of(1)
        assert deviation(chain_of(None, rule), rows, attacked(rows, F, 1e6, "one place", 1), F) > 1e3


@chains
def test_what_no_honest_site_sends_is_refused_with_a_reason_and_the_rest_go_on(pre: str | None, rule: str) -> None:
    rows, root, robust = rows_of(2), rows_of(3)[0], chain_of(pre, rule)
    nan, infinite, far = rows[0].copy(), rows[0].copy(), rows[0] * np.float32(1e20)
    nan[3], infinite[4] = np.nan, -np.inf
    made = apply(robust, [*rows, nan, infinite, rows[0, 1:], far], root)
    np.testing.assert_array_equal(made.vector, result(robust, rows, root))
    refused = made.report.lines[N:]
    assert [line.verdict for line in refused] == [Verdict.REFUSED] * 4
    assert [line.weight for line in refused] == [0.0] * 4
    for line, said in zip(
        refused, ("finite", "finite", f"expected {SIZE} values, got {SIZE - 1}", "norm"), strict=True
    ):
        assert said in line.reason
    assert made.report.refused == 4


@chains
def test_when_all_are_refused_there_is_no_vector_but_a_reason(pre: str | None, rule: str) -> None:
    made = apply(chain_of(pre, rule), list(np.full((N, SIZE), np.nan, np.float32)), rows_of(1)[0])
    assert made.vector is None and made.reason
    assert made.report.refused == N
    none = apply(chain_of(pre, rule), [], rows_of(1)[0])
    assert none.vector is None and none.reason


# -- how many vectors -----------------------------------------------------------------------------


@every_rule
def test_one_vector_is_the_result_or_too_few(rule: str) -> None:
    row, robust = rows_of(1, 1), chain_of(None, rule, 0)
    made = apply(robust, row, row[0])
    least = {"krum": 3, "multi_krum": 3, "bulyan": 3}.get(rule, 1)
    if least == 1:
        assert made.vector is not None
        np.testing.assert_allclose(made.vector, row[0], rtol=1e-6)
        return
    assert made.vector is None
    assert f"expected {RULES[rule].limit}, got 0 of 1" in made.reason
    assert result(robust, rows_of(1, least), row[0]).shape == (SIZE,)


@every_rule
def test_too_many_byzantine_vectors_are_refused_by_the_check_and_reported_at_run_time(rule: str) -> None:
    f, n = RULES[rule].too_many
    said = f"expected {RULES[rule].limit}, got {f} of {n}"
    with pytest.raises(ValueError) as error:
        rule_of(rule, f).check(n)
    assert str(error.value) == said
    made = apply(chain_of(None, rule, f), rows_of(1, n), rows_of(2)[0])
    assert made.vector is None and said in made.reason
    assert len(made.report.lines) == n


@every_rule
def test_one_byzantine_vector_needs_so_many(rule: str) -> None:
    least = RULES[rule].vectors
    rule_of(rule, 1).check(least)
    with pytest.raises(ValueError, match=re.escape(f"expected {RULES[rule].limit}, got 1 of {least - 1}")):
        rule_of(rule, 1).check(least - 1)
    assert result(chain_of(None, rule, 1), rows_of(1, least), rows_of(2)[0]).shape == (SIZE,)


@pytest.mark.parametrize("pre", PRE)
def test_a_pre_aggregator_is_checked_too(pre: str) -> None:
    made = Robust(rule_of("mean", 0), (pre_of(pre, 5),))
    with pytest.raises(
        ValueError, match=rf"^{type(pre_of(pre, 5)).__name__}: expected num_byzantine < n / 2, got 5 of 10$"
    ):
        made.check(10)
    assert apply(made, rows_of(1, 10), rows_of(2)[0]).vector is None
