"""The agent between a link and its runs: what reaches a run, what the server is told, what goes on after a restart."""

import base64
import json
import threading
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.client.agent.site_world import NOW, RUN, SIZE, FakeJob, World, plan_text
from tests.client.agent.test_site_run import PRIVATE
from tests.client.agent.test_site_run_kill import killed_at
from wardround.client.agent.agent import Agent
from wardround.client.agent.plan_store import Decision, PlanStore, RunState, Verdict
from wardround.client.agent.revocation_list import RevocationList
from wardround.client.agent.site_folder import SiteFolder
from wardround.client.agent.site_run import SiteRun, finish_run
from wardround.errors import LocalError, RemoteError
from wardround.link.messages import Fault, Notice
from wardround.link.signing_inputs import approval_bytes, reply_bytes
from wardround.signing_key import SigningKey, check_signature


class Renewing:
    """Certificates that are due once."""

    def __init__(self) -> None:
        self.due, self.taken = True, list[bytes]()

    def is_due(self, now: object) -> bool:
        return self.due

    def request(self) -> bytes:
        return b"{}"

    def accept(self, body: bytes, now: object) -> bool:
        if body == b"bad":
            raise RemoteError("another site's")
        self.taken.append(body)
        return True


class Site:
    """An agent with fake jobs, and the notices that it sends; `wait` until one of a kind came."""

    def __init__(
        self,
        world: World,
        job: FakeJob | None = None,
        *,
        jobs: Iterator[FakeJob] | None = None,
        now: Callable[[], datetime] = lambda: NOW,
    ) -> None:
        self.world, self.job, self.sent = world, job or FakeJob(), list[Notice]()
        self.renewal = Renewing()
        self._came = threading.Condition()
        self.agent = Agent(
            world.folder,
            run_of=lambda run: SiteRun(
                world.folder, run, lambda *about: self.job if jobs is None else next(jobs), now=now
            ),
            finish=lambda run, reason: finish_run(world.folder, run, reason, now=now),
            renewal=self.renewal,
            now=now,
        )
        self.agent.attach(self._send)

    def _send(self, notice: Notice) -> None:
        with self._came:
            self.sent.append(notice)
            self._came.notify_all()

    def look_and_wait(self) -> None:
        """Look, and wait until what that began is over."""
        self.agent.look()
        for thread in list(self.agent._threads):
            thread.join(60)

    def offer(self, *settings: str, run: str = RUN) -> None:
        table = self.world.offer_table(plan_text(*settings), run=run)
        self.agent.notice(Notice(kind="offer", body=json.dumps(table).encode()))

    def approval(self, number: int = 0) -> dict[str, Any]:
        with self._came:
            assert self._came.wait_for(lambda: len(self.sent) > number, timeout=60)
        assert self.sent[number].kind == "approval"
        found: dict[str, Any] = json.loads(self.sent[number].body)
        return found

    def ready(self) -> None:
        self.offer()
        self.world.approve(self.world.data())
        self.agent.look()
        assert self.approval()["verdict"] == "approved"

    def end(self, state: str = "finished") -> None:
        self.agent.notice(Notice(kind="ended", body=json.dumps({"run": RUN, "state": state}).encode()))


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World.make(tmp_path)


def test_nothing_is_approved_by_default(world: World) -> None:
    site = Site(world)
    site.offer()
    site.agent.look()
    plan = PlanStore(world.folder).plan(RUN)
    call, digest = world.train(plan)
    reply = site.agent.call(call)
    assert reply.fault is Fault.NOT_READY and site.sent == [] and site.job.asked == []
    signed = reply_bytes(digest, Fault.NOT_READY, bytes.fromhex(EMPTY))
    check_signature(world.folder.signing_key.public, reply.signature, signed, "site")


EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_an_approval_is_signed_and_told_once_and_then_orders_are_answered(world: World) -> None:
    site = Site(world)
    site.ready()
    told, plan = site.approval(), PlanStore(world.folder).plan(RUN)
    assert (told["run"], told["plan_digest"], told["units"]) == (RUN, plan.digest, None)
    signed = approval_bytes(RUN, plan.digest, "approved")
    check_signature(world.folder.signing_key.public, base64.b64decode(told["signature"]), signed, "site")
    site.agent.look()
    assert len(site.sent) == 1
    assert site.agent.call(world.train(plan)[0]).fault is Fault.NONE
    site.agent.close()
    assert site.job.closed


