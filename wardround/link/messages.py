"""What travels over the link: calls of the server, replies of a site, and notices in both directions."""

from dataclasses import dataclass, field
from enum import IntEnum

__all__ = ["MAX_NOTICE_BYTES", "Call", "Fault", "Notice", "Reply"]

MAX_NOTICE_BYTES = 1 << 20
_MAX_NAME_BYTES = 255
_MAX_REASON_BYTES = 4096
_MAX_SIGNATURE_BYTES = 64


class Fault(IntEnum):
    """Why a reply is not what was asked for."""

    NONE = 0
    REFUSED = 1
    """The site does not do it."""
    SPENT = 2
    """The privacy budget of its data does not suffice."""
    NOT_READY = 3
    """It does not know the run, or has not approved it (yet)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What the server asks of a site in a run; `kind` is Flower's message type.

    `signature` is the server's over `call_bytes`. The link itself believes none of this: both ends check. The link
    numbers calls by `id`; whoever makes one leaves it 0. `model_digest` is the SHA-256 of the model where this process
    knows it: it is not sent.
    """

    run: str
    kind: str
    order: bytes = b""
    protocol: bytes = b""
    spec: bytes = b""
    model: memoryview | None = None
    signature: bytes = b""
    id: int = 0
    model_digest: bytes | None = None

    def __post_init__(self) -> None:
        _check_text("run", self.run, _MAX_NAME_BYTES)
        _check_text("kind", self.kind, _MAX_NAME_BYTES)
        _check_size("signature", len(self.signature), _MAX_SIGNATURE_BYTES)
        _check_digest("model_digest", self.model_digest)
        if not 0 <= self.id < 1 << 64:
            raise ValueError(f"expected an id of 64 bits, got {self.id}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A site's answer to a call. `signature` is the site's over `reply_bytes`.

    `frame_digest` is the SHA-256 of the frame where this process knows it: it is not sent.
    """

    fault: Fault = Fault.NONE
    reason: str = ""
    frame: memoryview = field(default_factory=lambda: memoryview(b""))
    signature: bytes = b""
    frame_digest: bytes | None = None

    def __post_init__(self) -> None:
        _check_text("reason", self.reason, _MAX_REASON_BYTES, least=0)
        _check_size("signature", len(self.signature), _MAX_SIGNATURE_BYTES)
        _check_digest("frame_digest", self.frame_digest)


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """Something to be told once at least: who takes it must not mind to be told again. `body` is JSON."""

    kind: str
    body: bytes

    def __post_init__(self) -> None:
        _check_text("kind", self.kind, _MAX_NAME_BYTES)
        _check_size("body", len(self.body), MAX_NOTICE_BYTES)


def _check_text(what: str, text: str, most: int, *, least: int = 1) -> None:
    _check_size(what, len(text.encode()), most, least=least)


def _check_size(what: str, size: int, most: int, *, least: int = 0) -> None:
    if not least <= size <= most:
        raise ValueError(f"expected a {what} of {least} to {most} bytes, got {size}")


def _check_digest(what: str, digest: bytes | None) -> None:
    if digest is not None and len(digest) != 32:
        raise ValueError(f"expected a {what} of 32 bytes, got {len(digest)}")
