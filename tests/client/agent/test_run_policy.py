"""The site's policy at work: before the data are read, for every order, and when it became stricter meanwhile."""

import json
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.client.agent.site_world import NOW, RUN, FakeJob, World, plan_text
from tests.client.agent.test_agent import Site
from tests.client.agent.test_site_run import PRIVATE
from tests.client.agent.test_site_run_kill import killed_at
from wardround.client.agent.data_registry import DataRegistry
from wardround.client.agent.member_pins import MemberPins
from wardround.client.agent.plan_store import PlanStore, RunState
from wardround.client.agent.policy_file import PolicyFile
from wardround.client.agent.site_job import JobFacts
from wardround.client.agent.site_run import SiteRun
from wardround.client.guard.policy import DataPolicy, EvaluationLeave, PinLeave, SitePolicy
from wardround.client.guard.violation import NotNowError, PolicyError
from wardround.errors import LocalError
from wardround.link.messages import Fault, Notice, Reply
from wardround.orders import FitJob, LocalResult, Order, OrderKind, Split
from wardround.plan import Plan
from wardround.signing_key import fingerprint_of
from wardround.vector import F32

NIGHT = {"hours": ("mon-fri 20:00-06:00",), "time_zone": "UTC"}
"""NOW is a Monday at noon."""
EVENING = NOW + timedelta(hours=9)
ROWS = 7919


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World.make(tmp_path)


def set_policy(world: World, **rules: Any) -> None:
    PolicyFile(world.folder).change(lambda old: SitePolicy(**rules), by="IT")


def approved(world: World, *settings: str, epsilon: float | None = None) -> Plan:
    plan = world.offer(plan_text(*settings))
    world.approve(world.data(epsilon=epsilon))
    return plan


def run_of(world: World, job: FakeJob, now: Callable[[], datetime] = lambda: NOW) -> SiteRun:
    return SiteRun(world.folder, RUN, lambda run, plan, data: job, now=now)


def evaluation(world: World, plan: Plan) -> Any:
    call, _ = world.train(plan)
    order = Order.decode(call.order)
    asked = Order(
        run_id=RUN,
        plan_digest=plan.digest,
        kind=OrderKind.EVALUATE,
        round=1,
        model_digest=order.model_digest,
        split=Split.VALIDATION,
    )
    return world.call("evaluate", order=asked, model=bytes(call.model or b""))


def records(world: World, kind: str) -> list[dict[str, Any]]:
    """What the site's audit log has of this kind."""
    lines = (world.folder.path / "audit" / "log.jsonl").read_text().splitlines()
    return [one for line in lines if (one := json.loads(line)).get("kind") == kind]


# -- the run ------------------------------------------------------------------------------------------


def test_a_run_that_the_policy_does_not_allow_is_refused_before_its_data_are_read(world: World) -> None:
    plan = approved(world)
    set_policy(world, max_epsilon=3.0, min_sites=3)
    job = FakeJob()
    run = run_of(world, job)
    with pytest.raises(PolicyError, match=r"max_epsilon: .*; min_sites: "):
        run.prepare()
    reply = run.answer(*world.train(plan))
    assert reply.fault is Fault.REFUSED and "max_epsilon (expected" in reply.reason and "min_sites (" in reply.reason
    assert job.asked == []


def test_a_run_that_was_approved_is_refused_once_the_policy_is_stricter(world: World) -> None:
    plan = approved(world)
    job = FakeJob()
    run = run_of(world, job)
    assert run.answer(*world.train(plan)).fault is Fault.NONE
    set_policy(world, max_rounds=2)
    reply = run.answer(*world.train(plan, 2))
    assert reply.fault is Fault.REFUSED and "max_rounds (expected at most 2 rounds)" in reply.reason
    assert run.answer(*world.train(plan, 1)).fault is Fault.REFUSED  # not even what was sent before
    with pytest.raises(PolicyError):
        run.check()
    assert job.asked.count("fit") == 1


def test_a_policy_that_still_allows_the_run_changes_nothing(world: World) -> None:
    plan = approved(world)
    job = FakeJob()
    run = run_of(world, job)
    run.answer(*world.train(plan))
    set_policy(world, max_rounds=3, min_rows=60)
    assert run.answer(*world.train(plan, 2)).fault is Fault.NONE
    run.check()
    assert job.asked == ["describe", "fit", "fit"]