def test_the_number_of_hidden_rows_goes_with_the_approval_and_is_counted_before_any_code_is_loaded(
    world: World,
) -> None:
    site = Site(world)
    site.offer(*PRIVATE)
    world.approve(world.data(epsilon=10.0))
    site.agent.look()
    assert site.approval()["units"] == 48 and site.job.asked == ["describe"]


def test_another_run_of_the_same_plan_needs_another_approval(world: World) -> None:
    site = Site(world)
    site.ready()
    other = "f" * 32
    site.offer(run=other)
    plan = PlanStore(world.folder).plan(other)
    assert site.agent.call(world.train(plan, run=other)[0]).fault is Fault.NOT_READY


def test_a_call_that_the_server_has_not_signed_reaches_no_run(world: World) -> None:
    site = Site(world)
    site.ready()
    plan = PlanStore(world.folder).plan(RUN)
    call, _ = world.train(plan)
    model = bytes(call.model or b"")
    forged, _ = world.call("train", model=model, key=SigningKey(bytes(32)))
    moved = type(call)(run=call.run, kind="evaluate", order=call.order, model=call.model, signature=call.signature)
    for bad in (forged, moved):
        reply = site.agent.call(bad)
        assert reply.fault is Fault.REFUSED and "signature" in reply.reason
    assert "fit" not in site.job.asked


def test_a_denial_is_told_with_its_reason_and_after_a_restart_again(world: World) -> None:
    site = Site(world)
    site.offer()
    plans = PlanStore(world.folder)
    denied = Decision(
        verdict=Verdict.DENIED, plan_digest=plans.offer(RUN).plan_digest, by="IT", at="2026", reason="no time"
    )
    plans.decide(RUN, denied)
    site.agent.look()
    told = site.approval()
    assert (told["verdict"], told["reason"]) == ("denied", "no time")
    again = Site(world)
    again.agent.look()
    assert again.approval()["verdict"] == "denied"


def test_data_that_do_not_fit_are_told_as_a_denial_without_why(world: World) -> None:
    site = Site(world, FakeJob(fails=["describe"]))
    site.offer()
    world.approve(world.data())
    site.agent.look()
    told = site.approval()
    assert told["verdict"] == "denied" and "secret" not in told["reason"]
    outcome = PlanStore(world.folder).outcome(RUN)
    assert outcome is not None and outcome.state is RunState.UNFIT and "row 17" in outcome.reason
    assert site.agent.call(world.train(PlanStore(world.folder).plan(RUN))[0]).fault is Fault.NOT_READY


def test_an_approved_run_goes_on_after_a_restart_and_the_approval_is_told_again(world: World) -> None:
    site = Site(world)
    site.ready()
    plan = PlanStore(world.folder).plan(RUN)
    first = site.agent.call(world.train(plan)[0])
    site.agent.close()
    again = Site(world)
    again.agent.look()
    assert again.approval()["verdict"] == "approved"
    assert bytes(again.agent.call(world.train(plan)[0]).frame) == bytes(first.frame)
    assert again.agent.call(world.train(plan, 2)[0]).fault is Fault.NONE


def test_an_ended_run_is_refused_and_its_state_is_gone(world: World) -> None:
    site = Site(world)
    site.ready()
    plan = PlanStore(world.folder).plan(RUN)
    site.agent.call(world.train(plan)[0])
    site.end()
    site.end()
    reply = site.agent.call(world.train(plan, 2)[0])
    assert reply.fault is Fault.REFUSED and "has ended" in reply.reason
    site.agent.close()
    assert site.job.closed
    assert not (world.folder.path / "runs" / RUN).exists()
    again = Site(world)
    again.agent.look()
    assert again.sent == [] and again.agent.call(world.train(plan, 2)[0]).fault is Fault.REFUSED


def test_an_end_that_a_kill_cut_short_is_finished_at_the_start(world: World) -> None:
    site = Site(world)
    site.agent._finish = lambda run, reason: None
    site.ready()
    plan = PlanStore(world.folder).plan(RUN)
    site.agent.call(world.train(plan)[0])
    site.end()
    site.agent.close()
    assert (world.folder.path / "runs" / RUN).exists()
    Site(world).agent.look()
    assert not (world.folder.path / "runs" / RUN).exists()


