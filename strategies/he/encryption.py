"""Many chunks: tagged and encrypted, opened and checked, by worker processes where there are many.

TenSEAL's bindings hold the interpreter's lock, so that threads do not help. The workers are this member's own, live as
long as one call, and have its key; they end before the call returns.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TypeVar

import numpy as np

from wardround.errors import RemoteError
from wardround.strategies.he.he_plan import HEPlan
from wardround.strategies.he.key_ceremony import EpochKey
from wardround.strategies.he.packing import Slots
from wardround.strategies.he.scheme import KeyHolder
from wardround.strategies.he.tags import Tagging
from wardround.strategies.secagg.wire import Buffer

__all__ = ["ChunkCipher"]

Piece = TypeVar("Piece")
Done = TypeVar("Done")

_WORTH_A_PROCESS = 4096
"""Chunks from which on workers are quicker: they take a second to start, as long as 2000 chunks take here."""
_PIECE = 256


class ChunkCipher:
    """Encrypts and opens whole updates under one epoch's key."""

    __slots__ = ("_holder", "_key", "_plan")

    def __init__(self, plan: HEPlan, key: EpochKey) -> None:
        self._plan, self._key = plan, key
        self._holder = KeyHolder(plan, key.form, key.key)

    def encrypt(self, h: bytes, member: int, slots: Slots) -> list[bytes]:
        """The ciphertexts of `member`'s slots, each with its tags, in the round of hash `h`."""
        pieces = [slots[at : at + _PIECE] for at in range(0, len(slots), _PIECE)]
        return [chunk for done in self._spread(_encrypted, h, (member,), pieces, len(slots)) for chunk in done]

    def decrypt(self, h: bytes, members: Sequence[int], chunks: Sequence[Buffer]) -> Slots:
        """The slots of a sum of `members`' updates. Raises RemoteError unless each chunk is exactly that sum.

        All chunks are opened first, and where they fail is not said: a server must not learn it from words or time.
        """
        pieces = [[bytes(one) for one in chunks[at : at + _PIECE]] for at in range(0, len(chunks), _PIECE)]
        opened = list(self._spread(_decrypted, h, tuple(members), pieces, len(chunks)))
        if not all(held for _, held in opened):
            raise RemoteError("expected the sum of the listed members' updates, each once, got another")
        return np.concatenate([slots for slots, _ in opened])

    def _spread(
        self,
        work: Callable[[KeyHolder, Tagging, tuple[int, ...], int, Piece], Done],
        h: bytes,
        members: tuple[int, ...],
        pieces: Sequence[Piece],
        chunks: int,
    ) -> Iterator[Done]:
        workers = min(os.cpu_count() or 1, len(pieces))
        if chunks < _WORTH_A_PROCESS or workers == 1:
            tagging = Tagging(self._plan, self._key.tag_key, h)
            for number, piece in enumerate(pieces):
                yield work(self._holder, tagging, members, number * _PIECE, piece)
            return
        given = (self._plan, self._key, h, members)
        with ProcessPoolExecutor(workers, get_context("spawn"), _begin, given) as pool:
            starts = range(0, len(pieces) * _PIECE, _PIECE)
            yield from pool.map(_work, [work] * len(pieces), starts, pieces)


_mine: tuple[KeyHolder, Tagging, tuple[int, ...]]
"""Of a worker process: what its call is about."""


def _begin(plan: HEPlan, key: EpochKey, h: bytes, members: tuple[int, ...]) -> None:
    global _mine
    _mine = KeyHolder(plan, key.form, key.key), Tagging(plan, key.tag_key, h), members


def _work(work: Callable[[KeyHolder, Tagging, tuple[int, ...], int, Piece], Done], first: int, piece: Piece) -> Done:
    return work(*_mine, first, piece)


def _encrypted(holder: KeyHolder, tagging: Tagging, members: tuple[int, ...], first: int, slots: Slots) -> list[bytes]:
    tagged = np.concatenate((slots, tagging.tags(slots, first, members)), axis=1)
    return [holder.encrypt(row) for row in tagged]


def _decrypted(
    holder: KeyHolder, tagging: Tagging, members: tuple[int, ...], first: int, chunks: list[bytes]
) -> tuple[Slots, bool]:
    opened = np.stack([holder.decrypt(chunk) for chunk in chunks])
    slots = opened[:, : holder.plan.slots]
    return slots, tagging.hold(slots, opened[:, holder.plan.slots :], first, members)
