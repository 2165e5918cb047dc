"""Updates as integers of few bits that add up exactly, modulo a power of two, and sums of them back."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from wardround.strategies.privacy.secure_random import U64, SecureRandom
from wardround.strategies.privacy.skellam import SkellamMechanism
from wardround.strategies.privacy.unit_clip import check_clip, clip_update, factor, layer_pieces, wide_square
from wardround.strategies.secagg.rotation import Rotation
from wardround.strategies.secagg.skellam_noise import I32, SkellamNoise
from wardround.vector import F32, F64, I64

__all__ = ["U16", "U32", "Encoded", "Encoding", "decode_lane", "encode_lane"]

U16 = NDArray[np.uint16]
U32 = NDArray[np.uint32]

_BLOCK = 1 << 15
_ZEROS = bytes(4 * _BLOCK)
_DOT = 1 << 13
"""Above 10,000 values OpenBLAS starts threads for a dot product."""
_WORDS = {16: np.dtype(np.uint16), 32: np.dtype(np.uint32)}
_MOST_VALUE_BITS = 31
_EXACT = float(1 << 24)
_MOST_DRAWS = 200
"""A vector is drawn again with probability 0.61 at most: so often, less than once in 10^42."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """Words to be masked, shape (d,); how many values were clamped, and how often the rounding was drawn.

    Both numbers depend on the update and are covered by no noise: they stay with the client.
    """

    words: U32 | U16
    clamped: int
    draws: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoding:
    """How `size` float32 values become words of `word_bits` whose sum over at most `members` clients can be read.

    A value x becomes one of the two integers beside xsw, drawn so that the mean is xsw, for the `scale` s and the
    client's weight w; then it is clamped to [−2^(v−1), 2^(v−1) − 1] of v = `value_bits`, sign and weight included; then
    noise is added, if any, and never clamped. Without noise v + ⌈log2 members⌉ <= word_bits, so that a sum is the sum
    of the integers, exactly. With noise the width formula of the `mechanism` takes this check's place.

    `clip_norm` bounds the L2 norm before. `rotation` spreads the values. A `mechanism` needs both, and roundings are
    drawn until the squared norm of the *integers*, clamped, is within its bound: what is charged holds for what is
    sent, whatever floats did before. Its weight is 1. Raises ValueError for what does not fit together.

    Source: Kairouz, Liu and Steinke 2021 (arXiv 2102.06387), Algorithms 1 and 2; Agarwal, Kairouz and Liu 2021.
    """

    size: int
    scale: float
    value_bits: int
    members: int
    word_bits: int = 32
    max_weight: int = 1
    clip_norm: float | None = None
    rotation: Rotation | None = None
    mechanism: SkellamMechanism | None = None

    def __post_init__(self) -> None:
        if self.size < 1 or self.members < 1 or self.max_weight < 1:
            raise ValueError(
                f"expected at least one value, member and weight, got {self.size}, {self.members}, {self.max_weight}"
            )
        if not (2.0**-100 <= self.scale and self.scale * self.max_weight <= 2.0**100):  # as far as float32 reaches
            raise ValueError(f"expected a scale of 2^-100 to 2^100 with its weight, got {self.scale}")
        if self.word_bits not in _WORDS:
            raise ValueError(f"expected words of 16 or 32 bits, got {self.word_bits}")
        if not 2 <= self.value_bits <= min(self.word_bits, _MOST_VALUE_BITS):
            raise ValueError(
                f"expected 2 to {min(self.word_bits, _MOST_VALUE_BITS)} bits of a value, got {self.value_bits}"
            )
        if self.clip_norm is not None:
            check_clip(self.clip_norm)
        if self.rotation is not None and self.rotation.size != self.size:
            raise ValueError(f"expected a rotation of {self.size} values, got one of {self.rotation.size}")
        if self.mechanism is None:
            self._check_exact()
        else:
            self._check_noised(self.mechanism)

    def _check_exact(self) -> None:
        needed = self.value_bits + (self.members - 1).bit_length()
        if needed > self.word_bits:
            raise ValueError(
                f"expected value_bits + ceil(log2 members) of at most {self.word_bits}, got {needed} for "
                f"{self.value_bits} bits and {self.members} members: take {self.word_bits - needed + self.value_bits} "
                f"bits of a value"
            )

    def _check_noised(self, mechanism: SkellamMechanism) -> None:
        if self.rotation is None:
            raise ValueError("expected a rotation with distributed noise: the width of a word rests on it")
        ours = (self.clip_norm, self.scale, self.rotation.padded, 1)
        theirs = (mechanism.clip_norm, mechanism.scale, mechanism.size, self.max_weight)
        if ours != theirs:
            raise ValueError(
                f"expected the mechanism's clip norm, scale and padded size, and weights of 1, {theirs[:3]}, got "
                f"{ours[:3]} and weights up to {self.max_weight}"
            )
        width = mechanism.width_bits(self.members)
        if not width <= self.word_bits:
            raise ValueError(
                f"expected words of at least {width:.1f} bits for noise and sum of {self.members} members, got "
                f"{self.word_bits}: take a smaller scale" + (" or 32 bits" if self.word_bits < 32 else "")
            )

    @property
    def length(self) -> int:
        """d, the words of an encoded update: `size`, or padded to a power of two by a rotation."""
        return self.size if self.rotation is None else self.rotation.padded

    @property
    def limits(self) -> tuple[int, int]:
        """The least and the largest integer that is not clamped."""
        return -(1 << (self.value_bits - 1)), (1 << (self.value_bits - 1)) - 1

    def error_bound(self, mean_weight: float, largest: float) -> float:
        """The most by which `decode` is off the weighted mean of clipped updates, without noise or clamping.

        Of each value without rotation, where no value is larger than `largest`; with rotation of the vector in L2,
        √d times as much, where no norm is larger. `mean_weight` is the sum of the weights over their number. A step
        of rounding, 1/(s · mean weight), and 2^-21 of `largest`, or 2^-16 after a rotation, for float32.
        """
        if self.rotation is None:
            return 1 / (self.scale * mean_weight) + 2.0**-21 * largest
        return math.sqrt(self.length) / (self.scale * mean_weight) + 2.0**-16 * largest

    def encode(self, update: F32, random: SecureRandom, weight: int = 1) -> Encoded:
        """The words of `update`, shape (size,), times `weight`; rounding and noise drawn afresh from `random`.

        Raises ValueError for another shape or type, for values that are not finite, and for a weight that is not 1 to
        `max_weight`: nothing is clamped into a weight.
        """
        if update.dtype != np.float32 or update.shape != (self.size,):
            raise ValueError(f"expected {self.size} float32 values in one row, got {update.dtype} of {update.shape}")
        if not 1 <= weight <= self.max_weight:
            raise ValueError(f"expected a weight of 1 to {self.max_weight}, got {weight}")
        vector, shortened = update, 1.0
        if self.rotation is None:
            shortened = self._shortened(update)
        else:
            vector = clip_update(update, self.clip_norm)
            with np.errstate(over="ignore", invalid="ignore"):
                vector = self.rotation.apply(vector)
            if not np.isfinite(vector).all():
                raise ValueError("expected an update whose norm float32 can hold, got a longer one")
        bound = None if self.mechanism is None else self.mechanism.squared_norm_bound
        for draw in range(1, _MOST_DRAWS + 1):
            integers, clamped, square = self._rounded(
                vector, self.scale * shortened * weight, random, bound is not None
            )
            if bound is None or square <= bound:
                return Encoded(self._words(integers, random), clamped, draw)
        raise RuntimeError(f"expected a rounding of squared norm up to {bound} within {_MOST_DRAWS} draws, got none")

    def _shortened(self, update: F32) -> float:
        """What clipping multiplies an update by: it is part of the scale then, and no copy is made."""
        square = 0.0
        if self.clip_norm is not None:
            square = sum(wide_square(piece) for _, _, piece in layer_pieces([update], (update.size,)))
        if self.clip_norm is None or not math.isfinite(square):
            clip_update(update, None)  # which refuses values that are not finite
            return 1.0
        return factor(square, self.clip_norm)

    def _words(self, integers: I32, random: SecureRandom) -> U32 | U16:
        """The integers with noise, modulo 2^word_bits; `integers` is used up."""
        if self.mechanism is not None:
            noise = SkellamNoise.of(self.mechanism.client_variance)
            for start in range(0, integers.size, _BLOCK):
                part = integers[start : start + _BLOCK]
                part += noise.draw(part.size, random)
        if self.word_bits == 32:
            return integers.view(np.uint32)
        return integers.astype(np.uint16)  # the lowest bits

    def _rounded(self, vector: F32, factor: float, random: SecureRandom, squared: bool) -> tuple[I32, int, float]:
        """The integers, how many were clamped, and their squared norm where that is asked for."""
        integers = np.empty(vector.size, dtype=np.int32)
        low, high = self.limits
        inside, clamped, square = min(float(high), _EXACT), 0, 0.0
        scale, draw = np.float32(factor), _drawn(random)
        rests, nearests, steps = np.empty((3, min(_BLOCK, vector.size)), dtype=np.float32)
        for start in range(0, vector.size, _BLOCK):
            part = integers[start : start + _BLOCK]
            rest, nearest, step = rests[: part.size], nearests[: part.size], steps[: part.size]
            with np.errstate(over="ignore", invalid="ignore"):  # what is too large is clamped
                np.multiply(vector[start : start + _BLOCK], scale, out=rest)
                np.rint(rest, out=nearest)
                rest -= nearest  # from -1/2 to 1/2, exactly
                _step(rest, draw(part.size), out=step)
                if -inside < nearest.min() and nearest.max() < inside:
                    nearest += step
                    np.copyto(part, nearest, casting="unsafe")
                else:
                    wide = nearest.astype(np.float64)
                    wide += np.nan_to_num(step, copy=False)  # where the value is infinite
                    clamped += int(np.count_nonzero((wide < low) | (wide > high)))
                    np.copyto(part, np.clip(wide, low, high), casting="unsafe")
            if squared:
                square += _squared(part)
        return integers, clamped, square

    def decode(self, total: U32 | U16, weight: int) -> F32:
        """The weighted mean of the updates whose words add up to `total`, shape (size,), float32.

        `weight` is the sum of their weights. Raises ValueError for another type or shape, and for no weight.
        """
        if weight < 1:
            raise ValueError(f"expected a sum of weights of at least 1, got {weight}")
        integers = self.integers(total)
        mean = np.empty(integers.size, dtype=np.float32)
        unit = 1 / (self.scale * weight)
        for start in range(0, mean.size, _BLOCK):
            np.multiply(integers[start : start + _BLOCK], unit, out=mean[start : start + _BLOCK], casting="same_kind")
        return mean if self.rotation is None else self.rotation.invert(mean)

    def integers(self, total: U32 | U16) -> I32 | NDArray[np.int16]:
        """The signed sum, as a view: without noise exactly that of the clients' integers."""
        if total.dtype != _WORDS[self.word_bits] or total.shape != (self.length,):
            raise ValueError(
                f"expected {self.length} words of {self.word_bits} bits, got {total.dtype} of shape {total.shape}"
            )
        return total.view(np.int32) if self.word_bits == 32 else total.view(np.int16)


