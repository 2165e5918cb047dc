"""Rounds of a federation whose clients are hidden: what is charged, who is drawn, when it ends, what is told."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from tests.federation_of_points import Points, point_plan, points
from wardround.errors import BudgetError, LocalError
from wardround.orders import Split
from wardround.state_store import MemoryStore
from wardround.strategies.privacy.terms import client_terms
from wardround.strategies.records import RunState

CLIENTS = ("privacy.unit=client", "privacy.noise_multiplier=2", "cohort.weighting=uniform")
SAMPLED = (*CLIENTS, "privacy.sampling=poisson", "cohort.size=5", "privacy.delta=1e-5")


def start(size: int = 3) -> RunState:
    return RunState(round=0, model=np.zeros(size, dtype=np.float32))


def test_every_round_is_charged_and_told() -> None:
    found = points(point_plan(*CLIENTS, rounds=4))
    found.run()
    spent = [record.privacy.epsilon for record in found.recorder.records if record.privacy is not None]
    terms = client_terms(found.plan)
    assert spent == [terms.spent(number).epsilon for number in (1, 2, 3, 4)]
    assert found.central is not None and found.central.begun == 4


def test_the_noise_is_the_claimed_one() -> None:
    """All sites send zero: what is left is noise of 2 x clip / 4 clients."""
    plan = point_plan(*CLIENTS, "privacy.clip_norm=3", rounds=1)
    found = points(plan, dimension=20_000)
    for trainer in found.trainers:
        trainer.point = np.zeros(20_000, dtype=np.float32)
    model = found.run().model
    assert np.std(model) == pytest.approx(2 * 3 / 4, rel=0.05)  # ten deviations


def test_a_clip_bounds_what_a_site_and_a_liar_add() -> None:
    plan = point_plan(
        *CLIENTS, "privacy.noise_multiplier=0.01", "privacy.clip_norm=0.1", "privacy.delta=1e-5", rounds=1
    )
    found = points(plan, dimension=50, lie=lambda update: update * np.float32(1e6), liars=1)
    model = found.run().model.astype(np.float64)
    assert np.linalg.norm(model) <= 0.1 + 50 * 0.01 * 0.1


def test_a_budget_ends_the_run_before_it_is_exceeded_and_keeps_the_model() -> None:
    plan = point_plan(*CLIENTS, rounds=50)
    cap = client_terms(plan).spent(7).epsilon
    plan = plan.override([f"privacy.epsilon={cap * 1.001}"])
    found = points(plan)
    state = found.run()
    assert state.round == 7 and "budget is spent" in state.stopped
    assert found.central is not None and found.central.epsilon <= cap * 1.001
    again = found.strategy.advance(found.grid, replace(state, stopped=""))
    assert found.central.begun == 7 and again.stopped, "no further round may begin"
    assert np.array_equal(again.model, state.model)


def test_a_round_that_a_crash_ended_is_charged_and_repeated_with_other_noise() -> None:
    store = MemoryStore()
    plan = point_plan(*CLIENTS, rounds=3)
    first = points(plan)
    first = Points(plan, first.trainers, store=store)
    lost = first.strategy.advance(first.grid, start())
    second = Points(plan, first.trainers, store=store)  # as resumed: the first round's result was never kept
    state = second.run()
    assert second.central is not None and second.central.begun == 3 and state.round == 2
    told = second.recorder.records[-1].privacy
    assert told is not None and told.epsilon == client_terms(plan).claim.epsilon, "lost rounds count as well"
    assert not np.array_equal(lost.model, second.recorder.states[0].model)
    assert "budget is spent" in state.stopped


def test_a_void_round_is_charged() -> None:
    found = points(point_plan(*CLIENTS, "cohort.min_replies=4", rounds=2))
    found.trainers[0].broken = "fails"
    state = found.run()
    assert [record.void for record in found.recorder.records] == [True, True]
    assert found.central is not None and found.central.begun == 2
    assert not state.model.any()


def test_no_client_can_void_a_round_by_what_it_has_learnt() -> None:
    """That a round is void would tell of a NaN: it is zero at the guard, and at the server for a guard that lies."""
    found = points(point_plan(*CLIENTS, rounds=2), lie=lambda update: update * np.float32(np.inf), liars=1)
    found.trainers[0].broken = "nan"
    found.run()
    assert [record.void for record in found.recorder.records] == [False, False]
    lines = found.recorder.records[0].report.lines
    assert [line.verdict.value for line in lines] == ["accepted", "accepted", "accepted", "refused"]


def test_a_client_that_is_missing_is_zero_and_the_noise_is_full() -> None:
    found = points(point_plan(*CLIENTS, rounds=1))
    found.trainers[0].broken = "fails"
    found.run()
    (record,) = found.recorder.records
    assert not record.void and len(record.absences) == 1


def test_who_takes_part_is_drawn_in_secret_and_not_told() -> None:
    plan = point_plan(*SAMPLED, sites=20, rounds=6)
    first, second = points(plan), points(plan)
    first.run()
    second.run()
    asked = [[len(trainer.jobs) for trainer in one.trainers] for one in (first, second)]
    assert asked[0] != asked[1], "the plan's seed decides nothing of it"
    for record in first.recorder.records:
        assert record.cohort == () and record.absences == () and record.report.lines == ()


def test_an_empty_sample_is_noise_alone() -> None:
    plan = point_plan(*SAMPLED, "cohort.size=1", sites=4, rounds=40)
    found = points(plan)
    state = found.run()
    assert state.round == 40 and not any(record.void for record in found.recorder.records)
    assert sum(len(trainer.jobs) for trainer in found.trainers) < 160


def test_a_sample_of_fixed_size_has_that_size() -> None:
    plan = point_plan(
        *SAMPLED[:3], "privacy.sampling=fixed-size", "privacy.relation=replace-one", "cohort.size=2", rounds=5, sites=6
    )
    found = points(plan)
    found.run()
    assert sum(len(trainer.jobs) for trainer in found.trainers) == 10


def test_nothing_that_depends_on_rows_leaves_beside_the_updates() -> None:
    found = points(point_plan(*CLIENTS, "data.validation=0.2", rounds=2))
    state = found.run()
    for record in found.recorder.records:
        assert record.train is None and record.validation is None
        assert all(line.norm is None and line.cosine is None and line.score is None for line in record.report.lines)
    with pytest.raises(LocalError, match=r"every site failed.*no evaluation"):
        found.strategy.evaluate(found.grid, state, Split.TEST)


def test_with_the_sites_consent_scores_are_sent_in_clear() -> None:
    found = points(point_plan(*CLIENTS, "privacy.evaluation=clear", rounds=2))
    found.run()
    assert all(record.validation is not None for record in found.recorder.records)


def test_banded_noise_takes_each_site_every_so_many_rounds() -> None:
    plan = point_plan(*CLIENTS, "privacy.mechanism=banded-mf", "privacy.bands=3", "cohort.size=2", sites=7, rounds=9)
    found = points(plan)
    state = found.run()
    assert state.round == 9 and not any(record.void for record in found.recorder.records)
    rounds = [[job.order.round for job in trainer.jobs] for trainer in found.trainers]
    assert all(later - earlier >= 3 for own in rounds for earlier, later in pairwise(own))
    spent = {record.privacy.epsilon for record in found.recorder.records if record.privacy is not None}
    assert len(spent) == 1, "charged whole at the start"


def test_an_adaptive_clip_travels_in_the_order() -> None:
    plan = point_plan(
        *CLIENTS,
        "privacy.noise_multiplier=0.5",
        "privacy.clipping=adaptive",
        "privacy.clip_norm=0.01",
        "privacy.delta=1e-5",
        sites=40,
        rounds=12,
    )
    found = points(plan)
    found.run()
    asked = [job.order.clip_norm for job in found.trainers[0].jobs]
    assert asked[0] == pytest.approx(0.01) and asked[-1] is not None and asked[-1] > 0.015
    told = [record.privacy.clip_norm for record in found.recorder.records if record.privacy is not None]
    assert told[:-1] == pytest.approx(asked[1:])


class Poor:
    """A site whose ledger pays for two rounds."""

    def begin(self, round: int, attempt: int) -> None:
        if round > 2:
            raise BudgetError("the budget of this site is spent")


def test_a_site_without_budget_ends_the_run_with_the_last_model() -> None:
    plan = point_plan("privacy.unit=row", "privacy.noise_multiplier=2", "privacy.public_sizes=true", rounds=9)
    found = points(plan)
    found = Points(plan, found.trainers, budgets={1: Poor()})
    state = found.run()
    assert state.round == 3 and state.stopped == "site-1: the budget of this site is spent"
    assert np.array_equal(state.model, found.recorder.states[1].model)
    assert len(found.trainers[1].jobs) == 2, "it was not trained for the round that it could not pay"


def test_a_plan_that_hides_its_clients_does_not_run_without_an_account() -> None:
    from wardround.strategies.federated import FederatedStrategy
    from wardround.strategies.plain import Plain
    from wardround.strategies.rules.mean import Mean

    plan = point_plan(*CLIENTS)
    with pytest.raises(LocalError, match="account"):
        FederatedStrategy(plan, run_id="r", protection=Plain(plan), rule=Mean(), num_parameters=3)


def test_a_server_that_lost_its_record_asks_nobody() -> None:
    found = points(point_plan(*CLIENTS, rounds=4))
    state = found.strategy.advance(found.grid, start())
    fresh = Points(found.plan, found.trainers, store=MemoryStore())
    with pytest.raises(LocalError, match="what was spent is not known"):
        fresh.strategy.advance(fresh.grid, state)
    assert all(len(trainer.jobs) == 1 for trainer in found.trainers)


def test_a_client_that_fails_alone_in_a_secret_sample_ends_no_run() -> None:
    found = points(point_plan(*SAMPLED, "cohort.size=1", sites=4, rounds=30))
    for trainer in found.trainers:
        trainer.broken = "fails"
    assert found.run().round == 30


def test_a_run_whose_sites_all_have_nothing_left_stops() -> None:
    found = points(point_plan(*CLIENTS, rounds=9))
    found = Points(found.plan, found.trainers, budgets=dict.fromkeys(range(4), Poor()))
    state = found.run()
    assert state.round == 3 and "budget of this site is spent" in state.stopped
