"""Many chunks: tagged and encrypted, opened and checked, by worker processes where there are many.

TenSEAL's bindings hold the interpreter's lock, so that threads do not help. The workers are this member's own, live as
long as one call, and have its key; they end before the call returns.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from multiprocessing import get_context
from typing import TypeVar

import numpy as np

from wardround.strategies.he.he_plan import HEPlan
from wardround.strategies.he.key_ceremony import EpochKey
from wardround.strategies.he.packing import Slots
from wardround.strategies.he.scheme import KeyHolder
from wardround.strategies.he.tags import Tagging
from wardround.strategies.secagg.wire import Buffer

__all__ = ["decrypt_chunks", "encrypt_chunks"]

Piece = TypeVar("Piece")
Done = TypeVar("Done")

_WORTH_A_PROCESS = 4096
"""Chunks from which on workers are quicker: they take a second to start, as long as 2000 chunks take here."""
_PIECE = 256


def encrypt_chunks(plan: HEPlan, key: EpochKey, h: bytes, member: int, slots: Slots) -> list[bytes]:
    """The ciphertexts of `member`'s slots, each with its tags, in the round of hash `h`."""
    pieces = [(at, slots[at : at + _PIECE]) for at in range(0, len(slots), _PIECE)]
    return [one for done in _spread(_encrypted, plan, key, h, (member,), pieces, len(slots)) for one in done]


def decrypt_chunks(plan: HEPlan, key: EpochKey, h: bytes, members: Sequence[int], chunks: Sequence[Buffer]) -> Slots:
    """The slots of a sum of `members`' updates. Raises RemoteError unless each chunk is exactly that sum."""
    pieces = [(at, [bytes(one) for one in chunks[at : at + _PIECE]]) for at in range(0, len(chunks), _PIECE)]
    return np.concatenate(list(_spread(_decrypted, plan, key, h, tuple(members), pieces, len(chunks))))


def _spread(
    work: Callable[[HEPlan, EpochKey, bytes, tuple[int, ...], int, Piece], Done],
    plan: HEPlan,
    key: EpochKey,
    h: bytes,
    members: tuple[int, ...],
    pieces: Sequence[tuple[int, Piece]],
    chunks: int,
) -> Iterator[Done]:
    workers = min(os.cpu_count() or 1, len(pieces))
    common = (repeat(plan), repeat(key), repeat(h), repeat(members))
    at, parts = [at for at, _ in pieces], [piece for _, piece in pieces]
    if chunks < _WORTH_A_PROCESS or workers == 1:
        yield from map(work, *common, at, parts)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(work, *common, at, parts)


def _encrypted(
    plan: HEPlan, key: EpochKey, h: bytes, members: tuple[int, ...], first: int, slots: Slots
) -> list[bytes]:
    holder, tagging = KeyHolder(plan, key.form, key.key), Tagging(plan, key.tag_key, h)
    (member,) = members
    return [
        holder.encrypt(np.concatenate((row, tagging.tag(row, first + index, member))))
        for index, row in enumerate(slots)
    ]


def _decrypted(
    plan: HEPlan, key: EpochKey, h: bytes, members: tuple[int, ...], first: int, chunks: list[bytes]
) -> Slots:
    holder, tagging = KeyHolder(plan, key.form, key.key), Tagging(plan, key.tag_key, h)
    slots = np.empty((len(chunks), plan.slots), dtype=np.uint64)
    for index, chunk in enumerate(chunks):
        opened = holder.decrypt(chunk)
        slots[index] = opened[: plan.slots]
        tagging.check(slots[index], opened[plan.slots :], first + index, members)
    return slots
