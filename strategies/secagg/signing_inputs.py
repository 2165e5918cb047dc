"""What is signed: inputs that no two domains, runs, epochs, rounds or committees share.

What is signed is `wardround secagg 1` and a zero byte, the domain (one byte for its length, ASCII), the run (two bytes
for its length, UTF-8), epoch (4 bytes), round (4), committee (2), and then the domain's body. So no signature is of use
in another domain, run, epoch, round or committee. What belongs to no round or committee has 0 there.

    domain      round  committee  body
    hello       0      0          the fields of the Entry
    roster      0      0          SHA-256 of the Roster
    descriptor  yes    0          h
    M1          yes    yes        h, SHA-256 of the Header
    U           yes    yes        h, SHA-256 of the SurvivorList
    reports     yes    yes        h, the number of reports (4 bytes), each report
    result      yes    yes        h, the number of groups (4 bytes), each group
    key         0      0          SHA-256 of the KeyHeader
    E1          yes    0          h, SHA-256 of the EncryptedHeader
    opened      yes    0          h, SHA-256 of the SurvivorList, the digest of the sum

h is SHA-256 of the Descriptor. Every SHA-256 of a message is over its whole binary form.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from wardround.strategies.he.messages import EncryptedHeader, KeyHeader
from wardround.strategies.secagg.messages import Descriptor, Entry, GroupSum, Header, Report, digest_of
from wardround.strategies.secagg.wire import U16, U32, Name, Record, written

__all__ = [
    "descriptor_input",
    "encrypted_input",
    "header_input",
    "hello_input",
    "key_input",
    "opened_input",
    "reports_input",
    "result_input",
    "roster_input",
    "survivors_input",
]


class _Domain(StrEnum):
    HELLO = "hello"
    ROSTER = "roster"
    DESCRIPTOR = "descriptor"
    M1 = "M1"
    U = "U"
    REPORTS = "reports"
    RESULT = "result"
    KEY = "key"
    ENCRYPTED = "E1"
    OPENED = "opened"


def hello_input(entry: Entry) -> bytes:
    """What a member signs to enter an epoch."""
    return _signing_input(_Domain.HELLO, entry.run, entry.epoch, 0, 0, written(entry))


def roster_input(run: str, epoch: int, roster: bytes) -> bytes:
    """What a member signs, once for each run and epoch, of the roster with this digest."""
    return _signing_input(_Domain.ROSTER, run, epoch, 0, 0, roster)


def descriptor_input(descriptor: Descriptor) -> bytes:
    """What the server signs to start a round."""
    return _round_input(_Domain.DESCRIPTOR, descriptor, 0, b"")


def header_input(descriptor: Descriptor, header: Header) -> bytes:
    """What a member signs of its M1, in the round of `descriptor`."""
    return _round_input(_Domain.M1, descriptor, header.committee, digest_of(header))


def survivors_input(descriptor: Descriptor, committee: int, survivors: bytes) -> bytes:
    """What a committee's member signs, once for each run, epoch and round, of the list with this digest."""
    return _round_input(_Domain.U, descriptor, committee, survivors)


def reports_input(descriptor: Descriptor, committee: int, reports: Sequence[Report]) -> bytes:
    """What a committee's member signs of its reports."""
    return _round_input(_Domain.REPORTS, descriptor, committee, _listed(reports))


def result_input(descriptor: Descriptor, committee: int, groups: Sequence[GroupSum]) -> bytes:
    """What the server signs of a result."""
    return _round_input(_Domain.RESULT, descriptor, committee, _listed(groups))


def key_input(header: KeyHeader) -> bytes:
    """What the dealer of an epoch's homomorphic key signs."""
    return _signing_input(_Domain.KEY, header.run, header.epoch, 0, 0, digest_of(header))


def encrypted_input(descriptor: Descriptor, header: EncryptedHeader) -> bytes:
    """What a member signs of its encrypted update, in the round of `descriptor`."""
    return _round_input(_Domain.ENCRYPTED, descriptor, 0, digest_of(header))


def opened_input(descriptor: Descriptor, survivors: bytes, total: bytes) -> bytes:
    """What an opener signs: that the sum of the list with this digest has this digest."""
    return _round_input(_Domain.OPENED, descriptor, 0, survivors + total)


def _round_input(domain: _Domain, descriptor: Descriptor, committee: int, body: bytes) -> bytes:
    body = digest_of(descriptor) + body
    return _signing_input(domain, descriptor.run, descriptor.epoch, descriptor.round, committee, body)


def _signing_input(domain: _Domain, run: str, epoch: int, round_: int, committee: int, body: bytes) -> bytes:
    return _before_body(domain, run, epoch, round_, committee) + body


@lru_cache(maxsize=64)
def _before_body(domain: _Domain, run: str, epoch: int, round_: int, committee: int) -> bytes:
    context = _Context(run=run, epoch=epoch, round=round_, committee=committee)
    return b"".join((b"wardround secagg 1\0", bytes((len(domain),)), domain.encode(), written(context)))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Context(Record):
    run: Name
    epoch: U32
    round: U32
    committee: U16


def _listed(records: Sequence[Record]) -> bytes:
    return b"".join((len(records).to_bytes(4, "little"), *map(written, records)))