def test_a_claim_that_depends_on_the_rows_is_checked_once_they_were_counted_and_nothing_is_charged(
    world: World,
) -> None:
    plan = approved(world, *PRIVATE, epsilon=50.0)
    set_policy(world, max_epsilon=0.5)
    job = FakeJob(facts=JobFacts(rows=60, train=48))
    reply = run_of(world, job).answer(*world.train(plan))
    assert reply.fault is Fault.REFUSED and "max_epsilon" in reply.reason and job.closed
    assert job.asked == ["describe"]
    ledger = DataRegistry(world.folder).ledger("ehr")
    assert ledger is not None and ledger.account().jobs == {}


def test_what_the_server_is_told_has_nothing_of_the_data(world: World) -> None:
    plan = approved(world)
    set_policy(world, min_rows=ROWS, data={"ehr": DataPolicy(max_epsilon=1.0)})
    reply = run_of(world, FakeJob()).answer(*world.train(plan))
    assert "min_rows (expected a data set as large as the site requires)" in reply.reason
    for secret in ("60", str(ROWS), "ehr", str(world.path)):
        assert secret not in reply.reason


def test_rows_that_do_not_count_are_not_counted(world: World) -> None:
    approved(world)
    set_policy(world, min_rows=50)
    with pytest.raises(PolicyError, match="got 40 rows of at least 50"):
        run_of(world, FakeJob(facts=JobFacts(rows=40, train=30))).prepare()


def test_a_data_set_that_became_too_small_by_withdrawals_ends_the_run(world: World) -> None:
    jobs = [FakeJob(), FakeJob(facts=JobFacts(rows=40, train=30))]
    site = Site(world, jobs=iter(jobs))
    site.ready()
    set_policy(world, min_rows=50)
    plan = PlanStore(world.folder).plan(RUN)
    assert site.agent.call(world.train(plan)[0]).fault is Fault.NONE
    DataRegistry(world.folder).withdrawals.add("ehr", ["ab" * 32])
    for _ in range(2):
        reply = site.agent.call(world.train(plan, 2)[0])
        assert reply.fault is Fault.REFUSED and "min_rows (" in reply.reason and "40" not in reply.reason
    assert jobs[1].asked == ["describe"] and jobs[1].closed
    site.agent.look()
    assert site.approval(1)["verdict"] == "denied"
    site.agent.close()


def test_outside_its_hours_the_site_answers_later_and_its_data_are_not_read(world: World) -> None:
    plan = approved(world)
    set_policy(world, **NIGHT)
    clock = [NOW]
    job = FakeJob()
    run = run_of(world, job, lambda: clock[0])
    with pytest.raises(NotNowError):
        run.prepare()
    reply = run.answer(*world.train(plan))
    assert reply.fault is Fault.NOT_READY and "20:00-06:00" in reply.reason and job.asked == []
    clock[0] = EVENING
    call = world.train(plan)
    first = run.answer(*call)
    assert first.fault is Fault.NONE and job.asked == ["describe", "fit"]
    clock[0] = EVENING + timedelta(hours=12)
    assert run.answer(*world.train(plan, 2)).fault is Fault.NOT_READY
    assert bytes(run.answer(*call).frame) == bytes(first.frame)  # what was sent may be sent again
    clock[0] = EVENING + timedelta(days=1)
    assert run.answer(*world.train(plan, 2)).fault is Fault.NONE


def test_an_evaluation_that_the_plan_does_not_have_is_refused_and_the_run_goes_on(world: World) -> None:
    plan = approved(world, "evaluation.every=0", "data.test=0.0")
    set_policy(world, evaluation=EvaluationLeave.NONE)
    job = FakeJob()
    run = run_of(world, job)
    reply = run.answer(*evaluation(world, plan))
    assert reply.fault is Fault.REFUSED and "evaluation (" in reply.reason and "evaluate" not in job.asked
    assert run.answer(*world.train(plan)).fault is Fault.NONE
    run.check()


def test_a_policy_that_cannot_be_read_stops_everything_until_it_is_mended(world: World) -> None:
    plan = approved(world)
    job = FakeJob()
    run = run_of(world, job)
    run.answer(*world.train(plan))
    world.folder.write("policy.toml", b"max_epsilom = 'a secret'")
    reply = run.answer(*world.train(plan, 2))
    assert reply.fault is Fault.NOT_READY and "secret" not in reply.reason and job.asked.count("fit") == 1
    world.folder.write("policy.toml", b"")
    assert run.answer(*world.train(plan, 2)).fault is Fault.NONE


def test_a_policy_that_others_may_read_is_none(world: World) -> None:
    set_policy(world, max_rounds=3)
    os.chmod(world.folder.path / "policy.toml", 0o640)
    with pytest.raises(LocalError, match="others may neither read nor write"):
        PolicyFile(world.folder).read()


