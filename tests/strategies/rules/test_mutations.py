"""The opposite of what a rule selects by must show: otherwise the tests of robustness would be no tests.

For every registered rule and pre-aggregator a small part is put the other way round: the farthest kept instead of the
nearest, the short clipped instead of the long. A behavioural check that passes without it must fail with it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from wardround.registry import load, names
from wardround.strategies.rules.bulyan import krum_selection
from wardround.strategies.rules.order_statistics import MiddleMean, NearestToMedian
from wardround.strategies.rules.preaggregators.preaggregator import PreAggregator
from wardround.strategies.rules.robust import Robust
from wardround.strategies.rules.rule import Aggregate, RoundContext, VectorRule
from wardround.strategies.rules.vectors import Vectors
from wardround.vector import F32, F64, I64, MemoryVector

N, F, SIZE = 11, 2, 40
"""Enough for Bulyan."""


class Numpy:
    """numpy as one module sees it, with some functions replaced."""

    def __init__(self, **replaced: Callable[..., Any]) -> None:
        self._replaced = replaced

    def __getattr__(self, name: str) -> Any:
        return self._replaced.get(name, getattr(np, name))


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutation:
    """`replaced`, in the module of the rule or pre-aggregator `piece`, becomes `by`; `check` must notice."""

    piece: str
    replaced: str
    by: Any
    check: Callable[[str], bool]


# -- the checks: true when the piece does its work ------------------------------------------------


def normal(n: int, seed: int) -> F64:
    return np.random.Generator(np.random.Philox(key=seed)).normal(size=(n, SIZE))


COMMON = normal(1, 1)[0] / np.sqrt(SIZE)
"""What honest sites agree on: about 1 long."""
HONEST = COMMON + normal(N - F, 2) * 0.05 / np.sqrt(SIZE)
ATTACKED = np.concatenate((HONEST, -5 * COMMON + normal(F, 3) * 0.05 / np.sqrt(SIZE))).astype(np.float32)


def rule_of(name: str) -> VectorRule:
    made: VectorRule = load("wardround.rules", name)(num_byzantine=F)
    return made


def pre_of(name: str) -> PreAggregator:
    options = {"radius": 1.1 * float(np.linalg.norm(COMMON))} if name == "clipping" else {}
    made: PreAggregator = load("wardround.preaggregators", name)(num_byzantine=F, **options)
    return made


def aggregate(robust: Robust, rows: F32) -> Aggregate:
    context = RoundContext(size=SIZE, seed=3, references={"root": HONEST[0].astype(np.float32)})
    return robust.aggregate(rows, context)


def near(vector: F32 | None) -> bool:
    """Whether it is in the neighbourhood of the honest vectors: within half the length of what they agree on."""
    assert vector is not None
    return float(np.linalg.norm(vector - HONEST.mean(axis=0))) <= 0.5 * float(np.linalg.norm(COMMON))


def stays_near_the_honest(rule: str) -> bool:
    return near(aggregate(Robust(rule_of(rule)), ATTACKED).vector)


def stays_near_without_an_attack(rule: str) -> bool:
    return near(aggregate(Robust(rule_of(rule)), ATTACKED[: N - F]).vector)


def chooses_an_honest_one_first(rule: str) -> bool:
    """Bulyan's later choices, of few that are left, may be attackers: what it makes of them copes with that."""
    vectors = Vectors.of([MemoryVector(row) for row in ATTACKED])
    return krum_selection(vectors.squared_distances, F, 1)[0] < N - F


def drops_what_is_off_in_one_coordinate(rule: str) -> bool:
    """The attackers are amid the honest ones but for one coordinate, so that distances do not show them."""
    rows = normal(N, 4)
    rows[N - F :] = rows[: N - F].mean(axis=0)
    rows[N - F :, 0] += 4
    vector = aggregate(Robust(rule_of(rule)), rows.astype(np.float32)).vector
    return vector is not None and abs(vector[0] - rows[: N - F, 0].mean()) < 0.7


def keeps_the_mean_near(pre: str) -> bool:
    return near(aggregate(Robust(load("wardround.rules", "mean")(), (pre_of(pre),)), ATTACKED).vector)


def leaves_at_most_as_many_bad_mixtures(pre: str) -> bool:
    vectors = Vectors.of([MemoryVector(row) for row in ATTACKED])
    mixed = pre_of(pre).mix(vectors, RoundContext(size=SIZE, seed=3)) @ ATTACKED
    return sum(not near(row.astype(np.float32)) for row in mixed) <= F


# -- the mutations --------------------------------------------------------------------------------


def farthest_first(values: F64, *args: Any, **options: Any) -> Any:
    return np.argsort(-values, *args, **options)


def all_but(order: I64, size: int) -> list[I64]:
    return [np.setdiff1d(order, order[start : start + size]) for start in range(0, len(order), size)]


