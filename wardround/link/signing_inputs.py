"""What is signed of calls and replies: inputs that no two domains, runs or kinds share.

`wardround link 1` and a zero byte, the domain (one byte for its length, ASCII), and then the fields, each with 4 bytes
for its length (little-endian). Of what may be large, the field is its SHA-256; an absent model is an empty field.

    domain         fields
    call           run, kind, SHA-256 of the order, of the protocol message, of the spec, of the model
    reply          SHA-256 of the call's input, fault (1 byte), SHA-256 of the frame
    approval       run, plan digest, verdict
    decision       the site's public key, run, SHA-256 of the decision
    participation  run, plan digest, SHA-256 of the model, rounds (decimal; empty where they are not told), time
    release        SHA-256 of the manifest, of the server's certificate, time
"""

import hashlib

from wardround.link.messages import Fault

__all__ = [
    "approval_bytes",
    "call_bytes",
    "call_digest",
    "decision_bytes",
    "participation_bytes",
    "release_bytes",
    "reply_bytes",
]

_START = b"wardround link 1\0"


def call_bytes(run: str, kind: str, order: bytes, protocol: bytes, spec: bytes, model_digest: bytes | None) -> bytes:
    """What the server signs of a call; `model_digest` is None where there is no model."""
    _check_digest(model_digest)
    parts = (hashlib.sha256(part).digest() for part in (order, protocol, spec))
    return _input(b"call", run.encode(), kind.encode(), *parts, model_digest or b"")


def call_digest(run: str, kind: str, order: bytes, protocol: bytes, spec: bytes, model_digest: bytes | None) -> bytes:
    """SHA-256 of `call_bytes`: what a reply belongs to."""
    return hashlib.sha256(call_bytes(run, kind, order, protocol, spec, model_digest)).digest()


def reply_bytes(call_digest: bytes, fault: Fault, frame_digest: bytes) -> bytes:
    """What a site signs of its reply to the call with this digest; a reply without a frame has that of no bytes."""
    _check_digest(call_digest)
    _check_digest(frame_digest)
    return _input(b"reply", call_digest, bytes((fault,)), frame_digest)


def approval_bytes(run: str, plan_digest: str, verdict: str) -> bytes:
    """What a site signs of its decision on a run's plan."""
    return _input(b"approval", run.encode(), plan_digest.encode(), verdict.encode())


def decision_bytes(public: bytes, run: str, decision: bytes) -> bytes:
    """What a site signs of what it keeps of its administrator's decision: no other site and no other run has it."""
    return _input(b"decision", public, run.encode(), hashlib.sha256(decision).digest())


def participation_bytes(run: str, plan_digest: str, model_sha256: bytes, rounds: int | None, at: str) -> bytes:
    """What a site signs at the end of a run: that it took part, and which model it was told has come of it.

    `rounds` is in how many it answered, None where that is nobody's to know; `at` is the time, ISO 8601, UTC.
    """
    _check_digest(model_sha256)
    told = b"" if rounds is None else str(rounds).encode()
    return _input(b"participation", run.encode(), plan_digest.encode(), model_sha256, told, at.encode())


def release_bytes(manifest_digest: bytes, certificate_digest: bytes, at: str) -> bytes:
    """What the server signs of a model that it releases: SHA-256 of its manifest and of the server's certificate.

    `at` is the time, ISO 8601, UTC.
    """
    _check_digest(manifest_digest)
    _check_digest(certificate_digest)
    return _input(b"release", manifest_digest, certificate_digest, at.encode())


def _input(domain: bytes, *fields: bytes) -> bytes:
    pieces = [_START, bytes((len(domain),)), domain]
    for field in fields:
        pieces += (len(field).to_bytes(4, "little"), field)
    return b"".join(pieces)


def _check_digest(digest: bytes | None) -> None:
    if digest is not None and len(digest) != hashlib.sha256().digest_size:
        raise ValueError(f"expected a SHA-256, got {len(digest)} bytes")