def test_pins_are_checked_for_a_plan_without_protection_too(world: World) -> None:
    approved(world)
    set_policy(world, pins=PinLeave.ALL)
    run = run_of(world, FakeJob())
    with pytest.raises(PolicyError, match="another of Hospital B"):
        run.prepare()
    world.pin_all()
    run.prepare()
    assert MemberPins(world.folder).pinned() == {"Hospital B": fingerprint_of(world.others["Hospital B"].public)}
    MemberPins(world.folder).remove("Hospital B", by="IT", now=NOW)
    with pytest.raises(PolicyError):
        run.check()


# -- the agent ------------------------------------------------------------------------------------------


def test_a_run_that_breaks_the_policy_is_denied_with_the_rules_name(world: World) -> None:
    site = Site(world)
    site.offer()
    world.approve(world.data())
    set_policy(world, min_rows=ROWS, min_sites=3)
    site.agent.look()
    told = site.approval()
    assert told["verdict"] == "denied" and "min_sites (expected at least 3" in told["reason"]
    assert str(ROWS) not in told["reason"] and "60" not in told["reason"]
    outcome = PlanStore(world.folder).outcome(RUN)
    assert outcome is not None and outcome.state is RunState.UNFIT and "got 60 rows" in outcome.reason
    assert site.job.asked == []
    site.agent.close()


def test_a_stricter_policy_ends_a_run_that_was_ready_and_says_why(world: World) -> None:
    site = Site(world)
    site.ready()
    set_policy(world, max_rounds=3)
    site.agent.look()
    assert len(site.sent) == 1
    set_policy(world, max_rounds=2)
    site.agent.look()
    told = site.approval(1)
    assert told["verdict"] == "denied" and "max_rounds (expected at most 2 rounds)" in told["reason"]
    site.agent.close()
    outcome = PlanStore(world.folder).outcome(RUN)
    assert outcome is not None and outcome.state is RunState.ENDED and "max_rounds" in outcome.reason
    assert site.job.closed and not (world.folder.path / "runs" / RUN).exists()
    set_policy(world)
    again = Site(world)
    again.agent.look()
    assert again.sent == []  # a looser policy brings nothing back
    reply = again.agent.call(world.train(PlanStore(world.folder).plan(RUN))[0])
    assert reply.fault is Fault.REFUSED


class BusyJob(FakeJob):
    """A job whose training ends only when the job does."""

    def __init__(self) -> None:
        super().__init__()
        self.began, self.ended = threading.Event(), threading.Event()

    def fit(self, job: FitJob, model: F32) -> LocalResult:
        self.began.set()
        self.ended.wait(60)
        raise LocalError("the job was ended")

    def close(self) -> None:
        super().close()
        self.ended.set()


def test_a_stricter_policy_ends_a_training_that_is_under_way(world: World) -> None:
    job = BusyJob()
    site = Site(world, job)
    site.ready()
    call, replies = world.train(PlanStore(world.folder).plan(RUN))[0], list[Reply]()
    training = threading.Thread(target=lambda: replies.append(site.agent.call(call)))
    training.start()
    assert job.began.wait(60)
    set_policy(world, max_rounds=2)
    site.agent.look()
    assert site.approval(1)["verdict"] == "denied"
    training.join(60)
    assert [one.fault for one in replies] == [Fault.REFUSED] and job.closed
    site.agent.close()


def test_a_stricter_policy_is_noticed_after_a_restart(world: World) -> None:
    first = Site(world)
    first.ready()
    first.agent.close()
    set_policy(world, max_rounds=2)
    second = Site(world)
    second.agent.look()
    assert second.approval()["verdict"] == "denied"
    second.agent.close()


def test_a_run_waits_for_the_sites_hours_and_is_then_prepared(world: World) -> None:
    clock = [NOW]
    site = Site(world, now=lambda: clock[0])
    site.offer()
    world.approve(world.data())
    set_policy(world, **NIGHT)
    for _ in range(3):
        site.look_and_wait()
    assert site.sent == [] and site.job.asked == [] and PlanStore(world.folder).outcome(RUN) is None
    clock[0] = EVENING
    site.agent.look()
    assert site.approval()["verdict"] == "approved"
    site.agent.close()


