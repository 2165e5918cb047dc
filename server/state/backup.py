"""A backup of the server in one encrypted file, also while the server runs.

The database comes first, all rows of one moment, and the files after it. A file is written before the row that names
it and not deleted while a row does, so every file that a row of the backup names is still there when files are copied;
the other way round a row could name a file that was not copied. Files may be ahead of the rows: a run directory with
a later round than the row says (its checkpoints are what counts), or a model that no row names.

The audit log comes even before the database: it is made from the events, so it must know of none that the rows do not.

Within a run directory the checkpoints come first, the newest before the others: the log of rounds, which is copied
after them, has at least their lines, and lines beyond the last checkpoint are cut when a run goes on.
"""

import os
import stat
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

from wardround import __version__
from wardround.audit.log import LOG_FILE, whole_bytes
from wardround.clock import utc_now
from wardround.durable_file import TEMPORARY
from wardround.errors import LocalError
from wardround.server.state.archive import ArchiveWriter
from wardround.server.state.database import Database
from wardround.server.state.dump import dump
from wardround.server.state.folder import FILES, SIGNING_FILE, StateFolder

__all__ = ["CHECKPOINTS", "DATABASE_PART", "backup"]

DATABASE_PART = "database/{:06d}.jsonl"
_PART_BYTES = 4 << 20
_LOCKS = {".lock", ".wardround-lock"}
CHECKPOINTS = "checkpoints"
"""The folder in a run directory with its checkpoints."""


def backup(
    folder: StateFolder,
    database: Database,
    out: Path,
    secret: bytes,
    *,
    now: datetime | None = None,
    random: Callable[[int], bytes] = os.urandom,
) -> None:
    """Write everything that the server keeps to the new file `out`, sealed under the secret of the keyring.

    LocalError for another secret (the backup would open for nobody), and where something cannot be read or written;
    then there is no file.
    """
    folder.keyring(secret)
    with ArchiveWriter(out, secret, random) as archive:
        _copy_audit_log(archive, folder)
        parts = _Parts(archive)
        dump(database, parts.write)
        parts.flush()
        for name in FILES:
            _copy(archive, folder.path, Path(name), needed=True)
        _copy(archive, folder.path, Path(SIGNING_FILE))
        for path in _in_order(folder.models, folder.path):
            _copy(archive, folder.path, path)
        for run in sorted(os.listdir(folder.runs)):
            _copy_run(archive, folder, run)
        when = (now or utc_now()).isoformat(timespec="seconds")
        archive.commit({"created": when, "version": __version__, "name": folder.settings.name})


class _Parts:
    """The lines of the database, gathered to members of some MiB."""

    def __init__(self, archive: ArchiveWriter) -> None:
        self._archive = archive
        self._number = 0
        self._lines = bytearray()

    def write(self, line: bytes) -> None:
        self._lines += line
        if len(self._lines) >= _PART_BYTES:
            self.flush()

    def flush(self) -> None:
        if self._lines:
            self._archive.add(DATABASE_PART.format(self._number), bytes(self._lines))
            self._number += 1
            self._lines.clear()


def _copy_audit_log(archive: ArchiveWriter, folder: StateFolder) -> None:
    path = folder.audit / LOG_FILE
    if path.exists():
        size = whole_bytes(path)
        with path.open("rb") as file:
            archive.add_file(path.relative_to(folder.path).as_posix(), file, size)


def _copy_run(archive: ArchiveWriter, folder: StateFolder, run: str) -> None:
    """The checkpoints of a run, then the rest of its directory."""
    checkpoints = folder.runs / run / CHECKPOINTS
    copied = False
    while checkpoints.is_dir() and not copied:
        newest_first = list(_in_order(checkpoints, folder.path))[::-1]
        for path in newest_first:  # one that is gone was pruned: there are newer ones
            copied |= _copy(archive, folder.path, path)
        if not newest_first:
            break
    for path in _in_order(folder.runs / run, folder.path):
        if path.parts[2] != CHECKPOINTS:
            _copy(archive, folder.path, path)


def _in_order(start: Path, root: Path) -> Iterator[Path]:
    """The files below `start`, relative to `root`, by name; neither locks nor what a killed writer left."""
    for at, folders, names in os.walk(start):
        folders.sort()
        for name in sorted(names):
            if name not in _LOCKS and not name.startswith(TEMPORARY):
                yield (Path(at) / name).relative_to(root)


def _copy(archive: ArchiveWriter, root: Path, path: Path, *, needed: bool = False) -> bool:
    """Copy a file; False where it is gone."""
    try:
        descriptor = os.open(root / path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not needed:
            return False
        raise LocalError(f"{root / path}: cannot be read ({error.strerror}); there is no backup") from None
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise LocalError(f"{root / path}: expected a file; there is no backup, move it away")
        archive.add_file(path.as_posix(), file)
    return True
