"""How often somebody may fail to log in: a count per name and per address in a window of time."""

import threading
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

__all__ = ["Attempts", "Limit"]

_MOST_KEYS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """At most `most` failures in `window`."""

    most: int
    window: timedelta = timedelta(minutes=15)


class Attempts:
    """Failures by key, in memory. An attempt counts as a failure when it begins, so that many at once count, too.

    At most 10,000 keys are remembered; beyond, the one whose window began first is forgotten. Threads may share it.
    """

    __slots__ = ("_counts", "_lock")

    def __init__(self) -> None:
        self._counts: OrderedDict[str, tuple[datetime, int]] = OrderedDict()
        self._lock = threading.Lock()

    def begin(self, keys: Iterable[tuple[str, Limit]], now: datetime) -> bool:
        """Count an attempt for every key; False, and nothing is counted, where one of them has none left."""
        wanted = list(keys)
        with self._lock:
            found = {key: self._count(key, limit, now) for key, limit in wanted}
            if any(found[key][1] >= limit.most for key, limit in wanted):
                return False
            for key, (since, count) in found.items():
                self._counts[key] = (since, count + 1)
            while len(self._counts) > _MOST_KEYS:
                self._counts.popitem(last=False)
        return True

    def succeeded(self, keys: Iterable[str]) -> None:
        """The attempt was none: forget what was counted for these keys."""
        with self._lock:
            for key in keys:
                self._counts.pop(key, None)

    def _count(self, key: str, limit: Limit, now: datetime) -> tuple[datetime, int]:
        since, count = self._counts.get(key, (now, 0))
        if now - since < limit.window:
            return since, count
        self._counts.pop(key)
        return now, 0
