"""The agent's log: a line of JSON for each event, with the time in UTC. It holds no secret and no patient's value."""

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from pathlib import Path

from wardround.plain_text import plain_text

__all__ = ["JsonLines", "log_to_stderr"]

_MOST_LETTERS = 2000


class JsonLines(logging.Formatter):
    """`{"at": ..., "level": ..., "event": ...}` and, where the event is about a run, `"run"`."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": plain_text(record.getMessage(), _MOST_LETTERS),
        }
        run = getattr(record, "run", None)
        if run is not None:
            line["run"] = plain_text(str(run))
        if record.exc_info and record.exc_info[1] is not None:
            line["error"] = _where(record.exc_info[1])
        return json.dumps(line, ensure_ascii=False)


def _where(error: BaseException) -> str:
    """What kind of error, and where in the code; not its text, which may hold a value."""
    places = traceback.extract_tb(error.__traceback__)
    calls = " < ".join(f"{Path(one.filename).name}:{one.lineno}" for one in reversed(places))
    return plain_text(f"{type(error).__name__} at {calls}", _MOST_LETTERS)


def log_to_stderr() -> None:
    """Send what `wardround` logs to stderr, as lines of JSON."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    log = logging.getLogger("wardround")
    log.handlers[:] = [handler]
    log.setLevel(logging.INFO)
    log.propagate = False
