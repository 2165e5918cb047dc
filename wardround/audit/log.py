"""A log on the disk, to which records are added: `log.jsonl` in a folder of its own.

Several processes may add: each takes the file's lock, reads what others have added since it last looked, and goes on
from there. A record is with the operating system when `append` returns, so that a killed process loses none; it is
sealed and on the disk when `seal` returns. After a power cut the file ends somewhere between the last seal and what was
appended, maybe in the middle of a line. A line without its end is cut off by the next who opens the file; no seal comes
after it, so nobody was shown a head that has it. Everything else that does not fit stops whoever opens the file.

Who has the log's key can write it anew, and who takes the machine over can add what it likes from then on. What was
sealed before cannot be changed without the key; where a head was given away (`head.py`), not with it either.
"""

import fcntl
import itertools
import os
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any, NoReturn, Self

from wardround.audit.head import LOG_BYTES, MOST_DIGESTS, Extension, Head, sign_head
from wardround.audit.record import (
    CLOCK_SET_BACK,
    MOST_LINE_BYTES,
    SEALED,
    SIGNER,
    Entry,
    Record,
    chained,
    encode_body,
    first_hash,
    line_of,
    read_body,
    split_line,
    stamp,
    time_of,
)
from wardround.audit.seal import SEAL_EVERY, begun, read_begun, read_seal, seal, signer_entry
from wardround.clock import utc_now
from wardround.durable_file import sync_folder, write_all
from wardround.errors import LocalError, RemoteError
from wardround.signing_key import SigningKey

__all__ = ["LOG_FILE", "AuditLog", "last_head", "lines_back", "read_back", "whole_bytes"]

LOG_FILE = "log.jsonl"
_BLOCK = 1 << 18
_MARK_EVERY = 256
_CLOCK_JITTER = timedelta(seconds=5)
"""A clock that is set back by less is waited for: records have the time of the one before."""
_SALT_BYTES = 16


