"""Durable state of a protocol role: small values and counters that only go up."""

from typing import Protocol

from wardround.errors import LocalError

__all__ = ["MemoryStore", "StateStore"]


class StateStore(Protocol):
    """What must survive a crash. A call that raises has changed nothing."""

    def get(self, key: str) -> bytes | None:
        """The value last put under `key`."""
        ...

    def put(self, key: str, value: bytes) -> None:
        """Store `value`; durable on return."""
        ...

    def advance(self, key: str, to: int) -> None:
        """Move a counter; durable on return. Raises LocalError unless `to` is above the stored value."""
        ...


class MemoryStore:
    """A store for simulations and tests: as durable as the process."""

    __slots__ = ("_counters", "_values")

    def __init__(self) -> None:
        self._values: dict[str, bytes] = {}
        self._counters: dict[str, int] = {}

    def get(self, key: str) -> bytes | None:
        return self._values.get(key)

    def put(self, key: str, value: bytes) -> None:
        self._values[key] = value

    def advance(self, key: str, to: int) -> None:
        stored = self._counters.get(key, -1)
        if to <= stored:
            raise LocalError(f"{key}: expected a value above {stored}, got {to}")
        self._counters[key] = to
