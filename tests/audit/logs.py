"""Logs to test on: an authority, two owners, and what is done to a log's lines."""

import os
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from io import BytesIO
from pathlib import Path

from wardround.audit.log import LOG_FILE, AuditLog
from wardround.audit.record import Entry, chained, encode_body, line_of, read_body, split_line
from wardround.audit.verify import SeenHead, Verified, verify_log
from wardround.evidence_identity import RESERVED_SERVER_NAME
from wardround.identity import Authority, issue_certificate, make_authority
from wardround.signing_key import SigningKey

START = datetime(2026, 3, 1, 8, tzinfo=UTC)
YEAR = timedelta(days=365)
LONG = (START - timedelta(days=1), START + YEAR)


def key_of(number: int) -> SigningKey:
    return SigningKey(sha256(b"test key %d" % number).digest())


def _same(size: int) -> bytes:
    return bytes(size)


def certificate_of(
    key: SigningKey, name: str, valid: tuple[datetime, datetime] = LONG, *, by: SigningKey | None = None
) -> bytes:
    by = by or AUTHORITY_KEY
    der = make_authority(by, "cardio", not_before=LONG[0], not_after=LONG[1], random=_same)
    return issue_certificate(
        der,
        by,
        name=name,
        public=key.public,
        not_before=valid[0],
        not_after=valid[1],
        random=_same,
    )


AUTHORITY_KEY = key_of(0)
AUTHORITY_DER = make_authority(AUTHORITY_KEY, "cardio", not_before=LONG[0], not_after=LONG[1], random=_same)
AUTHORITY = Authority(AUTHORITY_DER)
SERVER_KEY, SITE_KEY, OTHER_KEY = key_of(1), key_of(2), key_of(3)


@dataclass(slots=True)
class Clock:
    """A clock that goes on by a second at each look."""

    now: datetime = START
    step: timedelta = timedelta(seconds=1)

    def __call__(self) -> datetime:
        self.now += self.step
        return self.now


@dataclass(slots=True)
class Owner:
    """Who has a log in `folder`."""

    folder: Path
    name: str = RESERVED_SERVER_NAME
    key: SigningKey = SERVER_KEY
    clock: Clock = field(default_factory=Clock)
    certificate: bytes = b""

    def open(self) -> AuditLog:
        return AuditLog.open(
            self.folder,
            name=self.name,
            key=self.key,
            certificate=self.certificate or certificate_of(self.key, self.name),
            clock=self.clock,
            random=os.urandom,
        )

    @property
    def path(self) -> Path:
        return self.folder / LOG_FILE

    def lines(self) -> list[bytes]:
        return self.path.read_bytes().splitlines(keepends=True)

    def verify(self, *heads: SeenHead) -> Verified:
        return verify_lines(self.lines(), *heads)


def entries(count: int, kind: str = "round.done") -> list[Entry]:
    return [
        Entry(kind=kind, subject=f"run {number}", detail={"round": number, "reply": "ab" * 8})
        for number in range(1, count + 1)
    ]


def verify_lines(lines: list[bytes], *heads: SeenHead) -> Verified:
    return verify_log(BytesIO(b"".join(lines)), AUTHORITY, heads=heads)


def rechained(lines: list[bytes]) -> list[bytes]:
    """The lines with their hashes made to fit again, as anybody can do; the seals are as they were."""
    out: list[bytes] = []
    chain = None
    for line in lines:
        body, carried = split_line(line)
        if chain is None:
            out.append(line)
            chain = bytes.fromhex(carried.decode())
            continue
        chain = chained(chain, sha256(body).digest())
        out.append(line_of(body, chain))
    return out


def forged(line: bytes, **changes: object) -> bytes:
    """The line with other fields, written as we write; its hash fits nothing."""
    body, carried = split_line(line)
    record = read_body(body)
    known = {"seq": record.seq, "time": record.time, "kind": record.kind, "subject": record.subject}
    known |= {"detail": record.detail} | changes
    seq, time = known.pop("seq"), known.pop("time")
    assert isinstance(seq, int) and isinstance(time, str)
    new = encode_body(seq, time, Entry(**known), "00" * 16)  # type: ignore[arg-type]
    return line_of(new, bytes.fromhex(carried.decode()))
