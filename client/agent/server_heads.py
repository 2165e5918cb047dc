"""What this site has seen of the server's audit log: each head must follow from the one before.

    server-head.json     the head that the site has signed last
    server-differs.json  there while the server's history is another than the site has seen: what was shown, and why

Both lie in the folder of the site's own log, which has every head that was signed, so that a server that writes its
history anew, or was set back to an old copy, is found out by any one site.
"""

import json
import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from wardround.audit.head import COSIGNED_KIND, RESTORE_ACCEPTED, CoSigned, Extension, Head
from wardround.audit.log import AuditLog
from wardround.client.agent.site_folder import SiteFolder
from wardround.client.agent.site_log import audit_folder
from wardround.errors import LocalError, RemoteError
from wardround.evidence_identity import RESERVED_SERVER_NAME
from wardround.link.messages import Notice

__all__ = ["Difference", "ServerHeads"]

_HEAD, _DIFFERS = "audit/server-head.json", "audit/server-differs.json"
_MOST_GAPS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """That the server's history is another: `why`, since when, and what the site had signed before."""

    why: str
    since: str
    known: Head


class ServerHeads:
    """The heads of the server that the site of `folder` has seen."""

    def __init__(self, folder: SiteFolder) -> None:
        self._folder = folder
        self._path = audit_folder(folder)
        self._gaps = 0

    @property
    def differs(self) -> bool:
        """Whether the server's history is another than this site has seen; one look at the disk."""
        return os.path.lexists(self._path / Path(_DIFFERS).name)

    def known(self) -> Head | None:
        """The head that was signed last. LocalError where the file is damaged."""
        table = self._table(_HEAD)
        if table is None:
            return None
        try:
            return Head.of(table)
        except ValueError:
            raise self._damaged(_HEAD) from None

    def difference(self) -> Difference | None:
        """What is wrong, where something is."""
        table = self._table(_DIFFERS)
        if table is None:
            return None
        try:
            return Difference(why=str(table["why"]), since=str(table["since"]), known=Head.of(table["known"]))
        except (KeyError, ValueError):
            raise self._damaged(_DIFFERS) from None

    def take(self, body: bytes, log: AuditLog, now: datetime) -> tuple[Notice, str]:
        """The answer to a `head` notice, and what is wrong ("" where nothing is); what it says is durable on return.

        A head that follows from the one before is kept, written to `log`, and signed. One that does not is neither,
        and from then on this site takes no part until its administrator accepts it. Raises RemoteError for what the
        server has not signed: then nothing has changed.
        """
        found = Extension.decode(body)
        found.head.check(self._folder.server, "server's head")
        known = self.known()
        if known is not None and self._is_gap(found, known):
            return self._answer(known, now), ""  # our last word did not reach it: it shows us the rest from there
        self._gaps = 0
        try:
            found.check(known)
        except RemoteError as error:
            if known is None:
                raise
            why = f"the server's history differs from what this site has seen: {error}"
            if not self.differs:
                log.add(
                    "head.differs", RESERVED_SERVER_NAME, why=str(error), known=known.table(), got=found.head.table()
                )
                log.seal()
                table = {"why": str(error), "since": now.isoformat(timespec="seconds"), "known": known.table()}
                self._folder.write(_DIFFERS, json.dumps(table).encode())
            return self._answer(known, now, differs=str(error)), why
        if self.differs and known is not None:  # shown the right history again: it had been another's, or a trial
            return self._answer(known, now, differs="it was another before; accept-restore is needed"), ""
        if known != found.head:
            log.add(COSIGNED_KIND, RESERVED_SERVER_NAME, head=found.head.table())
            log.seal()
            self._folder.write(_HEAD, json.dumps(found.head.table()).encode())
        return self._answer(found.head, now), ""

    def accept(self, log: AuditLog, *, by: str) -> Difference:
        """Go on with the server as it is now: the next head is believed. LocalError where nothing is wrong."""
        found = self.difference()
        if found is None:
            raise LocalError("expected a server whose history differs, got none; nothing is to be accepted")
        log.add(RESTORE_ACCEPTED, RESERVED_SERVER_NAME, by=by, why=found.why, known=found.known.table())
        log.seal()
        (self._folder.path / _HEAD).unlink(missing_ok=True)
        (self._folder.path / _DIFFERS).unlink(missing_ok=True)
        self._folder.touch()
        return found

    def _is_gap(self, found: Extension, known: Head) -> bool:
        """Whether the server went on from further than this site knows, which may happen, though not each time."""
        if found.head.log != known.log or found.first <= known.seq or self._gaps >= _MOST_GAPS:
            return False
        self._gaps += 1
        return True

    def _answer(self, head: Head, now: datetime, *, differs: str = "") -> Notice:
        table: dict[str, Any] = {
            "cosigned": CoSigned.make(self._folder.signing_key, head, self._folder.name, now).table()
        }
        if differs:
            table["differs"] = differs
        return Notice(kind="cosigned", body=json.dumps(table).encode())

    def _table(self, name: str) -> dict[str, Any] | None:
        if not os.path.lexists(self._folder.path / name):
            return None
        try:
            table = json.loads(self._folder.read(name))
        except (ValueError, RecursionError):
            table = None
        if not isinstance(table, dict):
            raise self._damaged(name)
        return table

    def _damaged(self, name: str) -> LocalError:
        return LocalError(f"{self._folder.path / name}: is damaged; `wardround client audit verify` says what is known")
