import math
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.plan_privacy import Relation
from wardround.strategies.privacy.secure_random import SecureRandom
from wardround.strategies.privacy.skellam import SkellamMechanism
from wardround.strategies.privacy.unit_clip import clip_update
from wardround.strategies.secagg import encoding as encoding_module
from wardround.strategies.secagg.encoding import U16, U32, Encoded, Encoding, decode_lane, encode_lane
from wardround.strategies.secagg.rotation import Rotation
from wardround.strategies.secagg.skellam_noise import SkellamNoise
from wardround.vector import F32, F64

SEED = bytes(range(32))


def stream(number: int) -> SecureRandom:
    return SecureRandom(number.to_bytes(32, "big"))


def normals(size: int, seed: int = 0) -> F32:
    return np.random.default_rng(seed).standard_normal(size).astype(np.float32)


def plain(size: int, members: int = 10, **others: object) -> Encoding:
    fields: dict[str, object] = {"scale": 1000.0, "value_bits": 20} | others
    return Encoding(size=size, members=members, **fields)  # type: ignore[arg-type]


def noised(size: int, variance: float = 25.0, scale: float = 100.0, members: int = 10, **others: object) -> Encoding:
    rotation = Rotation(size, SEED)
    mechanism = SkellamMechanism(
        clip_norm=1.0,
        scale=scale,
        size=rotation.padded,
        honest=2,
        client_variance=variance,
        relation=Relation.ZERO_OUT,
    )
    return plain(size, members, scale=scale, clip_norm=1.0, rotation=rotation, mechanism=mechanism, **others)


def signed(encoding: Encoding, encoded: Encoded) -> F64:
    return encoding.integers(encoded.words).astype(np.float64)


def added(encoded: list[Encoded]) -> U32 | U16:
    total = encoded[0].words.copy()
    for other in encoded[1:]:
        total += other.words
    return total


@given(
    st.integers(1, 300),
    st.lists(st.integers(1, 5), min_size=1, max_size=10),
    st.sampled_from([16, 32]),
    st.booleans(),
    st.sampled_from([None, 1.0]),
)
def test_without_noise_the_sum_is_exact_and_its_mean_within_the_bound(
    size: int, weights: list[int], word_bits: int, rotated: bool, clip_norm: float | None
) -> None:
    clients = len(weights)
    scale, value_bits = (20.0, 12) if word_bits == 16 else (5000.0, 28)
    ours = plain(
        size,
        clients,
        scale=scale,
        value_bits=value_bits,
        word_bits=word_bits,
        max_weight=5,
        clip_norm=clip_norm,
        rotation=Rotation(size, SEED) if rotated else None,
    )
    updates = [normals(size, seed) for seed in range(clients)]
    parts = [ours.encode(x, stream(i), w) for i, (x, w) in enumerate(zip(updates, weights, strict=True))]
    assert not any(part.clamped for part in parts)
    total = added(parts)
    assert np.array_equal(ours.integers(total), sum(signed(ours, part) for part in parts))
    clipped = [clip_update(x, clip_norm).astype(np.float64) for x in updates]
    mean = sum(w * x for w, x in zip(weights, clipped, strict=True)) / sum(weights)
    off = ours.decode(total, sum(weights)) - mean
    if rotated:
        largest = max(float(np.linalg.norm(x)) for x in clipped)
        assert np.linalg.norm(off) <= ours.error_bound(sum(weights) / clients, largest)
    else:
        largest = max(float(np.abs(x).max()) for x in clipped)
        assert np.abs(off).max() <= ours.error_bound(sum(weights) / clients, largest)


def test_the_bound_is_a_step_and_what_float32_loses() -> None:
    assert plain(16).error_bound(2.0, 0.0) == 1 / 2000
    assert plain(16, rotation=Rotation(16, SEED)).error_bound(2.0, 0.0) == 4 / 2000
    assert plain(9, rotation=Rotation(9, SEED)).error_bound(1.0, 0.0) == 4 / 1000


@given(st.lists(st.floats(-500, 500, width=32), min_size=1, max_size=40), st.integers(0, 1000))
def test_every_value_becomes_one_of_its_two_neighbours(values: list[float], key: int) -> None:
    ours = plain(len(values), scale=4.0)  # 4x is exact
    found = signed(ours, ours.encode(np.array(values, dtype=np.float32), stream(key)))
    below = np.array([math.floor(Fraction(value) * 4) for value in values])
    whole = np.array([Fraction(value) * 4 == math.floor(Fraction(value) * 4) for value in values])
    assert ((found == below) | ((found == below + 1) & ~whole)).all()


