"""Durable state in a folder: one file for each value and each counter.

    .lock                     held by the process that has the store open
    value-<SHA-256 of key>    a value that was put
    counter-<SHA-256 of key>  where a counter stands, in decimal digits

A file holds a line that says what it is, the SHA-256 of all that follows, the length of its label, the label (kind and
key), and then what is stored. It is replaced as a whole and synced, and its folder with it, so that a kill or a power
cut leaves the old content or the new one. What no store can see: files that are deleted, or a folder that is set back
to an old copy.
"""

import fcntl
import hashlib
import os
import re
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

from wardround.durable_file import TEMPORARY, replace_file, sync_folder
from wardround.errors import LocalError

__all__ = ["FileStore"]

_LOCK = ".lock"
_OURS = re.compile(rf"({re.escape(TEMPORARY)})?(value|counter)-[0-9a-f]{{64}}")
_FIRST_LINE = b"wardround state 1\n"
_DIGEST_BYTES, _LENGTH_BYTES = 32, 4
_VALUE, _COUNTER = "value", "counter"


class FileStore:
    """A `StateStore` in `folder`, which is made where it is missing, and locked until `close`.

    LocalError for a folder that another store has open, and for a file that is torn or not this store's: nothing is
    repaired by guessing. Files are for their owner only to read. Threads may share one object, forked processes not.
    """

    __slots__ = ("_folder", "_guard", "_lock", "_process")

    def __init__(self, folder: str | Path) -> None:
        self._folder = Path(folder)
        self._guard = threading.Lock()
        self._process = os.getpid()
        self._lock: int | None = None
        try:
            self._make_folder()
            self._refuse_foreign()
            self._lock = _locked(self._folder)
            self._check_files()
        except OSError as error:
            self.close()
            raise LocalError(f"{self._folder}: cannot be opened ({error.strerror}); nothing was changed") from None
        except LocalError:
            self.close()
            raise

    def get(self, key: str) -> bytes | None:
        """The value last put under `key`."""
        with self._guard:
            self._check_open()
            return self._read(_VALUE, key)

    def put(self, key: str, value: bytes) -> None:
        """Store `value`; durable on return."""
        with self._guard:
            self._check_open()
            self._write(_VALUE, key, value)

    def advance(self, key: str, to: int) -> None:
        """Move a counter; durable on return. Raises LocalError unless `to` is above the stored value (at first -1)."""
        with self._guard:
            self._check_open()
            digits = self._read(_COUNTER, key)
            stored = -1 if digits is None else int(digits)
            if to <= stored:
                raise LocalError(f"{key}: expected a value above {stored}, got {to}")
            self._write(_COUNTER, key, str(to).encode())

    def close(self) -> None:
        """Give the folder free; the store is of no more use."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _make_folder(self) -> None:
        try:
            self._folder.mkdir(mode=0o700)
        except FileExistsError:
            return
        sync_folder(self._folder.parent)

    def _refuse_foreign(self) -> None:
        """Before anything is written: a folder of other content is not ours to lock or to tidy."""
        for name in sorted(os.listdir(self._folder)):
            if name != _LOCK and not _OURS.fullmatch(name):
                raise LocalError(
                    f"{self._folder / name}: is no file of a state folder; move it away or name another folder"
                )

    def _check_files(self) -> None:
        for path in sorted(self._folder.iterdir()):
            if path.name.startswith(TEMPORARY):
                path.unlink()  # of a writer that was killed
            elif path.name != _LOCK:
                _decode(path, path.read_bytes())

    def _check_open(self) -> None:
        if self._lock is None:
            raise LocalError(f"{self._folder}: the store is closed; open it again")
        if os.getpid() != self._process:
            raise LocalError(
                f"{self._folder}: the store was opened by another process; open it after a fork, not before"
            )

    def _read(self, kind: str, key: str) -> bytes | None:
        path = self._folder / _name(kind, key)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise LocalError(f"{path}: cannot be read ({error.strerror})") from None
        return _decode(path, data)

    def _write(self, kind: str, key: str, content: bytes) -> None:
        path, data = self._folder / _name(kind, key), _encode(kind, key, content)
        try:
            replace_file(path, data, mode=0o600)
        except OSError as error:
            reason = f"{path}: cannot be written ({error.strerror})"
            if not _holds(path, data):
                raise LocalError(f"{reason}; it is as it was before") from None
            # visible, but a power cut may take it back: nobody may act on either content
            self.close()
            raise LocalError(f"{reason}; the store is closed, put that right and open it again") from None


def _name(kind: str, key: str) -> str:
    return f"{kind}-{hashlib.sha256(key.encode()).hexdigest()}"


def _encode(kind: str, key: str, content: bytes) -> bytes:
    label = f"{kind} {key}".encode()
    rest = len(label).to_bytes(_LENGTH_BYTES, "big") + label + content
    return _FIRST_LINE + hashlib.sha256(rest).digest() + rest


def _decode(path: Path, data: bytes) -> bytes:
    """The content of a file. Raises LocalError for one that is not whole, of another making, or of another key."""
    start = len(_FIRST_LINE) + _DIGEST_BYTES
    digest, rest = data[len(_FIRST_LINE) : start], data[start:]
    if not data.startswith(_FIRST_LINE) or hashlib.sha256(rest).digest() != digest:
        raise LocalError(
            f"{path}: is damaged or of another version, so what it kept is not known; end the runs that depend on this "
            "folder, then move it away"
        )
    end = _LENGTH_BYTES + int.from_bytes(rest[:_LENGTH_BYTES], "big")
    kind, _, key = rest[_LENGTH_BYTES:end].decode().partition(" ")
    if path.name != _name(kind, key):
        raise LocalError(
            f"{path}: holds the {kind} of {key!r}, whose file is {_name(kind, key)}; give it back its name"
        )
    return rest[end:]


def _holds(path: Path, data: bytes) -> bool:
    try:
        return path.read_bytes() == data
    except OSError:
        return False


def _locked(folder: Path) -> int:
    """A descriptor that holds the folder's lock until it is closed."""
    descriptor = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
            raise LocalError(f"{folder}: is open in another process; wait for it or stop it") from None
        raise LocalError(f"{folder}: cannot be locked ({error.strerror}); use a file system with locks") from None
    return descriptor
