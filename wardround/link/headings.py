"""The headings of transfers: what of a call or a reply is said before its payload."""

from collections.abc import Sequence

from wardround.errors import RemoteError
from wardround.link import link_pb2 as pb
from wardround.link.messages import Call, Fault, Reply
from wardround.link.payload_digest import KEY_BYTES

__all__ = [
    "INLINE_BYTES",
    "call_heading",
    "call_parts",
    "inline_payload",
    "read_call",
    "read_reply",
    "reply_heading",
]

INLINE_BYTES = 1 << 16
"""A payload of at most so much lies in the heading: no round trip, and no transfer."""


def call_parts(call: Call) -> list[memoryview]:
    """The parts of a call's payload."""
    parts = [memoryview(part) for part in (call.order, call.protocol, call.spec)]
    return parts if call.model is None else [*parts, call.model]


def call_heading(id: int, call: Call, key: bytes) -> pb.Call:
    """The heading of `call`, with its payload where that is small; `key` is that of the payload's digest."""
    heading = pb.Call(id=id, run=call.run, kind=call.kind, signature=call.signature, key=key)
    heading.order_bytes, heading.protocol_bytes, heading.spec_bytes = map(len, (call.order, call.protocol, call.spec))
    if call.model is not None:
        heading.model_bytes = call.model.nbytes
    heading.payload = _inline(call_parts(call))
    return heading


def reply_heading(id: int, making: int, reply: Reply, key: bytes) -> pb.Reply:
    """The heading of `reply`, with its payload where that is small; `key` is that of the payload's digest."""
    return pb.Reply(
        id=id,
        making=making,
        fault=reply.fault,
        reason=reply.reason,
        signature=reply.signature,
        frame_bytes=reply.frame.nbytes,
        payload=_inline([reply.frame]),
        key=key,
    )


def inline_payload(size: int, payload: bytes) -> bytes | None:
    """The whole payload where it is in the heading; None where it follows. RemoteError where it is neither."""
    if len(payload) == size:
        return payload
    if payload:
        raise RemoteError(f"link: expected a payload of {size} bytes or none yet, got {len(payload)} bytes")
    return None


def read_call(heading: pb.Call, parts: Sequence[memoryview]) -> Call:
    """The call with this heading and these parts. Raises RemoteError for what is none."""
    _check_key(heading.key)
    order, protocol, spec = (bytes(part) for part in parts[:3])
    try:
        return Call(
            id=heading.id,
            run=heading.run,
            kind=heading.kind,
            signature=heading.signature,
            order=order,
            protocol=protocol,
            spec=spec,
            model=parts[3] if len(parts) > 3 else None,
        )
    except ValueError as error:
        raise RemoteError(f"link: {error}") from None


def read_reply(heading: pb.Reply, frame: memoryview) -> Reply:
    """The reply with this heading and frame. Raises RemoteError for what is none."""
    _check_key(heading.key)
    try:
        return Reply(
            fault=Fault(heading.fault),
            reason=heading.reason,
            frame=frame,
            signature=heading.signature,
        )
    except ValueError as error:
        raise RemoteError(f"link: {error}") from None


def _check_key(key: bytes) -> None:
    if len(key) != KEY_BYTES:
        raise RemoteError(f"link: expected a key of {KEY_BYTES} bytes for the digest, got {len(key)}")


def _inline(parts: Sequence[memoryview]) -> bytes:
    size = sum(part.nbytes for part in parts)
    return b"".join(parts) if size <= INLINE_BYTES else b""