class AuditLog:
    """The log in `folder`, open for adding. Threads may share it; make one with `open`."""

    def __init__(
        self,
        folder: Path,
        name: str,
        key: SigningKey,
        certificate: bytes,
        clock: Callable[[], datetime],
        random: Callable[[int], bytes],
    ) -> None:
        self._path, self._name, self._key, self._certificate = folder / LOG_FILE, name, key, certificate
        self._clock, self._random = clock, random
        self._guard = threading.Lock()
        self._offset, self._seq, self._hash, self._time = 0, 0, b"", ""
        self._log = b""
        self._unsealed = 0
        self._unsynced = True
        self._head: Head | None = None
        self._marks: list[tuple[int, int]] = []

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        name: str,
        key: SigningKey,
        certificate: bytes,
        clock: Callable[[], datetime] = utc_now,
        random: Callable[[int], bytes] = os.urandom,
    ) -> Self:
        """The log of `name` in `folder`, begun where there is none; `certificate` (DER) is that of `key`.

        What comes after the last seal is checked, a line without its end cut off. LocalError where what is there does
        not fit together, or is another's: nothing is repaired that was sealed, and `verify` finds the first bad record.
        """
        log = cls(folder, name, key, certificate, clock, random)
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            with log._guard, log._locked() as descriptor:
                log._resume(descriptor)
        except OSError as error:
            raise LocalError(f"{log._path}: cannot be opened ({error.strerror})") from None
        return log

    @property
    def id(self) -> bytes:
        """The log's own number, drawn when it was begun."""
        return self._log

    @property
    def has_unsealed(self) -> bool:
        """Whether this object knows of records without a seal; costs nothing."""
        return self._unsealed > 0

    def newest_first(self) -> Iterator[Record]:
        """The records, from the last one back."""
        with self._path.open("rb") as file:
            yield from read_back(file.fileno(), self._offset)

    # -- adding ---------------------------------------------------------------------------------------

    def add(self, kind: str, subject: str = "", /, **detail: Any) -> None:
        """Append one record."""
        self.append([Entry(kind=kind, subject=subject, detail=detail)])

    def append(self, entries: Iterable[Entry]) -> None:
        """Write records, all or none; they are with the operating system on return. LocalError for a full disk, say."""
        with self._guard, self._ready() as descriptor:
            self._write(descriptor, list(entries), sealing=False)

    def seal(self) -> Head:
        """Sign what has no seal yet; the head that the last seal says. Everything is on the disk on return."""
        with self._guard, self._ready() as descriptor:
            if self._unsealed or self._head is None:
                self._write(descriptor, [], sealing=True)
            if self._unsynced:
                os.fsync(descriptor)
                self._unsynced = False
            if self._head is None:
                raise RuntimeError("a log has a seal after sealing")
            return self._head

    def signed_with(self, certificate: bytes) -> None:
        """Go on under a renewed certificate (DER) of the same key."""
        with self._guard, self._ready() as descriptor:
            if certificate != self._certificate:
                self._certificate = certificate
                self._write(descriptor, [signer_entry(certificate, self._name)], sealing=False)

    def _write(self, descriptor: int, entries: list[Entry], *, sealing: bool) -> None:
        now = stamp(self._clock())
        if now < self._time:
            if time_of(self._time) - time_of(now) > _CLOCK_JITTER:
                back = Entry(kind=CLOCK_SET_BACK, detail={"from": self._time, "to": now})
                entries = [back, *entries]
            else:
                now = self._time
        salts = self._random(_SALT_BYTES * (len(entries) + len(entries) // SEAL_EVERY + 3)).hex()
        drawn = (salts[at : at + 2 * _SALT_BYTES] for at in range(0, len(salts), 2 * _SALT_BYTES))
        lines = bytearray()
        seq, chain, unsealed, head, marks = self._seq, self._hash, self._unsealed, self._head, []
        for entry in itertools.chain(entries, (None,) if sealing else ()):
            if entry is None or unsealed >= SEAL_EVERY:
                sealed, head = seal(self._key, self._certificate, self._log, seq, chain, now)
                body = encode_body(seq + 1, now, sealed, next(drawn))
                seq, chain, unsealed = seq + 1, chained(chain, sha256(body).digest()), 0
                lines += line_of(body, chain)
            if entry is not None:
                body = encode_body(seq + 1, now, entry, next(drawn))
                seq, chain, unsealed = seq + 1, chained(chain, sha256(body).digest()), unsealed + 1
                lines += line_of(body, chain)
            if seq % _MARK_EVERY == 0:
                marks.append((seq, self._offset + len(lines)))
        try:
            os.lseek(descriptor, self._offset, os.SEEK_SET)
            write_all(descriptor, bytes(lines))
        except OSError:
            os.ftruncate(descriptor, self._offset)  # all or none
            raise
        self._offset += len(lines)
        self._seq, self._hash, self._time, self._unsealed, self._head = seq, chain, now, unsealed, head
        self._marks += marks
        self._unsynced = True

    # -- what others may know -------------------------------------------------------------------------

    def extension(self, since: int | None) -> Extension:
        """How the log goes on after its first `since` records, up to the last seal or as far as one message goes.

        None is for those who have seen nothing yet: they are told where it stands. Seals first, so that nobody is shown
        what the next power cut takes back.
        """
        head = self.seal()
        first = head.seq if since is None else min(since, head.seq)
        last = min(head.seq, first + MOST_DIGESTS)
        found = list(self._chain(first, last))
        start = found[0][1]
        if last < head.seq:
            head = sign_head(self._key, self._log, last, found[-1][1], stamp(self._clock()))
        return Extension(head=head, first=first, start=start, digests=tuple(digest for digest, _ in found[1:]))

    def hash_at(self, seq: int) -> bytes | None:
        """The hash after `seq` records; None where there are not so many."""
        return None if seq > self._seq else next(self._chain(seq, seq))[1]

    def _chain(self, first: int, last: int) -> Iterator[tuple[bytes, bytes]]:
        """The digests and hashes of records `first` to `last`, of which 0 is the log's beginning."""
        with self._guard:
            place = bisect_right(self._marks, (max(0, first - 1), 1 << 62)) - 1
            seq, offset = self._marks[place] if place >= 0 else (0, 0)
        if first == 0:
            yield b"", first_hash(self._log)
        with self._path.open("rb") as file:
            file.seek(offset)
            for line in itertools.islice(file, last - seq):
                seq += 1
                if seq >= first:
                    body, carried = split_line(line)
                    yield sha256(body).digest(), bytes.fromhex(carried.decode())

    # -- the file -------------------------------------------------------------------------------------

    @contextmanager
    def _locked(self) -> Iterator[int]:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(self._path, flags, 0o600)
        try:
            if os.fstat(descriptor).st_mode & 0o077:
                raise LocalError(f"{self._path}: others may read or write it; chmod 600 it")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield descriptor
        finally:
            os.close(descriptor)

    @contextmanager
    def _ready(self) -> Iterator[int]:
        """The file, locked, with everything read that others have added."""
        try:
            with self._locked() as descriptor:
                self._catch_up(descriptor)
                yield descriptor
        except OSError as error:
            raise LocalError(f"{self._path}: cannot be written ({error.strerror}); make room and try again") from None

    def _resume(self, descriptor: int) -> None:
        start = _last_seal(descriptor)
        if start is None:
            self._take_first(descriptor)
        else:
            offset, line = start
            head, _ = read_seal(_parsed(line)[0])
            try:
                head.check(self._key.public, "seal")
            except RemoteError:
                self._damaged(f"record {head.seq + 1} is a seal by another key")
            self._log, self._seq, self._hash = head.log, head.seq, head.hash
            self._offset, self._time = offset, head.time
            self._marks = [(self._seq, offset)]
        self._catch_up(descriptor)
        if self._seq == 0:
            self._log = self._random(LOG_BYTES)
            self._hash = first_hash(self._log)
            entries = [begun(self._log, self._name), signer_entry(self._certificate, self._name)]
            self._write(descriptor, entries, sealing=True)
            os.fsync(descriptor)
            sync_folder(self._path.parent)
            sync_folder(self._path.parent.parent)
        elif self._signer(descriptor) != sha256(self._certificate).digest():
            self._write(descriptor, [signer_entry(self._certificate, self._name)], sealing=False)

    def _take_first(self, descriptor: int) -> None:
        """A log that was killed before its first seal has its id in its first record, if that is whole."""
        line = os.pread(descriptor, MOST_LINE_BYTES, 0).split(b"\n", 1)
        if len(line) == 2:
            try:
                self._log, _ = read_begun(_parsed(line[0] + b"\n")[0])
            except ValueError as error:
                self._damaged(str(error))
            self._hash = first_hash(self._log)

    def _signer(self, descriptor: int) -> bytes:
        """The SHA-256 of the certificate that the log names last."""
        for record in read_back(descriptor, self._offset):
            if record.kind == SEALED:
                return read_seal(record)[1]
            if record.kind == SIGNER:
                return sha256(bytes.fromhex(record.detail["certificate"])).digest()
        return b""

    def _catch_up(self, descriptor: int) -> None:
        """Take what is behind what is known; cut off a last line without its end."""
        size = os.fstat(descriptor).st_size
        if size < self._offset:
            self._damaged("it was cut while in use")
        while self._offset < size:
            block = os.pread(descriptor, max(_BLOCK, MOST_LINE_BYTES), self._offset)
            end = block.rfind(b"\n") + 1
            if end == 0:
                if size - self._offset > MOST_LINE_BYTES:
                    self._damaged(f"record {self._seq + 1} is longer than any")
                os.ftruncate(descriptor, self._offset)
                return
            for line in block[:end].splitlines(keepends=True):
                self._take(line)

    def _take(self, line: bytes) -> None:
        try:
            record, carried = _parsed(line)
            body_digest = sha256(split_line(line)[0]).digest()
            chain = chained(self._hash, body_digest)
            if record.seq != self._seq + 1 or chain.hex().encode() != carried:
                raise ValueError("it does not follow the record before")
            if record.kind == SEALED:
                head, _ = read_seal(record)
                if (head.log, head.hash) != (self._log, self._hash):
                    raise ValueError("it seals something else")
                head.check(self._key.public, "seal")
                self._head, self._unsealed = head, 0
            else:
                self._unsealed += 1
        except (ValueError, RemoteError) as error:
            self._damaged(f"record {self._seq + 1}: {error}")
        self._seq, self._hash, self._time = record.seq, chain, record.time
        self._offset += len(line)
        self._unsynced = True
        if self._seq % _MARK_EVERY == 0:
            self._marks.append((self._seq, self._offset))

    def _damaged(self, why: str) -> NoReturn:
        raise LocalError(
            f"{self._path}: was changed by somebody else ({why}); verify it, and move the folder away to begin another"
        )


def whole_bytes(path: Path) -> int:
    """How many bytes of the log in `path` are whole lines now. LocalError where it cannot be read."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH)  # nobody is in the middle of a line
            size = os.fstat(file.fileno()).st_size
            tail = os.pread(file.fileno(), MOST_LINE_BYTES, max(0, size - MOST_LINE_BYTES))
    except OSError as error:
        raise LocalError(f"{path}: cannot be read ({error.strerror})") from None
    return size - len(tail) + tail.rfind(b"\n") + 1


def last_head(path: Path) -> Head:
    """The head that the last seal of the log in `path` says. LocalError where there is none."""
    try:
        with path.open("rb") as file:
            found = _last_seal(file.fileno())
    except OSError as error:
        raise LocalError(f"{path}: cannot be read ({error.strerror})") from None
    if found is None:
        raise LocalError(f"{path}: expected an audit log with a seal; verify it")
    return read_seal(_parsed(found[1])[0])[0]


def read_back(descriptor: int, size: int) -> Iterator[Record]:
    """The records in the first `size` bytes of a file, the last first; lines that are no records are passed over."""
    for _, line in lines_back(descriptor, size):
        try:
            yield _parsed(line)[0]
        except ValueError:
            continue


def _last_seal(descriptor: int) -> tuple[int, bytes] | None:
    """The last seal, where it begins, and its line. Whether it is a good one its signature says."""
    for offset, line in lines_back(descriptor, os.fstat(descriptor).st_size):
        if b'"kind":"' + SEALED.encode() in line:
            try:
                read_seal(_parsed(line)[0])
            except ValueError:
                continue
            return offset, line
    return None


def lines_back(descriptor: int, size: int) -> Iterator[tuple[int, bytes]]:
    """Where each whole line in the first `size` bytes of a file begins, and the line, the last first."""
    rest, end = b"", size
    while end > 0:
        start = max(0, end - _BLOCK)
        block = os.pread(descriptor, end - start, start) + rest
        first = 0 if start == 0 else block.find(b"\n") + 1
        if first == 0 and start > 0:
            rest, end = block, start
            if len(rest) > 4 * _BLOCK:
                return
            continue
        rest, end = block[:first], start
        place = start + len(block)
        for line in reversed(block[first:].splitlines(keepends=True)):
            place -= len(line)
            if line.endswith(b"\n"):
                yield place, line


def _parsed(line: bytes) -> tuple[Record, bytes]:
    body, carried = split_line(line)
    return read_body(body), carried
