"""Draws of groups: one for each round where the plan says so, as many as are reckoned with, and no server picks one."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta

import pytest

from tests.strategies.secagg.simulated_group import (
    GROUPED,
    NOW,
    RUN,
    SMALL,
    KilledStore,
    SimulatedGroup,
    expected_sum,
    name_of,
)
from wardround.errors import LocalError
from wardround.state_store import MemoryStore
from wardround.strategies.secagg import client_epoch, parameters
from wardround.strategies.secagg.client_epoch import ClientEpoch
from wardround.strategies.secagg.draws import IDLE_DRAWS_A_DAY, count_draw, settle_draws
from wardround.strategies.secagg.messages import Cause, Roster, RosterSignatures, RoundStart, SurvivorOffer, Task
from wardround.strategies.secagg.parameters import Tables
from wardround.strategies.secagg.phases import MemberEpochPhase, RefusedError, ServerEpochPhase, ServerRoundPhase
from wardround.strategies.secagg.server_epoch import ServerEpoch
from wardround.strategies.secagg.wire import Record

EACH = replace(GROUPED, tables=Tables.EACH_ROUND, regrouped_rounds=20)
DAY = timedelta(hours=24)


def test_every_epoch_draws_other_groups_and_no_table_is_kept() -> None:
    group, seen = SimulatedGroup(EACH), set()
    for epoch in range(4):
        group.start_epoch(epoch)
        assert group.server is not None and not group.refused
        assert group.server._shown().group_table is None
        seen.add(group.server.cohort.groups)
        descriptor = group.descriptor()
        machine = group.run_round(descriptor)
        assert machine.phase is ServerRoundPhase.DONE
        for result in machine.results:
            names = [group.server.cohort.names[member] for member in result.members]
            assert result.vector.tolist() == expected_sum(names, 0)[0]
    assert len(seen) == 4
    stores = [group.federation.store, *(site.store for site in group.sites.values())]
    assert all(isinstance(store, MemoryStore) and not [k for k in store._values if "/table" in k] for store in stores)


def test_a_restarted_member_and_server_find_the_groups_of_their_epoch_again() -> None:
    group = SimulatedGroup(EACH)
    group.start_epoch(0)
    group.start_epoch(1)
    resumed = ServerEpoch.resume(group.federation)
    assert group.server is not None and resumed is not None
    assert (resumed.phase, resumed.cohort) == (ServerEpochPhase.READY, group.server.cohort)
    for site in group.sites.values():
        before = site.epoch.agreement
        site.restart()
        assert site.epoch.agreement == before and before.cohort == resumed.cohort


def test_the_groups_of_an_epoch_train_once_and_may_evaluate_before_and_after() -> None:
    group = SimulatedGroup(EACH)
    group.start_epoch()

    def begun(round_: int, task: Task) -> list[bool]:
        before = len(group.refused)
        done = group.run_round(group.descriptor(round_, task=task)) if task is Task.EVALUATE else None
        if done is not None:
            return [done.phase is ServerRoundPhase.DONE]
        group.start_round(group.descriptor(round_, task=task))
        refused = [error for _, message, error in group.refused[before:] if isinstance(message, RoundStart)]
        assert all(isinstance(error, RefusedError) and error.cause is Cause.POLICY for error in refused)
        return [len(refused) == 0]

    assert begun(0, Task.EVALUATE) == [True]
    assert group.run_round(group.descriptor(1)).phase is ServerRoundPhase.DONE
    assert begun(2, Task.EVALUATE) == [True]
    assert begun(3, Task.FIT) == [False]
    for site in group.sites.values():
        site.restart()
    assert begun(4, Task.FIT) == [False]
    assert begun(5, Task.EVALUATE) == [True]
    group.start_epoch(1)
    assert begun(0, Task.FIT) == [True]


def test_without_noise_groups_are_not_drawn_for_each_round() -> None:
    mine = SimulatedGroup(EACH).memberships[name_of(0)]
    with pytest.raises(ValueError, match="without differential privacy"):
        replace(mine, noised=False)


# --- how many


def test_a_run_has_the_draws_that_its_colluders_are_reckoned_with(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = replace(EACH, starts=3, regrouped_rounds=5)
    odds: list[int] = []

    def reckoned(population: int, colluding: int, drawn: int, odd: int) -> int:
        odds.append(odd)
        return 0

    monkeypatch.setattr(parameters, "most_colluders", reckoned)
    wanted.colluders_in(4, 8)
    monkeypatch.undo()
    store, epoch = MemoryStore(), 0
    with pytest.raises(RefusedError) as refused:
        for epoch in range(100):
            count_draw(store, RUN, epoch, wanted.starts + wanted.regrouped_rounds, NOW + epoch * DAY)
    assert refused.value.cause is Cause.POLICY
    assert odds == [wanted.groups * epoch << parameters.FAILURE_BITS] and epoch == 8


def test_a_member_is_held_to_that_number_by_its_machine() -> None:
    group = SimulatedGroup(replace(EACH, starts=1, regrouped_rounds=2))
    for epoch in range(3):
        group.start_epoch(epoch)
        assert group.run_round(group.descriptor()).phase is ServerRoundPhase.DONE
    with pytest.raises(RefusedError, match="begin another epoch"):
        group.start_epoch(3)
    causes = {error.cause for _, _, error in group.refused if isinstance(error, RefusedError)}
    assert causes == {Cause.POLICY}


def test_draws_that_led_to_a_round_are_not_counted_among_those_of_a_day() -> None:
    group = SimulatedGroup(EACH)
    for epoch in range(IDLE_DRAWS_A_DAY + 2):
        group.start_epoch(epoch)
        assert group.run_round(group.descriptor()).phase is ServerRoundPhase.DONE
    assert not group.refused


@pytest.mark.parametrize("helps", [False, True], ids=["absent", "signs"])
def test_a_member_that_only_signs_a_list_has_taken_part_and_one_that_is_absent_has_not(helps: bool) -> None:
    group = SimulatedGroup(EACH)
    name = name_of(0)

    def hook(sender: str | None, receiver: str | None, message: Record) -> Iterable[Record]:
        lost = not helps and receiver == name and isinstance(message, RoundStart | SurvivorOffer)
        return [] if lost else [message]

    group.hook = hook
    group.start_epoch()
    machine = group.start_round(group.descriptor())
    group.send_updates(group.names[1:], group.descriptor())
    group.post(None, machine.close())
    while machine.phase not in (ServerRoundPhase.DONE, ServerRoundPhase.ABORTED):
        group.post(None, machine.close())
    idle = group.sites[name].store.get(f"secagg/{RUN}/draws")
    assert idle is not None and (len(idle) > 8) is not helps
    other = group.sites[name_of(1)].store.get(f"secagg/{RUN}/draws")
    assert other is not None and len(other) == 8 and int.from_bytes(other, "big") == 1


def test_the_count_of_a_day_begins_anew_with_a_round_and_with_the_next_day() -> None:
    store = MemoryStore()

    def revealed(epochs: Iterable[int], days: float) -> int:
        count = 0
        for epoch in epochs:
            try:
                count_draw(store, RUN, epoch, 1000, NOW + days * DAY)
                count += 1
            except RefusedError:
                return count
        return count

    assert revealed(range(20), 0) == IDLE_DRAWS_A_DAY
    settle_draws(store, RUN)
    assert revealed(range(20, 40), 0) == IDLE_DRAWS_A_DAY
    assert revealed(range(40, 60), 0.99) == 0
    assert revealed(range(60, 80), 1) == IDLE_DRAWS_A_DAY


# --- kills


@pytest.mark.parametrize("writes", [0, 1, 2])
def test_a_draw_is_counted_once_and_before_its_nonce_is_sent_wherever_a_kill_falls(writes: int) -> None:
    group = SimulatedGroup(GROUPED)
    group.hook = lambda sender, receiver, message: [] if isinstance(message, Roster) else [message]
    with pytest.raises(RefusedError):
        group.start_epoch()
    assert group.server is not None
    roster = group.server._shown()
    site = group.sites[name_of(0)]
    whole = site.store
    site.membership.state.store = KilledStore(whole, writes)
    sent = []
    try:
        sent = site.receive(roster, NOW)
    except LocalError as error:
        assert str(error) == "killed"
    site.membership.state.store = whole
    assert bool(sent) is (writes == 2)
    counted = whole.get(f"secagg/{RUN}/draws")
    assert (counted is not None) is (writes > 0)
    for _ in range(2):
        site.restart()
        assert site.receive(roster, NOW)
        counted = whole.get(f"secagg/{RUN}/draws")
        assert counted is not None and (int.from_bytes(counted[:8], "big"), len(counted)) == (1, 20)


# --- what the count is for


def tried(group: SimulatedGroup, epochs: int) -> int | None:
    """A server that sees all nonces before it lets an epoch begin voids epochs until members 5, 6 and 7, which collude
    with it, are in the group of member 0: the number of that epoch, if it comes so far."""
    for epoch in range(epochs):
        held: list[RosterSignatures] = []

        def hook(
            sender: str | None, receiver: str | None, message: Record, held: list[RosterSignatures] = held
        ) -> Iterable[Record]:
            if isinstance(message, RosterSignatures):
                held.append(message)
                return []
            return [message]

        group.hook = hook
        try:
            group.start_epoch(epoch)
        except RefusedError:
            return None
        assert group.server is not None
        cohort = group.server.cohort
        if {cohort.group_of(member) for member in (0, 5, 6, 7)} == {cohort.group_of(0)}:
            site = group.sites[name_of(0)]
            site.receive(held[0], NOW)
            assert site.epoch.phase is MemberEpochPhase.READY
            return epoch
        assert isinstance(group.federation.store, MemoryStore)
        group.federation.store._values.clear()  # the server is free to forget the table
    return None


def test_attack_3_a_server_does_not_void_epochs_until_the_groups_suit_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert tried(SimulatedGroup(GROUPED), 100) is None
    monkeypatch.setattr(client_epoch, "count_draw", lambda *args: None)
    found = tried(SimulatedGroup(GROUPED), 100)
    assert found is not None and found > IDLE_DRAWS_A_DAY


def test_groups_of_one_are_not_drawn() -> None:
    group = SimulatedGroup(SMALL)
    group.start_epoch()
    assert group.sites[name_of(0)].store.get(f"secagg/{RUN}/draws") is None
    assert ClientEpoch.resume(group.memberships[name_of(0)]) is not None
