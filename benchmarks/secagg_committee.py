"""A committee's round of secure aggregation, and what it costs each side in CPU seconds.

The machines that members and servers run, `ClientRound` and `ServerRound`, in one process; every message is encoded by
its sender and decoded by its receiver, on that side's clock. Agreements come from `shared_agreements`, so no roster is
checked.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import numpy as np

from wardround.identity import Authority, Revocations, issue_certificate, make_authority
from wardround.pins import AcceptedKeys, ApprovedKeys
from wardround.signing_key import SigningKey
from wardround.state_store import MemoryStore
from wardround.strategies.privacy.secure_random import SecureRandom
from wardround.strategies.secagg.client_epoch import Agreement
from wardround.strategies.secagg.client_round import ClientRound
from wardround.strategies.secagg.cohort import Cohort
from wardround.strategies.secagg.encoding import Encoding, encode_lane
from wardround.strategies.secagg.membership import Membership
from wardround.strategies.secagg.messages import Descriptor, Task, decode, encode
from wardround.strategies.secagg.parameters import Parameters, lost
from wardround.strategies.secagg.phases import Outgoing, ServerRoundPhase
from wardround.strategies.secagg.round_setting import GroupResult, RoundSetting
from wardround.strategies.secagg.sealed_state import SealedState
from wardround.strategies.secagg.server_round import ServerRound
from wardround.strategies.secagg.shared_agreement import shared_agreements
from wardround.vector import F32

RUN, MODEL, PLAN = "benchmark", bytes(32), bytes(32)
NOW = datetime(2026, 1, 5, 12, tzinfo=UTC)
YEAR = timedelta(days=365)
LANE = 4  # words of 64 bits: weight and three counts
CLIP_NORM = 1.0


class SparingStore(MemoryStore):
    """Keeps no masked updates, which nobody asks for again here: they would fill the memory."""

    def put(self, key: str, value: bytes) -> None:
        super().put(key, b"" if key.endswith("/m1") or "/m1/" in key else value)

    def copy(self) -> SparingStore:
        made = SparingStore()
        made._values, made._counters = dict(self._values), dict(self._counters)
        return made


@dataclass(slots=True)
class Clock:
    """CPU seconds of each side by stage."""

    client: dict[str, list[float]] = field(default_factory=dict)
    server: dict[str, list[float]] = field(default_factory=dict)

    @contextmanager
    def at(self, side: dict[str, list[float]], stage: str) -> Iterator[None]:
        begin = time.process_time()
        yield
        side.setdefault(stage, []).append(time.process_time() - begin)

    @property
    def client_s(self) -> float:
        """Of one client: the sum of each stage's mean."""
        return sum(sum(each) / len(each) for each in self.client.values())

    @property
    def server_s(self) -> float:
        return sum(sum(each) for each in self.server.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Federated:
    """A cohort with all its keys, and how its updates become words."""

    cohort: Cohort
    agreements: Callable[[int], Mapping[int, Agreement]]
    keys: Sequence[SigningKey]
    server_key: SigningKey
    encoding: Encoding
    authority: bytes
    authority_key: SigningKey

    def membership(self, member: int, store: MemoryStore, accepted: AcceptedKeys | None = None) -> Membership:
        """Of one member; with a certificate where it is to be checked against the keys that are `accepted`."""
        name, key = self.cohort.names[member], self.keys[member]
        return Membership(
            run=RUN,
            plan=PLAN,
            parameters=self.cohort.parameters,
            name=name,
            signing_key=key,
            certificate=b"" if accepted is None else self.certificate(name, key.public),
            authority=Authority(self.authority),
            revocations=Revocations(number=1, serials=frozenset(), next_update=NOW + YEAR),
            accepted=accepted or ApprovedKeys({}),
            server=self.server_key.public,
            state=SealedState(store, bytes(32), os.urandom),
            random=os.urandom,
        )

    def certificate(self, name: str, public: bytes) -> bytes:
        made = {"not_before": NOW, "not_after": NOW + YEAR, "random": os.urandom}
        return issue_certificate(self.authority, self.authority_key, name=name, public=public, **made)

    def setting(self, committee: int, store: MemoryStore) -> RoundSetting:
        return RoundSetting(
            cohort=self.cohort,
            committee=committee,
            size=self.encoding.length,
            scalars=LANE,
            signing_key=self.server_key,
            store=store,
        )

    def descriptor(self, round_: int = 0) -> Descriptor:
        return Descriptor(
            run=RUN,
            epoch=0,
            round=round_,
            task=Task.FIT,
            model=MODEL,
            order=MODEL,
            roster=self.cohort.roster,
            group_table=self.cohort.group_table,
            deadline_ms=int((NOW + YEAR).timestamp() * 1000),
        )


def federated(clients: int, groups: int, size: int, *, colluding: int, dropout: float) -> Federated:
    """A federation whose updates of `size` values are encoded as by a plan without noise."""
    group = clients // groups
    survivors = group - lost(group, dropout)
    parameters = Parameters(
        clients=clients,
        colluding=colluding,
        dropout=dropout,
        groups=groups,
        min_roster=clients,
        min_survivors=survivors,
    )
    names = [f"client-{member:05}" for member in range(clients)]
    keys = [SigningKey.make(os.urandom) for _ in names]
    cohort, agreements = shared_agreements(parameters, RUN, 0, names, [key.public for key in keys], os.urandom, NOW)
    authority_key = SigningKey.make(os.urandom)
    authority = make_authority(authority_key, "benchmark", not_before=NOW, not_after=NOW + YEAR, random=os.urandom)
    bits = min(24, 32 - (parameters.group_size - 1).bit_length())
    scale = ((1 << (bits - 1)) - 1) / CLIP_NORM
    return Federated(
        cohort=cohort,
        agreements=agreements,
        keys=keys,
        server_key=SigningKey.make(os.urandom),
        encoding=Encoding(size=size, scale=scale, value_bits=bits, members=parameters.group_size, clip_norm=CLIP_NORM),
        authority=authority,
        authority_key=authority_key,
    )


def update_of(member: int, size: int) -> F32:
    """An update of norm 1, give or take: about half of them are clipped."""
    generator = np.random.Generator(np.random.SFC64(member))
    return generator.standard_normal(size, dtype=np.float32) * np.float32(size**-0.5)


def run_round(
    of: Federated, committee: int, dropouts: Sequence[int], store: Callable[[], MemoryStore] = SparingStore
) -> list[tuple[Clock, tuple[GroupResult, ...]]]:
    """One round of a committee for each number of drop-outs, the last members, who are lost after their masks are sent.

    Members mask once; for what follows, each number of drop-outs has its own server, and members as they are after a
    restart. Raises SystemExit where a sum is not that of the survivors' words.
    """
    holders, agreements, random = of.cohort.holders(committee), of.agreements(committee), SecureRandom()
    stores = {member: store() for member in holders}
    members = {member: ClientRound(of.membership(member, stores[member]), agreements[member]) for member in holders}
    clocks = [Clock() for _ in dropouts]
    servers = [ServerRound.begin(of.setting(committee, store()), of.descriptor()) for _ in dropouts]
    expected = [np.zeros(of.encoding.length, dtype=np.uint32) for _ in dropouts]
    start = encode(servers[0].outgoing()[0].message)
    shared, lane = Clock(), encode_lane([1, 2, 3, 4], len(holders))
    for at, member in enumerate(holders):
        update = update_of(member, of.encoding.size)
        with shared.at(shared.client, "update"):
            members[member].receive(decode(start), NOW)
            words = of.encoding.encode(update, random).words
            (made,) = members[member].mask(words, lane, model=MODEL)
            frame = encode(made.message)
        del made, update
        for clock, server, missing, total in zip(clocks, servers, dropouts, expected, strict=True):
            if at < len(holders) - missing:
                with clock.at(clock.server, "update"):
                    server.receive(of.cohort.names[member], decode(frame), NOW)
                total += words
        del frame, words
    found = []
    for clock, server, missing, total in zip(clocks, servers, dropouts, expected, strict=True):
        clock.client |= shared.client
        there = holders[: len(holders) - missing]
        if len(dropouts) > 1:
            members = {
                member: ClientRound(of.membership(member, stores[member].copy()), agreements[member])  # type: ignore[attr-defined]
                for member in there
            }
        _finish(of, server, {member: members[member] for member in there}, clock)
        if server.phase is not ServerRoundPhase.DONE:
            raise SystemExit(f"{server.phase}: {server.abort}")
        if len(server.results) != 1 or not np.array_equal(server.results[0].vector, total):
            raise SystemExit("expected the sum of the survivors' words, got another")
        found.append((clock, server.results))
    return found


def _finish(of: Federated, server: ServerRound, members: Mapping[int, ClientRound], clock: Clock) -> None:
    """From the list of survivors to the sum, and to what is told of it."""
    index = {of.cohort.names[member]: member for member in members}
    with clock.at(clock.server, "signature"):
        outgoing = server.close()
    for stage in ("signature", "opening", "end"):
        answered: list[Outgoing] = []
        for one in outgoing:
            if one.receiver not in index:
                continue
            with clock.at(clock.server, stage):
                frame = encode(one.message)
            with clock.at(clock.client, stage):
                replies = [encode(reply.message) for reply in members[index[one.receiver]].receive(decode(frame), NOW)]
            for reply in replies:
                with clock.at(clock.server, stage):
                    answered += server.receive(one.receiver, decode(reply), NOW)
        if stage == "signature" and server.phase is ServerRoundPhase.SIGNATURES:  # not all are there
            with clock.at(clock.server, stage):
                answered = server.close()
        outgoing = answered
