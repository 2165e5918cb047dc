from collections.abc import Iterable, Iterator

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from tests.federation_of_points import Points, point_plan, points
from wardround.errors import LocalError
from wardround.orders import SiteId, Split
from wardround.strategies.records import RunState


def test_round_moves_the_model_by_the_weighted_mean_of_the_updates() -> None:
    federation = points(point_plan(rounds=1))
    state = federation.run()
    weights = np.array([t.num_examples for t in federation.trainers], dtype=float)
    expected = np.average([t.point / 2 for t in federation.trainers], axis=0, weights=weights)
    np.testing.assert_allclose(state.model, expected, rtol=1e-6)


def test_many_rounds_reach_the_weighted_mean_of_the_points() -> None:
    federation = points(point_plan("cohort.weighting=uniform", rounds=30))
    expected = np.mean([t.point for t in federation.trainers], axis=0)
    np.testing.assert_allclose(federation.run().model, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "weights"),
    [
        ((), [10, 11, 12, 13]),
        (("cohort.weighting=uniform",), [1, 1, 1, 1]),
        (("cohort.weighting=capped", "cohort.weight_cap=11"), [10, 11, 11, 11]),
    ],
)
def test_weights_follow_the_plan(settings: tuple[str, ...], weights: list[int]) -> None:
    federation = points(point_plan(*settings, rounds=1))
    federation.run()
    assert [line.weight for line in federation.recorder.records[0].report.lines] == weights


def test_cohorts_are_drawn_anew_and_are_the_same_for_the_same_seed() -> None:
    plan = point_plan("cohort.size=3", sites=10, rounds=8)
    first, second = points(plan), points(plan)
    first.run()
    second.run()
    cohorts = [record.cohort for record in first.recorder.records]
    assert cohorts == [record.cohort for record in second.recorder.records]
    assert all(len(set(cohort)) == 3 for cohort in cohorts)
    assert len(set(cohorts)) > 1


def test_each_site_gets_one_message_per_round_and_evaluation() -> None:
    federation = points(point_plan("evaluation.every=2", rounds=3))
    federation.run()
    site = SiteId("site-0")
    assert federation.grid.delivered[site, "query.hello"] == 1
    assert federation.grid.delivered[site, "train"] == 3
    assert federation.grid.delivered[site, "evaluate"] == 2  # after round 2, and after the last


def test_one_bad_site_is_left_out_with_the_reason() -> None:
    federation = points(point_plan("cohort.min_replies=3", rounds=1))
    federation.trainers[1].broken = "nan"
    state = federation.run()
    (absence,) = federation.recorder.records[0].absences
    assert absence.site == "site-1" and absence.failed and "1 non-finite value" in absence.reason
    assert np.isfinite(state.model).all()


def test_a_round_without_its_quorum_leaves_the_model_unchanged() -> None:
    federation = points(point_plan(rounds=1))  # every drawn site's update is needed
    federation.trainers[1].broken = "nan"
    state = federation.run()
    assert federation.recorder.records[0].void
    assert not state.model.any() and state.void_rounds == 1


def test_five_void_rounds_end_the_run() -> None:
    federation = points(point_plan(rounds=9))
    federation.trainers[1].broken = "nan"
    with pytest.raises(
        LocalError, match="5 rounds in a row were void; last: 3 usable updates of 4, and 4 are needed; site-1: "
    ):
        federation.run()
    assert len(federation.recorder.records) == 5


def test_a_run_in_which_every_site_fails_ends_at_once() -> None:
    federation = points(point_plan(rounds=9))
    for trainer in federation.trainers:
        trainer.broken = "nan"
    with pytest.raises(LocalError, match=r"every site failed; site-0: .*non-finite"):
        federation.run()
    assert federation.recorder.records == []


def test_drop_outs_and_stragglers_are_left_out() -> None:
    settings = ("simulation.dropout=0.3", "simulation.stragglers.fraction=0.3", "simulation.stragglers.delay_s=100")
    plan = point_plan(*settings, "cohort.deadline_s=60", "cohort.min_replies=1", sites=20, rounds=10)
    federation = points(plan)
    federation.run()
    reasons = [absence.reason for record in federation.recorder.records for absence in record.absences]
    gone = sum(reason == "dropped out (simulated)" for reason in reasons)
    late = sum(reason.startswith("late by ") for reason in reasons)
    assert 30 <= gone <= 90 and 10 <= late <= 60 and gone + late == len(reasons)
    assert not any(absence.failed for record in federation.recorder.records for absence in record.absences)
    assert all((record.simulated_seconds or 0) <= 60 for record in federation.recorder.records)
    trained = sum(len(trainer.jobs) for trainer in federation.trainers)
    assert trained == 200 - len(reasons)  # nothing is computed for a site that is gone


