"""Messages: one encoding each, bounded, and nothing that a peer sends does worse than a RemoteError."""

import hashlib
import json
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.exceptions import InvalidSignature
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.strategies.secagg import second_decoder, transcript
from wardround.errors import RemoteError
from wardround.strategies.secagg.messages import (
    Descriptor,
    Endorsement,
    Fault,
    Group,
    GroupSum,
    GroupTable,
    Header,
    Hello,
    Masked,
    Opening,
    Published,
    Refusal,
    Report,
    Roster,
    RosterSignatures,
    SurvivorList,
    SurvivorOffer,
    SurvivorSignature,
    Task,
    UnmaskAnswer,
    UnmaskRequest,
    beacon_of,
    commit_nonce,
    decode,
    digest_of,
    encode,
    encode_parts,
    survivors_of,
)
from wardround.strategies.secagg.signing_inputs import (
    descriptor_input,
    header_input,
    hello_input,
    reports_input,
    result_input,
    roster_input,
    survivors_input,
)
from wardround.strategies.secagg.wire import Record, bytes_of

VECTORS = Path(__file__).parent / "vectors" / "round.json"
NAMES = [one["name"] for one in json.loads(VECTORS.read_text())["messages"]]


@cache
def made() -> dict[str, Record]:
    return transcript.make().messages


def message(name: str) -> Any:
    """One of the transcript's, or a Header, which never travels alone."""
    return made()["masked_0"].header if name == "header" else made()[name]  # type: ignore[attr-defined]


EVERY = [*NAMES, "header"]


# -- test vectors --------------------------------------------------------------------------------------------


def test_the_second_decoder_accepts_the_vectors_without_wardround() -> None:
    program = Path(second_decoder.__file__)
    assert not [line for line in program.read_text().splitlines() if "import" in line and "wardround" in line.split()]
    command = [sys.executable, "-I", str(program), str(VECTORS)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert run.stdout == "23 messages, 25 signatures, 7 seeds\n"


def test_the_code_makes_the_bytes_of_the_vectors() -> None:
    assert transcript.as_json() == VECTORS.read_text()


@pytest.mark.parametrize("name", NAMES)
def test_the_vectors_are_read_back_as_the_messages_that_they_were(name: str) -> None:
    (one,) = [one for one in json.loads(VECTORS.read_text())["messages"] if one["name"] == name]
    found = decode(bytes.fromhex(one["hex"]))
    assert found == message(name)
    assert transcript.plain(found) == one["fields"]


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("refusal", "hello", "roster_signature")])
def test_the_second_decoder_refuses_vectors_with_one_bit_changed(name: str) -> None:
    vectors = json.loads(VECTORS.read_text())
    for one in vectors["messages"]:
        if one["name"] == name:
            changed = bytearray.fromhex(one["hex"])
            changed[-1] ^= 1  # the end of a signature, a digest, a share or a sealed bundle
            one["hex"] = changed.hex()
            try:  # its description changes with it, so that not the comparison with it refuses
                one["fields"] = second_decoder.parsed(bytes(changed))[1]
            except (AssertionError, ValueError):
                return
    with pytest.raises((AssertionError, InvalidSignature, ValueError)):
        second_decoder.check(vectors)


# -- one encoding for each value, one value for each encoding ------------------------------------------------


@pytest.mark.parametrize("name", EVERY)
def test_a_message_survives_the_wire(name: str) -> None:
    data = encode(message(name))
    assert decode(data) == message(name)
    assert encode(decode(data)) == data == b"".join(encode_parts(message(name)))
    assert digest_of(message(name)) == hashlib.sha256(data).digest()


