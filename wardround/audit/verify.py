"""The check of a whole log, from its first record to its last: nothing of it is believed but what the authority signed.

Read as a stream, in one pass and bounded memory. What is found first is raised, and names the record.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from wardround.audit.head import Head
from wardround.audit.log import whole_bytes
from wardround.audit.record import (
    CLOCK_SET_BACK,
    MOST_LINE_BYTES,
    SEALED,
    SIGNER,
    Record,
    chained,
    first_hash,
    minute,
    read_body,
    split_line,
    stamp,
    time_of,
)
from wardround.audit.seal import SEAL_EVERY, read_begun, read_seal, read_signer
from wardround.errors import RemoteError
from wardround.evidence_identity import signer, valid_until
from wardround.identity import Authority
from wardround.plain_text import plain_text

__all__ = ["BadRecordError", "SeenHead", "Verified", "verify_file", "verify_log"]

_AHEAD = 1000
"""Lines that are looked at behind the first bad one, to say what has happened to it."""


class BadRecordError(RemoteError):
    """A log is not as its owner wrote it; `record` is the number of the first record that is not."""

    def __init__(self, record: int, what: str) -> None:
        super().__init__(f"record {record}: {what}")
        self.record = record


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenHead:
    """A head of the log that was kept elsewhere; `by` says where. Its signature is checked with the log's own keys."""

    head: Head
    by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """A log without a fault. `sealed` of its `records` are under a seal; `agreed` heads from elsewhere fit.

    `remarks` are what is no fault, and worth knowing.
    """

    log: bytes
    name: str
    records: int
    sealed: int
    begun: str
    ended: str
    head: Head
    agreed: int
    remarks: tuple[str, ...]


def verify_log(
    file: BinaryIO,
    authority: Authority,
    *,
    heads: Iterable[SeenHead] = (),
    size: int | None = None,
    each: Callable[[Record], None] = lambda record: None,
) -> Verified:
    """What there is in a log, if it is whole, in order, sealed by its owner, and goes through every one of `heads`.

    Reads `size` bytes, or all. `each` is given every record. Raises BadRecordError with the first bad record for: a
    byte that was changed, a record that was taken out, put in or moved, an end that was cut off (a line, or records
    that a seal or one of `heads` counts), a seal that is not by the key that the authority certifies for the log's
    owner, and a time that goes back without saying so. What none of this shows: an end that was cut off
    behind the last head that anybody kept.
    """
    lines = _Lines(file, size)
    check = _Check(authority, heads)
    for line in lines:
        try:
            record = check.take(line)
        except BadRecordError as fault:
            if fault.record != check.number:
                raise
            raise _explained(fault, line, list(islice(lines, _AHEAD))) from None
        each(record)
    return check.end()


def verify_file(path: Path, authority: Authority, *, heads: Iterable[SeenHead] = ()) -> Verified:
    """`verify_log` of the log in `path`, as far as it goes now; others may add to it meanwhile."""
    size = whole_bytes(path)
    with path.open("rb") as file:
        found = verify_log(file, authority, heads=heads, size=size)
        if size < os.fstat(file.fileno()).st_size and whole_bytes(path) == size:
            raise BadRecordError(found.records + 1, "is cut off; whoever adds the next record takes it away")
        return found


class _Lines:
    """The lines of a file, none of them longer than a record may be and a few bytes."""

    def __init__(self, file: BinaryIO, size: int | None) -> None:
        self._file, self._left = file, size

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        most = MOST_LINE_BYTES + 1
        if self._left is not None:
            most = min(most, self._left)
        line = self._file.readline(most)
        if not line:
            raise StopIteration
        if self._left is not None:
            self._left -= len(line)
        return line


