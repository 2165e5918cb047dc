"""A record of an audit log: one line of JSON that carries the hash of itself and of everything before it.

    {"seq":7,"time":"2026-11-30T09:00:00.000000Z","kind":"plan.approved","subject":"...","detail":{...},"salt":"...",
     "hash":"..."}

The body is the line without its last key. With |...| for SHA-256, the hash of record i is

    h_i = | "wardround audit 1\\0record" h_(i-1) | body_i | |        h_0 = | "wardround audit 1\\0log" id of the log |

so that whoever has h_i has fixed every byte before it (Schneier and Kelsey, "Secure audit logs to support computer
forensics", 1999, section 4), and whoever has the digests of the bodies between can follow the chain from h_i to a later
one without seeing a body. The salt, 16 random bytes, keeps such a digest from telling what it is of by trying.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

from wardround.plain_text import plain_text

__all__ = [
    "BEGUN",
    "CLOCK_SET_BACK",
    "MOST_LINE_BYTES",
    "SEALED",
    "SIGNER",
    "Entry",
    "Record",
    "chained",
    "encode_body",
    "first_hash",
    "line_of",
    "minute",
    "read_body",
    "split_line",
    "stamp",
    "time_of",
]

MOST_LINE_BYTES = 1 << 16
BEGUN, SIGNER, SEALED, CLOCK_SET_BACK = "log.begun", "log.signer", "log.sealed", "log.clock_set_back"
"""The kinds of records that are about the log itself."""
_CONTEXT = b"wardround audit 1\0"
_RECORD = _CONTEXT + b"record"
_HASH_KEY, _END = b',"hash":"', b'"}\n'
_TAIL = len(_HASH_KEY) + 64 + len(_END)
_MOST_KIND, _MOST_SUBJECT = 80, 255
_KEYS = ["seq", "time", "kind", "subject", "detail", "salt"]
_encode = json.JSONEncoder(ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode
_HEX = frozenset("0123456789abcdef")
_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789_.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What is to be written: `kind` is `noun.verb`, `subject` whom or what it is about, `detail` JSON."""

    kind: str
    subject: str = ""
    detail: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not is_kind(self.kind):
            raise ValueError(f"expected a kind as `noun.verb`, got {plain_text(self.kind, _MOST_KIND)!r}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A record as it was read. `time` is as `stamp` writes it."""

    seq: int
    time: str
    kind: str
    subject: str
    detail: Mapping[str, Any]


def is_kind(text: str) -> bool:
    return 0 < len(text) <= _MOST_KIND and "." in text and _LETTERS.issuperset(text)


def stamp(time: datetime) -> str:
    """A time as records have it: UTC, to the microsecond, always of the same length, so that it sorts as text."""
    if time.tzinfo is None:
        raise ValueError("expected a time with its zone, got one without")
    return f"{time.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"


def time_of(text: str) -> datetime:
    """The inverse of `stamp`. Raises ValueError for anything else."""
    time = datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)
    if stamp(time) != text:
        raise ValueError(f"expected a time as 2026-11-30T09:00:00.000000Z, got {plain_text(text, 40)!r}")
    return time


def minute(text: str) -> str:
    """A time as records have it, for a person."""
    return f"{text[:10]} {text[11:16]} UTC"


def first_hash(log: bytes) -> bytes:
    """h_0 of the log with this id."""
    return sha256(_CONTEXT + b"log" + log).digest()


def chained(before: bytes, body_digest: bytes) -> bytes:
    """h_i, from h_(i-1) and the SHA-256 of the i-th body."""
    return sha256(_RECORD + before + body_digest).digest()


def encode_body(seq: int, time: str, entry: Entry, salt: str) -> bytes:
    """The body of a record. Of a detail that is too long for a line there is its length and SHA-256 instead."""
    subject = entry.subject
    if len(subject) > _MOST_SUBJECT or not subject.isprintable():
        subject = plain_text(subject, _MOST_SUBJECT)
    table = {
        "seq": seq,
        "time": time,
        "kind": entry.kind,
        "subject": subject,
        "detail": entry.detail,
        "salt": salt,
    }
    body = _encode(table).encode()
    if len(body) + _TAIL > MOST_LINE_BYTES:
        whole = _encode(entry.detail).encode()
        table["detail"] = {"left_out_bytes": len(whole), "left_out_sha256": sha256(whole).hexdigest()}
        body = _encode(table).encode()
    return body


def line_of(body: bytes, chain_hash: bytes) -> bytes:
    """The line of a record."""
    return body[:-1] + _HASH_KEY + chain_hash.hex().encode() + _END


def split_line(line: bytes) -> tuple[bytes, bytes]:
    """The body of a line, and the hash that it carries (64 hexadecimal digits). Raises ValueError for no record."""
    if (
        len(line) > MOST_LINE_BYTES
        or line[-_TAIL : len(_HASH_KEY) - _TAIL] != _HASH_KEY
        or line[-len(_END) :] != _END
        or line[:1] != b"{"
    ):
        raise ValueError("expected a record of an audit log")
    return line[:-_TAIL] + b"}", line[len(_HASH_KEY) - _TAIL : -len(_END)]


def read_body(body: bytes) -> Record:
    """The record with this body. Raises ValueError unless it is written in exactly the one way that we write it."""
    try:
        text = body.decode("ascii")
        table = json.loads(text)
        if list(table) != _KEYS or _encode(table) != text:
            raise ValueError
        seq, time, kind, subject, detail, salt = table.values()
        if not (
            type(seq) is int
            and type(time) is str
            and len(time) == 27
            and type(kind) is str
            and is_kind(kind)
            and type(subject) is str
            and type(detail) is dict
            and type(salt) is str
            and len(salt) == 32
            and _HEX.issuperset(salt)
        ):
            raise ValueError
        _check_time(time)
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise ValueError("expected a record of an audit log, written as wardround writes it") from None
    return Record(seq=seq, time=time, kind=kind, subject=subject, detail=detail)


_last_second = ""


def _check_time(time: str) -> None:
    """ValueError for what `stamp` does not write; most records are of the same second as the one before."""
    global _last_second
    second = time[:19]
    if second == _last_second and time[19] == "." and time[26] == "Z" and time[20:26].isdecimal() and time.isascii():
        return
    time_of(time)
    _last_second = second
