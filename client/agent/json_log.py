"""The agent's log: a line of JSON for each event, with the time in UTC. It holds no secret and no patient's value.

What a server can make an agent say again and again fills no disk: of each kind ten lines a minute are written, and one
with their number for the rest.
"""

import json
import logging
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from wardround.plain_text import plain_text

__all__ = ["BoundedLines", "JsonLines", "log_to_stderr"]

_MOST_LETTERS = 2000
_MOST_LINES, _PERIOD_S = 10, 60.0


class JsonLines(logging.Formatter):
    """`{"at": ..., "level": ..., "event": ...}` and, where the event is about a run, `"run"`.

    `"times"`: so many events of its kind, of which this is the last, were not written down.
    """

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": plain_text(record.getMessage(), _MOST_LETTERS),
        }
        run = getattr(record, "run", None)
        if run is not None:
            line["run"] = plain_text(str(run))
        times = getattr(record, "times", None)
        if times is not None:
            line["times"] = times
        if record.exc_info and record.exc_info[1] is not None:
            line["error"] = _where(record.exc_info[1])
        return json.dumps(line, ensure_ascii=False)


def _where(error: BaseException) -> str:
    """What kind of error, and where in the code; not its text, which may hold a value."""
    places = traceback.extract_tb(error.__traceback__)
    calls = " < ".join(f"{Path(one.filename).name}:{one.lineno}" for one in reversed(places))
    return plain_text(f"{type(error).__name__} at {calls}", _MOST_LETTERS)


@dataclass(slots=True)
class _Kind:
    """Events of one place in the code."""

    since: float
    written: int = 0
    left_out: int = 0
    last: logging.LogRecord | None = None


class BoundedLines(logging.StreamHandler[TextIO]):
    """Writes ten events of a kind in a minute. The last of the others is written when something is logged later."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(stream)
        self._clock, self._kinds = clock, dict[tuple[str, int], _Kind]()

    def emit(self, record: logging.LogRecord) -> None:
        now = self._clock()
        self._end_periods(now)
        kind = self._kinds.setdefault((record.pathname, record.lineno), _Kind(now))
        if kind.written < _MOST_LINES:
            kind.written += 1
            super().emit(record)
        else:
            kind.left_out += 1
            kind.last = record

    def close(self) -> None:
        self._end_periods(float("inf"))
        super().close()

    def _end_periods(self, now: float) -> None:
        for place, kind in list(self._kinds.items()):
            if now - kind.since >= _PERIOD_S:
                del self._kinds[place]
                if kind.last is not None:
                    kind.last.times = kind.left_out
                    super().emit(kind.last)


def log_to_stderr() -> None:
    """Send what `wardround` logs to stderr, as lines of JSON."""
    handler = BoundedLines(sys.stderr)
    handler.setFormatter(JsonLines())
    log = logging.getLogger("wardround")
    log.handlers[:] = [handler]
    log.setLevel(logging.INFO)
    log.propagate = False
