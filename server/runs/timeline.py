"""The timeline of a run: what happened when, in words and as data, from the events that the server kept."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from wardround.plain_text import plain_text
from wardround.server.state.events import Event

__all__ = ["Entry", "timeline", "timeline_text"]

_WORDS = {
    "run.created": "created",
    "model.exported": "its model was exported",
    "model.released": "its model was released",
    "model.made_current": "its model was made the current one",
    "run.offered": "offered to its sites",
    "run.approved": "approved by all sites",
    "run.denied": "ends: denied",
    "run.started": "started",
    "run.paused": "paused",
    "run.resumed": "resumed",
    "run.stopped": "stopped",
    "run.halted": "ended, as a person wanted",
    "run.finished": "finished",
    "run.failed": "failed",
    "site.approved": "approved",
    "site.denied": "denied",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """Something that happened: when, of what kind, in words, and the event's own data."""

    at: datetime
    kind: str
    text: str
    detail: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """As a program reads it; `at` is ISO 8601, UTC."""
        return {"at": self.at.isoformat(), "kind": self.kind, "text": self.text, "detail": dict(self.detail)}


def timeline(events: Iterable[Event]) -> list[Entry]:
    """The entries of a run's events, in their order."""
    return [Entry(at=one.at, kind=one.kind, text=_text(one), detail=one.detail) for one in events]


def timeline_text(entries: Iterable[Entry]) -> str:
    """A line for each entry."""
    return "".join(f"{one.at:%Y-%m-%d %H:%M:%S}  {one.text}\n" for one in entries)


def _text(event: Event) -> str:
    detail, reason = event.detail, plain_text(str(event.detail.get("reason") or ""))
    why = f": {reason}" if reason else ""
    if event.kind == "round.done":
        return _round(detail)
    if event.kind == "worker.crashed":
        how = "hung" if detail.get("stuck") else "ended without a word"
        return f"its worker {how} after round {detail['round']}; it is started again"
    if event.kind == "model.made":
        return (
            f"model {event.subject}@{detail['version']}, as after round {detail['round']}{_figures(detail['metrics'])}"
        )
    if event.kind == "model.cosigned":
        return f"{event.who} co-signed its model"
    words = _WORDS.get(event.kind, event.kind.replace(".", " ").replace("_", " "))
    if event.kind.startswith("site."):
        units = detail.get("units")
        return f"{event.subject} {words}{f' ({units} in training)' if units else ''}{why}"
    return f"{words}{why}"


def _round(detail: Mapping[str, Any]) -> str:
    told = f"round {detail['round']}"
    if detail["void"]:
        told += " void"
    if detail["asked"]:
        told += f": {detail['asked'] - detail['absent']}/{detail['asked']} sites"
    if detail["groups"] is not None:
        told += f" in {detail['groups']} group{'' if detail['groups'] == 1 else 's'}"
    if detail["validation"]:
        told += _figures(detail["validation"])
    if detail["epsilon"] is not None:
        told += f", epsilon {detail['epsilon']:.3g}"
    absent = "; ".join(f"{one['site']}: {one['reason']}" for one in detail["absences"][:3])
    reasons = "; ".join(part for part in (detail["reason"], absent) if part)
    return told + (f" ({plain_text(reasons, 400)})" if reasons else "")


def _figures(metrics: Mapping[str, Any]) -> str:
    shown = [name for name in ("auc", "accuracy", "rmse", "loss") if metrics.get(name) is not None]
    return "".join(f", {name} {metrics[name]:.4g}" for name in shown[:2])
