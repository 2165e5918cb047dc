import mpmath
import numpy as np
import pytest
from scipy import stats

from wardround.strategies.privacy.secure_random import U64, SecureRandom
from wardround.strategies.secagg import skellam_noise
from wardround.strategies.secagg.skellam_noise import SkellamNoise, cumulative

KEY = bytes(range(32))
VARIANCES = [0.01, 1.0, 7.3, 400.0, 30_000.0]


class Given(SecureRandom):
    """Words that a test chose, one after the other."""

    __slots__ = ("left",)

    def __init__(self, *left: int) -> None:
        super().__init__(KEY)
        self.left = list(left)

    def words(self, n: int) -> U64:
        taken, self.left = self.left[:n], self.left[n:]
        assert len(taken) == n
        return np.array(taken, dtype=np.uint64)


def exact(variance: float, x: int, digits: int = 120) -> mpmath.mpf:
    """P(X <= x) from Bessel functions, which nothing in the sampler uses."""
    with mpmath.workdps(digits):
        mu = mpmath.mpf(variance)
        tail, k, scale = mpmath.mpf(0), max(-x, x + 1), mpmath.exp(-mu)
        while True:
            term = scale * mpmath.besseli(k, mu)
            tail += term
            k += 1
            if term < mpmath.mpf(10) ** -(digits - 20) and k > 3 * variance**0.5:
                break
        return tail if x < 0 else 1 - tail


@pytest.mark.parametrize("variance", [1e-6, 0.01, 0.3, 7.3, 60.0])
@pytest.mark.parametrize("bits", [128, 256])
def test_the_sums_are_exact_to_their_last_bit(variance: float, bits: int) -> None:
    first, sums = cumulative(variance, bits)
    assert len(sums) == 2 * -first + 1
    for x in [-12, -5, -2, -1, 0, 1, 3, 8]:
        if not first <= x < -first:
            continue
        with mpmath.workdps(120):
            assert abs(exact(variance, x) * mpmath.mpf(2) ** bits - sums[x - first]) < 1, x
    assert sums[0] <= 1
    assert sums[-2] >= (1 << bits) - 1


@pytest.mark.parametrize("variance", [0.3, 60.0, 30_000.0])
def test_a_word_becomes_the_least_number_whose_sum_is_above_it(variance: float) -> None:
    noise = SkellamNoise.of(variance)
    words = SecureRandom(KEY).words(4000)
    heads = words >> np.uint64(32)
    first, sums = cumulative(variance, 128)
    for word, head in zip(words.tolist(), heads.tolist(), strict=True):
        low = word & 0xFFFF_FFFF
        expected = first + next(i for i in _near(sums, word << 64) if sums[i] > word << 64)
        random = Given(head, low << 32)
        assert noise.draw(1, random).tolist() == [expected]


def _near(sums: list[int], at: int) -> range:
    begin = int(np.searchsorted(np.array([value >> 65 for value in sums], dtype=np.uint64), at >> 65))
    return range(max(0, begin - 1), len(sums))


def test_a_word_on_the_border_of_two_numbers_is_decided_by_the_next_ones() -> None:
    noise = SkellamNoise.of(7.3)
    first, sums = cumulative(7.3, 256)
    at = sums[3 - first]
    word, following = at >> 192, (at >> 128) & (2**64 - 1)
    head, rest = word >> 32, (word & 0xFFFF_FFFF) << 32
    assert noise.draw(1, Given(head, rest, following - 3)).tolist() == [3]
    assert noise.draw(1, Given(head, rest, following + 3)).tolist() == [4]
    beyond = (at >> 64) & (2**64 - 1)
    assert noise.draw(1, Given(head, rest, following, beyond - 3)).tolist() == [3]
    assert noise.draw(1, Given(head, rest, following, beyond + 3)).tolist() == [4]


def test_the_first_and_the_last_words_reach_beyond_the_table() -> None:
    noise = SkellamNoise.of(7.3)
    lowest = [int(noise.draw(1, Given(0, 0, *[0] * zeros, 1 << 62)).item()) for zeros in range(3)]
    full = 2**64 - 1
    highest = [int(noise.draw(1, Given(2**32 - 1, full, *[full] * n, full - (1 << 62))).item()) for n in range(3)]
    assert lowest == sorted(lowest, reverse=True)
    assert len(set(lowest)) == 3
    assert highest == [-x for x in lowest]
    for zeros, x in enumerate(lowest):
        u = mpmath.mpf(2) ** (-2 - 64 * (zeros + 1))
        assert exact(7.3, x - 1) <= u < exact(7.3, x)