def _step(rest: F32, random_32: I32, out: F32) -> None:
    """0, or with the probability |rest|, to 2^-24, one step in the direction of `rest`; so the mean is `rest`.

    `rest` is -1/2 to 1/2, and a number w between them, drawn uniformly, makes it the nearest integer of rest + w. Where
    `rest` is 0 that is 0, since halves go to the even one.
    """
    np.copyto(out, random_32, casting="same_kind")
    out *= np.float32(2.0**-32)
    out += rest
    np.rint(out, out=out)


def _drawn(random: SecureRandom) -> Callable[[int], I32]:
    """Random words in blocks of up to _BLOCK, each overwritten by the next; no block but the last is smaller.

    Under a key from `random`, by AES-256-GCM as in `keystream`, which takes half the time of counter mode.
    """
    cipher = Cipher(algorithms.AES(random.words(4).tobytes()), modes.GCM(bytes(12))).encryptor()
    words = np.empty(_BLOCK + 4, dtype=np.int32)  # the cipher asks for room of up to a block more
    room, zeros = words.data.cast("B"), memoryview(_ZEROS)

    def draw(n: int) -> I32:
        cipher.update_into(zeros[: 4 * n], room)
        return words[:n]

    return draw


def _squared(part: I32) -> float:
    """Σ of squares, exact below 2^53."""
    wide: F64 = part.astype(np.float64)
    pieces = (wide[start : start + _DOT] for start in range(0, wide.size, _DOT))
    return float(sum(np.dot(piece, piece) for piece in pieces))


def encode_lane(values: Sequence[int] | I64, members: int) -> U64:
    """The scalar lane: weights, counts, histograms as words of 64 bits, whose sum over `members` fits.

    Raises ValueError for a value of more than (2^63 − 1) / members in size, and for what is no integer.
    """
    if members < 1:
        raise ValueError(f"expected at least one member, got {members}")
    most, ends = ((1 << 63) - 1) // members, values
    if isinstance(values, np.ndarray) and values.dtype == np.int64:
        ends = values[:0] if not values.size else (int(values.min()), int(values.max()))
    for value in ends:
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            raise ValueError(f"expected integers, got {value!r}")
        if not -most <= int(value) <= most:
            raise ValueError(f"expected integers of at most {most} in size for {members} members, got {value}")
    return np.array(values, dtype=np.int64).view(np.uint64)


def decode_lane(total: U64) -> I64:
    """The signed sums of a lane."""
    if total.dtype != np.uint64 or total.ndim != 1:
        raise ValueError(f"expected words of 64 bits in one row, got {total.dtype} of shape {total.shape}")
    return total.view(np.int64)
