"""A server that lies at will: it makes its own offers and requests; and what it wins by that.

`recovered` is what it wins: the update of one member, from masked update and opened shares alone.
"""

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any

import numpy as np
import pytest

from tests.strategies.secagg.simulated_group import NOW, SMALL, SimulatedGroup, name_of, update_of
from wardround.strategies.secagg import client_round, shamir
from wardround.strategies.secagg.client_round import ClientRound
from wardround.strategies.secagg.cohort import sign_of
from wardround.strategies.secagg.masked_update import remove_masks
from wardround.strategies.secagg.messages import (
    Cause,
    Masked,
    SurvivorOffer,
    SurvivorSignature,
    SurvivorVote,
    UnmaskAnswer,
    UnmaskRequest,
)
from wardround.strategies.secagg.parameters import Parameters
from wardround.strategies.secagg.phases import MemberRoundPhase, Outgoing, RefusedError
from wardround.strategies.secagg.server_round import ServerRound

ALL = range(5)


def unchecked(*args: object, **kwargs: object) -> None:
    """In the place of a check that is removed."""


def started(parameters: Parameters = SMALL) -> SimulatedGroup:
    group = SimulatedGroup(parameters)
    group.start_epoch()
    assert not group.refused
    return group


def masked_by_all(group: SimulatedGroup, round_: int = 0, **changes: object) -> ServerRound:
    """A round in which everybody has sent its update, and the server has said nothing yet."""
    descriptor = group.descriptor(round_, **changes)
    machine = group.start_round(descriptor)
    group.send_updates(group.sites, descriptor)
    return machine


def offer(machine: ServerRound, receiver: int, survivors: Iterable[int]) -> SurvivorOffer:
    listed = set(survivors)
    cohort = machine._setting.cohort
    machine._lists = {g: tuple(i for i in cohort.groups[g] if i in listed) for g in cohort.groups_in(0)}
    return machine._offer_for(receiver)


def sign(group: SimulatedGroup, machine: ServerRound, member: int, survivors: Iterable[int]) -> SurvivorSignature:
    message = group.sites[name_of(member)].receive(offer(machine, member, survivors), NOW)[0].message
    assert isinstance(message, SurvivorSignature)
    return message


def request(votes: Sequence[SurvivorSignature]) -> UnmaskRequest:
    first = votes[0]
    return UnmaskRequest(
        h=first.h,
        committee=0,
        survivors=first.survivors,
        votes=tuple(SurvivorVote(member=one.member, signature=one.signature) for one in votes),
    )


def answer(group: SimulatedGroup, member: int, votes: Sequence[SurvivorSignature]) -> UnmaskAnswer:
    message = group.sites[name_of(member)].receive(request(votes), NOW)[0].message
    assert isinstance(message, UnmaskAnswer)
    return message


def recovered(
    group: SimulatedGroup, machine: ServerRound, victim: int, answers: Iterable[UnmaskAnswer]
) -> list[int] | None:
    """The victim's update from all that was opened; None where a seed is missing."""
    cohort = machine._setting.cohort
    shares: dict[tuple[int, int], dict[int, bytes]] = {}
    for one in answers:
        for opening in one.openings:
            shares.setdefault((opening.dealer, opening.peer), {})[one.member] = opening.share

    def seed(dealer: int, peer: int) -> bytes | None:
        got = shares.get((dealer, peer), {})
        return shamir.combine(got, cohort.threshold(0)) if len(got) >= cohort.threshold(0) else None

    seeds = [(seed(victim, victim), 1)]
    seeds += [(seed(victim, j) or seed(j, victim), sign_of(victim, j)) for j in cohort.peers(victim)]
    known = [(one, sign) for one, sign in seeds if one is not None]
    if len(known) < len(seeds):
        return None
    return without(group, machine, victim, known)


def without(group: SimulatedGroup, machine: ServerRound, victim: int, seeds: list[tuple[bytes, int]]) -> list[int]:
    masked = next(
        one
        for _, _, one in group.sent
        if isinstance(one, Masked) and (one.header.member, one.header.h) == (victim, machine._h)
    )
    vector, lane = np.frombuffer(masked.vector, dtype="<u4").copy(), np.frombuffer(masked.scalars, dtype="<u8").copy()
    remove_masks(vector, lane, seeds)
    found: list[int] = vector.tolist()
    return found


def secret_of(member: int, round_: int = 0) -> list[int]:
    words: list[int] = update_of(name_of(member), round_)[0].tolist()
    return words


def refused(cause: Cause, do: Callable[[], object]) -> None:
    with pytest.raises(RefusedError) as error:
        do()
    assert error.value.cause is cause


def allow_any_list(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the rule that a member signs one list in a round, and that of one over a model, which follows it."""
    own: dict[int, bytes] = {}

    def sign_any(machine: ClientRound, message: SurvivorOffer, now: datetime) -> list[Outgoing]:
        machine._own_shares = own.setdefault(machine._member, machine._own_shares)
        return ClientRound._sign(machine, message, now)

    monkeypatch.setattr(client_round, "check_redo", unchecked)
    table: dict[Any, Any] = client_round._TABLE
    for phase in (MemberRoundPhase.MASKED, MemberRoundPhase.SIGNED, MemberRoundPhase.ANSWERED):
        monkeypatch.setitem(table, (phase, SurvivorOffer), sign_any)
