"""A member's count of the draws of groups that it took part in.

A server that sees all nonces knows the groups before anybody, and may void epochs until they suit it. So a run has as
many draws as its parameters allow for; whoever colludes is reckoned with as the worst of them all (`colluders_in` of
`parameters`: a union bound). And a server that voids one epoch after another is noticed early: 8 draws in 24 hours
without a round in which this member sent an update or signed a list, and it takes part in no more.

Under `secagg/<run>/draws`: how many there were, and epoch and time of those since the last such round.
"""

from datetime import datetime, timedelta

from wardround.state_store import StateStore
from wardround.strategies.secagg.messages import Cause
from wardround.strategies.secagg.phases import RefusedError

__all__ = ["IDLE_DRAWS_A_DAY", "count_draw", "settle_draws"]

IDLE_DRAWS_A_DAY = 8
"""Rosters for which a nonce is revealed in 24 hours, since the last round that this member took part in."""

_DAY = timedelta(hours=24)
_TOTAL_BYTES, _EPOCH_BYTES, _ENTRY_BYTES = 8, 4, 12


def count_draw(store: StateStore, run: str, epoch: int, most: int, now: datetime) -> None:
    """Count that a nonce is revealed in `epoch`, once, before it is; `most` in a run. Durable on return.

    Raises RefusedError, and counts nothing, where it would be one too many.
    """
    total, idle = _read(store, run)
    if any(before == epoch for before, _ in idle):
        return  # killed before the signature was stored
    second = int(now.timestamp())
    recent = [(before, time) for before, time in idle if time > second - _DAY.total_seconds()]
    if len(recent) >= IDLE_DRAWS_A_DAY or total >= most:
        raise RefusedError(
            Cause.POLICY,
            None,
            f"expected at most {IDLE_DRAWS_A_DAY} draws of groups in 24 h without a round and {most} in a run, got "
            f"{len(recent)} and {total} before this one; wait, and see who voids the epochs",
        )
    _write(store, run, total + 1, [*recent, (epoch, second)])


def settle_draws(store: StateStore, run: str) -> None:
    """A round came of the last draw; durable on return. A kill before it only makes the member stricter."""
    total, idle = _read(store, run)
    if idle:
        _write(store, run, total, [])


def _read(store: StateStore, run: str) -> tuple[int, list[tuple[int, int]]]:
    data = store.get(_key(run)) or bytes(_TOTAL_BYTES)
    entries = [data[at : at + _ENTRY_BYTES] for at in range(_TOTAL_BYTES, len(data), _ENTRY_BYTES)]
    return int.from_bytes(data[:_TOTAL_BYTES], "big"), [
        (int.from_bytes(one[:_EPOCH_BYTES], "big"), int.from_bytes(one[_EPOCH_BYTES:], "big")) for one in entries
    ]


def _write(store: StateStore, run: str, total: int, idle: list[tuple[int, int]]) -> None:
    entries = [epoch.to_bytes(_EPOCH_BYTES, "big") + time.to_bytes(8, "big") for epoch, time in idle]
    store.put(_key(run), b"".join((total.to_bytes(_TOTAL_BYTES, "big"), *entries)))


def _key(run: str) -> str:
    return f"secagg/{run}/draws"
