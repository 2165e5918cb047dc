"""The file of a ledger: lines that are only ever added, each chained to the one before, under a lock.

A line is a JSON object whose `prev` is the SHA-256 of the line before (of nothing: 64 zeros) and whose `hash`, its
last key, is the SHA-256 of all bytes before it. So every line proves itself and its place. What is wrong in a file
is one of two: a last line that was torn while it was written, which is cut off since nobody was told that it is
there, and anything else, which stops with the number of the line.
"""

import fcntl
import hashlib
import json
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from wardround.durable_file import sync_folder, write_all
from wardround.errors import LocalError

__all__ = ["LedgerError", "LedgerFile", "Line"]

_FIRST = "0" * 64
_LINE = re.compile(rb'(\{.*),"hash":"([0-9a-f]{64})"\}', re.DOTALL)


class LedgerError(LocalError):
    """A ledger's file is not as this program left it, cannot be read or cannot be written: nothing may be released."""


@dataclass(frozen=True, slots=True)
class Line:
    """A verified line: its number from 1, its hash, when it was written, what it says."""

    number: int
    hash: str
    time: datetime
    entry: dict[str, Any]


class LedgerFile:
    """One file, opened anew for every transaction, so that several objects and processes may share it.

    `lines` are those of the last transaction; a file that has lost or changed one of them since is refused.
    """

    __slots__ = ("_descriptor", "_size", "_verified", "lines", "path")

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: list[Line] = []
        self._size = 0
        self._verified = hashlib.sha256()
        self._descriptor: int | None = None

    @classmethod
    def create(cls, path: Path, entry: dict[str, Any], now: datetime) -> None:
        """Make the file with its first line, durably, or not at all. Raises LedgerError, also when it is there."""
        data, _ = _encode(_FIRST, entry, now)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                write_all(descriptor, data)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            os.link(temporary, path)  # unlike a rename it replaces nothing
        except FileExistsError:
            raise LedgerError(f"{path}: expected no file, since a ledger is never replaced") from None
        except OSError as error:
            raise LedgerError(f"{path}: cannot be made ({error.strerror})") from None
        finally:
            with suppress(OSError):
                os.unlink(temporary)
        sync_folder(path.parent)

    @contextmanager
    def locked(self, now: datetime) -> Iterator[None]:
        """Hold the file alone, with `lines` read, verified and up to date; `append` works inside only.

        A torn last line is cut off, and a line says so. Raises LedgerError for anything else that is wrong.
        """
        try:
            descriptor = self._open()
        except OSError as error:
            raise LedgerError(f"{self.path}: cannot be opened ({error.strerror})") from None
        try:
            self._descriptor = descriptor
            self._read(descriptor, now)
            yield
        finally:
            self._descriptor = None
            with suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_UN)  # closing alone would not, were the descriptor in a fork too
            os.close(descriptor)

    def append(self, entry: dict[str, Any], now: datetime) -> Line:
        """Add a line; durable on return. Raises LedgerError when it cannot be; then nobody may act on it."""
        descriptor = self._descriptor
        if descriptor is None:
            raise RuntimeError("a line is added under the lock")
        data, digest = _encode(self.lines[-1].hash, entry, now)
        try:
            self._add(descriptor, data)
        except OSError as error:
            raise LedgerError(
                f"{self.path}: an entry could not be written ({error.strerror}); nothing was reserved or released"
            ) from None
        line = Line(len(self.lines) + 1, digest, now, entry)
        self.lines.append(line)
        return line

    def _open(self) -> int:
        while True:
            descriptor = os.open(self.path, os.O_RDWR)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                if os.path.samestat(os.fstat(descriptor), os.stat(self.path)):
                    return descriptor
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)  # the file was exchanged while this process waited

    def _read(self, descriptor: int, now: datetime) -> None:
        try:
            data = _read_all(descriptor)
        except OSError as error:
            raise LedgerError(f"{self.path}: cannot be read ({error.strerror})") from None
        if hashlib.sha256(data[: self._size]).digest() != self._verified.digest():
            _, lines, _ = self._parse(data, 0, [])  # says which line is wrong, if one is
            raise LedgerError(
                f"{self.path}: expected the {len(self.lines)} lines that were read before, got a file of {len(lines)} "
                "others: it was rolled back or exchanged"
            )
        end, lines, rest = self._parse(data, self._size, self.lines)
        if not lines:
            raise self._wrong(1, "a whole first line")
        self._verified.update(data[self._size : end])
        self.lines, self._size = lines, end
        if rest:
            self._repair(descriptor, rest, now)

    def _parse(self, data: bytes, at: int, lines: list[Line]) -> tuple[int, list[Line], bytes]:
        """Where the whole lines end, these lines after the known ones, and what comes after them."""
        lines = list(lines)
        while (end := data.find(b"\n", at)) >= 0:
            lines.append(self._decode(data[at:end], lines))
            at = end + 1
        rest = data[at:]
        whole = _LINE.match(rest)
        if whole is not None and _proves_itself(whole) and whole.end() != len(rest):
            raise self._wrong(len(lines) + 1, "the end of the line after its hash")
        return at, lines, rest

    def _decode(self, text: bytes, before: list[Line]) -> Line:
        number = len(before) + 1
        match = _LINE.fullmatch(text)
        if match is None or not _proves_itself(match):
            raise self._wrong(number, "what was written")
        entry = json.loads(text)
        digest, previous = entry.pop("hash"), entry.pop("prev", None)
        if previous != (before[-1].hash if before else _FIRST):
            raise self._wrong(number, "the line that follows the one before")
        try:
            return Line(number, digest, datetime.fromisoformat(entry.pop("time")), entry)
        except (KeyError, TypeError, ValueError):
            raise self._wrong(number, "a time") from None

    def _wrong(self, number: int, expected: str) -> LedgerError:
        return LedgerError(
            f"{self.path}, line {number}: expected {expected}, got something else; nothing is released until the file "
            "is restored from a copy that has every line"
        )

    def _repair(self, descriptor: int, rest: bytes, now: datetime) -> None:
        """A line without its end counts if all else of it is there, as it may be known; less of it is cut off."""
        whole = _LINE.fullmatch(rest)
        try:
            if whole is not None and _proves_itself(whole):
                line = self._decode(rest, self.lines)
                self._add(descriptor, rest + b"\n", len(rest))
                self.lines.append(line)
            else:
                os.ftruncate(descriptor, self._size)
                os.fsync(descriptor)
        except OSError as error:
            raise LedgerError(f"{self.path}: its last line cannot be repaired ({error.strerror})") from None
        self.append({"entry": "repair", "bytes": len(rest), "kept": whole is not None}, now)

    def _add(self, descriptor: int, data: bytes, there: int = 0) -> None:
        """Add `data`, whose first `there` bytes are there already; what a failure leaves of the rest is removed."""
        start = self._size + there
        try:
            os.lseek(descriptor, start, os.SEEK_SET)
            write_all(descriptor, data[there:])
            os.fsync(descriptor)
        except BaseException:
            with suppress(OSError):
                os.ftruncate(descriptor, start)
                os.fsync(descriptor)
            raise
        self._size += len(data)
        self._verified.update(data)


def _encode(previous: str, entry: dict[str, Any], now: datetime) -> tuple[bytes, str]:
    """A line with its end, and its hash."""
    table = {"prev": previous, "time": now.isoformat(), **entry}
    body = json.dumps(table, allow_nan=False, separators=(",", ":"))[:-1].encode()
    digest = hashlib.sha256(body).hexdigest()
    return body + f',"hash":"{digest}"}}\n'.encode(), digest


def _proves_itself(match: re.Match[bytes]) -> bool:
    return hashlib.sha256(match[1]).hexdigest().encode() == match[2]


def _read_all(descriptor: int) -> bytes:
    parts: list[bytes] = []
    os.lseek(descriptor, 0, os.SEEK_SET)
    while part := os.read(descriptor, 1 << 20):
        parts.append(part)
    return b"".join(parts)
