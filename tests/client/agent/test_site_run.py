"""One run at a site: what is answered, what is refused, and what a repeated call gets."""

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import pytest

from tests.client.agent.site_world import NOW, RUN, SIZE, FakeJob, World, plan_text, write_table
from wardround.client.agent.admission import Admission
from wardround.client.agent.data_registry import DataRegistry
from wardround.client.agent.plan_store import PlanStore, RunState
from wardround.client.agent.site_run import SiteRun, finish_run
from wardround.errors import LocalError
from wardround.frames import decode_frame
from wardround.link.messages import Call, Fault
from wardround.link.signing_inputs import call_digest, reply_bytes
from wardround.orders import Order, OrderKind, Split
from wardround.plan import Plan
from wardround.plan_privacy import Unit
from wardround.signing_key import check_signature

PRIVATE = (
    'privacy.unit="row"',
    "privacy.noise_multiplier=2.0",
    "privacy.public_sizes=true",
    'data.standardize="none"',
    "training.steps=2",
)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World.make(tmp_path)


def approved(world: World, *settings: str, epsilon: float | None = None, unit: Unit = Unit.ROW) -> Plan:
    plan = world.offer(plan_text(*settings))
    world.approve(world.data(epsilon=epsilon, unit=unit))
    return plan


def run_of(world: World, job: FakeJob) -> SiteRun:
    return SiteRun(world.folder, RUN, lambda run, plan, data: job, now=lambda: NOW)


def test_an_update_is_answered_signed(world: World) -> None:
    plan = approved(world)
    run = run_of(world, FakeJob())
    call, digest = world.train(plan)
    reply = run.answer(call, digest)
    frame = decode_frame(bytes(reply.frame))
    assert reply.fault is Fault.NONE and frame.site == "Hospital A" and frame.vector.shape == (SIZE,)
    signed = reply_bytes(digest, Fault.NONE, hashlib.sha256(reply.frame).digest())
    check_signature(world.folder.signing_key.public, reply.signature, signed, "site")


def test_a_repeated_call_gets_the_same_bytes_and_nothing_is_trained_again(world: World) -> None:
    plan = approved(world)
    job = FakeJob(noise=True)
    run = run_of(world, job)
    call, digest = world.train(plan)
    first = bytes(run.answer(call, digest).frame)
    assert bytes(run.answer(call, digest).frame) == first
    run.close()
    assert bytes(run_of(world, FakeJob(noise=True)).answer(call, digest).frame) == first
    assert job.asked.count("fit") == 1


def test_a_round_is_trained_once_and_only_forwards(world: World) -> None:
    plan = approved(world, "rounds=6")
    job = FakeJob(noise=True)
    run = run_of(world, job)
    for round in range(1, 7):
        assert run.answer(*world.train(plan, round)).fault is Fault.NONE
    reply = run.answer(*world.train(plan, 1))  # its reply is not kept any more
    assert reply.fault is Fault.REFUSED and "expected a value above" in reply.reason
    for beyond in (7, 100, 1 << 31):
        reply = run.answer(*world.train(plan, beyond))
        assert reply.fault is Fault.REFUSED and "expected a round of 1 to 6" in reply.reason
    assert job.asked.count("fit") == 6


def test_evaluations_of_made_up_models_come_to_an_end_whatever_is_killed(world: World) -> None:
    plan = approved(world)
    job = FakeJob()
    answered = []
    for number in range(20):
        run = run_of(world, job)
        answered.append(run.answer(*evaluation(world, plan, number)).fault is Fault.NONE)
        run.close()
    assert answered == 16 * [True] + 4 * [False] and job.asked.count("evaluate") == 16
    run = run_of(world, job)
    assert run.answer(*evaluation(world, plan, 15)).fault is Fault.NONE  # its reply again
    assert run.answer(*evaluation(world, plan, 99, round=2)).fault is Fault.NONE
    state = world.folder.path / "runs" / RUN / "state"
    files = len(list(state.iterdir()))
    for number in range(10, 13):
        run.answer(*evaluation(world, plan, number, round=2))
    assert len(list(state.iterdir())) == files