@dataclass(frozen=True, slots=True)
class FarthestFromMedian:
    """What `NearestToMedian` leaves out."""

    n: int
    rows: tuple[int, ...]
    count: int

    def __call__(self, block: F32) -> F32:
        chosen = block[list(self.rows)]
        far = np.argsort(-np.abs(chosen - np.median(chosen, axis=0)), axis=0)[: self.count]
        found: F32 = np.take_along_axis(chosen, far, axis=0).mean(axis=0)
        return found


MUTATIONS = [
    Mutation(
        piece="mean",
        replaced="np",
        by=Numpy(full=lambda n, share: np.full(n, -share)),
        check=stays_near_without_an_attack,
    ),
    Mutation(
        piece="median",
        replaced="MiddleMean",
        by=lambda n, first, last: MiddleMean(n, 0, 1),
        check=stays_near_the_honest,
    ),
    Mutation(
        piece="trimmed_mean",
        replaced="MiddleMean",
        by=lambda n, first, last: MiddleMean(n, 0, first),  # what is to be trimmed
        check=stays_near_the_honest,
    ),
    Mutation(piece="krum", replaced="np", by=Numpy(argmin=np.argmax), check=stays_near_the_honest),
    Mutation(piece="multi_krum", replaced="np", by=Numpy(argsort=farthest_first), check=stays_near_the_honest),
    # Each of Bulyan's two parts makes up for the other, so each has a check of its own.
    Mutation(piece="bulyan", replaced="np", by=Numpy(argmin=np.argmax), check=chooses_an_honest_one_first),
    Mutation(
        piece="bulyan", replaced="NearestToMedian", by=FarthestFromMedian, check=drops_what_is_off_in_one_coordinate
    ),
    Mutation(
        piece="geometric_median",
        replaced="pulls",
        by=lambda lengths: lengths / lengths.sum(),
        check=stays_near_the_honest,
    ),
    Mutation(
        piece="centered_clipping",
        replaced="shortened",
        by=lambda distances, radius: np.where(distances > radius, 1.0, 0.0),
        check=stays_near_the_honest,
    ),
    Mutation(
        piece="caf",
        replaced="lowered",
        by=lambda weights, projections: weights * projections / projections.max(),
        check=stays_near_the_honest,
    ),
    Mutation(
        piece="dnc",
        replaced="outermost",
        by=lambda scores, count: np.argsort(np.where(scores < 0, np.inf, scores))[:count],
        check=stays_near_the_honest,
    ),
    Mutation(
        piece="fltrust",
        replaced="trust_scores",
        by=lambda cosines: np.maximum(-cosines, 0.0),
        check=stays_near_the_honest,
    ),
    Mutation(piece="nnm", replaced="np", by=Numpy(argsort=farthest_first), check=leaves_at_most_as_many_bad_mixtures),
    Mutation(piece="bucketing", replaced="buckets", by=all_but, check=leaves_at_most_as_many_bad_mixtures),
    Mutation(
        piece="clipping",
        replaced="shortened",
        by=lambda norms, radius: np.where(norms < radius, radius / norms, 1.0),
        check=keeps_the_mean_near,
    ),
    Mutation(
        piece="arc",
        replaced="shortened",
        by=lambda norms, radius: np.where(norms < radius, radius / norms, 1.0),
        check=keeps_the_mean_near,
    ),
]


def module_of(piece: str) -> str:
    kind = "rules" if piece in names("wardround.rules") else "preaggregators"
    module: str = load(f"wardround.{kind}", piece).__module__
    return module


def test_every_rule_and_pre_aggregator_has_a_mutation() -> None:
    registered = {*names("wardround.rules"), *names("wardround.preaggregators")}
    assert {mutation.piece for mutation in MUTATIONS} == registered


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda one: f"{one.piece}-{one.replaced}-{one.check.__name__}")
def test_the_check_passes_and_with_the_mutation_it_fails(mutation: Mutation, monkeypatch: pytest.MonkeyPatch) -> None:
    assert mutation.check(mutation.piece)
    with monkeypatch.context() as patch:
        patch.setattr(f"{module_of(mutation.piece)}.{mutation.replaced}", mutation.by)
        assert not mutation.check(mutation.piece)
    assert mutation.check(mutation.piece)


def test_the_mutated_bulyan_is_the_opposite_of_the_real_one() -> None:
    """The column function above is written here, so it is checked here: the two parts are the whole."""
    block = normal(7, 5).astype(np.float32)
    rows = tuple(range(7))
    near_sum, far_sum = NearestToMedian(7, rows, 4)(block) * 4, FarthestFromMedian(7, rows, 3)(block) * 3
    np.testing.assert_allclose(near_sum + far_sum, block.sum(axis=0), atol=1e-4)
