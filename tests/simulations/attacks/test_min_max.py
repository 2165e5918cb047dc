"""Min-Max and Min-Sum against their definitions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.simulations.attacks.attackers import known, rng
from wardround.simulations.attacks.attack import Attack
from wardround.simulations.attacks.min_max import MinMax
from wardround.simulations.attacks.min_sum import MinSum
from wardround.vector import F64


def direction(kind: int, honest: F64) -> F64:
    mean = honest.mean(axis=0)
    found: F64 = [-mean / np.linalg.norm(mean), -honest.std(axis=0), -np.sign(mean)][kind]
    return found


def allowed(attack: Attack, vector: F64, honest: F64) -> bool:
    """The papers' constraints, pair by pair."""
    to_vector = [float(np.sum((row - vector) ** 2)) for row in honest]
    between = [[float(np.sum((row - other) ** 2)) for other in honest] for row in honest]
    if isinstance(attack, MinMax):
        return max(to_vector) <= max(map(max, between))
    return sum(to_vector) <= max(map(sum, between))


@given(
    kind=st.sampled_from([0, 1, 2]),
    minimise=st.sampled_from([MinMax, MinSum]),
    h=st.integers(2, 8),
    d=st.integers(1, 5),
    seed=st.integers(0, 999),
)
def test_gamma_is_the_largest_that_the_constraint_allows(
    kind: int, minimise: type[MinMax] | type[MinSum], h: int, d: int, seed: int
) -> None:
    honest = rng(seed).normal(loc=0.5, size=(h, d)).astype(np.float32).astype(np.float64)
    attack = minimise(perturbation=kind)
    sent = attack.craft(known(honest, 3)).updates
    assert (sent == sent[0]).all()
    mean, p = honest.mean(axis=0), direction(kind, honest)
    gamma = float((sent[0] - mean) @ p / (p @ p))
    np.testing.assert_allclose(sent[0], mean + gamma * p, rtol=1e-4, atol=1e-4)
    assert gamma >= 0
    assert allowed(attack, mean + (0.999 * gamma - 1e-5) * p, honest)
    assert not allowed(attack, mean + (1.001 * gamma + 1e-5) * p, honest)


@pytest.mark.parametrize("attack", [MinMax(), MinSum()])
def test_a_single_honest_update_leaves_no_room(attack: Attack) -> None:
    assert attack.craft(known([[1.0, 2.0]], 2)).updates.tolist() == [[1, 2], [1, 2]]


def test_by_hand() -> None:
    """1 and 3 with mean 2, std 1: the distance may be 2, the sum of squares 4 = 2 + 2 γ²."""
    assert MinMax().craft(known([[1.0], [3.0]], 1)).updates[0, 0] == pytest.approx(1.0)
    assert MinSum().craft(known([[1.0], [3.0]], 1)).updates[0, 0] == pytest.approx(1.0)
    assert MinMax(perturbation=2).craft(known([[0.0, 2.0], [4.0, 2.0]], 1)).updates[0] == pytest.approx(
        [2 - (np.sqrt(7) - 1), 2 - (np.sqrt(7) - 1)], rel=1e-6
    )
