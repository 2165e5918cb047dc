"""How often somebody may do what costs the server something: a count by key in a window of time."""

import threading
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

__all__ = ["Attempts", "Limit"]

_MOST_KEYS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """At most `most` attempts in `window`."""

    most: int
    window: timedelta = timedelta(minutes=15)


class Attempts:
    """Attempts by key, in memory. One is counted when it begins, so that many at once count, too.

    At most 10,000 keys are remembered; beyond, the one whose window began first is forgotten. So keys that strangers
    choose and keys that have to be remembered do not belong in the same one. Threads may share it.
    """

    __slots__ = ("_counts", "_lock")

    def __init__(self) -> None:
        self._counts: OrderedDict[str, tuple[datetime, int]] = OrderedDict()
        self._lock = threading.Lock()

    def begin(self, keys: Iterable[tuple[str, Limit]], now: datetime) -> timedelta | None:
        """Count an attempt for every key, and give None; where one has none left, nothing is counted: until it has."""
        wanted = list(keys)
        with self._lock:
            found = {key: self._count(key, limit, now) for key, limit in wanted}
            waits = [found[key][0] + limit.window - now for key, limit in wanted if found[key][1] >= limit.most]
            if waits:
                return max(waits)
            for key, (since, count) in found.items():
                self._counts[key] = (since, count + 1)
            while len(self._counts) > _MOST_KEYS:
                self._counts.popitem(last=False)
        return None

    def take_back(self, key: str) -> None:
        """An attempt that was counted was none."""
        with self._lock:
            if key in self._counts:
                since, count = self._counts[key]
                self._counts[key] = (since, max(count - 1, 0))

    def _count(self, key: str, limit: Limit, now: datetime) -> tuple[datetime, int]:
        since, count = self._counts.get(key, (now, 0))
        if timedelta(0) <= now - since < limit.window:  # a clock that was set back begins a new window
            return since, count
        self._counts.pop(key)
        return now, 0