@pytest.mark.parametrize("variance", VARIANCES)
def test_samples_have_the_distributions_frequencies(variance: float) -> None:
    n = 400_000
    samples = SkellamNoise.of(variance).draw(n, SecureRandom(KEY))
    edges = np.unique(np.round(np.linspace(-4, 4, 81) * variance**0.5)).astype(int)
    below = stats.skellam.cdf(edges, variance / 2, variance / 2)
    chances = np.diff(np.concatenate(([0.0], below, [1.0])))
    kept = chances * n > 10
    counts = np.diff(np.concatenate(([0], [(samples <= edge).sum() for edge in edges], [n])))
    expected = np.append(chances[kept], max(1 - chances[kept].sum(), 1e-12)) * n
    seen = np.append(counts[kept], n - counts[kept].sum())
    statistic = float(((seen - expected) ** 2 / np.maximum(expected, 1)).sum())
    assert stats.chi2.sf(statistic, kept.sum()) > 1e-9


@pytest.mark.parametrize("variance", VARIANCES)
def test_moments_are_those_of_a_skellam(variance: float) -> None:
    n = 400_000
    x = SkellamNoise.of(variance).draw(n, SecureRandom(KEY)).astype(np.float64)
    fourth = 3 * variance**2 + variance
    assert abs(x.mean()) < 6.5 * (variance / n) ** 0.5
    assert abs((x**2).mean() - variance) < 6.5 * ((fourth - variance**2) / n) ** 0.5
    if variance < 1000:
        k = np.arange(-400.0, 401.0)
        eighth = float((k**8 * stats.skellam.pmf(k, variance / 2, variance / 2)).sum())
        assert abs((x**4).mean() - fourth) < 6.5 * ((eighth - fourth**2) / n) ** 0.5


def test_tails_are_as_heavy_as_they_must_be() -> None:
    n, variance = 2_000_000, 7.3
    x = np.abs(SkellamNoise.of(variance).draw(n, SecureRandom(KEY)))
    for k in (8, 10, 12):
        chance = 2 * float(stats.skellam.sf(k - 1, variance / 2, variance / 2))
        low, high = stats.binom.ppf([5e-10, 1 - 5e-10], n, chance)
        assert low <= int((x >= k).sum()) <= high


def test_what_clients_add_is_the_noise_of_the_summed_variance() -> None:
    n = 200_000
    random = SecureRandom(KEY)
    total = sum((SkellamNoise.of(0.5).draw(n, random) for _ in range(8)), np.zeros(n, dtype=np.int32))
    seen = np.array([(total == k).sum() for k in range(-6, 7)])
    expected = n * stats.skellam.pmf(np.arange(-6, 7), 2, 2)
    assert stats.chi2.sf(((seen - expected) ** 2 / expected).sum(), 13) > 1e-9


def test_samples_in_a_row_do_not_hang_together() -> None:
    x = SkellamNoise.of(400).draw(100_001, SecureRandom(KEY)).astype(np.float64)
    assert abs((x[1:] * x[:-1]).mean()) < 6.5 * 400 / 100_000**0.5


def test_a_key_gives_the_same_noise_and_another_key_another() -> None:
    noise = SkellamNoise.of(400)
    first = noise.draw(50_000, SecureRandom(KEY))
    assert first.dtype == np.int32
    assert np.array_equal(first, noise.draw(50_000, SecureRandom(KEY)))
    assert not np.array_equal(first, noise.draw(50_000, SecureRandom(bytes(32))))
    assert noise.draw(0, SecureRandom(KEY)).tolist() == []
    assert SkellamNoise.of(7.3).draw(8, SecureRandom(KEY)).tolist() == [1, 2, -1, 0, 1, 3, -2, -2]


def test_a_sum_near_a_multiple_of_the_words_unit_is_computed_to_more_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def close(variance: float, bits: int) -> tuple[int, list[int]]:
        asked.append(bits)
        first, sums = cumulative(variance, bits)
        if bits == 128:
            sums = [value >> 64 << 64 for value in sums]
        return first, sums

    monkeypatch.setattr(skellam_noise, "cumulative", close)
    made = skellam_noise._made.__wrapped__(5.5)
    assert asked == [128, 192]
    assert np.array_equal(made._steps, SkellamNoise.of(5.5)._steps)


@pytest.mark.parametrize("variance", [0.0, -1.0, 1e-9, 5e9, float("inf"), float("nan")])
def test_variances_out_of_bounds_are_refused(variance: float) -> None:
    with pytest.raises(ValueError, match="expected a client's noise of variance"):
        SkellamNoise.of(variance)


def test_a_negative_number_of_samples_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 0 samples"):
        SkellamNoise.of(1).draw(-1, SecureRandom(KEY))
