"""How a server ends a link for good."""

from enum import IntEnum

from wardround.errors import RemoteError

__all__ = ["Farewell", "RefusedError"]


class Farewell(IntEnum):
    """Why a stream is ended, as its other end is told."""

    CLOSING = 0
    """The server stops; come again."""
    REFUSED = 1
    """The certificate is revoked, expired or not known."""
    TOO_OLD = 2
    """The client speaks no version that the server still speaks."""
    TOO_NEW = 3
    """The server is older than the client; it will be updated."""
    REPLACED = 4
    """The same site has attached again."""
    PROTOCOL = 5
    """Something was sent that the protocol does not allow."""
    STALLED = 6
    """A transfer, or the first word, did not come."""
    FAILED = 7
    """The other end could not do its part; come again."""
    CLOCK = 8
    """The two clocks are too far apart."""


class RefusedError(RemoteError):
    """The server will not have this client, now or later: it is revoked, or too old."""

    def __init__(self, farewell: Farewell, reason: str) -> None:
        super().__init__(reason)
        self.farewell = farewell
