"""Transfers: payloads arrive whole over any cuts, and nothing but the next chunk is taken."""

import os
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.errors import RemoteError
from wardround.link import link_pb2 as pb
from wardround.link.transfer import Inbound, Outbound
from wardround.link.wire import Chunk

KEY = bytes(range(16))


def pair(parts: Sequence[bytes], window: int) -> tuple[Outbound, Inbound, list[bytearray]]:
    buffers = [bytearray(len(part)) for part in parts]
    outbound = Outbound(pb.TO_SITE, 7, [memoryview(part) for part in parts], KEY)
    return outbound, Inbound(pb.TO_SITE, 7, [memoryview(one) for one in buffers], KEY, lambda: window), buffers


def begin(outbound: Outbound, inbound: Inbound) -> None:
    grant = inbound.grant()
    outbound.grant(grant.offset, grant.until)


def carry(outbound: Outbound, inbound: Inbound, most: int, chunks: int | None = None) -> bool:
    """Move so many chunks, or all; whether the end came."""
    moved = 0
    while outbound.ready and moved != chunks:
        found = outbound.next(most)
        if isinstance(found, pb.End):
            inbound.finish(found)
            return True
        moved += 1
        if (grant := inbound.take(found)) is not None:
            outbound.grant(grant.offset, grant.until)
    return False


@given(
    parts=st.lists(st.binary(max_size=60), min_size=1, max_size=4),
    most=st.integers(1, 20),
    window=st.integers(1, 80),
    cuts=st.lists(st.integers(0, 12), max_size=6),
)
def test_a_payload_arrives_whole_however_often_the_stream_breaks(
    parts: list[bytes], most: int, window: int, cuts: list[int]
) -> None:
    outbound, inbound, buffers = pair(parts, window)
    begin(outbound, inbound)
    for cut in cuts:
        if carry(outbound, inbound, most, cut):
            break
        if outbound.ready:
            outbound.next(most)  # on its way when the stream broke: never arrives
        outbound.rewind()
        inbound.close()
        assert not outbound.ready
        begin(outbound, inbound)
    else:
        assert carry(outbound, inbound, most)
    assert [bytes(one) for one in buffers] == parts


def test_it_goes_on_where_it_was() -> None:
    outbound, inbound, _ = pair([bytes(100)], 40)
    begin(outbound, inbound)
    carry(outbound, inbound, 10, 3)
    outbound.rewind()
    inbound.close()
    assert inbound.grant().offset == 30


def test_the_sender_stops_at_what_is_granted() -> None:
    outbound, inbound, _ = pair([bytes(100)], 40)
    begin(outbound, inbound)
    sent = 0
    while outbound.ready:
        found = outbound.next(15)
        assert isinstance(found, Chunk)
        sent += len(found.data)
    assert sent == 40


@pytest.mark.parametrize(
    ("offset", "size"),
    [(0, 10), (20, 10), (9, 10), (11, 10), (10, 31), (1 << 63, 10)],
    ids=["twice", "ahead", "overlapping", "a hole", "beyond the grant", "far away"],
)
def test_only_the_next_chunk_is_taken(offset: int, size: int) -> None:
    outbound, inbound, buffers = pair([os.urandom(100)], 40)
    begin(outbound, inbound)
    carry(outbound, inbound, 10, 1)
    before = bytes(buffers[0])
    with pytest.raises(RemoteError, match="expected a chunk from 10 to 40"):
        inbound.take(Chunk(pb.TO_SITE, 7, offset, memoryview(b"\xff" * size)))
    assert bytes(buffers[0]) == before
    assert carry(outbound, inbound, 10)


def test_a_chunk_of_the_stream_before_is_refused() -> None:
    outbound, inbound, _ = pair([bytes(100)], 40)
    begin(outbound, inbound)
    late = outbound.next(10)
    assert isinstance(late, Chunk)
    inbound.close()
    with pytest.raises(RemoteError):
        inbound.take(late)


def test_an_end_that_is_early_or_wrong_is_refused() -> None:
    outbound, inbound, _ = pair([bytes(20)], 40)
    begin(outbound, inbound)
    with pytest.raises(RemoteError, match="expected 20 bytes before the end, got 0"):
        inbound.finish(pb.End(direction=pb.TO_SITE, id=7))
    carry(outbound, inbound, 10, 2)
    with pytest.raises(RemoteError, match="digest"):
        inbound.finish(pb.End(direction=pb.TO_SITE, id=7, digest=bytes(16)))


def test_a_payload_that_changed_on_the_way_is_found() -> None:
    outbound, inbound, _ = pair([bytes(20)], 40)
    begin(outbound, inbound)
    chunk = outbound.next(20)
    assert isinstance(chunk, Chunk)
    inbound.take(Chunk(pb.TO_SITE, 7, 0, memoryview(b"\x01" + bytes(19))))
    with pytest.raises(RemoteError, match="digest"):
        carry(outbound, inbound, 20)


@pytest.mark.parametrize(("offset", "until"), [(5, 4), (0, 101), (50, 60)], ids=["backwards", "beyond", "never sent"])
def test_a_first_grant_that_cannot_be_is_refused(offset: int, until: int) -> None:
    outbound, _, _ = pair([bytes(100)], 40)
    with pytest.raises(RemoteError):
        outbound.grant(offset, until)
    assert not outbound.ready


@pytest.mark.parametrize(("offset", "until"), [(0, 30), (30, 50)], ids=["taken back", "more than was sent"])
def test_a_later_grant_that_cannot_be_is_refused(offset: int, until: int) -> None:
    outbound, _, _ = pair([bytes(100)], 40)
    outbound.grant(0, 40)
    outbound.next(10)
    with pytest.raises(RemoteError):
        outbound.grant(offset, until)
