"""The messages of homomorphic aggregation: one encoding each, bounded, and nothing worse than a RemoteError."""

import hashlib
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.strategies.he.encrypted_group import EncryptedGroup
from wardround.errors import RemoteError
from wardround.strategies.he.he_plan import Form
from wardround.strategies.he.messages import (
    Encrypted,
    EncryptedHeader,
    EncryptedOffer,
    KeyAccepted,
    KeyDeal,
    KeyHeader,
    KeyOffer,
    KeyRequest,
    OfferedUpdate,
    Opened,
    OpenRequest,
    Wanted,
    chunks_digest,
    chunks_in,
)
from wardround.strategies.secagg.messages import (
    Descriptor,
    RoundStart,
    SurvivorVote,
    UnmaskRequest,
    decode,
    digest_of,
    encode,
    encode_parts,
    survivors_of,
)
from wardround.strategies.secagg.signing_inputs import encrypted_input, key_input, opened_input, survivors_input
from wardround.strategies.secagg.wire import Record

KINDS = (KeyRequest, KeyDeal, KeyOffer, KeyAccepted, Encrypted, EncryptedOffer, OpenRequest, Opened)
EVERY = [*(kind.__name__ for kind in KINDS), "KeyHeader", "EncryptedHeader"]

digests, signatures = st.binary(min_size=32, max_size=32), st.binary(min_size=64, max_size=64)
names = st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=20)
U16, U32 = st.integers(0, 2**16 - 1), st.integers(0, 2**32 - 1)
blobs = st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=5).map(tuple)
boxes = st.lists(st.binary(max_size=40), max_size=5).map(tuple)


def records(kind: Any, **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.builds(kind, **fields)


key_headers = records(
    KeyHeader,
    run=names,
    epoch=U32,
    roster=digests,
    dealer=U16,
    form=st.sampled_from(Form),
    context=st.binary(max_size=60),
    fingerprint=digests,
    archive=digests,
    boxes=st.lists(digests, max_size=5).map(tuple),
)
headers = records(EncryptedHeader, h=digests, member=U16, size=U32, scalars=U32, chunks=digests)


@st.composite
def encrypted(draw: st.DrawFn) -> Encrypted:
    chunks = draw(blobs)
    return Encrypted(
        header=draw(headers), signature=draw(signatures), sizes=tuple(map(len, chunks)), chunks=b"".join(chunks)
    )


@st.composite
def offers(draw: st.DrawFn) -> EncryptedOffer:
    base, members = draw(headers), sorted(draw(st.sets(U16, min_size=1, max_size=5)))
    return EncryptedOffer(
        h=draw(digests),
        members=tuple(
            OfferedUpdate(header=replace(base, member=member, chunks=draw(digests)), signature=draw(signatures))
            for member in members
        ),
    )


@st.composite
def requests(draw: st.DrawFn) -> OpenRequest:
    chunks, members = draw(blobs), sorted(draw(st.sets(U16, min_size=1, max_size=5)))
    votes = tuple(SurvivorVote(member=member, signature=draw(signatures)) for member in members)
    return OpenRequest(
        request=UnmaskRequest(h=draw(digests), committee=draw(U16), survivors=draw(digests), votes=votes),
        wanted=draw(st.sampled_from(Wanted)),
        sizes=tuple(map(len, chunks)),
        chunks=b"".join(chunks),
    )


MESSAGES: st.SearchStrategy[Record] = st.one_of(
    records(KeyRequest, run=names, epoch=U32, roster=digests),
    records(KeyDeal, header=key_headers, signature=signatures, boxes=boxes),
    records(KeyOffer, header=key_headers, signature=signatures, box=st.binary(max_size=60)),
    records(KeyAccepted, run=names, epoch=U32, fingerprint=digests),
    key_headers,
    headers,
    encrypted(),
    offers(),
    requests(),
    records(
        Opened,
        h=digests,
        member=U16,
        survivors=digests,
        sum=digests,
        words=st.binary(max_size=40),
        scalars=st.binary(max_size=40),
        signature=signatures,
    ),
)


@cache
def made() -> dict[str, Any]:
    """One of each, as a round sends them."""
    group = EncryptedGroup()
    group.start_epoch()
    group.run_round()
    found: dict[str, Any] = {}
    for _, _, message in group.sent:
        found.setdefault(type(message).__name__, message)
    found["KeyHeader"], found["EncryptedHeader"] = found["KeyDeal"].header, found["Encrypted"].header
    return found


# -- one encoding for each value, one value for each encoding ------------------------------------------------


@pytest.mark.parametrize("name", EVERY)
def test_messages_of_a_round_survive_the_wire(name: str) -> None:
    message = made()[name]
    data = encode(message)
    assert decode(data) == message
    assert encode(decode(data)) == data == b"".join(encode_parts(message))
    assert digest_of(message) == hashlib.sha256(data).digest()


@settings(max_examples=300, deadline=None)
@given(MESSAGES)
def test_any_message_survives_the_wire(message: Record) -> None:
    data = encode(message)
    assert decode(data) == message and encode(decode(data)) == data


@settings(max_examples=100, deadline=None)
@given(MESSAGES)
def test_every_truncation_and_every_surplus_is_refused(message: Record) -> None:
    data = encode(message)
    for end in range(len(data)):
        with pytest.raises(RemoteError):
            decode(data[:end])
    with pytest.raises(RemoteError, match="expected the end, got 1 bytes more"):
        decode(data + b"\0")


@settings(max_examples=500, deadline=None)
@given(MESSAGES, st.data())
def test_mutated_bytes_are_a_remote_error_or_the_one_encoding_of_another_message(
    message: Record, data: st.DataObject
) -> None:
    changed = bytearray(encode(message))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(changed) - 1))
        kind = data.draw(st.sampled_from(["flip", "set", "insert", "delete"]))
        if kind == "flip":
            changed[at] ^= 1 << data.draw(st.integers(0, 7))
        elif kind == "set":
            changed[at] = data.draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]))
        elif kind == "insert":
            changed[at:at] = data.draw(st.binary(min_size=1, max_size=9))
        elif len(changed) > 1:
            del changed[at]
    try:
        found = decode(bytes(changed))
    except RemoteError as error:
        assert len(str(error)) < 400 and str(error).isprintable()
        return
    assert encode(found) == bytes(changed)