def test_an_approval_that_is_taken_back_ends_the_run_here(world: World) -> None:
    site = Site(world)
    site.ready()
    plans = PlanStore(world.folder)
    digest = plans.offer(RUN).plan_digest
    plans.decide(RUN, Decision(verdict=Verdict.DENIED, plan_digest=digest, by="IT", at="2026"))
    site.agent.look()
    assert site.approval(1)["verdict"] == "denied"
    assert site.agent.call(world.train(plans.plan(RUN))[0]).fault is Fault.REFUSED


def test_a_denial_counts_from_the_next_call_on_even_before_the_agent_looks(world: World) -> None:
    site = Site(world)
    site.ready()
    plans = PlanStore(world.folder)
    plan = plans.plan(RUN)
    assert site.agent.call(world.train(plan)[0]).fault is Fault.NONE
    denied = Decision(verdict=Verdict.DENIED, plan_digest=plan.digest, by="IT", at="2026")
    plans.decide(RUN, denied)
    reply = site.agent.call(world.train(plan, 2)[0])
    assert reply.fault is Fault.REFUSED and "is denied here" in reply.reason
    assert site.job.asked.count("fit") == 1
    reply_to_large = site.agent.room(RUN, 1000, 4 * SIZE)
    assert reply_to_large is not None and reply_to_large.fault is Fault.REFUSED
    site.agent.close()


def test_a_call_gets_the_room_that_an_approval_gives_it_and_no_more(world: World) -> None:
    site = Site(world)

    def fault(run: str = RUN, small_bytes: int = 1000, model_bytes: int = 4 * SIZE) -> Fault:
        reply = site.agent.room(run, small_bytes, model_bytes)
        return Fault.NONE if reply is None else reply.fault

    assert fault() is fault("f" * 32) is Fault.NOT_READY and fault("../x") is Fault.REFUSED
    site.offer()
    assert fault() is Fault.NOT_READY
    world.approve(world.data())
    site.agent.look()
    assert site.approval()["verdict"] == "approved"
    assert fault() is fault(model_bytes=0) is Fault.NONE
    for wrong in (4 * SIZE + 4, 4 * SIZE - 4, 1 << 32):
        assert fault(model_bytes=wrong) is Fault.REFUSED
    assert fault(small_bytes=(1 << 26) + 1) is Fault.REFUSED
    assert fault("f" * 32) is Fault.NOT_READY
    site.end()
    assert fault() is Fault.REFUSED
    site.agent.close()
    world.folder.write(f"plans/{RUN}/outcome.json", b"{")
    reply = site.agent.room(RUN, 1000, 4 * SIZE)
    assert reply is not None and reply.fault is Fault.NOT_READY and str(world.path) not in reply.reason


def test_an_end_in_the_middle_of_a_training_interrupts_it(world: World) -> None:
    class Slow(FakeJob):
        began, stopped = threading.Event(), threading.Event()

        def fit(self, *about: Any) -> Any:
            self.began.set()
            assert self.stopped.wait(60)
            raise LocalError("ended")

        def close(self) -> None:
            self.stopped.set()

    job = Slow()
    site = Site(world, job)
    site.ready()
    plan = PlanStore(world.folder).plan(RUN)
    replies = []
    calling = threading.Thread(target=lambda: replies.append(site.agent.call(world.train(plan)[0])))
    calling.start()
    assert job.began.wait(60)
    site.end()  # returns at once: it runs in the link's reading thread
    calling.join(60)
    assert replies[0].fault is Fault.REFUSED
    site.agent.close()
    assert not (world.folder.path / "runs" / RUN).exists()


def test_a_newer_revocation_list_is_kept_and_an_older_one_refused(world: World) -> None:
    site = Site(world)

    def send(number: int) -> None:
        der = World.crl(world.authority, world.root, number)
        body = json.dumps({"crl": base64.b64encode(der).decode()}).encode()
        site.agent.notice(Notice(kind="revocations", body=body))

    send(5)
    assert RevocationList(world.folder).current(NOW).number == 5
    send(4)
    assert RevocationList(world.folder).current(NOW).number == 5
    world.folder.write("revocations.der", World.crl(world.authority, world.root, 2))  # a file that was put back
    with pytest.raises(LocalError, match="expected number 5 or above"):
        RevocationList(world.folder).current(NOW)


