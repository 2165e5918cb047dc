"""audit.jsonl: which sites were quarantined in a run and which a person released, a line each.

    {"time": ISO 8601 in UTC, "event": "quarantine" | "release", "site", "round", "by", "reason"}

A quarantine is written before its round's checkpoint; a line of a round that did not become durable is cut when the
run is opened, and written again when the round is done again.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from wardround.durable_file import extend_file
from wardround.errors import LocalError
from wardround.orders import SiteId
from wardround.strategies.records import RunState
from wardround.strategies.reputation import Reputation

__all__ = ["AUDIT_FILE", "AuditLog"]

AUDIT_FILE = "audit.jsonl"
_SERVER = "wardround"
_KEYS = {"event", "site", "round"}


class AuditLog:
    """The log of one run; its directory is locked by whoever writes."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / AUDIT_FILE

    def events(self) -> list[dict[str, Any]]:
        """Every whole line, in order."""
        return [event for event, _ in self._lines()]

    def out_of_quarantine(self, round_number: int) -> list[SiteId]:
        """The sites that a person released after round `round_number` and before the next."""
        return [
            SiteId(event["site"])
            for event in self.events()
            if event["event"] == "release" and event["round"] == round_number
        ]

    def applied(self, state: RunState) -> RunState:
        """`state`, in which the sites that a person has released since its round are in quarantine no longer."""
        for site in self.out_of_quarantine(state.round):
            state = replace(state, reputation=state.reputation.release(site))
        return state

    def quarantined(self, reputation: Reputation, round_number: int) -> None:
        """Note the sites whose quarantine began in `round_number`, each once however often the round is tried."""
        begun = [site for site, since in reputation.quarantined.items() if since == round_number]
        noted = {(event["site"], event["round"], event["event"]) for event in self.events()} if begun else set()
        for site in begun:
            if (site, round_number, "quarantine") not in noted:
                why = next((note for note in reputation.notes if note.startswith(f"{site} is quarantined")), "")
                self._append({"event": "quarantine", "site": site, "round": round_number, "by": _SERVER, "reason": why})

    def released(self, site: SiteId, round_number: int, by: str, reason: str) -> None:
        """Note that a person released `site` after `round_number`."""
        self._append({"event": "release", "site": site, "round": round_number, "by": by, "reason": reason})

    def repair(self, rounds: int) -> None:
        """Cut a torn line, and those of rounds after the last durable one."""
        if self._path.exists():
            ends = [end for event, end in self._lines() if event["round"] <= rounds]
            extend_file(self._path, ends[-1] if ends else 0, b"")

    def _append(self, event: Mapping[str, Any]) -> None:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        line = json.dumps({"time": now, **event}, ensure_ascii=False) + "\n"
        lines = self._lines()
        extend_file(self._path, lines[-1][1] if lines else 0, line.encode(errors="backslashreplace"))

    def _lines(self) -> list[tuple[dict[str, Any], int]]:
        """Each whole line and where it ends. Raises LocalError for one that is no event: no kill leaves it behind."""
        data = self._path.read_bytes() if self._path.exists() else b""
        found: list[tuple[dict[str, Any], int]] = []
        at = 0
        while (end := data.find(b"\n", at)) >= 0:
            try:
                event = json.loads(data[at:end])
            except ValueError:
                event = None
            if not isinstance(event, dict) or not _KEYS <= event.keys() or not isinstance(event["round"], int):
                raise LocalError(f"{self._path}: expected what wardround wrote, got line {len(found) + 1}; restore it")
            found.append((event, end + 1))
            at = end + 1
        return found
