"""When a site works: windows of its own wall clock, such as `mon-fri 20:00-06:00`."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo

__all__ = ["Window", "is_open", "read_window", "time_zone"]

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_WINDOW = re.compile(r"(?:(?P<days>[a-z,-]+) )?(?P<from>[0-9]{2}:[0-9]{2})-(?P<to>[0-9]{2}:[0-9]{2})")
_DAY = 24 * 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Minutes `start` to `end` of each of `days` (0 is Monday); where `end` is not later, it is the next day's."""

    days: frozenset[int]
    start: int
    end: int

    def has(self, moment: datetime) -> bool:
        """Whether the wall clock `moment` is in it; the start is, the end is not."""
        minute, day = moment.hour * 60 + moment.minute, moment.weekday()
        if self.start < self.end:
            return day in self.days and self.start <= minute < self.end
        before = (moment - timedelta(days=1)).weekday()
        return (day in self.days and minute >= self.start) or (before in self.days and minute < self.end)


def read_window(text: str) -> Window:
    """The window in `DAYS FROM-TO`; DAYS (`mon-fri`, `sat,sun`; absent: every day). ValueError for anything else."""
    found = _WINDOW.fullmatch(text.strip().lower())
    if found is None:
        raise ValueError("DAYS FROM-TO, e.g. mon-fri 20:00-06:00 or sat,sun 00:00-24:00")
    start, end = _minute(found["from"]), _minute(found["to"])
    if start == end or start == _DAY:
        raise ValueError("a window that has minutes in it; the whole day is 00:00-24:00")
    return Window(days=_days(found["days"]), start=start, end=end)


def _minute(text: str) -> int:
    hour, minute = int(text[:2]), int(text[3:])
    if minute > 59 or hour * 60 + minute > _DAY:
        raise ValueError("times from 00:00 to 24:00")
    return hour * 60 + minute


def _days(text: str | None) -> frozenset[int]:
    if text is None:
        return frozenset(range(7))
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if first not in _DAYS or (dash and last not in _DAYS):
            raise ValueError(f"days of {', '.join(_DAYS)}")
        begin = _DAYS.index(first)
        length = (_DAYS.index(last) - begin) % 7 if dash else 0
        found |= {(begin + step) % 7 for step in range(length + 1)}
    return frozenset(found)


def time_zone(name: str) -> tzinfo:
    """The time zone of this name, such as `Europe/Berlin`. ValueError where this system does not know it."""
    if name == "UTC":
        return UTC
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(
            "a time zone that this system knows, e.g. Europe/Berlin or UTC (without any: install tzdata)"
        ) from None


def is_open(windows: Sequence[str], zone: str, now: datetime) -> bool:
    """Whether `now`, a time with its zone, is in one of the windows on the clock of `zone`."""
    moment = now.astimezone(time_zone(zone))
    return any(read_window(one).has(moment) for one in windows)
