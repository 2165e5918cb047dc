"""The log of the server: one JSON object a line, with the time, an event, and figures; never a body or a secret."""

import logging
import os
import sys
import traceback
from typing import Any, Protocol, TextIO

import structlog

__all__ = ["Log", "adopt_standard_logging", "json_log", "where_raised"]


class Log(Protocol):
    """Takes an event and what belongs to it. The levels are those of `logging`."""

    def debug(self, event: str, **values: Any) -> Any: ...
    def info(self, event: str, **values: Any) -> Any: ...
    def warning(self, event: str, **values: Any) -> Any: ...
    def error(self, event: str, **values: Any) -> Any: ...


def json_log(out: TextIO | None = None, *, least: int = logging.INFO) -> Log:
    """A log that writes to `out` (standard error)."""
    log: Log = structlog.wrap_logger(
        structlog.PrintLogger(sys.stderr if out is None else out),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(least),
    )
    return log


def adopt_standard_logging(log: Log, *, least: int = logging.WARNING) -> None:
    """Let what libraries log by `logging` go to `log`: the text of the call and the kind of an error, no values."""
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
        say(str(record.msg).partition("\n")[0][:200], **values)