def test_a_server_cannot_touch_the_policy(world: World) -> None:
    set_policy(world, max_rounds=2, min_sites=3)
    before = (world.folder.path / "policy.toml").read_bytes()
    site = Site(world)
    table = world.offer_table(plan_text())
    hostile: list[tuple[str, Any]] = [
        ("policy", {"max_rounds": 99}),
        ("policy.changed", {"policy": ""}),
        ("offer", table | {"policy": {"max_rounds": 99}, "policy.toml": "", "approved": True}),
        ("offer", table | {"run": "../policy.toml"}),
        ("offer", table | {"run": "a" * 32, "code": {"../../../policy.toml": ""}}),
        ("offer", table | {"run": "b" * 32, "code_folder": "../../.."}),
        ("offer", table | {"run": "c" * 32, "plan": table["plan"].replace("[task]", '[task]\ncode = "../../.."')}),
        ("ended", {"run": RUN, "state": "finished", "policy": ""}),
    ]
    for kind, body in hostile:
        site.agent.notice(Notice(kind=kind, body=json.dumps(body).encode()))
    site.agent.look()
    assert (world.folder.path / "policy.toml").read_bytes() == before
    assert PolicyFile(world.folder).read() == SitePolicy(max_rounds=2, min_sites=3)
    assert all(PlanStore(world.folder).decision(run) is None for run in PlanStore(world.folder).names())


def test_a_member_s_key_that_changed_is_logged_when_it_is_offered(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.pin_all()
    site = Site(world)
    site.offer()
    assert "KEY CHANGED" not in caplog.text
    table = world.offer_table(plan_text(), run="f" * 32)
    table["sites"][1]["fingerprint"] = "ab" * 32
    site.agent.notice(Notice(kind="offer", body=json.dumps(table).encode()))
    assert "KEY CHANGED of Hospital B: the server names abab" in caplog.text
    [record] = records(world, "member.key_changed")
    accepted = fingerprint_of(world.others["Hospital B"].public)
    assert record["detail"] == {"run": "f" * 32, "named": "ab" * 32, "accepted": accepted}


# -- what an approval is for ------------------------------------------------------------------------------


def test_an_approval_of_another_site_is_none(tmp_path: Path) -> None:
    here = World.make(tmp_path / "a", "Hospital A")
    there = World.make(tmp_path / "b", "Hospital B", others=("Hospital A",), beside=here)
    for world in (here, there):
        world.offer()
        world.data()
    there.approve(there.data())
    copied = there.folder.read(f"plans/{RUN}/decision.json")
    here.folder.write(f"plans/{RUN}/decision.json", copied)
    site = Site(here)
    site.agent.look()
    assert site.sent == [] and site.job.asked == []
    with pytest.raises(LocalError, match="or one of another site or run; decide again"):
        PlanStore(here.folder).decision(RUN)
    here.approve(here.data())
    site.agent.look()
    assert site.approval()["verdict"] == "approved"
    site.agent.close()


@pytest.mark.parametrize("change", [{"data": "other"}, {"by": "x"}, {"unprotected": True}, {"signature": ""}])
def test_a_decision_that_was_changed_is_none(world: World, change: dict[str, Any]) -> None:
    world.offer()
    world.approve(world.data())
    table = json.loads(world.folder.read(f"plans/{RUN}/decision.json"))
    world.folder.write(f"plans/{RUN}/decision.json", json.dumps(table | change).encode())
    with pytest.raises(LocalError, match="changed decision"):
        PlanStore(world.folder).decision(RUN)


def test_a_decision_on_another_run_of_the_same_plan_is_none(world: World) -> None:
    world.offer()
    world.approve(world.data())
    other = "f" * 32
    world.offer(run=other)
    world.folder.write(f"plans/{other}/decision.json", world.folder.read(f"plans/{RUN}/decision.json"))
    with pytest.raises(LocalError, match="another site or run"):
        PlanStore(world.folder).decision(other)


# -- the file -----------------------------------------------------------------------------------------------


def test_two_administrators_at_once_lose_none_of_each_others_rules(world: World) -> None:
    barrier = threading.Barrier(2)

    def change(**rules: Any) -> None:
        barrier.wait()
        for _ in range(20):
            PolicyFile(world.folder).change(lambda old: replace(old, **rules), by="IT")

    threads = [threading.Thread(target=change, kwargs=rules) for rules in ({"max_rounds": 7}, {"min_rows": 9})]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert PolicyFile(world.folder).read() == SitePolicy(max_rounds=7, min_rows=9)


@pytest.mark.parametrize("number", range(1, 6))
@pytest.mark.parametrize("before", [True, False])
def test_wherever_a_change_is_killed_the_policy_is_the_old_or_the_new_one(
    world: World, number: int, before: bool
) -> None:
    set_policy(world, max_rounds=1)
    whole = not killed_at(number, before, lambda: set_policy(world, max_rounds=2))
    assert PolicyFile(world.folder).read().max_rounds in ((2,) if whole else (1, 2))
    set_policy(world, max_rounds=3)
    assert PolicyFile(world.folder).read().max_rounds == 3
