"""What the state machines of secure aggregation share: their phases, what they send, how they refuse, and dispatch.

A machine has a table `{(phase, type of message): handler}`; a pair that is not in it is refused, and nothing changes.
A handler checks first, then writes what must survive a crash, and only then returns what is to be sent.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, TypeVar

from wardround.errors import RemoteError
from wardround.strategies.secagg.messages import Cause, Refusal
from wardround.strategies.secagg.wire import Record

__all__ = [
    "MemberEpochPhase",
    "MemberRoundPhase",
    "Outgoing",
    "RefusedError",
    "ServerEpochPhase",
    "ServerRoundPhase",
    "handler_for",
]

Handler = TypeVar("Handler", bound=Callable[..., Any])


class MemberEpochPhase(Enum):
    """Of a member in an epoch."""

    HELLO = auto()
    """Its hello is stored; no roster is signed."""
    SIGNED = auto()
    """It has signed a roster, and signs no other in this epoch."""
    READY = auto()
    """Enough have signed the same roster: rounds may begin."""
    ENDED = auto()
    """Its keys are erased."""


class MemberRoundPhase(Enum):
    """Of a member in a round."""

    IDLE = auto()
    """No round has begun, or the sum of the last one is published, and nothing of it is kept."""
    STARTED = auto()
    """The descriptor is accepted; nothing is sent, and the round's number not used."""
    MASKED = auto()
    """M1 is stored, and is the only one of this round."""
    SIGNED = auto()
    """One list of survivors is signed, and the answer that it leads to is stored."""
    ANSWERED = auto()
    """The answer may have been sent; it alone is sent again."""


class ServerEpochPhase(Enum):
    """Of the server in an epoch."""

    HELLOS = auto()
    SIGNATURES = auto()
    READY = auto()


class ServerRoundPhase(Enum):
    """Of the server in one committee's round."""

    MASKS = auto()
    SIGNATURES = auto()
    OPENINGS = auto()
    DONE = auto()
    ABORTED = auto()


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message to the member of this name, or to the server where it is None."""

    receiver: str | None
    message: Record


class RefusedError(RemoteError):
    """A peer's message is not accepted: why, and who is the reason, where it is a party."""

    def __init__(self, cause: Cause, party: str | None, reason: str) -> None:
        super().__init__(f"{party}: {reason}" if party is not None else reason)
        self.cause = cause
        self.party = party

    def message(self, run: str, epoch: int, round_: int) -> Refusal:
        """What the peer is told; `round_` is 0 for an epoch."""
        # a refusal has one line of at most 800 bytes, and texts quote names that others chose
        words = " ".join(str(self).split()).encode()[:800].decode(errors="ignore").strip()
        return Refusal(run=run, epoch=epoch, round=round_, cause=self.cause, party=self.party, reason=words)


def handler_for(table: Mapping[tuple[Any, type[Record]], Handler], phase: Enum, message: Record) -> Handler:
    """The handler of this message in this phase. Raises RemoteError where the protocol has none."""
    handler = table.get((phase, type(message)))
    if handler is None:
        expected = sorted(kind.__name__ for at, kind in table if at is phase)
        raise RemoteError(
            f"expected {' or '.join(expected) or 'no message'} in phase {phase.name}, got {type(message).__name__}"
        )
    return handler
