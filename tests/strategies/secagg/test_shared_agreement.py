"""Agreements without an epoch, for simulations: the machines work with them, and no deployed member accepts them."""

from itertools import combinations

import pytest

from tests.strategies.secagg.simulated_group import (
    NOW,
    RUN,
    SCALARS,
    SERVER_KEY,
    SIZE,
    SimulatedGroup,
    expected_sum,
    name_of,
    signing_key,
    stream,
    update_of,
)
from wardround.state_store import MemoryStore
from wardround.strategies.secagg import client_epoch, cohort, parameters
from wardround.strategies.secagg.client_epoch import Agreement
from wardround.strategies.secagg.client_round import ClientRound
from wardround.strategies.secagg.cohort import Cohort
from wardround.strategies.secagg.messages import Cause, Descriptor, Group, GroupTable, Roster, Task, digest_of
from wardround.strategies.secagg.parameters import Parameters
from wardround.strategies.secagg.phases import Outgoing, RefusedError, ServerRoundPhase
from wardround.strategies.secagg.round_setting import RoundSetting
from wardround.strategies.secagg.server_round import ServerRound
from wardround.strategies.secagg.shared_agreement import shared_agreements
from wardround.strategies.secagg.wire import Record

WANTED = Parameters(clients=8, colluding=0, dropout=0.25, groups=2, min_roster=8, min_survivors=3)
NAMES = [name_of(i) for i in range(8)]
KEYS = [signing_key(name).public for name in NAMES]


def made(label: str = "draws", table: GroupTable | None = None, epoch: int = 0) -> tuple[Cohort, list[Agreement]]:
    agreed, agreements = shared_agreements(WANTED, RUN, epoch, NAMES, KEYS, stream(label), NOW, table)
    of = {member: one for committee in agreed.committees for member, one in agreements(committee).items()}
    return agreed, [of[member] for member in range(8)]


@pytest.fixture
def small_committees(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a roster of more than 255: each group is a committee of its own."""
    monkeypatch.setattr(cohort, "MAX_COMMITTEE", 4)
    monkeypatch.setattr(parameters, "MAX_COMMITTEE", 4)


@pytest.mark.usefixtures("small_committees")
def test_each_committee_shares_secrets_by_pair_and_one_cohort() -> None:
    agreed, agreements = made()
    seen = set()
    for one, other in combinations(agreements, 2):
        together = agreed.group_of(one.member) == agreed.group_of(other.member)
        assert (other.member in one.secrets) == (one.member in other.secrets) == together
        if together:
            assert one.secrets[other.member] == other.secrets[one.member]
            seen.add(one.secrets[other.member])
    assert len(seen) == 2 * 6
    assert all(one.cohort is agreed and one.started == NOW for one in agreements)
    assert [one.member for one in agreements] == list(range(8))


@pytest.mark.usefixtures("small_committees")
def test_a_committee_asked_for_twice_has_the_same_secrets_and_every_epoch_others() -> None:
    agreed, agreements = shared_agreements(WANTED, RUN, 0, NAMES, KEYS, stream("draws"), NOW)
    assert agreements(1) == agreements(1)
    later, others = shared_agreements(WANTED, RUN, 1, NAMES, KEYS, stream("later"), NOW)
    assert later.roster != agreed.roster
    known = {prk for one in agreements(0).values() for prk in one.secrets.values()}
    assert not known & {prk for one in others(0).values() for prk in one.secrets.values()}


def test_a_table_that_was_drawn_before_holds() -> None:
    agreed, _ = made()
    table = GroupTable(
        run=RUN,
        groups=tuple(Group(names=tuple(agreed.names[member] for member in group)) for group in agreed.groups),
    )
    again, _ = made("others", table, epoch=1)
    assert (again.groups, again.group_table) == (agreed.groups, agreed.group_table)
    assert made("others")[0].groups != agreed.groups


@pytest.mark.usefixtures("small_committees")
@pytest.mark.parametrize("silent", [0, 1])
def test_rounds_run_on_these_agreements_and_give_the_exact_sum(silent: int) -> None:
    agreed, agreements = made()
    group = SimulatedGroup(WANTED)
    descriptor = Descriptor(
        run=RUN,
        epoch=0,
        round=0,
        task=Task.FIT,
        model=bytes(32),
        order=bytes(32),
        roster=agreed.roster,
        group_table=agreed.group_table,
        deadline_ms=int(NOW.timestamp() * 1000) + 1,
    )
    for committee in agreed.committees:
        holders = agreed.holders(committee)
        members = {name_of(m): ClientRound(group.memberships[name_of(m)], agreements[m]) for m in holders}
        setting = RoundSetting(
            cohort=agreed,
            committee=committee,
            size=SIZE,
            scalars=SCALARS,
            signing_key=SERVER_KEY,
            store=MemoryStore(),
        )
        server = ServerRound.begin(setting, descriptor)

        def post(
            outgoing: list[Outgoing], server: ServerRound = server, members: dict[str, ClientRound] = members
        ) -> None:
            while outgoing:
                one = outgoing.pop(0)
                assert one.receiver is not None
                for answer in members[one.receiver].receive(one.message, NOW):
                    outgoing += server.receive(one.receiver, answer.message, NOW)

        post(server.outgoing())
        sending = list(members)[silent:]
        for name in sending:
            masked = members[name].mask(*update_of(name, 0), model=descriptor.model)
            server.receive(name, masked[0].message, NOW)
        post(server.close())
        assert server.phase is ServerRoundPhase.DONE
        (result,) = server.results
        assert (result.vector.tolist(), result.scalars.tolist()) == expected_sum(sending, 0)


def test_a_deployed_member_refuses_a_roster_that_was_made_so(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Roster] = []

    def seen(message: Record) -> bytes:
        if isinstance(message, Roster):
            shown.append(message)
        return digest_of(message)

    monkeypatch.setattr(cohort, "digest_of", seen)
    made()
    group = SimulatedGroup(WANTED)
    member = client_epoch.ClientEpoch.begin(group.memberships[name_of(0)], 0, NOW)
    with pytest.raises(RefusedError) as refused:
        member.receive(shown[0], NOW)
    assert refused.value.cause is Cause.PARAMETERS


def test_names_must_ascend_and_have_one_key_each() -> None:
    with pytest.raises(ValueError, match="ascending"):
        shared_agreements(WANTED, RUN, 0, NAMES[::-1], KEYS, stream("draws"), NOW)
    with pytest.raises(ValueError, match="one for each of 8 names, got 7"):
        shared_agreements(WANTED, RUN, 0, NAMES, KEYS[1:], stream("draws"), NOW)
