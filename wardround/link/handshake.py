"""The first words on a stream: which version is spoken, by whom, and whether the clocks agree."""

from collections.abc import Collection
from datetime import UTC, datetime

from wardround.errors import RemoteError
from wardround.link import link_pb2 as pb
from wardround.link.errors import Farewell, RefusedError
from wardround.link.limits import Limits
from wardround.link.wire import Message
from wardround.plain_text import plain_text

__all__ = ["VERSIONS", "check_welcome", "farewell_error", "hello", "welcome"]

VERSIONS = (1,)
"""Of the protocol in link.proto, that this release speaks."""
_MOST_VERSIONS = 64


def hello(software: str) -> pb.Hello:
    """An agent's first word."""
    return pb.Hello(versions=VERSIONS, software=software)


def welcome(
    message: Message, *, software: str, now: datetime, calls: Collection[int], versions: Collection[int] = VERSIONS
) -> pb.Welcome | pb.Farewell:
    """The server's answer to the first word. Raises RemoteError where that is no Hello."""
    if not isinstance(message, pb.Hello) or not 0 < len(message.versions) <= _MOST_VERSIONS:
        raise RemoteError("link: expected a Hello with the versions that the agent speaks, got something else")
    common = set(message.versions) & set(versions)
    if common:
        time_ms = int(now.timestamp() * 1000)
        return pb.Welcome(version=max(common), software=software, time_ms=time_ms, calls=calls)
    theirs = f"version {max(message.versions)} of the link (wardround {plain_text(message.software, 40) or 'unknown'})"
    if max(message.versions) < min(versions):
        return pb.Farewell(
            reason=Farewell.TOO_OLD,
            text=f"expected version {min(versions)} of the link or newer, got {theirs}; install wardround {software}",
        )
    return pb.Farewell(
        reason=Farewell.TOO_NEW,
        text=f"expected version {max(versions)} of the link or older, got {theirs}; ask for wardround {software} to be "
        "updated at the server",
    )


def check_welcome(message: Message, *, now: datetime, limits: Limits) -> pb.Welcome:
    """The server's Welcome. Raises RemoteError for anything else, RefusedError for a lasting no."""
    if isinstance(message, pb.Farewell):
        raise farewell_error(message)
    if not isinstance(message, pb.Welcome) or len(message.calls) > limits.most_calls:
        raise RemoteError("link: expected the server's Welcome, got something else; is this the address of a server?")
    if message.version not in VERSIONS:
        raise RemoteError(f"link: expected version {VERSIONS[-1]} to be chosen, got {message.version}")
    skew_s = message.time_ms / 1000 - now.timestamp()
    if abs(skew_s) > limits.most_clock_skew_s:
        try:
            shown = f"{datetime.fromtimestamp(message.time_ms / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"
        except (OverflowError, ValueError, OSError):
            shown = "no possible time"
        raise RemoteError(
            f"expected a clock within {limits.most_clock_skew_s:.0f} s of the server's, {shown}, got "
            f"{now.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC; set the clock right"
        )
    return message


def farewell_error(message: pb.Farewell) -> RemoteError:
    """What a Farewell means: a RefusedError where coming again is of no use."""
    text = plain_text(message.text) or "the server ended the link"
    if message.reason in (Farewell.REFUSED, Farewell.TOO_OLD):
        return RefusedError(Farewell(message.reason), text)
    return RemoteError(text)
