"""Random numbers that privacy rests on: an AES keystream, keyed by the operating system."""

import math
import operator
import os
import threading
import weakref

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext, algorithms, modes
from numpy.typing import NDArray

from wardround.vector import F64, I64

__all__ = ["GRID", "GRID_PER_UNIT", "U64", "SecureRandom"]

U64 = NDArray[np.uint64]

GRID = 2.0**-20
"""Step of noise on the grid, in standard deviations."""
GRID_PER_UNIT = 1 << 20
"""Steps in a standard deviation."""

_KEY_BYTES = 32
_PAIRS = 1 << 13
"""Pairs of normals made at a time, so that all that is worked on stays in cache."""


_RARE = 2.0**-21
"""Uniforms below it give normals beyond 5.4, and get more bits."""


class SecureRandom:
    """Numbers from the keystream of AES-256 in counter mode, from counter 0 on.

    Without a `key` the operating system gives one. A `key` of 32 bytes gives the same words everywhere, and the same
    normals as far as logarithm and tangent are the same: for tests, for test vectors and for noise that has to be made
    again. A key must be used for one purpose only.

    Threads may share one object: no word is handed out twice. After a fork, the child's object has a new key of the
    operating system; one that was made with a key raises RuntimeError there, since it would repeat its stream.
    """

    __slots__ = ("__weakref__", "_keyed", "_lock", "_stream")

    def __init__(self, key: bytes | None = None) -> None:
        if key is not None and len(key) != _KEY_BYTES:
            raise ValueError(f"expected a key of {_KEY_BYTES} bytes, got {len(key)}")
        self._keyed = key is not None
        self._lock = threading.Lock()
        self._stream: CipherContext | None = _keystream(os.urandom(_KEY_BYTES) if key is None else key)
        _alive.add(self)

    def words(self, n: int) -> U64:
        """The next `n` words of 64 bits, shape (n,)."""
        size = 8 * _at_least_0(n, "n")
        words: U64 = np.empty(n + 2, dtype="<u8")  # the cipher asks for room of up to a block more
        with self._lock:
            if self._stream is None:
                raise RuntimeError("this stream of a given key was carried into a forked process; make a new one there")
            self._stream.update_into(bytes(size), words.data.cast("B"))
        return words[:n].astype(np.uint64, copy=False)

    def uniform(self, n: int) -> F64:
        """`n` multiples of 2^-53, uniform in [0, 1); one word each."""
        # by way of int64, which is converted faster than uint64; both are exact
        uniform = (self.words(n) >> np.uint64(11)).view(np.int64).astype(np.float64)
        uniform *= 2.0**-53
        return uniform

    def normal(self, n: int) -> F64:
        """`n` independent standard normals in float64, up to 12.1 in size.

        Source: Box and Muller 1958, "A Note on the Generation of Random Normal Deviates"; each pair of words makes a
        pair, and one in 2^21 takes another word, which gives the tail its bits.
        """
        normals = np.empty(_at_least_0(n, "n"))
        for start in range(0, n, 2 * _PAIRS):
            part = normals[start : start + 2 * _PAIRS]
            part[:] = self._pairs((part.size + 1) // 2)[: part.size]
        return normals

    def grid_normal(self, n: int) -> I64:
        """`n` independent standard normals, rounded to the nearest multiple of GRID, as the numbers of its steps."""
        steps = np.empty(_at_least_0(n, "n"), dtype=np.int64)
        for start in range(0, n, 2 * _PAIRS):
            part = steps[start : start + 2 * _PAIRS]
            pairs = self._pairs((part.size + 1) // 2)
            pairs *= GRID_PER_UNIT
            part[:] = np.rint(pairs, out=pairs)[: part.size]
        return steps

    def chosen(self, n: int, rate: float) -> I64:
        """A Poisson sample: of n units those that take part, each with probability `rate`, independently. Ascending."""
        _at_least_0(n, "n")
        if not 0 <= rate <= 1:
            raise ValueError(f"expected a rate of 0 to 1, got {rate}")
        if rate == 1:
            return np.arange(n, dtype=np.int64)
        return np.flatnonzero(self.words(n) < np.uint64(int(rate * 2.0**64))).astype(np.int64, copy=False)

    def draw(self, n: int, k: int) -> I64:
        """`k` of n units without replacement, every set of k equally likely. Ascending."""
        _at_least_0(k, "k")
        if k > _at_least_0(n, "n"):
            raise ValueError(f"expected k of at most n = {n}, got {k}")
        if k == 0:
            return np.empty(0, dtype=np.int64)
        while True:
            words = self.words(n)
            drawn = np.flatnonzero(words <= np.partition(words, k - 1)[k - 1])
            if drawn.size == k:  # else two words at the border are equal, and no set may be preferred
                return drawn.astype(np.int64, copy=False)

    def _pairs(self, pairs: int) -> F64:
        """Standard normals of `pairs` pairs, shape (2 pairs,)."""
        uniform = self.uniform(2 * pairs).reshape(pairs, 2)
        radius = 1.0 - uniform[:, 0]  # in (0, 1], so that the logarithm is finite
        rare = np.flatnonzero(radius < _RARE)
        if rare.size:
            # steps of 2^-53 are too coarse there: the few lengths that come of them would tell a sum from its neighbour
            radius[rare] -= self.uniform(rare.size) * 2.0**-53
        np.log(radius, out=radius)
        radius *= -2.0
        np.sqrt(radius, out=radius)
        # sine and cosine of an angle from the tangent of its half, in (-pi/2, pi/2), which is one function and not two
        tangent = uniform[:, 1] - 0.5
        tangent *= math.pi
        np.tan(tangent, out=tangent)
        shrunk = tangent * tangent
        shrunk += 1.0
        np.divide(radius, shrunk, out=shrunk)
        shrunk *= 2.0
        np.subtract(shrunk, radius, out=uniform[:, 0])
        np.multiply(shrunk, tangent, out=uniform[:, 1])
        return uniform.reshape(-1)

    def __repr__(self) -> str:
        return f"<SecureRandom, {'of a given key' if self._keyed else 'keyed by the operating system'}>"

    def __reduce__(self) -> str:
        raise TypeError("a SecureRandom is not copied or pickled: its stream would repeat; make a new one")

    def _after_fork(self) -> None:
        self._lock = threading.Lock()  # another thread of the parent may have held it
        self._stream = None if self._keyed else _keystream(os.urandom(_KEY_BYTES))


_alive: "weakref.WeakSet[SecureRandom]" = weakref.WeakSet()


def _after_fork() -> None:
    for stream in _alive:
        stream._after_fork()


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=_after_fork)


def _keystream(key: bytes) -> CipherContext:
    return Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()


def _at_least_0(n: int, name: str) -> int:
    if operator.index(n) < 0:
        raise ValueError(f"expected {name} of at least 0, got {n}")
    return n
