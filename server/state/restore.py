"""A backup is checked as a whole, and only then put in the place of what is there.

A server that comes back from a backup is behind the sites that it worked with. So that nothing which was done since is
done again or forgotten in silence: its generation number goes up, and an event says so; runs that were under way are
paused, for a person to decide (a site refuses a round that it has done); every session has ended and every open
invitation is withdrawn, since either may have been ended or used after the backup, and the token for metrics is gone
for the same reason; the number of the next revocation list is above any that was given; and what the server that is
replaced had revoked stays revoked.
"""

import os
import re
import shutil
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

from wardround.audit.log import LOG_FILE
from wardround.durable_file import replace_file, sync_folder
from wardround.errors import LocalError
from wardround.plain_text import plain_text
from wardround.server.state.archive import Member, read_archive
from wardround.server.state.backup import CHECKPOINTS, DATABASE_PART
from wardround.server.state.backup_check import check_contents
from wardround.server.state.certificates import CertificateKind, Certificates
from wardround.server.state.database import Database, sqlite_url
from wardround.server.state.dump import copy_rows, load
from wardround.server.state.events import Events
from wardround.server.state.folder import DATABASE_FILE, FILES, SIGNING_FILE, STATE_FILE, StateFolder, encode_settings
from wardround.server.state.invitations import Invitations
from wardround.server.state.runs import Runs
from wardround.server.state.sessions import Sessions
from wardround.server.state.settings import CRL_LIST, CRL_NUMBER, GENERATION, SCRAPE_TOKEN, Settings
from wardround.server.state.sites import Site, Sites, SiteState

__all__ = ["RESTORED", "Restored", "check_backup", "restore"]

RESTORED = "server.restored"
"""The kind of the event that says so."""
_MODEL = re.compile(r"models/[0-9a-f]{32}")
_RUN_FILE = re.compile(r"runs/[0-9a-f]{32}(/[^/\0]+)+")
_AUDIT_LOG = f"audit/{LOG_FILE}"
_MOST_NAME = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """What a backup holds; of one that was restored also what became of it.

    `paused` are the numbers of runs that were under way, `revoked` the sites that stay revoked though they were not
    when the backup was made, `replaced` is where the folder now lies that stood there before.
    """

    name: str
    created: str
    version: str
    rows: dict[str, int]
    files: int
    generation: int = 0
    paused: tuple[int, ...] = ()
    revoked: tuple[str, ...] = ()
    replaced: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """What the server that is replaced knew, and a backup may not."""

    generation: int = 0
    revocations: int = 0
    sites: tuple[Site, ...] = ()
    revoked_certificates: tuple[tuple[CertificateKind, int], ...] = ()


def check_backup(archive: Path, secret: bytes) -> Restored:
    """What the backup holds. LocalError where anything in it is missing, damaged, or does not open.

    Changes nothing, but needs the room of the backup for temporary files.
    """
    with tempfile.TemporaryDirectory(prefix="wardround-restore-") as temporary:
        return _unpacked(archive, Path(temporary) / "state", secret)


def restore(archive: Path, into: Path, secret: bytes, *, now: datetime, database: str | None = None) -> Restored:
    """Check the backup, and then make it the state folder `into`, and its PostgreSQL where it names one.

    With `database`, the URL of a PostgreSQL, rows go there, wherever they were, and the new folder says so.
    Until everything was checked nothing is changed; what was there is kept beside it, in the folder `replaced`.
    LocalError for what `check_backup` refuses, where a server runs on `into` or on the PostgreSQL, and where `into` is
    something else than a state folder, or empty.
    """
    staging = into.with_name(f"{into.name}.restoring")
    aside = into.with_name(f"{into.name}.before-{now:%Y%m%dT%H%M%SZ}")
    if os.path.lexists(aside):
        raise LocalError(f"{aside}: is there already; move it away")
    with ExitStack() as stack:
        old = _old(into)
        if old is not None:
            stack.enter_context(old.lock())
        try:
            into.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if staging.exists():
                shutil.rmtree(staging)  # of a restore that was interrupted
            stack.callback(shutil.rmtree, staging, ignore_errors=True)
            restored = _unpacked(archive, staging, secret)
            settings = StateFolder.open(staging).settings
            if database is not None:
                settings = replace(settings, database=database)
                replace_file(staging / STATE_FILE, encode_settings(settings), mode=0o600)
            known = _known_before(old.database_url if old is not None else settings.database)
            restored = _brought_forward(staging, known, restored, now)
            if settings.database is None:
                try:
                    _swap(staging, into, aside)
                except BaseException:
                    _swap_back(staging, into, aside)
                    raise
            else:
                _replace_with_database(staging, into, aside, settings.database)
        except OSError as error:
            raise LocalError(f"{error.filename or into}: cannot be written ({error.strerror})") from None
    return replace(restored, replaced=aside if aside.exists() else None)