@given(st.sampled_from(range(18, 28)), st.binary(max_size=300))
def test_other_bytes_are_a_remote_error(kind: int, data: bytes) -> None:
    frame = b"WSA1" + bytes((kind,)) + data
    try:
        found = decode(frame)
    except RemoteError:
        return
    assert encode(found) == frame


@pytest.mark.parametrize("name", EVERY)
def test_a_length_beyond_the_bytes_at_hand_costs_no_memory(name: str) -> None:
    """Every byte near the start in turn becomes 255, so that each length is once far too large."""
    data = encode(made()[name])
    for at in (*range(5, min(len(data), 200)), *range(200, len(data), max(1, len(data) // 20))):
        changed = bytearray(data)
        changed[at : at + 2] = b"\xff\xff"
        frame = bytes(changed)
        tracemalloc.start()
        try:
            decode(frame)
        except RemoteError:
            pass
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert peak < 3 * len(data) + 50_000


def test_an_update_is_neither_copied_to_be_sent_nor_to_be_read() -> None:
    chunks = bytes(4 << 20)
    one = Encrypted(header=made()["EncryptedHeader"], signature=bytes(64), sizes=(len(chunks),), chunks=chunks)
    assert any(part is chunks for part in encode_parts(one))
    data = encode(one)
    tracemalloc.start()
    found = decode(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000
    assert isinstance(found, Encrypted) and isinstance(found.chunks, memoryview) and found.chunks.readonly


@pytest.mark.parametrize(
    ("kind", "most"), [(18, 1 << 10), (19, 1 << 19), (21, 1 << 20), (22, 1 << 10), (23, 1 << 8), (25, 1 << 20)]
)
def test_more_bytes_than_a_kind_can_need_are_refused_unread(kind: int, most: int) -> None:
    with pytest.raises(RemoteError, match=f"expected at most {most} bytes, got {most + 1}"):
        decode(b"WSA1" + bytes((kind,)) + bytes(most - 4))


# -- fields that do not fit together -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("Encrypted", lambda one: {"sizes": one.sizes[:1]}),
        ("Encrypted", lambda one: {"sizes": (*one.sizes, 1)}),
        ("Encrypted", lambda one: {"sizes": (*one.sizes, 0)}),
        ("Encrypted", lambda one: {"sizes": (sum(one.sizes), 0)}),
        ("Encrypted", lambda one: {"sizes": ()}),
        ("Encrypted", lambda one: {"chunks": bytes(one.chunks)[:-1]}),
        ("OpenRequest", lambda one: {"sizes": one.sizes[:1]}),
        ("OpenRequest", lambda one: {"sizes": (), "chunks": b""}),
        ("OpenRequest", lambda one: {"wanted": 3}),
        ("EncryptedOffer", lambda one: {"members": ()}),
        ("EncryptedOffer", lambda one: {"members": (one.members[0], *one.members)}),
        ("EncryptedOffer", lambda one: {"members": one.members[::-1]}),
        ("EncryptedOffer", lambda one: {"members": other_member(one, size=1)}),
        ("EncryptedOffer", lambda one: {"members": other_member(one, scalars=1)}),
        ("EncryptedOffer", lambda one: {"members": other_member(one, h=bytes(32))}),
        ("Opened", lambda one: {"member": 1 << 16}),
        ("Opened", lambda one: {"sum": bytes(31)}),
        ("Opened", lambda one: {"signature": bytes(63)}),
        ("KeyHeader", lambda one: {"form": 3}),
        ("KeyHeader", lambda one: {"boxes": (bytes(31),)}),
        ("KeyHeader", lambda one: {"context": bytes((1 << 18) + 1)}),
        ("KeyOffer", lambda one: {"box": bytes((1 << 19) + 1)}),
        ("KeyRequest", lambda one: {"run": ""}),
        ("KeyRequest", lambda one: {"epoch": -1}),
    ],
)
def test_fields_that_do_not_fit_are_refused_when_a_message_is_made(
    name: str, change: Callable[[Any], dict[str, Any]]
) -> None:
    good = made()[name]
    with pytest.raises(ValueError, match="expected"):
        replace(good, **change(good))


def other_member(offer: EncryptedOffer, **changes: Any) -> tuple[OfferedUpdate, ...]:
    first = offer.members[0]
    return (replace(first, header=replace(first.header, **changes)), *offer.members[1:])


@pytest.mark.parametrize(
    ("name", "field"), [("Encrypted", "sizes"), ("OpenRequest", "sizes"), ("EncryptedOffer", "members")]
)
def test_what_was_made_against_the_rules_is_refused_on_the_wire(name: str, field: str) -> None:
    """A peer is not held by our constructors: the same checks are made of what was read."""
    bad = replace(made()[name])
    object.__setattr__(bad, field, (getattr(bad, field)[0], *getattr(bad, field)))
    with pytest.raises(RemoteError, match="expected"):
        decode(encode(bad))


def test_boxes_that_the_header_does_not_speak_of_are_refused() -> None:
    deal: KeyDeal = made()["KeyDeal"]
    deal.check_contents()
    for boxes in (deal.boxes[:-1], (*deal.boxes, b"x"), (b"x", *deal.boxes[1:]), deal.boxes[::-1]):
        with pytest.raises(RemoteError, match=r"KeyDeal\.boxes: expected"):
            replace(deal, boxes=boxes).check_contents()


# -- ciphertexts end to end ----------------------------------------------------------------------------------


@given(blobs)
def test_ciphertexts_are_found_again(chunks: tuple[bytes, ...]) -> None:
    assert tuple(map(bytes, chunks_in(tuple(map(len, chunks)), b"".join(chunks)))) == chunks


@given(blobs, blobs)
def test_a_digest_is_of_one_sequence_of_ciphertexts(first: tuple[bytes, ...], second: tuple[bytes, ...]) -> None:
    """The same bytes cut in another way are another message."""

    def digest(chunks: tuple[bytes, ...]) -> bytes:
        return chunks_digest(tuple(map(len, chunks)), b"".join(chunks))

    assert (digest(first) == digest(second)) == (first == second)
    whole = (b"".join(first),)
    assert (digest(first) == digest(whole)) == (len(first) == 1)


def test_a_digest_has_the_bytes_of_its_description() -> None:
    data = b"\2\0\0\0" + b"\1\0\0\0\2\0\0\0" + b"abb"
    assert chunks_digest((1, 2), b"abb") == hashlib.sha256(data).digest()


# -- what is signed, what is shown ---------------------------------------------------------------------------


def test_no_two_domains_runs_epochs_or_rounds_share_a_signing_input() -> None:
    descriptor: Descriptor = found_descriptor()
    deal, header = made()["KeyHeader"], made()["EncryptedHeader"]
    listed, total = digest_of(survivors_of([header])), bytes(32)
    seen: set[bytes] = set()
    changed = [descriptor, *(replace(descriptor, **change) for change in ({"run": "s"}, {"epoch": 4}, {"round": 8}))]
    for one in changed:
        seen |= {
            encrypted_input(one, header),
            encrypted_input(one, replace(header, member=3)),
            opened_input(one, listed, total),
            opened_input(one, total, listed),
            survivors_input(one, 0, listed),
        }
    seen |= {key_input(deal), key_input(replace(deal, dealer=3)), key_input(replace(deal, epoch=9))}
    assert len(seen) == 4 * 5 + 3


def found_descriptor() -> Descriptor:
    start = made()["RoundStart"]
    assert isinstance(start, RoundStart)
    return start.descriptor


def test_a_signing_input_has_the_bytes_of_its_description() -> None:
    descriptor = found_descriptor()
    place = b"\x0b\x00stroke-2026" + descriptor.epoch.to_bytes(4, "little") + descriptor.round.to_bytes(4, "little")
    header = made()["EncryptedHeader"]
    head = b"wardround secagg 1\0"
    assert encrypted_input(descriptor, header) == (
        head + b"\x02E1" + place + b"\0\0" + digest_of(descriptor) + digest_of(header)
    )
    assert opened_input(descriptor, b"l" * 32, b"s" * 32) == (
        head + b"\x06opened" + place + b"\0\0" + digest_of(descriptor) + b"l" * 32 + b"s" * 32
    )


def test_secrets_and_bulk_are_not_shown() -> None:
    fields = {"KeyDeal": "boxes", "KeyOffer": "box", "Encrypted": "chunks", "OpenRequest": "chunks", "Opened": "words"}
    for name, field in fields.items():
        value = getattr(made()[name], field)
        shown = repr(bytes(value[0] if field == "boxes" else value)[:24])[2:-1]
        assert shown not in repr(made()[name])