@settings(max_examples=600)
@given(st.sampled_from(EVERY), st.data())
def test_mutated_bytes_are_a_remote_error_or_the_one_encoding_of_another_message(
    name: str, data: st.DataObject
) -> None:
    changed = bytearray(encode(message(name)))
    for _ in range(data.draw(st.integers(1, 4))):
        # near the start most often, where the lengths of short messages are
        at = data.draw(st.integers(0, min(len(changed), 90) - 1) | st.integers(0, len(changed) - 1))
        kind = data.draw(st.sampled_from(["flip", "set", "insert", "cut", "delete", "repeat"]))
        if kind == "flip":
            changed[at] ^= 1 << data.draw(st.integers(0, 7))
        elif kind == "set":
            changed[at] = data.draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]))
        elif kind == "insert":
            changed[at:at] = data.draw(st.binary(min_size=1, max_size=9))
        elif kind == "repeat":
            changed[at:at] = changed[at : at + data.draw(st.integers(1, 120))]
        elif kind == "cut":
            del changed[max(at, 1) :]
        elif len(changed) > 1:
            del changed[at]
    try:
        found = decode(bytes(changed))
    except RemoteError as error:
        assert len(str(error)) < 400 and str(error).isprintable()
        return
    assert encode(found) == bytes(changed)


@given(st.binary(max_size=300), st.integers(0, 255))
def test_other_bytes_are_a_remote_error(data: bytes, kind: int) -> None:
    for bad in (data, b"WSA1", b"WSA1" + bytes((kind,)), b"WSA2" + data):
        with pytest.raises(RemoteError):
            decode(bad)
    try:
        found = decode(b"WSA1" + bytes((kind,)) + data)
    except RemoteError:
        return
    assert encode(found) == b"WSA1" + bytes((kind,)) + data


@pytest.mark.parametrize("name", EVERY)
def test_every_truncation_and_every_surplus_is_refused(name: str) -> None:
    data = encode(message(name))
    for end in {*range(min(len(data), 200)), *range(0, len(data), 97), len(data) - 1}:
        with pytest.raises(RemoteError):
            decode(data[:end])
    with pytest.raises(RemoteError, match="expected the end, got 1 bytes more"):
        decode(data + b"\0")


@pytest.mark.parametrize("name", EVERY)
def test_a_length_beyond_the_bytes_at_hand_costs_no_memory(name: str) -> None:
    """Every byte in turn becomes 255, so that each length is once far too large."""
    data = encode(message(name))
    places = {*range(5, min(len(data), 160)), *range(160, len(data), 211)}
    for at in places:
        changed = bytearray(data)
        changed[at : at + 2] = b"\xff\xff"
        tracemalloc.start()
        try:
            decode(bytes(changed))
        except RemoteError:
            pass
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert peak < 40 * len(data) + 20_000


@pytest.mark.parametrize(
    ("kind", "most"),
    [(1, 1 << 14), (5, 1 << 10), (8, 1 << 12), (9, 1 << 15), (12, 1 << 12), (15, 1 << 15), (17, 1 << 10)],
)
def test_more_bytes_than_a_kind_can_need_are_refused_unread(kind: int, most: int) -> None:
    with pytest.raises(RemoteError, match=f"expected at most {most} bytes, got {most + 1}"):
        decode(b"WSA1" + bytes((kind,)) + bytes(most - 4))


def test_parts_of_messages_are_no_messages() -> None:
    with pytest.raises(ValueError, match="expected a message, got Report"):
        encode(Report(dealer=1, fault=Fault.UNREADABLE))


# -- fields that do not fit together -------------------------------------------------------------------------

SIGNATURE = bytes(64)


