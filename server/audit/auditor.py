"""From the table of events to the audit log: every event once and in order, whatever is killed in between.

The table is the outbox. An event is in it from the transaction on that does what it says; a record of the log names the
number of its event, so that the log itself knows where it stands.
"""

import hashlib
import json
import threading
from collections.abc import Mapping
from typing import Any

from wardround.audit.log import AuditLog
from wardround.audit.record import Entry, Record, is_kind, stamp
from wardround.plain_text import plain_text
from wardround.server.state.events import Event, Events

__all__ = ["EVENTS_LOST", "Auditor"]

EVENTS_LOST = "events.lost"
"""The kind of the record that says that the database knows less than the log: it was set back, without the log."""
_BATCH = 1000
_MOST_SUBJECT, _MOST_DETAIL = 255, 1 << 15
_OTHER = "event.noted"


class Auditor:
    """Writes what is in `events` to `log`. Threads may share it."""

    def __init__(self, log: AuditLog, events: Events) -> None:
        self._log, self._events = log, events
        self._guard = threading.Lock()
        self._last: int | None = None

    def catch_up(self) -> list[Event]:
        """Write and seal every event that is not in the log yet, and give those. Durable on return.

        LocalError where the log cannot be written; nothing is lost by that, the next call begins where this one ended.
        """
        with self._guard:
            done: list[Event] = []
            last = self._known() if self._last is None else self._last
            while found := self._events.list(after=last, most=_BATCH):
                self._log.append(_entry(one) for one in found)
                last = self._last = found[-1].id
                done += found
            if self._log.has_unsealed:
                self._log.seal()
            return done

    def _known(self) -> int:
        """The number of the last event in the log that is in the table, too, and the same.

        It is that of the last record, unless the database was set back alone: then the log says so, and goes on from
        where both agree.
        """
        newest, lost, last = self._events.newest(), 0, 0
        for record in self._log.newest_first():
            number = record.detail.get("event")
            if type(number) is not int:
                continue
            if number <= newest and self._is_record_of(record, number):
                last = number
                break
            lost += 1
        if lost:
            self._log.append([Entry(kind=EVENTS_LOST, detail={"records": lost, "agreed": last})])
        self._last = last
        return last

    def _is_record_of(self, record: Record, number: int) -> bool:
        found = [_entry(one) for one in self._events.list(after=number - 1, most=1) if one.id == number]
        return [(record.kind, record.subject, record.detail)] == [(one.kind, one.subject, one.detail) for one in found]


def _entry(event: Event) -> Entry:
    """The record of an event; the time of the record is that of writing it, that of the event is in its detail."""
    detail: dict[str, Any] = {"event": event.id, "at": stamp(event.at)}
    kind = event.kind
    if not is_kind(kind):
        kind, detail = _OTHER, detail | {"kind": event.kind}
    if event.run_id is not None:
        detail["run"] = event.run_id
    if event.who:
        detail["who"] = event.who
    if event.detail:
        detail["detail"] = _bounded(event.detail)
    return Entry(kind=kind, subject=plain_text(event.subject, _MOST_SUBJECT), detail=detail)


def _bounded(detail: Mapping[str, Any]) -> dict[str, Any]:
    text = json.dumps(detail).encode()
    if len(text) <= _MOST_DETAIL:
        return dict(detail)
    return {"left_out_bytes": len(text), "left_out_sha256": hashlib.sha256(text).hexdigest()}
