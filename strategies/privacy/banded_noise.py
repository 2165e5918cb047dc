"""Noise that spans rounds: what one round adds, later rounds partly take back."""

import hmac
import os
import secrets
import struct
import threading
from collections import deque

import numpy as np

from wardround.errors import LocalError
from wardround.state_store import StateStore
from wardround.strategies.privacy.banded_matrix import BandedMatrix, banded_matrix
from wardround.strategies.privacy.secure_random import GRID_PER_UNIT, SecureRandom
from wardround.vector import F64, I64

__all__ = ["BandedNoise"]

_STATE, _INDEX, _SIZE = "privacy/banded-noise", "privacy/banded-noise/index", "privacy/banded-noise/size"
_HEADER = struct.Struct("<8sQQ")
_VERSION = b"banded 1"
_KEY_BYTES = 32


class BandedNoise:
    """The `NoiseSource` of banded matrix factorisation, for at most `rounds` = T releases, aborted ones included.

    Release t gets (C^-1 z)_t in units of the standard deviation of z, with C = `banded_matrix(rounds, bands)` and
    independent standard normal z_t, each of which belongs to one index. It is rounded to the grid: of a sum x on the
    grid, x + round(y) = round(x + y), which is post-processing. So T releases are one Gaussian event of sensitivity
    clip norm x √⌈T/b⌉, if a client's indices are at least `bands` apart.

    `begin` takes an index, durably, before its cohort is asked or its noise made: a crash, or a round that comes to
    nothing, leaves it used, its z_t is never added to another sum, and what it would have added counts in what later
    rounds take back. The index must be the one by which the cohort was chosen (`spaced_cohort`): a sum that is
    published under one index and noised under another breaks the separation.

    `store` keeps a secret key of the operating system's randomness, from which every z_t can be made again, and C, so
    that a restart goes on with the same sequence; the rounds so far are then computed anew, b vectors are kept in
    memory. Who reads the store can take the noise off every release: keep it as safe as the updates, apart from what
    is shown to people, and never set it back to an older copy. Raises LocalError when it holds noise of other `rounds`
    or `bands`.

    Source: Choquette-Choo et al. 2023, "(Amplified) Banded Matrix Factorization", algorithm 9.
    """

    __slots__ = ("_begun", "_done", "_guard", "_key", "_matrix", "_new", "_past", "_process", "_store")

    def __init__(self, *, rounds: int, bands: int, store: StateStore) -> None:
        self._store, self._guard, self._process = store, threading.Lock(), os.getpid()
        state = store.get(_STATE)
        self._new = state is None
        if state is None:
            self._key, self._matrix = secrets.token_bytes(_KEY_BYTES), banded_matrix(rounds, bands)
            store.put(_STATE, _encode(self._key, self._matrix))
        else:
            self._key, self._matrix = _decode(state)
        if (self._matrix.rounds, self._matrix.bands) != (rounds, min(bands, rounds)):
            raise LocalError(
                f"banded noise: expected a state of {rounds} rounds and {bands} bands, got one of "
                f"{self._matrix.rounds} and {self._matrix.bands}; its charge cannot change, so start a new run"
            )
        self._begun: int | None = None
        self._done = 0
        """Rounds whose noise was computed; `_past` has that of the last b - 1, newest first."""
        self._past: deque[F64] = deque(maxlen=self._matrix.bands - 1)

    def begin(self, index: int) -> None:
        """Take `index`, from 0, for the next `draw`; durable on return, and it cannot be taken again.

        Raises ValueError beyond the T releases that were charged, LocalError for an index that is used.
        """
        with self._guard:
            self._check_process()
            if not 0 <= index < self._matrix.rounds:
                raise ValueError(
                    f"expected a release of index 0 to {self._matrix.rounds - 1}, got {index}: aborted ones count too, "
                    "and the privacy that was charged covers no more"
                )
            if self._new and index != 0:
                raise LocalError(
                    f"banded noise: expected the noise of {index} earlier releases in the store, which has none; this "
                    "run cannot go on, since new noise would be a charge of its own"
                )
            self._store.advance(_INDEX, index)
            self._new, self._begun = False, index

    def deviation(self, index: int) -> float:
        """Standard deviation of the noise of one release, in those of z."""
        return float(self._matrix.deviations()[index])

    def draw(self, size: int) -> I64:
        """The noise of the release that was begun, in steps of GRID, shape (size,); once.

        Raises LocalError when none was begun, ValueError for another `size` than the draws before.
        """
        with self._guard:
            self._check_process()
            if self._begun is None:
                raise LocalError("banded noise: expected an index (begin) before each draw, and one draw of each")
            self._settle(size)
            index, self._begun = self._begun, None
            noise = np.empty(0)
            while self._done <= index:
                noise = self._next(size)
            return np.rint(noise * GRID_PER_UNIT).astype(np.int64)

    def _next(self, size: int) -> F64:
        """(C^-1 z)_t of the first round t that was not computed: C[t, t] y_t = z_t - Σ C[t, t - j] y_(t - j)."""
        t = self._done
        diagonal, *others = self._matrix.row(t)
        noise = SecureRandom(hmac.digest(self._key, t.to_bytes(8, "big"), "sha256")).normal(size)
        for weight, past in zip(others, self._past, strict=True):
            noise -= weight * past
        noise /= diagonal
        self._past.appendleft(noise)
        self._done += 1
        return noise

    def _settle(self, size: int) -> None:
        stored = self._store.get(_SIZE)
        if stored is None:
            self._store.put(_SIZE, str(size).encode())
        elif int(stored) != size:
            raise ValueError(f"expected noise for {int(stored)} values, as in the draws before, got {size}")

    def _check_process(self) -> None:
        if os.getpid() != self._process:
            raise RuntimeError("banded noise was carried into a forked process, which would repeat it")

    def __repr__(self) -> str:
        return f"<BandedNoise of {self._matrix.rounds} rounds, {self._matrix.bands} bands>"

    def __reduce__(self) -> str:
        raise TypeError("banded noise is not copied or pickled: it would repeat")


def _encode(key: bytes, matrix: BandedMatrix) -> bytes:
    return _HEADER.pack(_VERSION, matrix.rounds, matrix.bands) + key + matrix.columns.astype("<f8").tobytes()


def _decode(state: bytes) -> tuple[bytes, BandedMatrix]:
    try:
        version, rounds, bands = _HEADER.unpack_from(state)
        start = _HEADER.size + _KEY_BYTES
        if version != _VERSION or len(state) != start + 8 * rounds * bands:
            raise ValueError
        columns = np.frombuffer(state, dtype="<f8", offset=start).astype(np.float64).reshape(rounds, bands)
        return state[_HEADER.size : start], BandedMatrix(columns)
    except (ValueError, struct.error):
        raise LocalError(
            "banded noise: its state in the store is damaged or of another version; this run cannot go on, since new "
            "noise would be a charge of its own"
        ) from None