@pytest.mark.parametrize("number", range(6))
@pytest.mark.parametrize("before", [True, False])
def test_wherever_it_is_killed_no_list_is_forgotten_that_was_taken(world: World, number: int, before: bool) -> None:
    lists = {one: World.crl(world.authority, world.root, one) for one in (4, 5)}

    def replace() -> None:
        RevocationList(world.folder).replace(lists[5], NOW)

    killed_at(number + 1, before, replace)
    kept = RevocationList(world.folder)
    taken = kept.current(NOW).number == 5
    if taken:
        with pytest.raises(RemoteError, match="expected number 5 or above"):
            kept.replace(lists[4], NOW)
        assert not kept.replace(lists[5], NOW)
    else:
        assert kept.replace(lists[4], NOW) and kept.replace(lists[5], NOW)
    assert world.folder.read("revocations-number") == b"5"
    world.folder.write("revocations.der", lists[4])  # put back
    with pytest.raises(LocalError, match="expected number 5 or above"):
        kept.current(NOW)


def test_a_notice_that_could_not_be_written_down_is_to_come_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site(world)
    site.ready()
    crl = base64.b64encode(World.crl(world.authority, world.root, 9)).decode()
    newer = Notice(kind="revocations", body=json.dumps({"crl": crl}).encode())

    def full(folder: SiteFolder, name: str, data: bytes) -> None:
        raise LocalError(f"{name}: cannot be written (No space left on device); it is as it was")

    with monkeypatch.context() as patched:
        patched.setattr(SiteFolder, "write", full)
        with pytest.raises(LocalError, match="No space left"):
            site.end()
        with pytest.raises(LocalError, match="No space left"):
            site.agent.notice(newer)
    assert site.agent.call(world.train(PlanStore(world.folder).plan(RUN))[0]).fault is Fault.NONE
    site.agent.notice(newer)
    site.end()
    assert RevocationList(world.folder).current(NOW).number == 9
    assert site.agent.call(world.train(PlanStore(world.folder).plan(RUN))[0]).fault is Fault.REFUSED
    site.agent.close()


def test_a_notice_about_a_damaged_run_does_not_come_again_and_a_damaged_run_ends(world: World) -> None:
    site = Site(world)
    site.ready()
    world.folder.write(f"plans/{RUN}/offer.json", b"{")
    world.folder.write(f"plans/{RUN}/outcome.json", b"{")
    site.offer()
    site.end()
    outcome = PlanStore(world.folder).outcome(RUN)
    assert outcome is not None and outcome.state is RunState.ENDED
    site.agent.close()


def test_what_an_ended_run_has_left_behind_is_taken_away_when_that_is_possible(world: World) -> None:
    site = Site(world)
    site.ready()
    full = [True]

    def finish(run: str, reason: str) -> None:
        if full:
            raise LocalError("ledger: cannot be written (No space left on device)")
        finish_run(world.folder, run, reason)

    site.agent._finish = finish
    site.agent.call(world.train(PlanStore(world.folder).plan(RUN))[0])
    site.end()
    for thread in [one for one in threading.enumerate() if one.name == f"end {RUN}"]:
        thread.join(60)
    site.agent.look()
    assert (world.folder.path / "runs" / RUN).exists()
    full.clear()
    site.agent.look()
    assert not (world.folder.path / "runs" / RUN).exists()
    site.agent.close()


def test_runs_whose_folder_is_gone_are_forgotten(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wardround.client.agent.plan_store._ENDED_KEPT", 2)
    site = Site(world)
    for number in range(6):
        run = f"{number:032x}"
        site.offer(run=run)
        site.agent.notice(Notice(kind="ended", body=json.dumps({"run": run, "state": "stopped"}).encode()))
    site.agent.look()
    left = set(PlanStore(world.folder).names())
    assert len(left) == 3 and site.agent._ended == left
    site.offer(run=max(left))
    assert site.agent._plans.outcome(max(left)) is not None, "those that are here are not begun again"
    site.agent.close()


@pytest.mark.parametrize("kind", ["offer", "ended", "revocations", "unheard-of"])
@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"run": "../x", "state": "y", "crl": "!"}', b"[" * 9000])
def test_a_notice_of_any_form_is_done_with(world: World, kind: str, body: bytes) -> None:
    site = Site(world)
    site.agent.notice(Notice(kind=kind, body=body))
    assert PlanStore(world.folder).runs() == []


