"""What one client moves the sum by, against exact arithmetic; the noise, against its claim; what is refused."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from wardround.contribution import Contribution, Verdict
from wardround.orders import SiteId
from wardround.strategies.privacy.adaptive_clip import AdaptiveClip
from wardround.strategies.privacy.noise_source import FreshNoise, NoiseSource
from wardround.strategies.privacy.private_mean import LEAST_NOISE, PrivateMean
from wardround.strategies.privacy.secure_random import GRID, SecureRandom
from wardround.strategies.rules.mean import Mean
from wardround.strategies.rules.rule import Aggregate, RoundContext, Rule
from wardround.tally import Tally
from wardround.vector import F32, I64, FileVector, MemoryVector, VectorSource

LARGEST = float(np.finfo(np.float32).max)
FALSE_ALARM = 1e-9


@dataclass
class Silent:
    """Noise of nothing, which counts how often it is asked."""

    asked: list[int] = field(default_factory=list)

    def draw(self, size: int) -> I64:
        self.asked.append(size)
        return np.zeros(size, dtype=np.int64)


def private_mean(
    clip_norm: float = 1.0,
    noise_std: float = 1.0,
    denominator: float = 1.0,
    noise: NoiseSource | None = None,
    layers: tuple[int, ...] | None = None,
    adaptive: AdaptiveClip | None = None,
) -> PrivateMean:
    return PrivateMean(
        clip_norm=clip_norm,
        noise_std=noise_std,
        denominator=denominator,
        noise=noise or Silent(),
        layers=layers,
        adaptive=adaptive,
    )


def contribution(vector: F32 | VectorSource, site: str, weight: int = 1) -> Contribution:
    source = MemoryVector(vector) if isinstance(vector, np.ndarray) else vector
    return Contribution(members=(SiteId(site),), weight=weight, vector=source, tally=Tally.of_means(1, {}))


def sent(vectors: Iterable[F32]) -> list[Contribution]:
    return [contribution(vector, f"s{i}") for i, vector in enumerate(vectors)]


def applied(rule: Rule, contributions: Iterable[Contribution], size: int) -> Aggregate:
    return rule.apply(contributions, RoundContext(size=size))


def vector_of(aggregate: Aggregate) -> F32:
    assert aggregate.vector is not None and aggregate.reason == ""
    return aggregate.vector


def mean_of(rule: PrivateMean, contributions: Iterable[Contribution], size: int) -> F32:
    vector = vector_of(applied(rule, contributions, size))
    assert vector.dtype == np.float32 and vector.shape == (size,)
    return vector


def exact_square(values: F32) -> Fraction:
    return sum((Fraction(value) ** 2 for value in values.tolist()), start=Fraction(0))


# -- what one client moves the sum by ----------------------------------------------------------------
# A clip and noise of 1 and a denominator of 1 make a sum a multiple of 2^-20, which float32 holds exactly to 2^4.


@st.composite
def rounds(draw: st.DrawFn) -> list[F32]:
    size = draw(st.integers(1, 12))
    values = st.one_of(st.floats(-LARGEST, LARGEST, width=32), st.floats(-2, 2, width=32))
    return draw(st.lists(arrays(np.float32, size, elements=values), min_size=1, max_size=7))


@given(rounds())
def test_a_client_moves_the_sum_by_its_clip_norm_at_most_as_a_real_number(vectors: list[F32]) -> None:
    rule, size = private_mean(), vectors[0].size
    whole = mean_of(rule, sent(vectors), size)
    for left_out in range(len(vectors)):
        rest = mean_of(rule, sent(vectors[:left_out] + vectors[left_out + 1 :]), size)
        moved = (whole.astype(np.float64) - rest).astype(np.float32)
        assert exact_square(moved) <= 1
        alone = mean_of(rule, sent([vectors[left_out]]), size)
        np.testing.assert_array_equal(moved, alone)  # whatever the others send
        np.testing.assert_array_equal(alone * 2.0**20, np.trunc(alone * 2.0**20))


@given(rounds())
def test_the_sum_is_that_of_the_clipped_vectors_to_a_step(vectors: list[F32]) -> None:
    size, expected = vectors[0].size, np.zeros(vectors[0].size)
    for vector in vectors:
        wide = vector.astype(np.float64)
        expected += wide / max(1.0, float(np.linalg.norm(wide)))
    found = mean_of(private_mean(), sent(vectors), size)
    np.testing.assert_allclose(found, expected, rtol=0, atol=len(vectors) * 1.5 * GRID)


def test_rounding_never_lengthens_a_vector() -> None:
    size, clip_norm = 1 << 12, 1.0
    vector = np.full(size, clip_norm / 64 * (1 - 2.0**-20), np.float32)  # just in the clip
    noise_std = float(vector[0]) / (0.6 * GRID)  # each value is 0.6 steps: to the nearest, the norm would be 1.67
    assert not mean_of(private_mean(clip_norm, noise_std), sent([vector, -vector]), size).any()
    alone = mean_of(private_mean(clip_norm, noise_std), sent([vector]), size)
    assert not alone.any()
    longer = mean_of(private_mean(clip_norm, noise_std / 3), sent([vector]), size)  # 1.8 steps become 1
    np.testing.assert_allclose(longer, vector / 1.8, rtol=1e-6)


def test_a_long_update_is_clipped_and_a_short_one_is_not() -> None:
    long, short = np.array([30, 40], np.float32), np.array([0.3, 0.4], np.float32)
    np.testing.assert_allclose(mean_of(private_mean(), sent([long]), 2), [0.6, 0.8], atol=2 * GRID)
    np.testing.assert_allclose(mean_of(private_mean(), sent([short]), 2), [0.3, 0.4], atol=2 * GRID)
    np.testing.assert_allclose(mean_of(private_mean(clip_norm=2.0), sent([long]), 2), [1.2, 1.6], atol=2 * GRID)


def test_layers_are_clipped_to_equal_shares() -> None:
    rule = private_mean(clip_norm=2.0, layers=(2, 1, 1))
    vector = np.array([300, 400, 0.25, -1e30], np.float32)
    share = 2 / math.sqrt(3)
    expected = [0.6 * share, 0.8 * share, 0.25, -share]
    np.testing.assert_allclose(mean_of(rule, sent([vector]), 4), expected, atol=2 * GRID)
    assert exact_square(mean_of(rule, sent([np.full(4, LARGEST, np.float32)]), 4)) <= 4


def test_zero_updates_add_nothing() -> None:
    assert not mean_of(private_mean(), sent([np.zeros(5, np.float32)] * 3), 5).any()


@pytest.mark.parametrize("noise_std", [LEAST_NOISE, 0.5, 1.0, 2.0**20])
def test_a_sum_of_many_is_that_many_times_one(noise_std: float) -> None:
    vector = np.array([0.8, -0.6, 0], np.float32)  # at LEAST_NOISE two such fill 31 bits
    one = mean_of(private_mean(noise_std=noise_std), sent([vector]), 3).astype(np.float64)
    many = mean_of(private_mean(noise_std=noise_std, denominator=5000.0), sent([vector] * 5000), 3)
    np.testing.assert_allclose(many, one, rtol=1e-6)
    assert abs(one[0]) > 0.7 or noise_std > 1e5


@pytest.mark.parametrize("layers", [None, (1, 40_000, 30_000)])
@pytest.mark.parametrize("noise_std", [LEAST_NOISE, 1.0])
def test_the_order_of_contributions_changes_no_bit(layers: tuple[int, ...] | None, noise_std: float) -> None:
    generator = np.random.Generator(np.random.Philox(key=1))
    vectors = generator.normal(scale=10.0 ** generator.integers(-8, 8, (9, 1)), size=(9, 70_001)).astype(np.float32)
    expected = mean_of(private_mean(noise_std=noise_std, layers=layers), sent(vectors), 70_001)
    for _ in range(3):
        again = mean_of(private_mean(noise_std=noise_std, layers=layers), sent(generator.permutation(vectors)), 70_001)
        np.testing.assert_array_equal(again, expected)
    assert expected.any()


def test_the_denominator_is_the_planned_cohort_whatever_survives() -> None:
    vector = np.array([0.5, 0.25], np.float32)
    for survivors in (1, 3, 10):
        found = mean_of(private_mean(denominator=10.0), sent([vector] * survivors), 2)
        np.testing.assert_allclose(found, vector * survivors / 10, rtol=1e-5)


# -- noise ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("survivors", ["all", "none", "refused"])
def test_the_noise_has_its_full_standard_deviation_whatever_survives(survivors: str) -> None:
    size, clip_norm, noise_std, denominator = 200_000, 3.0, 2.5, 40.0
    noise = FreshNoise(SecureRandom(bytes(range(32))))
    rule = private_mean(clip_norm, noise_std, denominator, noise)
    vectors = [np.full(size, clip_norm / math.sqrt(size), np.float32)] * 40
    given = {"all": sent(vectors), "none": [], "refused": sent([np.full(size, np.nan, np.float32)])}[survivors]
    sure = mean_of(replace(rule, noise=Silent()), given, size)
    realised = (mean_of(rule, given, size).astype(np.float64) - sure) * denominator / noise_std
    squares = float(np.sum(realised**2))  # 2 % of deviation would show
    assert min(stats.chi2.cdf(squares, size), stats.chi2.sf(squares, size)) > FALSE_ALARM
    assert stats.kstest(realised, "norm").pvalue > FALSE_ALARM


def test_each_round_has_fresh_noise_and_asks_for_it_once() -> None:
    noise = Silent()
    rule = private_mean(noise=noise)
    for contributions in ([], sent([np.ones(4, np.float32)] * 3), sent([np.ones(5, np.float32)])):
        mean_of(rule, contributions, 4)
    assert noise.asked == [4, 4, 4]
    fresh = private_mean(noise=FreshNoise())
    assert not np.array_equal(mean_of(fresh, [], 4), mean_of(fresh, [], 4))


def test_a_round_that_fails_releases_nothing() -> None:
    noise = Silent()

    def broken() -> Iterator[Contribution]:
        yield contribution(np.ones(2, np.float32), "a")
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        applied(private_mean(noise=noise), broken(), 2)
    assert noise.asked == []


@pytest.mark.parametrize("noise", [np.zeros(3, np.int64), np.zeros(2), np.zeros((2, 1), np.int64)])
def test_noise_of_another_shape_or_type_ends_the_round(noise: I64) -> None:
    class Other:
        def draw(self, size: int) -> I64:
            return noise

    with pytest.raises(ValueError, match="expected noise of 2 integers"):
        applied(private_mean(noise=Other()), [], 2)


# -- what is refused -----------------------------------------------------------------------------------

SIGNALLING = np.array([0x7F800001], np.uint32).view(np.float32)[0]
GOOD = np.array([0.25, 0.5], np.float32)


@pytest.mark.parametrize(
    "bad",
    [[math.nan, 0], [0, math.inf], [-math.inf, math.nan], [SIGNALLING, 0], [1, 2, 3], [1], []],
    ids=["nan", "inf", "both", "signalling", "long", "short", "empty"],
)
def test_a_contribution_that_no_honest_site_sends_counts_as_zero(bad: list[float]) -> None:
    vectors = [GOOD, np.array(bad, np.float32), GOOD]
    aggregate = applied(private_mean(denominator=4.0), sent(vectors), 2)
    np.testing.assert_allclose(vector_of(aggregate), GOOD / 2, rtol=1e-5)
    assert [line.verdict for line in aggregate.report.lines] == [Verdict.ACCEPTED, Verdict.REFUSED, Verdict.ACCEPTED]
    assert aggregate.report.lines[1].reason == "expected 2 finite values of float32"
    assert [line.weight for line in aggregate.report.lines] == [1.0, 0.0, 1.0]


def test_weights_groups_and_repetitions_are_refused() -> None:
    group = Contribution(
        members=(SiteId("b"), SiteId("c")), weight=1, vector=MemoryVector(GOOD), tally=Tally.of_means(1, {})
    )
    given = [
        contribution(GOOD, "a"),
        contribution(GOOD, "a"),
        contribution(GOOD, "d", weight=2),
        contribution(GOOD, "e", weight=0),
        group,
    ]
    aggregate = applied(private_mean(), given, 2)
    np.testing.assert_allclose(vector_of(aggregate), GOOD, atol=2 * GRID)
    assert [line.reason for line in aggregate.report.lines] == [
        "",
        "expected one update of each client",
        "expected a weight of 1, since others would let one client add more",
        "expected a weight of 1, since others would let one client add more",
        "expected the update of one client",
    ]
    assert aggregate.report.refused == 4


def test_a_site_whose_first_update_was_refused_may_send_another() -> None:
    given = [contribution(np.full(2, np.nan, np.float32), "a"), contribution(GOOD, "a")]
    assert [line.verdict for line in applied(private_mean(), given, 2).report.lines] == [
        Verdict.REFUSED,
        Verdict.ACCEPTED,
    ]


def test_the_report_tells_nothing_that_depends_on_a_clients_values() -> None:
    given = sent([GOOD, 1000 * GOOD, np.zeros(2, np.float32), np.full(2, np.nan, np.float32)])
    for line in applied(private_mean(), given, 2).report.lines:
        assert (line.norm, line.cosine, line.score, line.flags) == (None, None, None, ())
    found, clipped, zero, _ = applied(private_mean(), given, 2).report.lines
    assert replace(clipped, members=found.members) == found == replace(zero, members=found.members)


# -- how vectors come ------------------------------------------------------------------------------------


def test_vectors_from_files_and_in_small_pieces_add_up_alike(tmp_path: Path) -> None:
    vector = np.random.Generator(np.random.Philox(key=2)).normal(size=100_000).astype(np.float32)
    (tmp_path / "v").write_bytes(vector.astype("<f4").tobytes())

    class Pieces:
        size = vector.size

        def chunks(self, floats: int = 1) -> Iterator[F32]:
            for start in range(0, vector.size, 7777):
                yield vector[start : start + 7777]

    class Whole:
        size = vector.size

        def chunks(self, floats: int = 1) -> Iterator[F32]:
            yield vector

    sources: list[VectorSource] = [MemoryVector(vector), FileVector(tmp_path / "v", vector.size), Pieces(), Whole()]
    for layers in (None, (70_000, 30_000)):
        rule = private_mean(layers=layers)
        found = [mean_of(rule, [contribution(source, "a")], vector.size) for source in sources]
        for other in found[1:]:
            np.testing.assert_allclose(other, found[0], rtol=0, atol=2 * GRID)


def test_a_vector_of_another_type_is_refused() -> None:
    class Wide:
        size = 2

        def chunks(self, floats: int = 1) -> Iterator[F32]:
            yield np.ones(2)  # type: ignore[misc]

    assert applied(private_mean(), [contribution(Wide(), "a")], 2).report.refused == 1


def test_keeps_no_contribution() -> None:
    buffer = np.zeros(2, np.float32)

    def reused() -> Iterator[Contribution]:
        for i in range(3):
            buffer[:] = i / 8
            yield contribution(buffer, f"s{i}")

    np.testing.assert_allclose(mean_of(private_mean(denominator=3.0), reused(), 2), [1 / 8] * 2, rtol=1e-5)


def test_with_noise_and_clip_out_of_the_way_it_is_the_mean() -> None:
    vectors = np.random.Generator(np.random.Philox(key=3)).normal(size=(20, 3000)).astype(np.float32)
    expected = vector_of(applied(Mean(), sent(vectors), 3000))
    found = mean_of(private_mean(clip_norm=1000.0, noise_std=1.0, denominator=20.0), sent(vectors), 3000)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2 * GRID)


# -- settings --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"clip_norm": 0.0}, "expected a clip norm of"),
        ({"clip_norm": math.nan}, "expected a clip norm of"),
        ({"noise_std": 0.0}, "expected noise of 0.001 to 1e\\+12 times the clip norm, got 0 times"),
        ({"noise_std": math.nan}, "expected noise of"),
        ({"noise_std": 0.0009}, "expected noise of"),
        ({"noise_std": 2e12}, "expected noise of"),
        ({"denominator": 0.0}, "expected a denominator above 0"),
        ({"denominator": math.inf}, "expected a denominator above 0"),
        ({"layers": ()}, "expected layers of at least one value"),
        ({"layers": (3, 0)}, "expected layers of at least one value"),
        (
            {"layers": (3,), "adaptive": AdaptiveClip(target_quantile=0.5, lr=0.2, count_noise=2.5)},
            "expected no layers with an adaptive clip norm",
        ),
        (
            {"adaptive": AdaptiveClip(target_quantile=0.5, lr=0.2, count_noise=0.5)},
            "expected count noise above 0.5, half the noise multiplier, got 0.5",
        ),
    ],
)
def test_settings_that_give_no_guarantee_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        private_mean(**settings)  # type: ignore[arg-type]


def test_layers_of_another_size_than_the_model_end_the_round() -> None:
    with pytest.raises(ValueError, match="expected layers of 5 values, got 4"):
        applied(private_mean(layers=(3, 1)), [], 5)