def evaluation(world: World, plan: Plan, number: int, *, round: int = 1) -> tuple[Call, bytes]:
    """A call to evaluate the model that is all `number`."""
    model = np.full(SIZE, number, dtype="<f4").tobytes()
    order = Order(
        run_id=RUN,
        plan_digest=plan.digest,
        kind=OrderKind.EVALUATE,
        round=round,
        split=Split.VALIDATION,
        model_digest=hashlib.sha256(model).hexdigest(),
    )
    return world.call("evaluate", order=order, model=model)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"run_id": "another"}, "expected an order of run"),
        ({"kind": OrderKind.EVALUATE}, "of the kind of its call"),
        ({"plan_digest": "0" * 64}, "plan digest differs from the approved one"),
        ({"model_digest": "0" * 64}, "SHA-256 is in the order"),
    ],
)
def test_an_order_that_is_not_this_runs_is_refused(world: World, changes: dict[str, object], expected: str) -> None:
    plan = approved(world)
    job = FakeJob()
    call, _ = world.train(plan)
    order = dataclasses.replace(Order.decode(call.order), **changes)  # type: ignore[arg-type]
    reply = run_of(world, job).answer(*world.call("train", order=order, model=bytes(call.model or b"")))
    assert reply.fault is Fault.REFUSED and expected in reply.reason
    assert "fit" not in job.asked


def test_a_model_of_another_size_than_offered_is_refused(world: World) -> None:
    plan = approved(world)
    model = np.zeros(SIZE + 1, dtype="<f4").tobytes()
    order = Order(
        run_id=RUN,
        plan_digest=plan.digest,
        kind=OrderKind.FIT,
        round=1,
        model_digest=hashlib.sha256(model).hexdigest(),
    )
    reply = run_of(world, FakeJob()).answer(*world.call("train", order=order, model=model))
    assert reply.fault is Fault.REFUSED and "expected 6 parameters" in reply.reason