def test_certificates_are_renewed_when_due_and_asked_for_once_an_hour(world: World) -> None:
    site = Site(world)
    site.agent.tick()
    site.agent.tick()
    assert [one.kind for one in site.sent] == ["renew"]
    site.agent.notice(Notice(kind="certificate", body=b"bad"))
    site.agent.notice(Notice(kind="certificate", body=b"good"))
    assert site.renewal.taken == [b"good"]
    site.renewal.due = False
    site.agent.tick()
    assert len(site.sent) == 1


def test_a_bug_in_a_run_is_told_as_a_failure_and_ends_nothing(world: World) -> None:
    class Buggy(FakeJob):
        def fit(self, *about: Any) -> Any:
            raise ZeroDivisionError("a patient's value")

    site = Site(world, Buggy())
    site.ready()
    plan = PlanStore(world.folder).plan(RUN)
    reply = site.agent.call(world.train(plan)[0])
    assert reply.fault is Fault.REFUSED and "patient" not in reply.reason


def test_one_damaged_run_does_not_stop_the_others(world: World) -> None:
    site = Site(world)
    other = "e" * 32
    site.offer(run=other)
    world.folder.write(f"plans/{other}/decision.json", b"{")
    site.ready()
    assert site.agent.call(world.train(PlanStore(world.folder).plan(RUN))[0]).fault is Fault.NONE


def test_nothing_is_begun_while_the_agent_stops(world: World) -> None:
    site = Site(world)
    site.ready()
    site.agent.close()
    reply = site.agent.call(world.train(PlanStore(world.folder).plan(RUN))[0])
    assert reply.fault is Fault.NOT_READY and "fit" not in site.job.asked


def test_a_newer_list_does_not_wait_for_a_training_and_counts_from_the_next_message_on(world: World) -> None:
    class Slow(FakeJob):
        began, go_on = threading.Event(), threading.Event()

        def fit(self, *about: Any) -> Any:
            self.began.set()
            assert self.go_on.wait(60)
            return super().fit(*about)

    job = Slow()
    site = Site(world, job)
    site.ready()
    plan = PlanStore(world.folder).plan(RUN)
    replies = []
    calling = threading.Thread(target=lambda: replies.append(site.agent.call(world.train(plan)[0])))
    calling.start()
    assert job.began.wait(60)
    body = json.dumps({"crl": base64.b64encode(World.crl(world.authority, world.root, 9)).decode()}).encode()
    site.agent.notice(Notice(kind="revocations", body=body))
    job.go_on.set()
    calling.join(60)
    assert replies[0].fault is Fault.NONE
    assert site.agent.call(world.train(plan, 2)[0]).fault is Fault.NONE
    site.agent.close()


def test_a_decision_that_is_taken_back_while_the_data_are_read_is_not_lost(world: World) -> None:
    class Slow(FakeJob):
        began, go_on = threading.Event(), threading.Event()

        def describe(self) -> Any:
            self.began.set()
            assert self.go_on.wait(60)
            return super().describe()

    job = Slow()
    site = Site(world, job)
    site.offer()
    world.approve(world.data())
    site.agent.look()
    assert job.began.wait(60)
    plans = PlanStore(world.folder)
    denied = Decision(verdict=Verdict.DENIED, plan_digest=plans.offer(RUN).plan_digest, by="IT", at="2026")
    plans.decide(RUN, denied)
    site.agent.look()
    job.go_on.set()
    assert site.approval()["verdict"] == "denied"
    for what in ("prepare", "end"):
        for thread in [one for one in threading.enumerate() if one.name == f"{what} {RUN}"]:
            thread.join(60)
    assert job.closed
    assert not (world.folder.path / "runs" / RUN).exists()