def test_early_stopping_and_the_best_model() -> None:
    plan = point_plan("evaluation.patience=3", "evaluation.select=best", "cohort.weighting=uniform", rounds=200)
    federation = points(plan)
    state = federation.run()
    assert state.round < 200
    assert state.stopped == f"no better validation loss in 3 evaluations (best in round {state.best_round})"
    assert state.best_round == state.round - 3
    best = federation.recorder.states[state.best_round - 1].model
    np.testing.assert_array_equal(federation.strategy.released(state), best)


def test_a_restored_state_continues_bit_for_bit() -> None:
    plan = point_plan("server_optimizer.name=fedyogi", "server_optimizer.lr=0.1", "cohort.size=2", rounds=6)
    whole = points(plan)
    end = whole.run()
    resumed = points(plan)
    again = resumed.strategy.run(resumed.grid, whole.recorder.states[2])
    assert again.model.tobytes() == end.model.tobytes()


def test_evaluations_are_sums_with_each_site_beside() -> None:
    federation = points(point_plan(rounds=1))
    state = federation.run()
    record = federation.strategy.evaluate(federation.grid, state, Split.TEST)
    assert record.total.n == 10 + 11 + 12 + 13
    assert list(record.sites) == ["site-0", "site-1", "site-2", "site-3"]
    total = record.sites[SiteId("site-0")]
    for site in ("site-1", "site-2", "site-3"):
        total = total + record.sites[SiteId(site)]
    np.testing.assert_array_equal(total.counts, record.total.counts)


def test_a_site_that_cannot_be_evaluated_is_named() -> None:
    federation = points(point_plan(rounds=1))
    federation.trainers[2].broken = "evaluate"
    federation.run()
    record = federation.recorder.records[0].validation
    assert record is not None
    (absence,) = record.absences
    assert absence.site == "site-2" and absence.failed and "no rows to look at" in absence.reason
    assert record.total.n == 10 + 11 + 13


def test_a_diverging_model_is_refused() -> None:
    federation = points(point_plan("server_optimizer.lr=1e41", rounds=9))
    with pytest.raises(LocalError, match=r"the new model is not finite; the model of round \d is kept"):
        federation.run()
    assert all(np.isfinite(state.model).all() for state in federation.recorder.states)


def test_flowers_entry_point() -> None:
    federation = points(point_plan(rounds=2))
    initial = ArrayRecord({"model": Array(np.zeros(3, dtype=np.float32))})
    result = federation.strategy.start(federation.grid, initial, num_rounds=2)
    np.testing.assert_array_equal(result.arrays["model"].numpy(), points(point_plan(rounds=2)).run().model)
    loss = result.evaluate_metrics_clientapp[2]["loss"]
    assert isinstance(loss, float) and loss > 0
    with pytest.raises(LocalError, match="from the plan"):
        federation.strategy.start(federation.grid, initial, train_config=ConfigRecord({"lr": 1.0}))
    with pytest.raises(LocalError, match="whole rounds"):
        federation.strategy.configure_train(1, initial, ConfigRecord(), federation.grid)


def test_two_sites_of_one_name_are_refused() -> None:
    from wardround.errors import RemoteError
    from wardround.strategies.roster import find_sites

    class Twice:
        """A grid on which two nodes give the same name."""

        def __init__(self, federation: Points) -> None:
            self.grid = federation.grid

        def get_node_ids(self) -> list[int]:
            return list(self.grid.get_node_ids())

        def send_and_receive(self, messages: Iterable[Message], *, timeout: float) -> Iterator[Message]:
            for reply in self.grid.send_and_receive(messages):
                reply.content = RecordDict({"wardround.site": ConfigRecord({"site": "site-0"})})
                yield reply

    with pytest.raises(RemoteError, match="two nodes that call themselves 'site-0'"):
        find_sites(Twice(points(point_plan())), 4)  # type: ignore[arg-type]
    with pytest.raises(RemoteError, match=r"expected 5 sites within 0\.1 s, got 4"):
        find_sites(points(point_plan()).grid, 5, timeout_s=0.1)


def test_run_from_a_finished_state_does_nothing() -> None:
    federation = points(point_plan(rounds=2))
    done = RunState(round=2, model=np.ones(3, dtype=np.float32))
    assert federation.strategy.run(federation.grid, done) is done
