"""The log of the server: one JSON object a line, with the time, an event, and figures; never a body or a secret."""

import contextlib
import logging
import os
import sys
import traceback
from typing import Any, Protocol, TextIO

import structlog

from wardround.plain_text import plain_text

__all__ = ["Log", "adopt_standard_logging", "json_log", "where_raised"]


_MOST_FOREIGN, _MOST_TEXT = 200, 1000


class Log(Protocol):
    """Takes an event and what belongs to it. The levels are those of `logging`."""

    def debug(self, event: str, **values: Any) -> Any: ...
    def info(self, event: str, **values: Any) -> Any: ...
    def warning(self, event: str, **values: Any) -> Any: ...
    def error(self, event: str, **values: Any) -> Any: ...


def json_log(out: TextIO | None = None, *, least: int = logging.INFO) -> Log:
    """A log that writes to `out` (standard error). What cannot be written, to a full disk, is lost: work goes on."""
    stream: Any = _Lossy(sys.stderr if out is None else out)
    log: Log = structlog.wrap_logger(
        structlog.PrintLogger(stream),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(least),
    )
    return log


def adopt_standard_logging(log: Log, *, least: int = logging.WARNING) -> None:
    """Let what is logged by `logging` go to `log`: our own as it is, of libraries the text of the call without values.

    Of an error its kind and its place are told.
    """
    root = logging.getLogger()
    root.handlers = [_Adopted(log)]
    root.setLevel(least)


def where_raised(error: BaseException) -> str:
    """The place in the code where `error` was raised, e.g. `runs.py:62`; no values."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{os.path.basename(frames[-1].filename)}:{frames[-1].lineno}" if frames else ""


class _Adopted(logging.Handler):
    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        values: dict[str, Any] = {"logger": record.name}
        if record.exc_info and record.exc_info[1] is not None:
            values |= {"error": type(record.exc_info[1]).__name__, "where": where_raised(record.exc_info[1])}
        say = self._log.error if record.levelno >= logging.ERROR else self._log.warning
        own = record.name.partition(".")[0] == "wardround"
        text = record.getMessage() if own else str(record.msg)[:_MOST_FOREIGN]
        say(plain_text(text.partition("\n")[0], _MOST_TEXT), **values)


class _Lossy:
    """A stream of text on which a failing write is no error."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            self._out.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._out.flush()