def doubled(values: tuple[Any, ...]) -> tuple[Any, ...]:
    return (values[0], *values)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("roster", lambda one: {"hellos": doubled(one.hellos)}),
        ("roster", lambda one: {"hellos": one.hellos[::-1]}),
        ("roster", lambda one: {"hellos": ()}),
        ("roster_signatures", lambda one: {"endorsements": doubled(one.endorsements)}),
        ("roster_signatures", lambda one: {"endorsements": one.endorsements[::-1]}),
        ("group_table", lambda one: {"groups": doubled(one.groups)}),
        ("header", lambda one: {"roots": one.roots[1:]}),
        ("header", lambda one: {"commitments": ()}),
        ("header", lambda one: {"commitments": doubled(one.commitments) * 2}),
        ("masked_0", lambda one: {"sealed": one.sealed[1:]}),
        ("masked_0", lambda one: {"scalars": bytes(one.scalars) + b"\0"}),
        ("survivor_offer", lambda one: {"groups": doubled(one.groups)}),
        ("survivor_offer", lambda one: {"receiver": 0}),
        ("survivor_offer", lambda one: {"committee": 1}),
        ("survivor_offer", lambda one: {"h": bytes(32)}),
        ("survivor_list", lambda one: {"survivors": doubled(one.survivors)}),
        ("survivor_list", lambda one: {"survivors": one.survivors[::-1]}),
        ("survivor_signature", lambda one: {"reports": one.reports[::-1]}),
        ("survivor_signature", lambda one: {"reports": doubled(one.reports)}),
        ("survivor_signature", lambda one: {"reports": ()}),
        ("survivor_signature", lambda one: {"reports_signature": None}),
        ("unmask_request", lambda one: {"votes": doubled(one.votes)}),
        ("unmask_request", lambda one: {"votes": one.votes[::-1]}),
        ("unmask_request", lambda one: {"votes": ()}),
        ("unmask_answer_0", lambda one: {"openings": doubled(one.openings)}),
        ("unmask_answer_0", lambda one: {"openings": one.openings[::-1]}),
        ("published", lambda one: {"groups": doubled(one.groups)}),
        ("refusal", lambda one: {"reason": ""}),
        ("refusal", lambda one: {"reason": "x\x1b[2J"}),
        ("refusal", lambda one: {"party": " Basel"}),
        ("refusal", lambda one: {"epoch": 1 << 32}),
        ("refusal", lambda one: {"epoch": -1}),
        ("refusal", lambda one: {"epoch": True}),
        ("descriptor", lambda one: {"run": "x" * 256}),
        ("descriptor", lambda one: {"run": "é" * 128}),
        ("descriptor", lambda one: {"model": bytes(31)}),
        ("descriptor", lambda one: {"task": 1}),
    ],
)
def test_fields_that_do_not_fit_are_refused_when_a_message_is_made(
    name: str, change: Callable[[Any], dict[str, Any]]
) -> None:
    good = message(name)
    with pytest.raises(ValueError, match="expected"):
        replace(good, **change(good))


def test_what_was_made_against_the_rules_is_refused_on_the_wire() -> None:
    """A peer is not held by our constructors: the same checks are made of what was read."""
    for name, field in (("roster", "hellos"), ("unmask_request", "votes"), ("unmask_answer_0", "openings")):
        bad = replace(message(name))
        object.__setattr__(bad, field, doubled(getattr(bad, field)))
        with pytest.raises(RemoteError, match="ascending order, each once"):
            decode(encode(bad))


@pytest.mark.parametrize("field", ["run", "epoch", "authority", "plan", "parameters", "public_key", "nonce_commitment"])
def test_a_roster_has_one_run_one_set_of_parameters_and_distinct_keys(field: str) -> None:
    roster: Roster = message("roster")
    entry = roster.hellos[1].entry
    other: dict[str, Any] = {
        "run": "another",
        "epoch": entry.epoch + 1,
        "public_key": roster.hellos[0].entry.public_key,
        "nonce_commitment": None,
    }
    hello = Hello(entry=replace(entry, **{field: other.get(field, bytes(32))}), signature=SIGNATURE)
    with pytest.raises(ValueError, match=r"Roster\.hellos: expected"):
        replace(roster, hellos=(roster.hellos[0], hello, *roster.hellos[2:]))


def test_names_ascend_by_their_bytes_and_members_in_one_group_only() -> None:
    assert Group(names=("Z", "a", "ä")).names == ("Z", "a", "ä")
    with pytest.raises(ValueError, match="ascending"):
        Group(names=("a", "Z"))
    with pytest.raises(ValueError, match="every name in one group"):
        GroupTable(run="r", groups=(Group(names=("a", "b")), Group(names=("b", "c"))))
    with pytest.raises(ValueError, match="ascending"):
        GroupSum(group=0, members=(2, 1), sum=bytes(32))
    sums = tuple(GroupSum(group=g, members=(1, 2), sum=bytes(32)) for g in (0, 1))
    with pytest.raises(ValueError, match="every member in one group"):
        Published(h=bytes(32), committee=0, groups=sums, signature=SIGNATURE)


