"""What a committee's round is run with at the server, and how it ends."""

from collections.abc import Set
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from wardround.signing_key import SigningKey
from wardround.state_store import StateStore
from wardround.strategies.secagg.cohort import Cohort
from wardround.strategies.secagg.keystream import U32, U64
from wardround.strategies.secagg.messages import Cause
from wardround.strategies.secagg.phases import Outgoing, ServerRoundPhase
from wardround.strategies.secagg.wire import Record

__all__ = ["Abort", "GroupResult", "RoundMachine", "RoundSetting"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundSetting:
    """What a committee's round is run with: `size` words of 32 bits in a vector, `scalars` of 64 in the scalar lane.

    Where fewer than `least_groups` groups can give a sum nothing is opened: a sum that is of no use would still be one
    over its model, of which there is one for each group. `excluded` members dealt badly before, and are left out.
    Without `published` nothing of the result is sent, as central differential privacy demands.
    """

    cohort: Cohort
    committee: int
    size: int
    scalars: int
    signing_key: SigningKey
    store: StateStore
    least_groups: int = 1
    excluded: frozenset[int] = frozenset()
    published: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupResult:
    """The sum of a group's encoded updates, mod 2^32 and mod 2^64, and whose they are."""

    group: int
    members: tuple[int, ...]
    vector: U32
    scalars: U64


@dataclass(frozen=True, slots=True, kw_only=True)
class Abort:
    """Why a round, or a group of it, has no result, and the members who are the reason, by name: nobody where too few
    came.
    """

    cause: Cause
    parties: tuple[str, ...]
    reason: str


class RoundMachine(Protocol):
    """The machine of the server in one committee's round: `ServerRound`, or that of homomorphic aggregation."""

    phase: ServerRoundPhase
    abort: Abort | None
    results: tuple[GroupResult, ...]

    @property
    def bad_dealers(self) -> Set[int]: ...

    def receive(self, sender: str, message: Record, now: datetime) -> list[Outgoing]: ...

    def outgoing(self) -> list[Outgoing]: ...

    def close(self) -> list[Outgoing]: ...

    def end(self) -> None: ...
