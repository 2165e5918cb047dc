"""What a site does about sums that are nearly the same: an administrator's release, and the site's own policy."""

import hashlib
from collections.abc import Collection
from dataclasses import replace
from datetime import timedelta

import pytest

from tests.strategies.secagg.simulated_group import NOW, RUN, SMALL, SimulatedGroup, expected_sum, name_of
from wardround.strategies.secagg import client_round
from wardround.strategies.secagg.answered_lists import Release, release
from wardround.strategies.secagg.messages import Cause, Task
from wardround.strategies.secagg.phases import RefusedError, ServerRoundPhase

MODEL = hashlib.sha256(b"the same model").digest()


def started(**policy: object) -> SimulatedGroup:
    group = SimulatedGroup(SMALL)
    group.memberships = {name: replace(one, **policy) for name, one in group.memberships.items()}  # type: ignore[arg-type]
    group.start_epoch()
    return group


def done(group: SimulatedGroup, round_: int, gone: Collection[int] = (), **changes: object) -> bool:
    descriptor = group.descriptor(round_, **changes)
    return group.run_round(descriptor, {name_of(i): 1 for i in gone}).phase is ServerRoundPhase.DONE


def released(group: SimulatedGroup, task: Task = Task.FIT, model: bytes = MODEL) -> list[Release]:
    return [release(site.membership.state, RUN, task, model, NOW) for site in group.sites.values()]


# --- the administrator's release


def test_a_release_lets_another_list_be_answered_and_says_so_for_the_log() -> None:
    group = started()
    assert done(group, 0, model=MODEL) and not done(group, 1, (4,), model=MODEL)
    (first, *_) = released(group)
    assert first == Release(run=RUN, task=Task.FIT, model=MODEL, unspent=1, at=NOW)
    assert done(group, 2, (4,), model=MODEL)
    assert not done(group, 3, (3,), model=MODEL)
    released(group)
    (second, *_) = released(group)
    assert second.unspent == 2
    assert done(group, 4, (3,), model=MODEL)
    assert done(group, 5, (4,), model=MODEL) and done(group, 6, model=MODEL)  # answered before
    (third, *_) = released(group)
    assert third.unspent == 2


def test_a_release_is_of_one_model_and_task() -> None:
    group = started()
    assert done(group, 0, model=MODEL)
    released(group, Task.EVALUATE)
    released(group, model=bytes(32))
    assert not done(group, 1, (4,), model=MODEL)


def test_a_release_survives_a_restart_and_is_not_spent_by_a_list_that_needs_none() -> None:
    group = started()
    released(group)
    assert done(group, 0, model=MODEL) and done(group, 1, model=MODEL)  # neither needs it
    for site in group.sites.values():
        site.restart()
    assert done(group, 2, (4,), model=MODEL)
    assert not done(group, 3, (3,), model=MODEL)


def test_a_release_is_not_spent_by_a_list_that_is_signed_and_never_answered() -> None:
    group = started()
    assert done(group, 0, model=MODEL)
    released(group)
    machine = group.run_round(group.descriptor(1, model=MODEL), {name_of(4): 1, name_of(0): 2})
    assert machine.phase is ServerRoundPhase.DONE  # the signature of member 0 was lost, so nobody asked it to answer
    group.refused.clear()
    assert not done(group, 2, (3,), model=MODEL)
    who = {receiver for receiver, _, error in group.refused if isinstance(error, RefusedError)}
    assert who == {name_of(1), name_of(2), name_of(3)}  # and 4, whose signature was lost too, has its release still


def test_without_a_record_of_what_was_answered_every_list_goes_through(monkeypatch: pytest.MonkeyPatch) -> None:
    group = started()
    assert done(group, 0, model=MODEL)
    released(group)
    assert done(group, 1, (4,), model=MODEL) and not done(group, 2, (3,), model=MODEL)
    monkeypatch.setattr(client_round, "record_answer", lambda *args: None)
    group = started()
    assert all(done(group, round_, (round_,), model=MODEL) for round_ in range(4))


# --- the site's policy on successive rounds


def test_near_equal_survivors_of_successive_rounds_are_noted() -> None:
    group = started(min_difference=2)

    def notes() -> set[tuple[str, ...]]:
        """Of the members that answered every round."""
        return {site.round.notes for name, site in group.sites.items() if site.round is not None and name < name_of(3)}

    assert done(group, 0) and notes() == {()}
    assert done(group, 1, (4,))
    assert notes() == {
        (
            "epoch 0, round 1: expected the survivors of group 0 to be those of the last answered round or to differ "
            "in 2, got 1 changes",
        )
    }
    assert done(group, 2, (4,)) and notes() == {()}  # the same again
    assert done(group, 3, (3,)) and notes() == {()}  # two changes
    for site in group.sites.values():
        site.restart()
    group.start_epoch(1)
    assert done(group, 0) and len(notes().pop()) == 1  # in another epoch too


def test_a_site_may_refuse_them_and_a_difference_would_tell_an_update_else() -> None:
    group = started(min_difference=2, refuse_near_lists=True)
    assert done(group, 0) and not done(group, 1, (4,))
    causes = {error.cause for _, _, error in group.refused if isinstance(error, RefusedError)}
    assert causes == {Cause.POLICY}
    assert done(group, 2) and done(group, 3, (3, 4))
    group = started()
    machine = group.run_round(group.descriptor(0))
    whole = machine.results[0].vector.tolist()
    machine = group.run_round(group.descriptor(1), {name_of(4): 1})
    less = machine.results[0].vector.tolist()
    others = [expected_sum(group.names[:4], round_)[0] for round_ in (0, 1)]
    told = [(a - b - c + d) % 2**32 for a, b, c, d in zip(whole, less, *others, strict=True)]
    assert told == expected_sum([name_of(4)], 0)[0]


def test_evaluations_are_compared_with_evaluations() -> None:
    group = started(min_difference=2, refuse_near_lists=True)
    assert done(group, 0)
    assert done(group, 1, (4,), task=Task.EVALUATE)
    assert done(group, 2)
    assert not done(group, 3, (), task=Task.EVALUATE)


def test_by_default_nothing_is_noted_or_kept() -> None:
    group = started()
    assert done(group, 0) and done(group, 1, (4,))
    for site in group.sites.values():
        assert site.round is not None and site.round.notes == ()
        assert not [key for key in site.store._values if "last-answered" in key]


def test_with_noise_no_list_is_kept_over_a_model() -> None:
    group = started(noised=True)
    assert done(group, 0, model=MODEL) and done(group, 1, (4,), model=MODEL) and done(group, 2, model=MODEL)
    for site in group.sites.values():
        assert not [key for key in site.store._values if "/answered/" in key]


def test_evaluations_have_no_noise_and_are_held_to_the_rule_where_training_has_it() -> None:
    group = started(noised=True)
    assert done(group, 0, model=MODEL, task=Task.EVALUATE)
    assert not done(group, 1, (4,), model=MODEL, task=Task.EVALUATE)
    assert done(group, 2, model=MODEL, task=Task.EVALUATE)


def test_a_release_has_the_time_at_which_it_was_given() -> None:
    group = started()
    state = group.sites[name_of(0)].membership.state
    later = NOW + timedelta(days=3)
    assert release(state, RUN, Task.FIT, MODEL, later).at == later