def _unpacked(archive: Path, staging: Path, secret: bytes) -> Restored:
    """Unpack the backup into a new folder `staging`, with its database in a file there, and check everything."""
    staging.mkdir(mode=0o700)
    for name in ("runs", "models"):
        (staging / name).mkdir(mode=0o700)
    rows = staging / "database"
    with _private(rows) as lines:
        unpacking = _Unpacking(staging, lines)
        about = read_archive(archive, secret, unpacking.take)
    if missing := [name for name in FILES if not (staging / name).exists()]:
        raise LocalError(f"{archive}: expected {missing[0]} in the backup; take another")
    for run in (staging / "runs").iterdir():
        (run / CHECKPOINTS).mkdir(
            mode=0o700, exist_ok=True
        )  # a backup has files alone, and before round 1 there is none
    folder = StateFolder.open(staging)
    keyring = folder.keyring(secret)
    database = Database.open(sqlite_url(staging / DATABASE_FILE))
    try:
        with rows.open("rb") as dumped:
            counts = load(database, dumped)
        rows.unlink()
        check_contents(folder, keyring, database)
    finally:
        database.close()
    name, created, version = (plain_text(str(about.get(key, ""))) for key in ("name", "created", "version"))
    return Restored(name=name, created=created, version=version, rows=counts, files=unpacking.files)


class _Unpacking:
    """Writes the members of a backup below a folder; nothing that is not of a backup's own making."""

    def __init__(self, folder: Path, lines: BinaryIO) -> None:
        self._folder, self._lines = folder, lines
        self._parts = 0
        self.files = 0

    def take(self, member: Member) -> None:
        name = member.name
        if name == DATABASE_PART.format(self._parts):
            self._parts += 1
            for piece in member.pieces():
                self._lines.write(piece)
            return
        self.files += 1
        if len(name) > _MOST_NAME or not (
            name in (*FILES, SIGNING_FILE, _AUDIT_LOG) or _MODEL.fullmatch(name) or _RUN_FILE.fullmatch(name)
        ):
            raise LocalError(f"backup: expected files of a server, got {plain_text(name)!r}")
        if {".", ".."} & set(name.split("/")):
            raise LocalError(f"backup: expected a name inside the folder, got {plain_text(name)!r}")
        path = self._folder / name
        for parent in reversed(path.relative_to(self._folder).parents[:-1]):  # `parents=True` would make them public
            (self._folder / parent).mkdir(mode=0o700, exist_ok=True)
        with _private(path) as file:
            for piece in member.pieces():
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())


