"""Calls that the server signed, and replies that the site signs."""

import hashlib

from wardround.errors import BudgetError, WardroundError
from wardround.link.messages import Call, Fault, Reply
from wardround.link.signing_inputs import call_bytes, reply_bytes
from wardround.plain_text import plain_text
from wardround.signing_key import SigningKey, check_signature

__all__ = ["check_call", "error_reply", "signed_reply"]

_MOST_LETTERS = 1000
_NOTHING = hashlib.sha256(b"").digest()


def check_call(call: Call, server: bytes) -> bytes:
    """The digest that a reply to `call` belongs to. Raises RemoteError unless the server's key has signed it."""
    model = call.model_digest
    if model is None and call.model is not None:
        model = hashlib.sha256(call.model).digest()
    signed = call_bytes(call.run, call.kind, call.order, call.protocol, call.spec, model)
    check_signature(server, call.signature, signed, "the server's order")
    return hashlib.sha256(signed).digest()


def signed_reply(key: SigningKey, call: bytes, frame: bytes) -> Reply:
    """The reply with `frame` to the call with this digest."""
    digest = hashlib.sha256(frame).digest()
    return Reply(
        frame=memoryview(frame), frame_digest=digest, signature=key.sign(reply_bytes(call, Fault.NONE, digest))
    )


def error_reply(key: SigningKey, call: bytes, error: WardroundError, fault: Fault | None = None) -> Reply:
    """The reply that says why there is no frame."""
    if fault is None:
        fault = Fault.SPENT if isinstance(error, BudgetError) else Fault.REFUSED
    return Reply(
        fault=fault,
        reason=plain_text(str(error), _MOST_LETTERS),
        frame_digest=_NOTHING,
        signature=key.sign(reply_bytes(call, fault, _NOTHING)),
    )
