"""A durable round in the timeline of the server: what a person who watches wants to know of it."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from wardround.errors import RemoteError
from wardround.plain_text import plain_text
from wardround.server.runs.worker_messages import is_plain

__all__ = ["round_event"]

_MOST_ABSENCES = 50
_MOST_ROUNDS = 1 << 31
_MOST_BYTES = 1 << 16
_MOST_METRICS = (200, 20, 0)
"""Of a long line: as many as there is room for."""
_WORDS = "local channel: expected the line of a round"


def round_event(line: Any) -> dict[str, Any]:
    """From a round's line in metrics.jsonl: counts, figures and reasons, of bounded size; no value and no update.

    A long one is cut, which the run's folder has whole: reasons of absences, then absences, then metrics beyond 200.
    Raises RemoteError for what is none, or holds numbers or text that JSON cannot.
    """
    try:
        found = _event(line)
        _size(found)
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError):
        raise RemoteError(_WORDS) from None
    figures = [
        found["epsilon"],
        found["seconds"],
        *(found["train"] or {}).values(),
        *(found["validation"] or {}).values(),
    ]
    if type(found["round"]) is not int or not 0 < found["round"] < _MOST_ROUNDS:
        raise RemoteError(f"{_WORDS}, of bounded size")
    if not all(one is None or (type(one) in (int, float) and is_plain(one)) for one in figures):
        raise RemoteError(f"{_WORDS}, with numbers as figures")
    return _cut(found)


def _cut(event: dict[str, Any]) -> dict[str, Any]:
    """`event` without what is too much. Raises RemoteError where it is still too long."""
    if _size(event) <= _MOST_BYTES:
        return event
    sites = [one["site"] for one in event["absences"]]
    shorter = event | {"absences": [{"site": site, "reason": ""} for site in sites]}
    if _size(shorter) <= _MOST_BYTES:
        return shorter
    shorter["absences"] = []
    for most in _MOST_METRICS:
        if _size(shorter) <= _MOST_BYTES:
            return shorter
        for part in ("train", "validation"):
            if shorter[part] is not None:
                shorter[part] = dict(list(shorter[part].items())[:most])
    if _size(shorter) > _MOST_BYTES:
        raise RemoteError(f"{_WORDS}, of bounded size")
    return shorter


def _size(event: dict[str, Any]) -> int:
    return len(json.dumps(event, allow_nan=False, ensure_ascii=False).encode())


def _event(line: Mapping[str, Any]) -> dict[str, Any]:
    absences, protection, privacy = line["absences"], line["protection"], line["privacy"]
    return {
        "round": line["round"],
        "void": line["void"],
        "reason": plain_text(line["aggregation"] or "", 500),
        "asked": len(line["cohort"]),
        "absent": len(absences),
        "absences": [
            {"site": one["site"], "reason": plain_text(one["reason"], 200)} for one in absences[:_MOST_ABSENCES]
        ],
        "groups": None if protection is None else sum(bool(one["survivors"]) for one in protection["groups"]),
        "aborts": 0 if protection is None else len(protection["aborts"]),
        "epsilon": None if privacy is None else privacy["epsilon"],
        "train": None if line["train"] is None else dict(line["train"]["metrics"]),
        "validation": None if line["validation"] is None else dict(line["validation"]["metrics"]),
        "quarantined": line["quarantined"][:_MOST_ABSENCES],
        "seconds": line["seconds"],
        "line_sha256": _digest(line),
    }


def _digest(line: Mapping[str, Any]) -> str:
    text = json.dumps(line, separators=(",", ":"), ensure_ascii=False)  # as it stands in the file
    return hashlib.sha256(text.encode()).hexdigest()