def test_a_survivor_in_two_groups_is_refused() -> None:
    offer: SurvivorOffer = message("survivor_offer")
    first, second = offer.groups
    with pytest.raises(ValueError, match="every member once"):
        replace(offer, groups=(first, replace(second, members=(first.members[0], *second.members))))


def test_a_group_that_is_given_up_is_empty_in_an_offer() -> None:
    offer: SurvivorOffer = message("survivor_offer")
    emptied = replace(offer, groups=(replace(offer.groups[0], members=()), offer.groups[1]))
    assert decode(encode(emptied)) == emptied


# -- the bulk of an update -----------------------------------------------------------------------------------


def big(size: int) -> Masked:
    words = np.arange(size, dtype=np.uint32)
    base: Masked = message("masked_0")
    return replace(base, vector=bytes_of(words))


def test_an_update_is_neither_copied_to_be_sent_nor_to_be_read() -> None:
    masked = big(1 << 20)
    (part,) = [part for part in encode_parts(masked) if len(part) == 4 << 20]
    assert part is masked.vector
    data = encode(masked)
    tracemalloc.start()
    found = decode(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000
    assert isinstance(found, Masked) and isinstance(found.vector, memoryview) and found.vector.readonly
    words = np.frombuffer(found.vector, dtype="<u4")
    assert np.shares_memory(words, np.frombuffer(data, dtype=np.uint8))
    assert np.array_equal(words, np.arange(1 << 20, dtype=np.uint32))


@pytest.mark.parametrize("field", ["vector", "scalars", "sealed"])
def test_contents_that_the_header_does_not_speak_of_are_refused(field: str) -> None:
    masked: Masked = message("masked_1")
    masked.check_contents()
    value = getattr(masked, field)
    other = (bytes(len(value[0])), *value[1:]) if field == "sealed" else bytes(len(value))
    with pytest.raises(RemoteError, match=rf"Masked\.{field}: expected"):
        replace(masked, **dict[str, Any]({field: other})).check_contents()


@pytest.mark.parametrize(("group", "committee"), [(3, 3), (10, 10), (100, 100), (25, 100), (255, 255)])
def test_an_upload_is_within_its_gate(group: int, committee: int) -> None:
    size = 1000
    digests = [hashlib.sha256(bytes((i,))).digest() for i in range(256)]
    header = Header(
        h=bytes(32),
        committee=0,
        member=0,
        vector=bytes(32),
        scalars=bytes(32),
        ciphertexts=tuple(digests[: committee - 1]),
        commitments=tuple(digests[:group]),
        roots=tuple(digests[:committee]),
    )
    masked = Masked(
        header=header,
        signature=SIGNATURE,
        vector=bytes(4 * size),
        scalars=bytes(8 * 16),
        sealed=(bytes(32 * group + 16),) * (committee - 1),
    )
    data = encode(masked)
    assert decode(data) == masked
    assert len(data) <= 4 * size + 32 * group * committee + 80 * committee + 32 * group + 1024
    assert len(encode(header)) <= 1 << 15


def test_secrets_are_not_shown() -> None:
    opening: Opening = message("unmask_answer_0").openings[0]
    assert repr(opening.share)[2:-1] not in repr(opening)
    assert "sealed" not in repr(message("masked_0")) and "vector=<" not in repr(message("masked_0"))


# -- what is signed ------------------------------------------------------------------------------------------


def inputs_of(descriptor: Descriptor, committee: int) -> list[bytes]:
    header = replace(message("header"), committee=committee)
    reports = message("survivor_signature").reports
    listed = digest_of(message("survivor_list"))
    run, epoch = descriptor.run, descriptor.epoch
    return [
        hello_input(replace(message("hello").entry, run=run, epoch=epoch)),
        roster_input(run, epoch, listed),
        descriptor_input(descriptor),
        header_input(descriptor, header),
        survivors_input(descriptor, committee, listed),
        reports_input(descriptor, committee, reports),
        reports_input(descriptor, committee, ()),
        result_input(descriptor, committee, message("published").groups),
        result_input(descriptor, committee, ()),
    ]


def test_no_two_domains_runs_epochs_rounds_or_committees_share_a_signing_input() -> None:
    base: Descriptor = message("descriptor")
    changed = [base, *(replace(base, **change) for change in ({"run": "s"}, {"epoch": 4}, {"round": 8}))]
    seen: dict[bytes, str] = {}
    for descriptor in changed:
        for committee in (0, 1):
            for at, one in enumerate(inputs_of(descriptor, committee)):
                place = f"{at} {descriptor.run} {descriptor.epoch}"
                place += f" {descriptor.round}" if at >= 2 else ""
                place += f" {committee}" if at >= 3 else ""
                assert seen.setdefault(one, place) == place
    assert len(seen) == len(set(seen.values())) == 2 * 3 + 4 + 6 * 8


def test_a_signing_input_has_the_bytes_of_its_description() -> None:
    """Built here field by field, so that another implementation could."""
    descriptor: Descriptor = message("descriptor")
    listed = digest_of(message("survivor_list"))
    run = b"\x0b\x00stroke-2026"
    head = b"wardround secagg 1\0" + b"\x01U" + run + b"\3\0\0\0" + b"\7\0\0\0" + b"\2\0"
    assert survivors_input(descriptor, 2, listed) == head + digest_of(descriptor) + listed


@given(st.sampled_from(["run", "epoch", "round", "task", "model", "order", "roster", "group_table", "deadline_ms"]))
def test_every_field_of_a_descriptor_changes_h(field: str) -> None:
    descriptor: Descriptor = message("descriptor")
    other: dict[str, Any] = {"run": "other", "task": Task.EVALUATE, "group_table": None}
    value = getattr(descriptor, field)
    changed = replace(descriptor, **{field: other.get(field, bytes(32) if isinstance(value, bytes) else value)})
    if isinstance(value, int) and field != "task":
        changed = replace(descriptor, **dict[str, Any]({field: value + 1}))
    assert digest_of(changed) != digest_of(descriptor)
    assert len({field.name for field in fields(Descriptor)}) == 9


def test_a_survivor_list_is_the_same_from_any_order_and_names_nobody_twice() -> None:
    headers = [one.header for group in message("survivor_offer").groups for one in group.members]
    assert survivors_of(headers) == survivors_of(headers[::-1]) == message("survivor_list")
    with pytest.raises(ValueError, match="each once"):
        survivors_of([*headers, replace(headers[0], vector=bytes(32))])
    assert decode(encode(SurvivorList(survivors=()))) == SurvivorList(survivors=())


def test_a_nonce_commitment_is_of_one_name_and_epoch() -> None:
    commitments = {
        commit_nonce(run, epoch, name, nonce)
        for run in ("r", "s")
        for epoch in (1, 2)
        for name in ("a", "b")
        for nonce in (bytes(32), bytes(31) + b"\1")
    }
    assert len(commitments) == 16
    with pytest.raises(ValueError, match="expected 32 bytes, got 31"):
        commit_nonce("r", 1, "a", bytes(31))
    assert beacon_of(bytes(32), [b"a" * 32, b"b" * 32]) != beacon_of(bytes(32), [b"b" * 32, b"a" * 32])


def test_kinds_of_the_transcript_are_all_kinds() -> None:
    kinds = {encode(message(name))[4] for name in EVERY}
    assert kinds == set(range(1, 18))
    assert {type(message(name)) for name in EVERY} >= {Refusal, UnmaskAnswer, UnmaskRequest, SurvivorSignature}
    assert Endorsement(member=0, signature=SIGNATURE).nonce is None
    assert RosterSignatures(run="r", epoch=0, roster=bytes(32), endorsements=()).endorsements == ()