class _Check:
    """What is known after some records."""

    def __init__(self, authority: Authority, heads: Iterable[SeenHead]) -> None:
        self._authority = authority
        self._wanted: dict[int, list[SeenHead]] = {}
        for one in heads:
            self._wanted.setdefault(one.head.seq, []).append(one)
        self._seq, self._hash, self._time = 0, b"", ""
        self._log, self._name, self._begun = b"", "", ""
        self._public, self._certificate, self._good_until = b"", b"", ""
        self._head: Head | None = None
        self._unsealed = self._agreed = self._agreed_at = 0
        self._remarks: list[str] = []

    @property
    def number(self) -> int:
        """That of the next record."""
        return self._seq + 1

    def take(self, line: bytes) -> Record:
        """Take the next line. Raises BadRecordError, and is of no more use then."""
        number = self.number
        try:
            body, carried = split_line(line)
            if number == 1:
                self._begin(read_body(body))
            chain = chained(self._hash, sha256(body).digest())
            if chain.hex().encode() != carried:
                raise BadRecordError(number, "was changed after it was written")
            record = read_body(body)
        except ValueError as error:
            raise BadRecordError(number, _damage(line, error)) from None
        if record.seq != number:
            raise BadRecordError(number, f"calls itself record {record.seq}")
        if record.time < self._time and (record.kind != CLOCK_SET_BACK or record.detail.get("from") != self._time):
            raise BadRecordError(number, f"has the time {record.time}, the one before it {self._time}")
        if record.kind == CLOCK_SET_BACK:
            self._remarks.append(f"record {number}: the clock was set back")
        if record.kind == SEALED:
            self._seal(record)
        else:
            if record.kind == SIGNER:
                self._signer(record)
            self._unsealed += 1
            if self._unsealed > SEAL_EVERY:
                raise BadRecordError(number, f"expected a seal after {SEAL_EVERY} records")
        self._seq, self._hash, self._time = number, chain, record.time
        if number in self._wanted:
            self._agree(self._wanted.pop(number))
        return record

    def _begin(self, record: Record) -> None:
        self._log, self._name = read_begun(record)
        self._hash, self._begun = first_hash(self._log), record.time

    def _signer(self, record: Record) -> None:
        try:
            self._certificate = read_signer(record)
            at = time_of(record.time)
            self._public = signer(self._authority, self._certificate, self._name, at)
            self._good_until = stamp(valid_until(self._certificate))
        except (ValueError, RemoteError) as error:
            raise BadRecordError(record.seq, f"names a key that is not the owner's ({error})") from None

    def _seal(self, record: Record) -> None:
        try:
            head, by = read_seal(record)
        except ValueError as error:
            raise BadRecordError(record.seq, f"is no seal ({error})") from None
        try:
            if (head.log, head.hash, by) != (self._log, self._hash, sha256(self._certificate).digest()):
                raise RemoteError("is of something else")
            head.check(self._public, "seal")
        except RemoteError:
            sealed = 0 if self._head is None else self._head.seq
            raise BadRecordError(
                sealed + 1,
                f"it or one of those up to {record.seq} is not what {self._name!r} wrote: its key has not made the "
                f"seal in record {record.seq} for them",
            ) from None
        if record.time > self._good_until:
            self._good_until = "~"  # once for a certificate
            self._remarks.append(f"record {record.seq}: sealed after the certificate of its key had ended")
        self._head, self._unsealed = head, 0

    def _agree(self, seen: list[SeenHead]) -> None:
        for one in seen:
            self._check_signed(one)
            if (one.head.log, one.head.hash) != (self._log, self._hash):
                raise BadRecordError(
                    self._agreed_at + 1,
                    f"it or one of those up to {self._seq} is not what was there on {minute(one.head.time)}, when the "
                    f"log had {self._seq} records: a head says so that was kept {one.by}",
                )
            self._agreed += 1
        self._agreed_at = self._seq

    def _check_signed(self, one: SeenHead) -> None:
        """Whoever kept a head cannot accuse the log's owner with one that it did not sign."""
        try:
            one.head.check(self._public, "head")
        except RemoteError:
            raise RemoteError(f"a head that was kept {one.by} is not signed by {self._name!r}") from None

    def end(self) -> Verified:
        """What the whole log is. Raises BadRecordError where something is missing at its end."""
        if self._head is None:
            raise BadRecordError(self._seq + 1, "is missing: a log begins with its owner's key and a seal")
        if self._wanted:
            one = self._wanted[max(self._wanted)][0]
            self._check_signed(one)
            raise BadRecordError(
                self._seq + 1,
                f"is missing: on {minute(one.head.time)} there were {one.head.seq} records, as a head says that was "
                f"kept {one.by}",
            )
        if self._unsealed:
            self._remarks.append(f"the last {self._unsealed} records have no seal yet")
        return Verified(
            log=self._log,
            name=self._name,
            records=self._seq,
            sealed=self._head.seq,
            begun=self._begun,
            ended=self._time,
            head=self._head,
            agreed=self._agreed,
            remarks=tuple(self._remarks),
        )


def _damage(line: bytes, error: ValueError) -> str:
    if not line.endswith(b"\n"):
        return "is cut off" if len(line) <= MOST_LINE_BYTES else "is longer than a record can be"
    return f"is damaged ({plain_text(str(error))})"


def _explained(fault: BadRecordError, line: bytes, following: list[bytes]) -> BadRecordError:
    """`fault` in the words for what was done, where the numbers in the lines behind say it."""
    number = fault.record
    found, later = _number_in(line), [_number_in(one) for one in following]
    if found == number and later[:1] == [number]:
        return BadRecordError(number, "was put in: another record of this number follows")
    if found is None or found == number:
        return fault
    if found > number and number in later:
        return BadRecordError(number, f"stands behind record {found}: they were swapped or moved")
    if found > number:
        return BadRecordError(number, f"is missing: record {found} follows")
    return BadRecordError(number, f"in its place stands a record {found} that was put in")


def _number_in(line: bytes) -> int | None:
    try:
        return read_body(split_line(line)[0]).seq
    except ValueError:
        return None
