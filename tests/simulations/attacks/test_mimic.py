"""Mimic: whose update is repeated."""

import numpy as np

from tests.simulations.attacks.attackers import known, rng
from wardround.simulations.attacks.mimic import Mimic


def test_it_sends_an_honest_update() -> None:
    honest = rng(1).normal(size=(6, 4)).astype(np.float32)
    sent = Mimic().craft(known(honest, 3)).updates
    assert any((sent == row).all() for row in honest)


def test_the_direction_becomes_that_in_which_sites_differ_most() -> None:
    """Sites differ along (3, 4)/5 by ten times as much as otherwise."""
    draws, main = rng(2), np.array([0.6, 0.8, 0.0, 0.0])
    offsets = np.linspace(-10, 10, 7)[:, None] * main
    memory: dict[str, np.ndarray] = {}
    for turn in range(30):
        honest = offsets + draws.normal(size=(7, 4))
        crafted = Mimic().craft(known(honest, 2, seed=turn, memory=memory))
        memory = dict(crafted.memory)
    assert abs(memory["direction"] @ main) > 0.99
    assert abs(np.linalg.norm(memory["direction"]) - 1) < 1e-12
    reached = crafted.updates[0].astype(np.float64) @ memory["direction"]
    assert np.isclose(reached, (honest @ memory["direction"]).max(), rtol=1e-5)


def test_two_rounds_follow_the_formula() -> None:
    """The authors' steps, written out: μ and z of the second round from those of the first."""
    first, second = rng(3).normal(size=(2, 5, 3)).astype(np.float32).astype(np.float64)
    z = known(first, 1, seed=9).generator.standard_normal(3)
    v = sum(((row - first.mean(axis=0)) @ z) * (row - first.mean(axis=0)) for row in first)
    z1 = v / np.linalg.norm(v)
    one = Mimic().craft(known(first, 1, seed=9))
    np.testing.assert_allclose(one.memory["direction"], z1)
    mu = (first.mean(axis=0) + second.mean(axis=0)) / 2
    v = sum(((row - mu) @ z1) * (row - mu) for row in second)
    z2 = z1 / 2 + v / np.linalg.norm(v) / 2
    two = Mimic().craft(known(second, 1, seed=4, memory=one.memory))
    np.testing.assert_allclose(two.memory["direction"], z2 / np.linalg.norm(z2))
    np.testing.assert_array_equal(two.updates[0], second[np.argmax(second @ z2)].astype(np.float32))


def test_after_the_warmup_the_direction_stays() -> None:
    honest = rng(4).normal(size=(5, 3))
    memory = Mimic(warmup=1).craft(known(honest, 1)).memory
    later = Mimic(warmup=1).craft(known(rng(5).normal(size=(5, 3)), 1, memory=memory)).memory
    np.testing.assert_array_equal(memory["direction"], later["direction"])
    longer = Mimic(warmup=2).craft(known(rng(5).normal(size=(5, 3)), 1, memory=memory)).memory
    assert not np.allclose(memory["direction"], longer["direction"])