def test_what_the_job_says_of_an_error_stays_at_the_site_and_out_of_its_log(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    plan = approved(world)
    job = FakeJob(fails=["fit"])
    run = run_of(world, job)
    reply = run.answer(*world.train(plan))
    assert reply.fault is Fault.REFUSED and "secret" not in reply.reason and "own files say why" in reply.reason
    assert "secret" not in caplog.text
    assert "secret" in (world.folder.path / "jobs" / f"{RUN}.errors").read_text()
    again = run.answer(*world.train(plan))  # nothing had left: the order is still open
    assert again.fault is Fault.NONE


def test_the_server_learns_no_path_of_this_machine(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = approved(world)
    run = run_of(world, FakeJob())
    run.prepare()
    monkeypatch.setattr("os.replace", _no_space)
    reply = run.answer(*world.train(plan))
    assert reply.fault is Fault.REFUSED and str(world.path) not in reply.reason
    monkeypatch.undo()
    assert run.answer(*world.train(plan)).fault is Fault.NONE  # once there is room again


def _no_space(*arguments: object) -> None:
    raise OSError(28, "No space left on device")


def test_a_run_that_was_not_approved_cannot_be_prepared(world: World) -> None:
    world.offer()
    with pytest.raises(LocalError, match="expected an approval"):
        run_of(world, FakeJob()).prepare()


def test_data_that_changed_since_the_approval_are_refused(world: World) -> None:
    plan = approved(world)
    write_table(world.path / "ehr.csv", seed=2)
    run = run_of(world, FakeJob())
    with pytest.raises(LocalError, match="has changed since it was registered"):
        run.prepare()
    DataRegistry(world.folder).add(world.path / "ehr.csv", "ehr", NOW)
    with pytest.raises(LocalError, match="have changed since the run was approved"):
        run.prepare()
    reply = run.answer(*world.train(plan))
    assert reply.fault is Fault.REFUSED and "log says why" in reply.reason


def test_an_approval_of_a_changed_plan_is_none(world: World) -> None:
    approved(world)
    text = world.folder.path / "plans" / RUN / "plan.toml"
    text.write_text(text.read_text().replace("rounds = 3", "rounds = 4"))
    with pytest.raises(Exception, match="plan digest differs from the offered one"):
        run_of(world, FakeJob()).prepare()


def test_a_private_round_is_charged_once_however_often_it_is_asked_for(world: World) -> None:
    plan = approved(world, *PRIVATE, epsilon=10.0)
    ledger = DataRegistry(world.folder).ledger("ehr")
    assert ledger is not None
    run = run_of(world, FakeJob(noise=True))
    for _ in range(3):
        assert run.answer(*world.train(plan)).fault is Fault.NONE
    assert ledger.account().jobs[RUN].started == (1,)
    assert run.answer(*world.train(plan, 2)).fault is Fault.NONE
    assert ledger.account().jobs[RUN].started == (1, 2)


def test_a_crash_between_a_reply_and_its_note_gives_no_second_reply_for_the_charge(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = approved(world, *PRIVATE, epsilon=10.0)
    call, digest = world.train(plan)
    about = (call.run, call.kind, call.order, call.protocol, b"{}", hashlib.sha256(call.model or b"").digest())
    other, other_digest = dataclasses.replace(call, spec=b"{}"), call_digest(*about)

    def killed(admission: Admission, round: int | None = None) -> None:
        raise LocalError("killed")

    with monkeypatch.context() as patched:
        patched.setattr(Admission, "answered", killed)
        run = run_of(world, FakeJob(noise=True))
        assert run.answer(call, digest).fault is Fault.REFUSED
        run.close()
    run = run_of(world, FakeJob(noise=True))
    assert run.answer(call, digest).fault is Fault.NONE  # the one that was kept
    assert run.answer(other, other_digest).fault is Fault.REFUSED
    ledger = DataRegistry(world.folder).ledger("ehr")
    assert ledger is not None and ledger.account().jobs[RUN].started == (1,)


def test_a_round_beyond_the_budget_is_refused_as_spent_and_nothing_is_trained(world: World) -> None:
    plan = approved(world, *PRIVATE, epsilon=0.01)
    job = FakeJob()
    run = run_of(world, job)
    for _ in range(2):
        reply = run.answer(*world.train(plan))
        assert reply.fault is Fault.SPENT and str(world.path) not in reply.reason
    assert "fit" not in job.asked


def test_a_private_plan_without_a_ledger_is_not_prepared(world: World) -> None:
    approved(world, *PRIVATE)
    with pytest.raises(LocalError, match="expected a privacy budget"):
        run_of(world, FakeJob()).prepare()


def test_a_plan_without_privacy_does_not_end_a_budget_unasked(world: World) -> None:
    approved(world, epsilon=10.0)
    with pytest.raises(LocalError, match="--unprotected"):
        run_of(world, FakeJob()).prepare()


def test_an_unprotected_run_is_written_into_the_ledger_before_anything_is_trained(world: World) -> None:
    plan = world.offer()
    world.approve(world.data(epsilon=10.0), unprotected=True)
    job = FakeJob(fails=["fit"])
    run_of(world, job).answer(*world.train(plan))
    ledger = DataRegistry(world.folder).ledger("ehr")
    assert ledger is not None and [one.job for one in ledger.account().unprotected] == [RUN]


def test_client_level_privacy_is_charged_to_patients(world: World) -> None:
    settings = ('privacy.unit="client"', "privacy.noise_multiplier=4.0", 'cohort.weighting="uniform"')
    plan = approved(world, *settings, epsilon=50.0, unit=Unit.PATIENT)
    assert run_of(world, FakeJob()).answer(*world.train(plan)).fault is Fault.NONE
    ledger = DataRegistry(world.folder).ledger("ehr")
    assert ledger is not None and ledger.account().jobs[RUN].begun == 1


def test_what_the_site_keeps_is_there_for_the_next_job_and_a_training_done_again_begins_where_it_began(
    world: World,
) -> None:
    plan = approved(world)
    first = run_of(world, FakeJob())
    first.answer(*world.train(plan, 1))
    first.close()
    job = FakeJob()
    second = run_of(world, job)
    second.answer(*world.train(plan, 2))
    assert job.kept == b".."
    second.close()


def test_an_ended_run_leaves_no_state_and_frees_its_budget(world: World) -> None:
    plan = approved(world, *PRIVATE, epsilon=10.0)
    run = run_of(world, FakeJob())
    run.answer(*world.train(plan))
    ledger = DataRegistry(world.folder).ledger("ehr")
    assert ledger is not None
    before = ledger.remaining()
    run.close()
    finish_run(world.folder, RUN, "finished")
    finish_run(world.folder, RUN, "finished")
    assert not (world.folder.path / "runs" / RUN).exists()
    assert ledger.account().jobs[RUN].closed and ledger.remaining() > before
    outcome = PlanStore(world.folder).outcome(RUN)
    assert outcome is not None and outcome.state is RunState.ENDED
    assert run.answer(*world.train(plan, 2)).fault is Fault.REFUSED


def test_everything_that_a_run_keeps_is_for_its_owner_alone(world: World) -> None:
    plan = approved(world, *PRIVATE, epsilon=10.0)
    run_of(world, FakeJob()).answer(*world.train(plan))
    paths = list(world.folder.path.rglob("*"))
    assert len(paths) > 20
    assert [path for path in paths if path.stat().st_mode & 0o077] == []
