"""Frames: what was encoded is decoded, and any other bytes are refused without harm."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.errors import RemoteError
from wardround.link import link_pb2 as pb
from wardround.link.wire import Chunk, Message, decode, encode

U64 = st.integers(0, 2**64 - 1)
MESSAGES: list[Message] = [
    pb.Hello(versions=[1, 2], software="0.1"),
    pb.Welcome(version=1, time_ms=-1, calls=[1, 2**64 - 1]),
    pb.Farewell(reason=3, text="no"),
    pb.Call(id=1, run="r", kind="train", model_bytes=0),
    pb.Reply(id=2**64 - 1, fault=2, reason="spent"),
    pb.Grant(direction=pb.TO_SITE, id=3, offset=1 << 40, until=1 << 41),
    pb.End(direction=pb.TO_SERVER, id=3, digest=bytes(16)),
    pb.Done(id=1),
    pb.Cancel(id=1),
    pb.Notice(id=1, kind="offer", body=b"{}"),
    pb.Noted(id=1),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda one: type(one).__name__)
def test_a_message_comes_back(message: Message) -> None:
    assert decode(encode(message)) == message


@given(direction=st.sampled_from([pb.TO_SITE, pb.TO_SERVER]), id=U64, offset=U64, data=st.binary(min_size=1))
def test_a_chunk_comes_back_as_a_view_of_its_frame(direction: pb.Direction, id: int, offset: int, data: bytes) -> None:
    frame = encode(Chunk(direction, id, offset, memoryview(data)))
    found = decode(frame)
    assert isinstance(found, Chunk)
    assert (found.direction, found.id, found.offset, bytes(found.data)) == (direction, id, offset, data)
    assert found.data.obj is frame
    assert pb.Frame.FromString(frame).data == data  # it is what link.proto says


@given(st.integers(1, 300), st.data())
def test_a_chunk_in_which_a_bit_flipped_is_refused_or_says_something_else(size: int, data: st.DataObject) -> None:
    """The checksum is of the data; a heading that was changed is found by the transfer."""
    chunk = Chunk(pb.TO_SITE, 7, 1 << 20, memoryview(bytes(size)))
    frame = bytearray(encode(chunk))
    at = data.draw(st.integers(0, 8 * len(frame) - 1))
    frame[at // 8] ^= 1 << at % 8
    in_data = at // 8 >= len(frame) - size
    try:
        found = decode(bytes(frame))
    except RemoteError:
        return
    assert not in_data and found != chunk


@given(st.binary(max_size=400))
def test_any_bytes_are_a_message_or_refused(data: bytes) -> None:
    try:
        decode(data)
    except RemoteError:
        return


@given(st.sampled_from(MESSAGES), st.binary(max_size=20), st.integers(0, 60))
def test_frames_that_were_tampered_with_are_messages_or_refused(message: Message, more: bytes, cut: int) -> None:
    try:
        decode(encode(message)[:cut] + more)
    except RemoteError:
        return


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        pb.Frame(data=b"x").SerializeToString(),
        pb.Frame(chunk=pb.Chunk(id=1)).SerializeToString(),
        pb.Frame(done=pb.Done(id=1), data=b"x").SerializeToString(),
        encode(Chunk(pb.TO_SITE, 1, 0, memoryview(b"abc")))[:-1],
        encode(Chunk(pb.TO_SITE, 1, 0, memoryview(b"abc"))) + b"x",
    ],
)
def test_frames_of_another_form_are_refused(frame: bytes) -> None:
    with pytest.raises(RemoteError):
        decode(frame)
