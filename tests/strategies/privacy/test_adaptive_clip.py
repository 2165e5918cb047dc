"""The clip norm follows the quantile it is to follow, at the privacy that the plan states."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from wardround.contribution import Contribution
from wardround.orders import SiteId
from wardround.strategies.privacy.adaptive_clip import AdaptiveClip, plan_count_noise
from wardround.strategies.privacy.noise_source import FreshNoise
from wardround.strategies.privacy.private_mean import PrivateMean
from wardround.strategies.privacy.secure_random import GRID_PER_UNIT, SecureRandom
from wardround.strategies.privacy.unit_clip import LARGEST_CLIP, SMALLEST_CLIP, clip_update
from wardround.strategies.rules.rule import Aggregate, Memory, RoundContext
from wardround.tally import Tally
from wardround.vector import F64, I64, MemoryVector

FALSE_ALARM = 1e-9
SIZE = 40
DIRECTIONS = np.random.Generator(np.random.Philox(key=9)).normal(size=(200, SIZE))
DIRECTIONS /= np.linalg.norm(DIRECTIONS, axis=1, keepdims=True)


@dataclass
class Given:
    """Noise that is the same in every coordinate."""

    steps: int = 0

    def draw(self, size: int) -> I64:
        return np.full(size, self.steps, dtype=np.int64)


def adaptive_mean(
    z: float = 1.0, clients: int = 100, start: float = 1.0, target: float = 0.5, lr: float = 0.2, key: int = 1
) -> PrivateMean:
    adaptive = AdaptiveClip(target_quantile=target, lr=lr, count_noise=plan_count_noise(z))
    adaptive.check(z, clients)
    noise = FreshNoise(SecureRandom(bytes([key]) * 32))
    return PrivateMean(clip_norm=start, noise_std=z * start, denominator=clients, noise=noise, adaptive=adaptive)


def one_round(rule: PrivateMean, norms: Sequence[float] | F64, memory: Memory) -> Aggregate:
    """Sites whose updates have these norms clip them to the clip norm in force, as their guards do, and send them."""
    clip_norm = rule.clip_in_force(memory)
    contributions = []
    for i, norm in enumerate(norms):
        update = (DIRECTIONS[i] * norm).astype(np.float32)
        vector = MemoryVector(clip_update(update, clip_norm) if math.isfinite(norm) else update)
        tally = Tally.of_means(1, {})
        contributions.append(Contribution(members=(SiteId(f"s{i}"),), weight=1, vector=vector, tally=tally))
    return rule.apply(contributions, RoundContext(size=SIZE, memory=memory))


def run(rule: PrivateMean, rounds: int, norms: Callable[[int], Sequence[float] | F64]) -> list[float]:
    memory: Memory = {}
    clips = []
    for number in range(rounds):
        clips.append(rule.clip_in_force(memory))
        memory = one_round(rule, norms(number), memory).memory
    return clips


def test_where_all_norms_are_5_the_clip_goes_to_5() -> None:
    clips = run(adaptive_mean(), 60, lambda _: [5.0] * 100)  # counted the other way round it goes to 0.135 in 20
    assert clips[0] == 1.0
    assert 4.0 < clips[19] < 6.0
    assert np.exp(np.log(clips[20:]).mean()) == pytest.approx(5.0, rel=0.1)
    assert all(4.0 < clip < 6.2 for clip in clips[20:])


@pytest.mark.parametrize(("target", "start"), [(0.2, 10.0), (0.5, 0.1), (0.8, 0.1), (0.8, 10.0)])
def test_the_clip_tracks_the_quantile_from_below_and_above(target: float, start: float) -> None:
    norms = np.exp(np.random.Generator(np.random.Philox(key=4)).normal(size=200))
    clips = run(adaptive_mean(clients=200, start=start, target=target), 100, lambda _: norms)
    found = np.mean([np.mean(norms < clip) for clip in clips[60:]])
    assert found == pytest.approx(target, abs=0.05)


def test_the_clip_follows_norms_that_shrink() -> None:
    generator = np.random.Generator(np.random.Philox(key=5))

    def norms(number: int) -> F64:
        return np.exp(generator.normal(size=100) * 0.5) * 10 * 0.98**number

    clips = run(adaptive_mean(clients=100, start=1.0), 150, norms)
    ratios = np.array(clips[50:]) / (10 * 0.98 ** np.arange(50, 150))
    assert 0.8 < np.median(ratios) < 1.3 and 0.6 < ratios.min() and ratios.max() < 1.8


# -- privacy ---------------------------------------------------------------------------------------------


@given(st.floats(0.01, 50.0), st.floats(1.001, 20.0))
def test_updates_and_count_together_have_the_noise_multiplier_of_the_plan(z: float, times: float) -> None:
    adaptive = AdaptiveClip(target_quantile=0.5, lr=0.2, count_noise=times * z / 2)
    alone = adaptive.update_multiplier(z)
    # a Gaussian's privacy is its sensitivity over its noise; those of a joint release add up in squares
    assert 1 / alone**2 + (0.5 / adaptive.count_noise) ** 2 == pytest.approx(1 / z**2, rel=1e-9)
    assert alone > z


def test_the_default_count_noise_costs_the_updates_two_per_cent() -> None:
    for z in (0.3, 1.0, 7.0):
        adaptive = AdaptiveClip(target_quantile=0.5, lr=0.2, count_noise=plan_count_noise(z))
        assert adaptive.update_multiplier(z) / z == pytest.approx(1.0206, abs=1e-4)


@pytest.mark.parametrize("count_noise", [0.5, 0.49, 0.01])
def test_a_count_that_spends_more_than_the_plan_allows_is_refused(count_noise: float) -> None:
    adaptive = AdaptiveClip(target_quantile=0.5, lr=0.2, count_noise=count_noise)
    with pytest.raises(
        ValueError, match=f"expected count noise above 0.5, half the noise multiplier, got {count_noise}"
    ):
        adaptive.check(1.0, 1000)


@pytest.mark.parametrize("z", [0.2, 1.0, 4.0])
def test_at_least_25_clients_for_each_noise_multiplier(z: float) -> None:
    adaptive = AdaptiveClip(target_quantile=0.5, lr=0.2, count_noise=plan_count_noise(z))
    least = round(25 * z)
    adaptive.check(z, least)
    with pytest.raises(ValueError, match=f"expected at least {least} clients in a round, .* got {least - 1}"):
        adaptive.check(z, least - 1)


@given(st.floats(0.001, 1e6))
def test_no_client_moves_the_count_by_more_than_half(count_noise: float) -> None:
    adaptive = AdaptiveClip(target_quantile=0.5, lr=0.2, count_noise=count_noise)
    for vote in (adaptive.vote(0.5, 1.0), -adaptive.vote(1.0, 1.0)):
        moved = Fraction(vote) * Fraction(count_noise) / GRID_PER_UNIT
        assert moved <= Fraction(1, 2) < moved + Fraction(count_noise) / GRID_PER_UNIT + Fraction(1, 10**9)


@pytest.mark.parametrize("clip_norm", [0.25, 1.0, 3.0])
def test_the_noise_on_updates_scales_with_the_clip_in_force(clip_norm: float) -> None:
    rule, rounds = adaptive_mean(z=1.5, clients=50), 500
    rule = replace(rule, adaptive=AdaptiveClip(target_quantile=0.5, lr=0.2, count_noise=1.2))
    memory = {"clip_norm": np.array([clip_norm])}
    vectors = [one_round(rule, [], memory).vector for _ in range(rounds)]
    claimed = clip_norm * (1.5**-2 - 2.4**-2) ** -0.5 / 50  # 28 % above z
    values = np.array(vectors, dtype=np.float64).ravel() / claimed
    squares = float(np.sum(values**2))
    assert min(stats.chi2.cdf(squares, values.size), stats.chi2.sf(squares, values.size)) > FALSE_ALARM


def test_the_noise_on_the_count_is_as_claimed_and_apart_from_that_on_updates() -> None:
    rule, rounds = adaptive_mean(z=1.5, clients=50), 3000
    votes, updates = [], np.empty((rounds, SIZE))
    for row in updates:
        aggregate = one_round(rule, [], {})
        share = 0.5 - math.log(rule.clip_in_force(aggregate.memory)) / 0.2  # b̃, from C exp(-lr (b̃ - ½)) with C = 1
        votes.append((share - 0.5) * 50 / 3.75)
        assert aggregate.vector is not None
        row[:] = aggregate.vector
    squares = float(np.sum(np.square(votes)))
    assert min(stats.chi2.cdf(squares, rounds), stats.chi2.sf(squares, rounds)) > FALSE_ALARM
    assert stats.kstest(votes, "norm").pvalue > FALSE_ALARM
    assert all(stats.pearsonr(votes, column).pvalue > FALSE_ALARM for column in updates.T)


def test_noise_is_asked_for_once_for_updates_and_count() -> None:
    asked = []

    class Counting:
        def draw(self, size: int) -> I64:
            asked.append(size)
            return np.zeros(size, dtype=np.int64)

    one_round(replace(adaptive_mean(), noise=Counting()), [1.0, 2.0], {})
    assert asked == [SIZE + 1]


# -- the step --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("norms", "share"),
    [([0.5] * 100, 1.0), ([2.0] * 100, 0.0), ([0.5] * 40, 0.7), ([2.0] * 40, 0.3), ([], 0.5), ([0.5, 2.0], 0.5)],
    ids=["none clipped", "all clipped", "40 not clipped", "40 clipped", "nobody came", "one of each"],
)
def test_the_step_is_that_of_algorithm_1_and_who_is_missing_counts_as_half(norms: list[float], share: float) -> None:
    rule = replace(adaptive_mean(target=0.3, lr=0.4), noise=Given())
    following = rule.clip_in_force(one_round(rule, norms, {}).memory)
    assert following == pytest.approx(math.exp(-0.4 * (share - 0.3)), rel=1e-5)


def test_noise_moves_the_share_by_its_part_of_the_planned_cohort() -> None:
    rule = replace(adaptive_mean(z=2.0), noise=Given(steps=3 * GRID_PER_UNIT))
    following = rule.clip_in_force(one_round(rule, [], {}).memory)
    assert following == pytest.approx(math.exp(-0.2 * 3 * plan_count_noise(2.0) / 100), rel=1e-9)


def test_refused_updates_have_no_vote() -> None:
    rule = replace(adaptive_mean(), noise=Given())
    assert rule.clip_in_force(one_round(rule, [math.nan] * 30, {}).memory) == 1.0


@pytest.mark.parametrize("size", [3, 1000, 100_000])
def test_what_a_guard_has_clipped_counts_as_clipped(size: int) -> None:
    update = np.random.Generator(np.random.Philox(key=6)).normal(size=size).astype(np.float32)
    norm = float(np.linalg.norm(update.astype(np.float64)))
    adaptive = AdaptiveClip(target_quantile=0.5, lr=0.2, count_noise=2.5)
    for clip_norm in (1e-6 * norm, 0.5 * norm, 0.999 * norm):
        sent = float(np.linalg.norm(clip_update(update, clip_norm).astype(np.float64)))
        assert adaptive.vote(sent, clip_norm) < 0
    assert adaptive.vote(norm, 1.001 * norm) > 0


def test_the_first_round_has_the_clip_of_the_plan_and_a_resumed_run_goes_on_with_its_own() -> None:
    rule = adaptive_mean(start=0.7)
    assert rule.clip_in_force({}) == 0.7
    memory = one_round(rule, [5.0] * 100, {}).memory
    assert memory["clip_norm"].dtype == np.float64 and memory["clip_norm"].shape == (1,)
    assert rule.clip_in_force(memory) == adaptive_mean(start=0.7, key=2).clip_in_force(memory) > 0.7
    fixed = replace(rule, adaptive=None)
    assert fixed.clip_in_force(memory) == 0.7 and not one_round(fixed, [1.0], {}).memory


@pytest.mark.parametrize("stored", [0.0, -1.0, math.nan, math.inf, 1e13])
def test_a_stored_clip_that_is_none_is_refused(stored: float) -> None:
    with pytest.raises(ValueError, match="expected a clip norm of"):
        adaptive_mean().clip_in_force({"clip_norm": np.array([stored])})


@pytest.mark.parametrize(("steps", "end"), [(10**9, SMALLEST_CLIP), (-(10**9), LARGEST_CLIP)])
def test_the_clip_stays_a_number_that_can_be_clipped_to(steps: int, end: float) -> None:
    rule = replace(adaptive_mean(lr=100.0), noise=Given(steps))
    memory: Memory = {}
    for _ in range(3):
        memory = one_round(rule, [], memory).memory
    assert rule.clip_in_force(memory) == pytest.approx(end, rel=1e-9)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target_quantile": 0.0}, "expected a target quantile between 0 and 1, got 0.0"),
        ({"target_quantile": math.nan}, "expected a target quantile"),
        ({"lr": 0.0}, "expected a learning rate above 0"),
        ({"lr": math.nan}, "expected a learning rate above 0"),
        ({"count_noise": -1.0}, "expected a count noise above 0"),
        ({"count_noise": math.inf}, "expected a count noise above 0"),
    ],
)
def test_settings_without_a_meaning_are_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AdaptiveClip(**{"target_quantile": 0.5, "lr": 0.2, "count_noise": 2.5, **settings})
