"""The end of a round: once its sum is published, neither side keeps anything of it but that it was."""

from dataclasses import replace

import pytest

from tests.strategies.secagg.simulated_group import (
    NOW,
    RUN,
    SERVER_KEY,
    SMALL,
    SimulatedGroup,
    Site,
    expected_sum,
    name_of,
    update_of,
)
from wardround.errors import LocalError, RemoteError
from wardround.state_store import MemoryStore
from wardround.strategies.secagg.messages import (
    Cause,
    Published,
    RoundStart,
    SurvivorOffer,
    UnmaskRequest,
    encode,
)
from wardround.strategies.secagg.phases import MemberRoundPhase, RefusedError, ServerRoundPhase
from wardround.strategies.secagg.server_round import ServerRound
from wardround.strategies.secagg.signing_inputs import descriptor_input, result_input
from wardround.strategies.secagg.wire import Record


def started() -> SimulatedGroup:
    group = SimulatedGroup(SMALL)
    group.start_epoch()
    assert not group.refused
    return group


def published(group: SimulatedGroup) -> Published:
    return next(one for _, _, one in group.sent if isinstance(one, Published))


def begun_again(group: SimulatedGroup, site: Site) -> None:
    """The server asks for the same round again."""
    assert group.round is not None
    start = RoundStart(descriptor=group.descriptor(), signature=SERVER_KEY.sign(descriptor_input(group.descriptor())))
    site.receive(start, NOW)
    assert site.round is not None
    site.round.mask(*update_of(site.name, 0), model=group.descriptor().model)


def test_a_member_keeps_nothing_of_a_round_that_is_published() -> None:
    group = started()
    machine = group.run_round(group.descriptor())
    assert machine.phase is ServerRoundPhase.DONE
    for site in group.sites.values():
        assert site.round is not None and site.round.phase is MemberRoundPhase.IDLE
        assert site.store.get(f"secagg/{RUN}/m1") == b""
        kept = site.membership.state.get(f"secagg/{RUN}/round")
        assert kept == site.round._parts == [b"IDLE", encode(site.round._begun()), b"", b"\1"]


def test_after_the_end_and_a_restart_the_round_is_not_masked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    group = started()
    group.run_round(group.descriptor())
    site = group.sites[name_of(0)]
    for _ in range(2):
        with pytest.raises(RefusedError) as refused:
            begun_again(group, site)
        assert refused.value.cause is Cause.STALE
        site.restart()
    # were the record lost with all that it says, the counter would still stand in the way
    site.membership.state.erase(f"secagg/{RUN}/round")
    site.restart()
    with pytest.raises(LocalError, match="above 0"):
        begun_again(group, site)
    monkeypatch.setattr(MemoryStore, "advance", lambda *args: None)
    site.membership.state.erase(f"secagg/{RUN}/round")
    site.restart()
    begun_again(group, site)


def in_phase(phase: MemberRoundPhase) -> tuple[SimulatedGroup, Site, Published]:
    """Member 0 in this phase of a round that the others have brought to its end."""
    group = started()
    late = {
        MemberRoundPhase.STARTED: (SurvivorOffer, Published),
        MemberRoundPhase.MASKED: (SurvivorOffer, Published),
        MemberRoundPhase.SIGNED: (UnmaskRequest, Published),
        MemberRoundPhase.ANSWERED: (Published,),
    }[phase]

    def hook(sender: str | None, receiver: str | None, message: Record) -> list[Record]:
        return [] if receiver == name_of(0) and isinstance(message, late) else [message]

    group.hook = hook
    descriptor = group.descriptor()
    machine = group.start_round(descriptor)
    group.send_updates(group.names[phase is MemberRoundPhase.STARTED :], descriptor)
    while machine.phase is not ServerRoundPhase.DONE:
        group.post(None, machine.close())
    site = group.sites[name_of(0)]
    assert site.round is not None and site.round.phase is phase
    group.hook = lambda sender, receiver, message: [message]
    return group, site, published(group)


ACTIVE = [phase for phase in MemberRoundPhase if phase is not MemberRoundPhase.IDLE]


@pytest.mark.parametrize("phase", ACTIVE)
def test_a_result_ends_the_round_in_any_phase_and_spends_its_number(phase: MemberRoundPhase) -> None:
    group, site, result = in_phase(phase)
    assert site.receive(result, NOW) == site.receive(result, NOW) == []
    for _ in range(2):
        assert site.round is not None and site.round.phase is MemberRoundPhase.IDLE
        with pytest.raises(LocalError, match="waits for an update"):
            site.round.mask(*update_of(site.name, 0), model=group.descriptor().model)
        with pytest.raises(RefusedError):
            begun_again(group, site)
        site.restart()
    machine = group.run_round(group.descriptor(1))
    assert machine.results[0].vector.tolist() == expected_sum(group.names, 1)[0]


@pytest.mark.parametrize("phase", ACTIVE)
def test_a_result_of_another_committee_or_round_or_hand_ends_nothing(phase: MemberRoundPhase) -> None:
    group, site, result = in_phase(phase)
    elsewhere = result_input(group.descriptor(), 1, result.groups)
    stored = dict(site.store._values)
    for wrong in (
        replace(result, committee=1, signature=SERVER_KEY.sign(elsewhere)),
        replace(result, h=bytes(32)),
        replace(result, signature=bytes(64)),
    ):
        with pytest.raises(RefusedError):
            site.receive(wrong, NOW)
    assert site.round is not None and (site.round.phase, site.store._values) == (phase, stored)


def test_a_member_that_is_killed_while_it_erases_erases_when_it_hears_the_result_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, site, result = in_phase(MemberRoundPhase.ANSWERED)
    with monkeypatch.context() as patched:
        patched.setattr(type(site.membership.state), "put", lambda *args: (_ for _ in ()).throw(LocalError("killed")))
        with pytest.raises(LocalError, match="killed"):
            site.receive(result, NOW)
    site.restart()
    site.receive(result, NOW)
    assert site.round is not None and site.round.phase is MemberRoundPhase.IDLE


def test_a_member_without_a_round_takes_no_result() -> None:
    group, _, result = in_phase(MemberRoundPhase.ANSWERED)
    fresh = started().sites[name_of(0)]
    with pytest.raises(RemoteError):
        fresh.receive(result, NOW)
    assert group.round is not None


def test_the_server_erases_a_round_that_is_over_and_resumes_it_no_more() -> None:
    group = started()
    machine = group.run_round(group.descriptor())
    store = group.federation.store
    assert isinstance(store, MemoryStore) and group.setting is not None
    sums = machine.results[0].vector.tolist()
    at = f"secagg-server/{RUN}/0/"
    assert any(value for key, value in store._values.items() if key.startswith(at))
    machine.end()
    assert not any(value for key, value in store._values.items() if key.startswith(at))
    assert ServerRound.resume(group.setting) is None
    assert machine.results[0].vector.tolist() == sums == expected_sum(group.names, 0)[0]
    with pytest.raises(LocalError, match="above 0"):
        ServerRound.begin(group.setting, group.descriptor())
    assert group.run_round(group.descriptor(1)).phase is ServerRoundPhase.DONE


def test_a_round_that_is_given_up_is_erased_as_well() -> None:
    group = started()
    machine = group.run_round(group.descriptor(), {name_of(i): 1 for i in (0, 1, 2)})
    assert machine.phase is ServerRoundPhase.ABORTED
    machine.end()
    assert machine.abort is not None and machine.abort.cause is Cause.TOO_FEW_MEMBERS
    assert group.setting is not None and ServerRound.resume(group.setting) is None
