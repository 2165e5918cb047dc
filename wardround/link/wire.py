"""The bytes of a frame, and what they say. Bounded by the message limit of the stream, with no pickle and no eval.

A chunk's bytes are the last field of its frame (link.proto), so that they are taken from and put into the buffers
where they belong; its frame has one form only, and is checked against its CRC-32 (zlib's) here.
"""

import zlib
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import DecodeError

from wardround.errors import RemoteError
from wardround.link import link_pb2 as pb
from wardround.plain_text import plain_text

__all__ = ["METHOD", "SERVICE", "Chunk", "Message", "decode", "encode"]

SERVICE, METHOD = "wardround.link.v1.Link", "Attach"

_CHUNK_TAG, _DATA_TAG = 7 << 3 | 2, 15 << 3 | 2  # field number and the type "length-delimited"
_MOST_HEADING = 64


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a transfer's payload."""

    direction: pb.Direction
    id: int
    offset: int
    data: memoryview


Message = (
    pb.Hello
    | pb.Welcome
    | pb.Farewell
    | pb.Call
    | pb.Reply
    | pb.Grant
    | Chunk
    | pb.End
    | pb.Done
    | pb.Cancel
    | pb.Notice
    | pb.Noted
)


def encode(message: Message) -> bytes:
    """The frame of `message`."""
    if isinstance(message, Chunk):
        head = pb.Chunk(
            direction=message.direction, id=message.id, offset=message.offset, crc32=zlib.crc32(message.data)
        )
        start = pb.Frame(chunk=head).SerializeToString()
        return b"".join((start, bytes((_DATA_TAG,)), _varint(len(message.data)), message.data))
    body: dict[str, Any] = {type(message).__name__.lower(): message}
    return pb.Frame(**body).SerializeToString()


def decode(frame: bytes) -> Message:
    """The message in `frame`; a chunk's data is a view of it. Raises RemoteError for what is none."""
    try:
        if frame[:1] == bytes((_CHUNK_TAG,)):
            return _chunk(frame)
        found = pb.Frame.FromString(frame)
        found.DiscardUnknownFields()  # type: ignore[attr-defined]  # missing in the stubs
        kind = found.WhichOneof("body")
        if kind is None or kind == "chunk" or found.data:
            raise RemoteError("link: expected a frame with one message that is known, got another")
        message: Message = getattr(found, kind)
        return message
    except DecodeError as error:
        raise RemoteError(f"link: expected a frame, got other bytes ({plain_text(str(error))})") from None


def _chunk(frame: bytes) -> Chunk:
    end = 2 + frame[1] if len(frame) > 1 else 0
    if not 2 < end <= _MOST_HEADING or frame[end : end + 1] != bytes((_DATA_TAG,)):
        raise RemoteError("link: expected a chunk with its data, got a frame of another form")
    head = pb.Chunk.FromString(frame[2:end])
    size, at = _read_varint(frame, end + 1)
    if size != len(frame) - at or size == 0:
        raise RemoteError(f"link: expected a chunk of {size} bytes, got {len(frame) - at}")
    data = memoryview(frame)[at:]
    if zlib.crc32(data) != head.crc32:
        raise RemoteError(f"link: expected a chunk with the checksum {head.crc32:08x}, got {zlib.crc32(data):08x}")
    return Chunk(head.direction, head.id, head.offset, data)


def _varint(number: int) -> bytes:
    made = bytearray()
    while number > 0x7F:
        made.append(number & 0x7F | 0x80)
        number >>= 7
    made.append(number)
    return bytes(made)


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of at most 4 bytes, and where it ends."""
    number = 0
    for place in range(4):
        if at >= len(data):
            break
        byte, at = data[at], at + 1
        number |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return number, at
    raise RemoteError("link: expected the size of a chunk's data, got none")
