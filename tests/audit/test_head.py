"""Heads, and how one follows from another: what is honest is taken, and nothing else."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.audit.logs import OTHER_KEY, SERVER_KEY, SITE_KEY, START
from wardround.audit.head import MOST_DIGESTS, CoSigned, Extension, Head, sign_head
from wardround.audit.record import chained, first_hash, stamp
from wardround.errors import RemoteError
from wardround.link.messages import MAX_NOTICE_BYTES, Notice

LOG = b"L" * 16


def digest(number: int) -> bytes:
    return number.to_bytes(32, "big")


def chain(count: int, fork: int | None = None) -> list[bytes]:
    """The hashes of a log of `count` records; from record `fork` on, of another."""
    found = [first_hash(LOG)]
    for number in range(1, count + 1):
        found.append(chained(found[-1], digest(number + (1000 if fork is not None and number >= fork else 0))))
    return found


def head(hashes: list[bytes]) -> Head:
    return sign_head(SERVER_KEY, LOG, len(hashes) - 1, hashes[-1], stamp(START))


def extension(first: int, count: int, fork: int | None = None) -> Extension:
    hashes = chain(count, fork)
    numbers = range(first + 1, count + 1)
    digests = tuple(digest(n + (1000 if fork is not None and n >= fork else 0)) for n in numbers)
    return Extension(head=head(hashes), first=first, start=hashes[first], digests=digests)


@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 30))
def test_an_honest_extension_leads_through_what_is_known(first: int, known: int, count: int) -> None:
    first, known, count = sorted((first, known, count))
    extension(first, count).check(head(chain(known)))
    assert Extension.decode(extension(first, count).encode()) == extension(first, count)


@given(st.integers(1, 30), st.integers(0, 30), st.integers(0, 30), st.integers(1, 30))
def test_another_history_does_not(fork: int, first: int, known: int, count: int) -> None:
    first, known, count = sorted((first, known, count))
    if fork > known:
        return
    with pytest.raises(RemoteError, match=f"its first {known} records are not those that were there"):
        extension(first, count, fork).check(head(chain(known)))


def test_what_is_behind_or_leaves_out_or_is_another_log_is_refused_with_the_reason() -> None:
    with pytest.raises(RemoteError, match="it has 5 records, and had 9"):
        extension(2, 5).check(head(chain(9)))
    with pytest.raises(RemoteError, match="it leaves out records 4 to 6"):
        extension(6, 9).check(head(chain(3)))
    with pytest.raises(RemoteError, match="it is another log"):
        extension(0, 9).check(replace(head(chain(3)), log=bytes(16)))
    with pytest.raises(RemoteError, match="its head does not follow"):
        replace(extension(3, 9), start=digest(7)).check(None)
    with pytest.raises(RemoteError, match="its head does not follow"):
        replace(extension(3, 9), start=digest(7)).check(head(chain(3)))


def test_the_largest_extension_fits_into_a_notice() -> None:
    many = tuple(digest(n) for n in range(MOST_DIGESTS))
    made = Extension(head=replace(head(chain(3)), seq=MOST_DIGESTS), first=0, start=bytes(32), digests=many)
    assert len(Notice(kind="head", body=made.encode()).body) < MAX_NOTICE_BYTES
    with pytest.raises(ValueError, match="a digest for each record"):
        Extension(head=made.head, first=0, start=bytes(32), digests=(*many, bytes(32)))


def test_signatures_are_of_one_key_and_one_content() -> None:
    one, later = head(chain(4)), stamp(START.replace(day=2))
    one.check(SERVER_KEY.public, "server")
    for changed in (
        replace(one, seq=5),
        replace(one, hash=bytes(32)),
        replace(one, log=bytes(16)),
        replace(one, time=later),
    ):
        with pytest.raises(RemoteError):
            changed.check(SERVER_KEY.public, "server")
    with pytest.raises(RemoteError):
        one.check(OTHER_KEY.public, "server")
    signed = CoSigned.make(SITE_KEY, one, "Hospital A", START)
    signed.check(SITE_KEY.public)
    for bad in (replace(signed, site="Hospital B"), replace(signed, at=later), replace(signed, head=head(chain(3)))):
        with pytest.raises(RemoteError, match="expected a valid signature"):
            bad.check(SITE_KEY.public)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=80),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=8,
)


@given(st.binary(max_size=300) | VALUES.map(lambda value: json.dumps(value).encode()))
def test_what_is_no_extension_is_refused(body: bytes) -> None:
    with pytest.raises(RemoteError, match=r"^head: expected"):
        Extension.decode(body)


@given(st.sampled_from(["head", "first", "start", "digests", "log", "seq", "hash", "time", "signature"]), VALUES)
def test_every_field_is_checked(name: str, value: object) -> None:
    table = json.loads(extension(2, 5).encode())
    inside = table if name in table else table["head"]
    if inside[name] == value:
        return
    inside[name] = value
    with pytest.raises(RemoteError):
        found = Extension.decode(json.dumps(table).encode())
        found.head.check(SERVER_KEY.public, "server")
        found.check(head(chain(2)))


@given(VALUES)
def test_what_is_no_co_signed_head_is_refused(value: object) -> None:
    for read in (Head.of, CoSigned.of):
        with pytest.raises(ValueError, match=r"."):
            read(value)


def test_keys_that_a_newer_server_adds_are_left_alone() -> None:
    table = json.loads(extension(2, 5).encode()) | {"witnesses": 3}
    assert Extension.decode(json.dumps(table).encode()) == extension(2, 5)