@pytest.mark.parametrize("part", [0.0, 0.001, 0.25, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("whole", [-300, -1, 0, 7])
def test_rounding_has_the_values_mean(part: float, whole: int) -> None:
    n = 200_000
    ours = plain(n, scale=1.0)
    value = np.float32(whole + part)
    found = signed(ours, ours.encode(np.full(n, value), stream(3)))
    chance = float(value) - whole
    assert abs(found.mean() - float(value)) <= 6.5 * math.sqrt(chance * (1 - chance) / n) + 1e-12


def test_rounding_has_the_values_mean_beside_one_that_is_clamped_too() -> None:
    n = 200_000
    ours = plain(n, scale=1.0)
    update = np.full(n, np.float32(2.75))
    update[:: n // 20] = 1e30
    encoded = ours.encode(update, stream(3))
    found = signed(ours, encoded)
    assert encoded.clamped == 20 and (found[:: n // 20] == ours.limits[1]).all()
    assert abs(found[found != ours.limits[1]].mean() - 2.75) <= 6.5 * math.sqrt(3 / 16 / n)


@pytest.mark.parametrize("length", [0.5, 1.0, 3.0, 1e30])
def test_an_update_is_clipped_as_by_itself(length: float) -> None:
    direction = normals(1000)
    update = (direction * np.float32(length / np.linalg.norm(direction.astype(np.float64)))).astype(np.float32)
    ours = plain(1000, scale=2.0**18, clip_norm=1.0)
    found = ours.decode(ours.encode(update, stream(5)).words, 1)
    assert np.abs(found - clip_update(update, 1.0)).max() <= ours.error_bound(1, 1.0)


def test_rounding_is_independent_from_value_to_value() -> None:
    n = 200_001
    found = signed(plain(n, scale=1.0), plain(n, scale=1.0).encode(np.full(n, np.float32(0.5)), stream(4))) - 0.5
    assert abs((found[1:] * found[:-1]).mean()) < 6.5 * 0.25 / n**0.5


@pytest.mark.parametrize("value_bits", [2, 8, 24, 27, 31])
def test_values_are_clamped_to_their_bits_and_counted(value_bits: int) -> None:
    ours = plain(6, members=2, scale=1.0, value_bits=value_bits)
    low, high = -(2 ** (value_bits - 1)), 2 ** (value_bits - 1) - 1
    update = np.array([-np.finfo(np.float32).max, 2.0 * low, 0, 1, 4.0 * high, np.finfo(np.float32).max], np.float32)
    encoded = ours.encode(update, stream(0))
    assert signed(ours, encoded).tolist() == [low, low, 0, 1, high, high]
    assert encoded.clamped == 4
    assert ours.limits == (low, high)
    assert (
        ours.decode(added([encoded, encoded]), 1).tolist()
        == np.array([2 * low, 2 * low, 0, 2, 2 * high, 2 * high], np.float32).tolist()
    )


def test_a_product_that_float32_cannot_hold_is_clamped() -> None:
    ours = plain(2, scale=2.0**90, max_weight=16)
    encoded = ours.encode(np.array([-3e38, 3e38], dtype=np.float32), stream(0), 16)
    assert tuple(signed(ours, encoded)) == ours.limits
    assert encoded.clamped == 2


def test_values_at_the_limits_are_not_clamped() -> None:
    ours = plain(2, scale=1.0, value_bits=8)
    encoded = ours.encode(np.array([-128, 127], dtype=np.float32), stream(0))
    assert signed(ours, encoded).tolist() == [-128, 127]
    assert encoded.clamped == 0
    found = [signed(ours, ours.encode(np.array([-128.5, 127.5], dtype=np.float32), stream(i))) for i in range(30)]
    assert {tuple(each) for each in found} == {(-128, 127)}


@given(st.integers(1, 200), st.integers(0, 50))
def test_with_a_mechanism_the_integers_are_within_its_bound(size: int, key: int) -> None:
    ours = noised(size, scale=3.0, variance=skellam_least())
    encoded = ours.encode(1000 * normals(size, key), stream(key))
    assert (signed(ours, encoded) ** 2).sum() <= ours.mechanism.squared_norm_bound  # type: ignore[union-attr]


def skellam_least() -> float:
    """So little noise that a test may take it for none."""
    return 2.0**-20


def test_a_rounding_beyond_the_bound_is_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = noised(64, scale=8.0, variance=skellam_least())
    update = normals(64)
    first = [ours.encode(update, stream(key)) for key in range(50)]
    squares = [float((signed(ours, each) ** 2).sum()) for each in first]
    bound = int(np.median(squares))
    monkeypatch.setattr(SkellamMechanism, "squared_norm_bound", property(lambda _: bound))
    again = [ours.encode(update, stream(key)) for key in range(50)]
    assert all((signed(ours, each) ** 2).sum() <= bound for each in again)
    for old, square, new in zip(first, squares, again, strict=True):
        assert (new.draws > 1) == (square > bound)
        assert (new.draws > 1) or np.array_equal(new.words, old.words)
    monkeypatch.setattr(SkellamMechanism, "squared_norm_bound", property(lambda _: 0))
    with pytest.raises(RuntimeError, match="squared norm up to 0"):
        ours.encode(update, stream(0))


def test_noise_of_the_mechanisms_variance_is_added_after_clamping() -> None:
    size = 1 << 15
    ours = noised(size, variance=900.0, value_bits=3)
    encoded = ours.encode(np.zeros(size, dtype=np.float32), stream(5))
    x = signed(ours, encoded)
    assert abs(x.mean()) < 6.5 * 30 / size**0.5
    assert abs(x.var() - 900) < 6.5 * 900 * (2 / size) ** 0.5
    assert encoded.clamped == 0
    assert np.abs(x).max() > 60  # far beyond the three bits of a value


def test_what_is_sent_is_integers_plus_noise_modulo_the_word() -> None:
    size, ours = 40_000, noised(40_000, word_bits=16, value_bits=16)
    update = normals(size)
    random = stream(9)
    vector = ours.rotation.apply(clip_update(update, 1.0))  # type: ignore[union-attr]
    rounded, _, _ = ours._rounded(vector, ours.scale, random, True)
    noise = np.concatenate(
        [SkellamNoise.of(25.0).draw(min(1 << 14, 65_536 - at), random) for at in range(0, 65_536, 1 << 14)]
    )
    expected = (rounded.astype(np.int64) + noise) % (1 << 16)
    words = ours.encode(update, stream(9)).words
    assert words.dtype == np.uint16
    assert np.array_equal(words, expected)


def test_a_noisy_sum_decodes_to_the_mean_and_scaled_noise() -> None:
    size, clients = 1 << 12, 8
    ours = noised(size, variance=25.0, scale=2000.0)
    updates = [normals(size, seed) for seed in range(clients)]
    total = added([ours.encode(x, stream(key)) for key, x in enumerate(updates)])
    mean = sum(clip_update(x, 1.0).astype(np.float64) for x in updates) / clients
    off = (ours.decode(total, clients) - mean) * 2000 * clients
    spread = 25.0 * clients + clients / 6  # noise and rounding
    assert abs((off**2).mean() - spread) < 6.5 * spread * (2 / size) ** 0.5


def test_a_zero_update_sends_noise_alone() -> None:
    ours = noised(100, variance=skellam_least())
    assert not ours.encode(np.zeros(100, dtype=np.float32), stream(0)).words.any()


def test_rounding_and_noise_are_drawn_afresh_each_time() -> None:
    random = stream(0)
    for ours in (plain(100), noised(100)):
        first, second = ours.encode(normals(100), random), ours.encode(normals(100), random)
        assert not np.array_equal(first.words, second.words)


def test_the_same_stream_gives_the_same_words() -> None:
    ours = noised(100)
    assert np.array_equal(ours.encode(normals(100), stream(1)).words, ours.encode(normals(100), stream(1)).words)


def test_the_update_is_left_as_it_was() -> None:
    update = normals(100)
    before = update.copy()
    for ours in (plain(100), noised(100)):
        ours.encode(update, stream(0))
    assert np.array_equal(update, before)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_an_update_that_is_not_finite_is_refused(bad: float) -> None:
    update = normals(10)
    update[7] = bad
    for ours in (plain(10), noised(10)):
        with pytest.raises(ValueError, match="finite"):
            ours.encode(update, stream(0))


def test_an_update_too_long_to_rotate_is_refused() -> None:
    ours = plain(1 << 12, rotation=Rotation(1 << 12, SEED))
    with pytest.raises(ValueError, match="norm float32 can hold"):
        ours.encode(np.full(1 << 12, 3e38, dtype=np.float32), stream(0))


def test_other_shapes_types_and_weights_are_refused() -> None:
    ours = plain(4, max_weight=3)
    with pytest.raises(ValueError, match="4 float32 values"):
        ours.encode(normals(5), stream(0))
    with pytest.raises(ValueError, match="4 float32 values"):
        ours.encode(normals(4).astype(np.float64), stream(0))
    for weight in (0, -1, 4):
        with pytest.raises(ValueError, match="a weight of 1 to 3"):
            ours.encode(normals(4), stream(0), weight)
    words = ours.encode(normals(4), stream(0)).words
    with pytest.raises(ValueError, match="weights of at least 1"):
        ours.decode(words, 0)
    with pytest.raises(ValueError, match="4 words of 32 bits"):
        ours.decode(words[:3], 1)
    with pytest.raises(ValueError, match="4 words of 32 bits"):
        ours.decode(words.astype(np.uint16), 1)


def test_a_sum_that_may_not_fit_its_word_is_refused() -> None:
    assert plain(1, members=4096, value_bits=20).members == 4096
    with pytest.raises(ValueError, match="got 33 for 20 bits and 4097 members: take 19 bits"):
        plain(1, members=4097, value_bits=20)
    assert plain(1, members=16, value_bits=12, word_bits=16).word_bits == 16
    with pytest.raises(ValueError, match="at most 16"):
        plain(1, members=17, value_bits=12, word_bits=16)


def test_the_largest_values_of_all_members_add_up_without_wrapping() -> None:
    ours = plain(2, members=16, scale=1.0, value_bits=12, word_bits=16)
    one = ours.encode(np.array([-1e9, 1e9], dtype=np.float32), stream(0))
    assert ours.integers(added([one] * 16)).tolist() == [-(2**15), 16 * (2**11 - 1)]


def test_with_noise_the_width_formula_decides() -> None:
    wide = 2.0**16 / 12
    fits = noised(1 << 10, variance=0.9 * wide**2 / 10, word_bits=16, value_bits=16)
    assert fits.mechanism is not None
    assert fits.mechanism.width_bits(10) < 16
    with pytest.raises(ValueError, match="or 32 bits"):
        noised(1 << 10, variance=1.1 * wide**2 / 10, word_bits=16, value_bits=16)
    assert noised(1 << 10, variance=1.1 * wide**2 / 10, value_bits=31).word_bits == 32


def test_what_does_not_fit_together_is_refused() -> None:
    ours = noised(100)
    changes: list[dict[str, Any]] = [
        {"rotation": None},
        {"clip_norm": None},
        {"clip_norm": 2.0},
        {"scale": 99.0},
        {"max_weight": 2},
        {"rotation": Rotation(200, SEED), "size": 200},
        {"rotation": Rotation(99, SEED)},
    ]
    for change in changes:
        with pytest.raises(ValueError, match="expected"):
            replace(ours, **change)
    bads: list[dict[str, Any]] = [
        {"size": 0},
        {"members": 0},
        {"max_weight": 0},
        {"scale": 0.0},
        {"scale": math.nan},
        {"scale": math.inf},
        {"scale": 2.0**100, "max_weight": 2},
        {"word_bits": 64},
        {"value_bits": 1},
        {"value_bits": 32},
        {"word_bits": 16, "value_bits": 17},
        {"clip_norm": math.nan},
    ]
    for bad in bads:
        with pytest.raises(ValueError, match="expected"):
            replace(plain(100, members=1), **bad)


@given(st.data(), st.integers(1, 255))
def test_a_lane_adds_up_exactly(data: st.DataObject, members: int) -> None:
    most = (2**63 - 1) // members
    rows = data.draw(st.lists(st.lists(st.integers(-most, most), min_size=3, max_size=3), max_size=members, min_size=1))
    total = np.zeros(3, dtype=np.uint64)
    for row in rows:
        total += encode_lane(row, members)
    assert decode_lane(total).tolist() == [sum(column) for column in zip(*rows, strict=True)]


def test_a_lane_refuses_what_could_wrap_or_is_no_integer() -> None:
    most = (2**63 - 1) // 5
    assert decode_lane(encode_lane([most, -most], 5)).tolist() == [most, -most]
    assert decode_lane(encode_lane([], 5)).tolist() == []
    assert decode_lane(encode_lane(np.array([1, 2]), 5)).tolist() == [1, 2]
    for wrong in (np.array([0, most + 1]), np.array([-most - 1, 0]), np.array([1.0])):
        with pytest.raises(ValueError, match="expected integers"):
            encode_lane(wrong, 5)
    for bad in (most + 1, -most - 1):
        with pytest.raises(ValueError, match="in size for 5 members"):
            encode_lane([bad], 5)
    for other in (1.0, math.nan, True, "1"):
        with pytest.raises(ValueError, match="expected integers"):
            encode_lane([other], 5)  # type: ignore[list-item]
    with pytest.raises(ValueError, match="one member"):
        encode_lane([1], 0)
    with pytest.raises(ValueError, match="64 bits"):
        decode_lane(np.zeros(2, dtype=np.uint32))


def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = plain(1000, scale=1.0, value_bits=8)
    update = (100 * normals(1000)).round().astype(np.float32)  # whole numbers: nothing is drawn
    whole = ours.encode(update, stream(0))
    monkeypatch.setattr(encoding_module, "_BLOCK", 64)
    parts = ours.encode(update, stream(0))
    assert np.array_equal(whole.words, parts.words)
    assert whole.clamped == parts.clamped > 0
    assert np.array_equal(ours.decode(whole.words, 1), np.clip(update, -128, 127))
