"""What this site has seen of the server's audit log: each head must follow from the one before.

    server-head.json     the head that the site has signed last
    server-differs.json  there while the server's history is another than the site has seen: what was shown, and why

Both lie in the folder of the site's own log, which has every head that was signed, so that a server that writes its
history anew, or was set back to an old copy, is found out by any one site. Where the first file is missing or damaged,
the log is asked, as it is once by whoever begins: a kill may have come between the two. Agent and commands take turns:
each holds the lock of that folder.
"""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from wardround.audit.head import COSIGNED_KIND, MOST_DIGESTS, RESTORE_ACCEPTED, CoSigned, Extension, Head
from wardround.audit.log import LOG_FILE, AuditLog, read_back, whole_bytes
from wardround.client.agent.site_folder import SiteFolder
from wardround.client.agent.site_log import audit_folder
from wardround.errors import LocalError, RemoteError
from wardround.evidence_identity import RESERVED_SERVER_NAME
from wardround.link.messages import Notice

__all__ = ["Difference", "ServerHeads"]

_HEAD, _DIFFERS = "audit/server-head.json", "audit/server-differs.json"
_MOST_GAPS = 3
_NO_HEAD = timedelta(days=1)
_MOST_HEADS = 120
"""New heads that are taken at once; after those one a second."""


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
        self._gaps = self._parts = 0
        self._full = self._compared = False
        self._since: datetime | None = None
        self._room, self._asked = float(_MOST_HEADS), datetime.min.replace(tzinfo=UTC)

    @property
    def differs(self) -> bool:
        """Whether the server's history is another than this site has seen; one look at the disk."""
        return os.path.lexists(self._path / Path(_DIFFERS).name)

    def known(self) -> Head | None:
        """The head that was signed last, by the log where the file is missing, damaged, or behind it since a kill."""
        found = self._in_file()
        if found is not None and self._compared:
            return found
        logged = self._in_log()
        if found is None or (logged is not None and logged.log == found.log and logged.seq > found.seq):
            return logged
        self._compared = True
        return found

    def _in_file(self) -> Head | None:
        try:
            return Head.of(self._table(_HEAD))
        except (ValueError, _UnreadableError):
            return None

    def _in_log(self) -> Head | None:
        """The newest head in the log, of those since a restored server was accepted."""
        path = self._path / LOG_FILE
        if not os.path.lexists(path):
            return None
        with path.open("rb") as file:
            for record in read_back(file.fileno(), whole_bytes(path)):
                if record.kind == RESTORE_ACCEPTED:
                    return None
                if record.kind == COSIGNED_KIND:
                    try:
                        return Head.of(record.detail.get("head"))
                    except (ValueError, TypeError):
                        continue
        return None

    def difference(self) -> Difference | None:
        """What is wrong, where something is."""
        table = self._table(_DIFFERS)
        if table is None:
            return None
        try:
            return Difference(why=str(table["why"]), since=str(table["since"]), known=Head.of(table["known"]))
        except (KeyError, ValueError):
            raise self._damaged(_DIFFERS) from None

    def are_missing(self, now: datetime) -> bool:
        """Note that a call was answered now; whether calls have been for a day, since the last time that this was said,
        and the server has shown no new head. One that is known, or from further on, shows nothing of what was done."""
        since, self._since = self._since, self._since or now
        if since is None or now - since < _NO_HEAD:
            return False
        self._since = now
        return True

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Nobody else changes what is known of the server meanwhile."""
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise LocalError(f"{self._path}: cannot be opened ({error.strerror})") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def take(self, body: bytes, log: AuditLog, now: datetime) -> tuple[Notice, str]:
        """The answer to a `head` notice, and what is wrong ("" where nothing is); what it says is durable on return.

        A head that follows from the one before is kept, written to `log`, and signed. One that does not is neither,
        and from then on this site takes no part until its administrator accepts it. Raises RemoteError for what the
        server has not signed, and for more heads than any server has to show: then nothing has changed.
        """
        found = Extension.decode(body)
        found.head.check(self._folder.server, "server's head")
        with self._alone():
            return self._take(found, log, now)

    def _take(self, found: Extension, log: AuditLog, now: datetime) -> tuple[Notice, str]:
        known = self.known()
        if known is not None and not self.differs:
            if _place(found.head) == _place(known):  # signed anew, or shown again
                if self._in_file() != known:
                    self._folder.write(_HEAD, json.dumps(known.table()).encode())
                self._gaps = self._parts = 0
                return self._answer(known, now), ""
            if self._is_gap(found, known) or self._is_part(found, known):
                return self._answer(known, now), ""  # our last word did not reach it: it shows us the rest
        self._gaps = self._parts = 0
        try:
            found.check(known)
        except RemoteError as error:
            if known is None:
                raise
            why = f"the server's history differs from what this site has seen: {error}"
            if not self.differs:  # the file first: after a kill this site takes no part, whatever the log has
                table = {"why": str(error), "since": now.isoformat(timespec="seconds"), "known": known.table()}
                self._folder.write(_DIFFERS, json.dumps(table).encode())
                log.add(
                    "head.differs", RESERVED_SERVER_NAME, why=str(error), known=known.table(), got=found.head.table()
                )
                log.seal()
            return self._answer(known, now, differs=str(error)), why
        if self.differs:  # shown the right history again: it had been another's, or a trial
            if known is None:
                raise RemoteError("server's head: is not signed before accept-restore")
            return self._answer(known, now, differs="it was another before; accept-restore is needed"), ""
        self._count(now)
        log.add(COSIGNED_KIND, RESERVED_SERVER_NAME, head=found.head.table())
        log.seal()
        self._folder.write(_HEAD, json.dumps(found.head.table()).encode())
        self._since = None
        return self._answer(found.head, now), ""

    def accept(self, log: AuditLog, *, by: str) -> Difference:
        """Go on with the server as it is now: the next head is believed. LocalError where nothing is wrong.

        Files that are damaged are taken away all the same.
        """
        with self._alone():
            known = self.known()
            try:
                found = self.difference()
            except _UnreadableError:
                found = None
                if known is not None:
                    found = Difference(why="the file that said why is damaged", since="", known=known)
            if found is None and not self.differs:
                raise LocalError("expected a server whose history differs, got none; nothing is to be accepted")
            if found is not None:
                log.add(RESTORE_ACCEPTED, RESERVED_SERVER_NAME, by=by, why=found.why, known=found.known.table())
                log.seal()
            # in this order: a kill in between leaves what differs still, or is found to
            (self._folder.path / _DIFFERS).unlink(missing_ok=True)
            (self._folder.path / _HEAD).unlink(missing_ok=True)
            self._folder.touch()
            if found is None:
                raise LocalError("expected a head that this site had signed, got none; there was nothing to accept")
            return found

    def _is_gap(self, found: Extension, known: Head) -> bool:
        """Whether the server went on from further than this site knows, which may happen, though not each time."""
        if found.head.log != known.log or found.first <= known.seq:
            return False
        if self._full:  # this site itself has let some go by
            return True
        if self._gaps >= _MOST_GAPS:
            return False
        self._gaps += 1
        return True

    def _is_part(self, found: Extension, known: Head) -> bool:
        """Whether the server begins so far back that the rest, with what this site knows, is yet to come.

        How much it has is its own word: so only what leads to the head that it shows, and not more often than it takes.
        """
        if found.head.log != known.log or not found.head.seq < known.seq <= found.length:
            return False
        if self._parts >= _MOST_GAPS + known.seq // MOST_DIGESTS:
            return False
        found.check(None)
        self._parts += 1
        return True

    def _count(self, now: datetime) -> None:
        """RemoteError where too many heads have come: each is a record of this site's log."""
        since = (now - self._asked).total_seconds()
        self._room = min(float(_MOST_HEADS), self._room + max(0.0, since))
        self._asked = now
        self._full = self._room < 1
        if self._full:
            raise RemoteError("server's head: expected not more than one a second, got more; it was not signed")
        self._room -= 1

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

    def _damaged(self, name: str) -> "_UnreadableError":
        return _UnreadableError(
            f"{self._folder.path / name}: is damaged; ask the coordinator, then: wardround client audit accept-restore"
        )


class _UnreadableError(LocalError):
    """A file here is not what was written."""


def _place(head: Head) -> tuple[bytes, int, bytes]:
    return head.log, head.seq, head.hash
