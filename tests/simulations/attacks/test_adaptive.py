"""The adaptive attack: never less harmful than the known ones, and the worst case where that is known."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from tests.simulations.attacks.attackers import known, rng
from wardround.registry import load, names
from wardround.simulations.attacks.adaptive import Adaptive, damage
from wardround.simulations.attacks.alie import Alie
from wardround.simulations.attacks.attack import Attack
from wardround.simulations.attacks.ipm import Ipm
from wardround.simulations.attacks.min_max import MinMax
from wardround.simulations.attacks.sign_flip import SignFlip
from wardround.strategies.rules.krum import Krum
from wardround.strategies.rules.median import Median
from wardround.strategies.rules.preaggregators.nnm import Nnm
from wardround.strategies.rules.robust import Robust, chain
from wardround.strategies.rules.rule import RoundContext, VectorRule
from wardround.strategies.rules.trimmed_mean import TrimmedMean
from wardround.vector import F32

RULES = names("wardround.rules")
KNOWN: tuple[Attack, ...] = (Alie(), Ipm(), MinMax(), SignFlip())
H, F, D = 11, 2, 12


def rule_called(name: str) -> VectorRule:
    cls = load("wardround.rules", name)
    options = {"num_byzantine": F} if "num_byzantine" in {one.name for one in dataclasses.fields(cls)} else {}
    rule: VectorRule = cls(**options)
    return rule


def server(rule: Robust, honest: F32) -> Callable[[F32], F32 | None]:
    """What the server makes of rows; its own update (FLTrust) is near the honest mean."""
    root = (honest.mean(axis=0) + 0.1).astype(np.float32)
    context = RoundContext(size=honest.shape[1], references={"root": root}, model=np.zeros_like(root))
    return lambda rows: rule.aggregate(rows, context).vector


def harm(attack: Attack, rule: Robust, honest: F32, own: F32) -> float:
    aggregate = server(rule, honest)
    sent = attack.craft(known(honest, own, aggregate=aggregate)).updates
    vector = aggregate(np.concatenate((honest, sent)))
    return -1.0 if vector is None else damage(vector, honest.astype(np.float64).mean(axis=0))


def updates(seed: int) -> tuple[F32, F32]:
    rows = rng(seed).normal(loc=0.3, size=(H + F, D)).astype(np.float32)
    return rows[:H], rows[H:]


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("seed", [1, 2])
def test_no_rule_suffers_less_from_it_than_from_a_known_attack(name: str, seed: int) -> None:
    rule = chain(rule_called(name))
    honest, own = updates(seed)
    worst = harm(Adaptive(), rule, honest, own)
    assert worst >= max(harm(attack, rule, honest, own) for attack in KNOWN)
    assert worst > 0


@pytest.mark.parametrize(
    "rule", [chain(Median(F)), chain(TrimmedMean(F)), chain(Nnm(F), TrimmedMean(F)), chain(Krum(F))]
)
def test_its_own_search_finds_more_than_the_known_attacks(rule: Robust) -> None:
    gains = []
    for seed in range(3):
        honest, own = updates(seed)
        known_ones = max(harm(attack, rule, honest, own) for attack in KNOWN)
        gains.append(harm(Adaptive(), rule, honest, own) / known_ones)
    assert min(gains) >= 1 and np.mean(gains) > 1.02


@pytest.mark.parametrize("seed", range(5))
def test_against_one_column_of_a_trimmed_mean_it_finds_the_worst_case(seed: int) -> None:
    """The worst that f attackers can do to a single number: the mean of all but the f largest honest values."""
    honest = rng(seed).normal(loc=1.0, size=(9, 1)).astype(np.float32)
    ordered = np.sort(honest.astype(np.float64), axis=None)
    worst = ordered.mean() - ordered[:-2].mean()
    assert harm(Adaptive(), chain(TrimmedMean(2)), honest, honest[:2]) == pytest.approx(worst, rel=1e-4)


def test_the_plain_mean_is_moved_as_far_as_the_checks_let_it() -> None:
    """A vector more than 100 times as long as the median one is refused: the attacker goes near that limit."""
    honest, own = updates(4)
    aggregate = server(chain(rule_called("mean")), honest)
    sent = Adaptive().craft(known(honest, own, aggregate=aggregate)).updates
    limit = 100 * float(np.median(np.linalg.norm(np.concatenate((honest, sent)), axis=1)))
    assert 0.8 * limit < float(np.linalg.norm(sent, axis=1).max()) <= limit


def test_it_asks_the_server_no_more_often_than_it_may() -> None:
    honest, own = updates(5)
    for evaluations in (1, 7, 15, 40, 150):
        asked: list[tuple[int, ...]] = []

        def aggregate(rows: F32, asked: list[tuple[int, ...]] = asked) -> F32:
            asked.append(rows.shape)
            found: F32 = np.median(rows, axis=0).astype(np.float32)
            return found

        Adaptive(evaluations=evaluations).craft(known(honest, own, aggregate=aggregate))
        assert len(asked) == evaluations and set(asked) == {(H + F, D)}


def test_honest_rows_come_first() -> None:
    honest, own = updates(6)
    seen: list[F32] = []

    def aggregate(rows: F32) -> F32:
        seen.append(rows[:H].copy())
        found: F32 = rows[0]
        return found

    Adaptive(evaluations=30).craft(known(honest, own, aggregate=aggregate))
    assert all(np.array_equal(rows, honest) for rows in seen)


def test_tries_that_end_a_round_or_give_no_numbers_count_for_nothing() -> None:
    honest, own = updates(7)
    limit = 2 * float(np.linalg.norm(honest, axis=1).max())

    def aggregate(rows: F32) -> F32 | None:
        longest = float(np.linalg.norm(rows, axis=1).max())
        return None if longest > limit else np.full(D, np.nan) if longest > 0.9 * limit else rows.mean(axis=0)

    sent = Adaptive().craft(known(honest, own, aggregate=aggregate)).updates
    assert 0.8 * limit < np.linalg.norm(sent, axis=1).max() <= 0.9 * limit
    nothing = Adaptive().craft(known(honest, own, aggregate=lambda rows: None)).updates
    np.testing.assert_array_equal(nothing, own)


def test_going_further_in_the_honest_direction_is_no_damage() -> None:
    mean = np.array([3.0, 4.0])
    assert damage(np.array([6, 8], dtype=np.float32), mean) == pytest.approx(0.0, abs=1e-12)
    assert damage(np.array([0, 0], dtype=np.float32), mean) == pytest.approx(5.0)
    assert damage(np.array([6 - 4, 8 + 3], dtype=np.float32), mean) == pytest.approx(5.0)  # aside by (−4, 3)
    assert damage(np.array([-3, -4], dtype=np.float32), mean) == pytest.approx(10.0)
    assert damage(np.array([1, 0], dtype=np.float32), np.zeros(2)) == pytest.approx(1.0)