def _private(path: Path) -> BinaryIO:
    """A new file that its owner alone may read."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb")


def _old(into: Path) -> StateFolder | None:
    """The state folder that is there; None where there is nothing."""
    if not os.path.lexists(into) or (into.is_dir() and not into.is_symlink() and not any(into.iterdir())):
        return None
    return StateFolder.open(into)


def _known_before(url: str | None) -> _Known:
    """What the database at `url` knows; nothing where it is damaged: that is what a backup is for."""
    if url is None:
        return _Known()
    try:
        database = Database.open(url)
        try:
            settings, certificates = Settings(database), Certificates(database)
            return _Known(
                generation=settings.counter(GENERATION),
                revocations=settings.counter(CRL_NUMBER),
                sites=tuple(Sites(database).list()),
                revoked_certificates=tuple(
                    (kind, serial) for kind in CertificateKind for serial in sorted(certificates.all_revoked(kind))
                ),
            )
        finally:
            database.close()
    except LocalError:
        return _Known()


def _brought_forward(staging: Path, known: _Known, restored: Restored, now: datetime) -> Restored:
    """Change the rows in `staging` as the head of this module says, in one transaction."""
    database = Database.open(sqlite_url(staging / DATABASE_FILE))
    try:
        with database.transaction():
            settings = Settings(database)
            # the time, too: what the old server knew may be lost, and no counter of ours is moved every second
            generation = max(settings.counter(GENERATION) + 1, known.generation + 1, int(now.timestamp()))
            settings.advance(GENERATION, to=generation)
            newest = max(settings.counter(CRL_NUMBER) + 1, known.revocations + 1, int(now.timestamp()))
            settings.advance(CRL_NUMBER, to=newest)
            for key in (CRL_LIST, SCRAPE_TOKEN):
                settings.remove(key)
            sites, certificates = Sites(database), Certificates(database)
            fingerprints = {one.name: one.fingerprint for one in sites.list()}
            revoked = []
            for site in known.sites:
                # under another key it was revoked and has joined again; the key of the backup is the revoked one
                gone = site.state is SiteState.REVOKED or fingerprints.get(site.name) != site.fingerprint
                if gone and sites.revoke(site.name, now):
                    certificates.revoke_site(site.name, now)
                    revoked.append(site.name)
            for kind, serial in known.revoked_certificates:
                certificates.revoke(kind, serial, now)
            sessions = Sessions(database).end_all()
            invitations = Invitations(database)
            withdrawn = sum(invitations.withdraw(one.id, now) for one in invitations.list())
            why = f"the server was restored from a backup of {restored.created}; see what the sites have done since"
            runs = Runs(database)
            paused = [
                run.number
                for run in runs.list({"ready", "running"})
                if runs.move(run.id, {"ready", "running"}, "paused", reason=why, now=now)
            ]
            for run in runs.list({"stopping"}):
                runs.move(run.id, {"stopping"}, "stopped", reason=why, now=now)
            detail: dict[str, Any] = {
                "backup": restored.created,
                "generation": generation,
                "paused": paused,
                "revoked": revoked,
                "sessions": sessions,
                "invitations": withdrawn,
            }
            Events(database).add(RESTORED, now=now, subject=restored.name, detail=detail)
    finally:
        database.close()
    return replace(restored, generation=generation, paused=tuple(paused), revoked=tuple(revoked))


def _replace_with_database(staging: Path, into: Path, aside: Path, url: str) -> None:
    """Put rows into the PostgreSQL and the folder in its place; where the rows are refused, the folder goes back."""
    target = Database.open(url)
    try:
        with target.hold():
            target.migrate()
            source = Database.open(sqlite_url(staging / DATABASE_FILE))
            try:
                with target.transaction():
                    copy_rows(source, target)
                    source.close()
                    (staging / DATABASE_FILE).unlink()
                    _swap(staging, into, aside)
            except BaseException:
                _swap_back(staging, into, aside)
                raise
            finally:
                source.close()
    finally:
        target.close()


def _swap(staging: Path, into: Path, aside: Path) -> None:
    """Make `staging` be `into`, and what was there be `aside`.

    A kill between the two renames leaves both whole, and no server that starts on either in the other's place.
    """
    for at, _, _ in os.walk(staging, topdown=False):
        sync_folder(Path(at))
    if into.exists():
        if any(into.iterdir()):
            os.rename(into, aside)
        else:
            into.rmdir()
    os.rename(staging, into)
    sync_folder(into.parent)


def _swap_back(staging: Path, into: Path, aside: Path) -> None:
    """Undo what `_swap` has done, however far it came."""
    if into.exists() and not staging.exists():
        os.rename(into, staging)
    if aside.exists() and not into.exists():
        os.rename(aside, into)
