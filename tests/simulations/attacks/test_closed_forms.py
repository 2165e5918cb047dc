"""Attacks whose lies can be written down by hand."""

import numpy as np
import pytest

from tests.simulations.attacks.attackers import known, rng
from wardround.simulations.attacks.alie import Alie, largest_z
from wardround.simulations.attacks.fang import Fang
from wardround.simulations.attacks.free_rider import FreeRider
from wardround.simulations.attacks.gaussian import Gaussian
from wardround.simulations.attacks.ipm import Ipm
from wardround.simulations.attacks.mpaf import Mpaf
from wardround.simulations.attacks.nan import Nan
from wardround.simulations.attacks.scaled_sign_flip import ScaledSignFlip
from wardround.simulations.attacks.sign_flip import SignFlip
from wardround.strategies.rules.krum import Krum
from wardround.strategies.rules.robust import chain

HONEST = [[1.0, -2.0], [3.0, 0.0], [5.0, 8.0]]  # mean (3, 2), std (√(8/3), √(56/3))
OWN = [[1.0, 2.0], [-3.0, 4.0]]


def test_sign_flips_turn_each_attackers_own_update_round() -> None:
    assert SignFlip().craft(known(HONEST, OWN)).updates.tolist() == [[-1, -2], [3, -4]]
    assert ScaledSignFlip().craft(known(HONEST, OWN)).updates.tolist() == [[-5, -10], [15, -20]]
    assert ScaledSignFlip(scale=2).craft(known(HONEST, OWN)).updates.tolist() == [[-2, -4], [6, -8]]


def test_ipm_turns_the_honest_mean_round() -> None:
    assert Ipm().craft(known(HONEST, OWN)).updates.tolist() == [[-1.5, -1], [-1.5, -1]]
    assert Ipm(epsilon=2).craft(known(HONEST, 1)).updates.tolist() == [[-6, -4]]


def test_alie_has_the_papers_z() -> None:
    """24 of 50 need 2 honest ones: Φ(z) = 24/26, z = 1.43 (Baruch et al. 2019, Section 3)."""
    assert largest_z(50, 24) == pytest.approx(1.43, abs=5e-3)
    assert largest_z(10, 1) == 0.0  # 4 of 9 honest ones: z would be negative
    assert largest_z(20, 8) == pytest.approx(0.6745, abs=1e-4)  # 3 of 12: the upper quartile
    assert largest_z(3, 2) == 0.0 and largest_z(2, 2) == 0.0
    assert largest_z(10, 7) == pytest.approx(0.4307, abs=1e-4)  # in the majority: 2 of 3


def test_alie_moves_the_mean_by_z_standard_deviations() -> None:
    expected = np.array([3 - 0.5 * np.sqrt(8 / 3), 2 - 0.5 * np.sqrt(56 / 3)])
    np.testing.assert_allclose(Alie(z=0.5).craft(known(HONEST, 2)).updates, [expected, expected], rtol=1e-6)
    draws = rng(1).normal(size=(12, 3))
    expected = draws.mean(axis=0) - largest_z(20, 8) * draws.std(axis=0)
    np.testing.assert_allclose(Alie().craft(known(draws, 8)).updates[0], expected, rtol=1e-5, atol=1e-6)


def test_gaussian_noise_is_scale_times_as_long_as_the_own_update() -> None:
    own = np.array([[3.0], [0.5]]) * np.ones((2, 20_000))
    sent = Gaussian(scale=4).craft(known(np.zeros((1, 20_000)), own, seed=3)).updates
    assert sent.std(axis=1) == pytest.approx([12, 2], rel=0.03)
    assert abs(sent[0].mean()) < 0.3
    assert abs(np.corrcoef(sent[0], sent[1])[0, 1]) < 0.03


def test_fang_leaves_every_column_on_the_wrong_side_within_a_factor_b() -> None:
    honest = [[1.0, -1.0, -3.0, 2.0], [2.0, -4.0, 1.0, -1.0]]
    sent = Fang().craft(known(honest, 2000, seed=2)).updates
    # means 1.5, −2.5, −1, 0.5: below the minimum of columns 0 and 3, above the maximum of columns 1 and 2
    for column, (low, high) in enumerate([(0.5, 1.0), (-1.0, -0.5), (1.0, 2.0), (-2.0, -1.0)]):
        assert low <= sent[:, column].min() < low + 0.01 and high - 0.01 < sent[:, column].max() <= high


def test_fang_against_krum_sends_the_longest_halved_vector_that_krum_takes() -> None:
    honest = rng(4).normal(loc=0.3, size=(9, 6))
    sent = Fang(krum=True).craft(known(honest, 3)).updates
    signs = np.where(honest.mean(axis=0) > 0, 1.0, -1.0)
    rate = float(-sent[0, 0] * signs[0])
    np.testing.assert_allclose(sent, np.tile(-rate * signs, (3, 1)), rtol=1e-6)
    taken = chain(Krum(3)).aggregate(np.concatenate((honest, sent)).astype(np.float32)).vector
    assert taken is not None and np.array_equal(taken, sent[0])
    refused = chain(Krum(3)).aggregate(np.concatenate((honest, 2 * sent)).astype(np.float32)).vector
    distances = np.linalg.norm(honest[:, None] - honest[None], axis=2)
    nearest = np.sort(distances, axis=1)[:, 1:8].sum(axis=1).min()  # to 12 − 3 − 2 others
    bound = (nearest / (12 - 6 - 1) + np.linalg.norm(honest, axis=1).max()) / np.sqrt(6)
    assert np.log2(bound / rate) == pytest.approx(round(np.log2(bound / rate)), abs=1e-5)
    assert refused is not None and not np.array_equal(refused, 2 * sent[0])


def test_mpaf_drags_towards_the_same_random_model_in_every_round() -> None:
    model = rng(5).normal(scale=3, size=10_000)
    first = Mpaf(scale=2).craft(known(np.zeros((1, 10_000)), 2, model=model, seed=1))
    base = model + first.updates[0] / 2
    assert base.std() == pytest.approx(3, rel=0.05) and abs(np.corrcoef(base, model)[0, 1]) < 0.05
    moved = model + 1
    second = Mpaf(scale=2).craft(known(np.zeros((1, 10_000)), 2, model=moved, seed=2, memory=first.memory))
    np.testing.assert_allclose(moved + second.updates[1] / 2, base, rtol=1e-4, atol=1e-4)
    fresh = Mpaf().craft(known(np.zeros((1, 10_000)), 1, seed=1)).updates
    assert fresh.std() == pytest.approx(10, rel=0.05)  # a model of zeros: a base of standard normal values


def test_free_riders_repeat_the_last_change_of_the_model() -> None:
    model = rng(6).normal(size=5000)
    first = FreeRider().craft(known(np.zeros((1, 5000)), 2, model=model))
    assert first.updates.std() == pytest.approx(0.01 * model.std(), rel=0.1)
    change = rng(7).normal(size=5000)
    second = FreeRider().craft(known(np.zeros((1, 5000)), 2, model=model + change, memory=first.memory)).updates
    noise = second - change
    assert noise.std(axis=1) == pytest.approx([0.01, 0.01], rel=0.1)
    assert abs(np.corrcoef(noise[0], noise[1])[0, 1]) < 0.1
    plain = FreeRider(noise=0).craft(known(np.zeros((1, 5000)), 1, model=model + change, memory=first.memory)).updates
    np.testing.assert_allclose(plain[0], change, rtol=1e-3, atol=1e-5)


def test_nan_is_nan() -> None:
    assert np.isnan(Nan().craft(known(HONEST, OWN)).updates).all()
