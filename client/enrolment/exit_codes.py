"""How `wardround client join` ends, for those who script it."""

from enum import IntEnum

from wardround.errors import LocalError

__all__ = ["JoinError", "JoinExit"]


class JoinExit(IntEnum):
    """Exit codes. 1 and 2 are those of every command: any other failure, and a wrong way to call it."""

    JOINED = 0
    INVITATION = 10
    """The line is no invitation: cut off, mistyped, not https."""
    UNREACHABLE = 11
    """No connection: name, route, port, or no answer in time."""
    PROXY = 12
    """The proxy cannot be reached, or refuses."""
    WRONG_AUTHORITY = 13
    """The server has another authority than the invitation says."""
    INTERCEPTED = 14
    """The connection's certificate is of somebody else: it is opened on its way."""
    CLOCK = 15
    """The two clocks are more than 5 minutes apart."""
    UNKNOWN_TOKEN = 16
    USED = 17
    EXPIRED = 18
    WITHDRAWN = 19
    NAME = 20
    """The name takes part already, or is not the one that was expected."""
    KEYS = 21
    """The keys in the folder are another site's, or were revoked."""
    VERSION = 22
    """Client and server do not fit together."""
    ANSWER = 23
    """What the server answered is not what it should be."""
    FOLDER = 24
    """The folder is another site's, in use, or cannot be written."""


class JoinError(LocalError):
    """A site did not join. `exit_code` is for the command."""

    def __init__(self, exit_code: JoinExit, text: str) -> None:
        super().__init__(text)
        self.exit_code = exit_code
