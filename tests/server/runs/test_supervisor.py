"""Runs at a server: real worker processes, real guards and trainers; only the network is left out."""

import asyncio
import hashlib
import inspect
import json
import os
import random
import signal
import sys
from collections.abc import Coroutine
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.server.runs.hospitals import Hospitals
from wardround.client.link.retry import retry_delay_s
from wardround.errors import LocalError, RemoteError
from wardround.link.limits import Limits
from wardround.link.messages import Call, Fault, Notice, Reply
from wardround.link.signing_inputs import call_digest
from wardround.orders import SiteId
from wardround.plan import Plan, parse_plan
from wardround.server.runs.supervisor import Supervisor
from wardround.server.runs.tensor_file import decode_tensors
from wardround.server.state.runs import Runs
from wardround.server.state.sites import Sites
from wardround.signing_key import SigningKey
from wardround.simulations.simulate import simulate
from wardround.vector import F32

PLAN = """
name = "tumours"
rounds = 3
[task]
name = "tabular-classifier"
model = "logistic"
[data]
source = "breast-cancer"
target = { name = "diagnosis", classes = ["benign", "malignant"] }
columns = [
  { name = "mean radius", range = [0, 40] },
  { name = "mean texture", range = [0, 50] },
]
standardize = "federated"
[cohort]
deadline_s = 60
[training]
lr = 0.05
batch_size = 16
[simulation]
sites = 3
executor = "flat"
workers = 1
baselines = false
bootstrap = 0
"""
MASKED = (
    "protection.mode=masking",
    "protection.colluding=0",
    "protection.dropout=0.4",
    "cohort.weighting=uniform",
    "clipping.clip_norm=2.0",
    "simulation.sites=5",
)
ONE = SiteId("site-01")


def small_plan(*settings: str) -> Plan:
    return parse_plan(PLAN).override(settings)


def play(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


def released(hospitals: Hospitals) -> F32:
    tensors, _ = decode_tensors(hospitals.state.model(hospitals.run_id), "model")
    return hospitals.participants.layout.flatten(tensors)


def lines(hospitals: Hospitals) -> list[dict[str, Any]]:
    path = hospitals.state.folder.runs / hospitals.run_id / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


async def to_the_end(hospitals: Hospitals, state: str = "finished", **options: Any) -> None:
    supervisor = hospitals.connect(**options)
    await supervisor.open()
    await supervisor.start(hospitals.run_id)
    run = await hospitals.until("finished", "failed", "stopped")
    assert run.state == state, run.reason
    await supervisor.close()


@pytest.mark.parametrize(
    "settings",
    [
        (),
        ("server_optimizer.name=fedadam", "evaluation.select=best", "cohort.size=2"),
        ("robust.rule=trimmed_mean", "robust.num_byzantine=1", "simulation.sites=5"),
    ],
)
def test_a_run_ends_with_the_very_model_of_its_simulation(tmp_path: Path, settings: tuple[str, ...]) -> None:
    plan = small_plan(*settings)
    hospitals = Hospitals.of(tmp_path / "state", plan)
    play(to_the_end(hospitals))
    expected = simulate(plan)
    assert np.array_equal(released(hospitals), expected.model)
    assert hospitals.state.run(hospitals.run_id).round == 3
    [made] = [one for one in hospitals.state.events(hospitals.run_id) if one.kind == "model.made"]
    assert made.detail["round"] == expected.round
    assert made.detail["metrics"] == pytest.approx(expected.metrics)
    assert set(hospitals.trained.values()) == {1}


def test_models_are_sealed_on_disk_and_reports_tell_of_hospitals(tmp_path: Path) -> None:
    hospitals = Hospitals.of(tmp_path / "state", small_plan())
    play(to_the_end(hospitals))
    run = hospitals.state.folder.runs / hospitals.run_id
    bits = released(hospitals).tobytes()
    files = [path for path in hospitals.state.path.rglob("*") if path.is_file()]
    assert sum(path.read_bytes().startswith(b"wardround sealed 1\n") for path in files) == 5  # 3 checkpoints, 2 models
    assert not any(bits[:12] in path.read_bytes() for path in files if path.suffix != ".html")
    assert run.stat().st_mode & 0o077 == 0
    card, page = (run / "model-card.md").read_text(), (run / "report.html").read_text()
    for text in (card, page[: page.index("<script>")]):
        assert "simulat" not in text.replace("[simulation", "").replace("simulation.", "").lower()
        assert "test rows" in text
    assert "one machine" not in card


def test_every_site_has_to_approve_and_is_told_of_the_end(tmp_path: Path) -> None:
    hospitals = Hospitals.of(tmp_path / "state", small_plan(), approve=False)
    sites = list(hospitals.state.keys)

    async def scenario() -> None:
        supervisor = hospitals.connect()
        await supervisor.open()
        await supervisor.start(hospitals.run_id)
        for site in sites[:2]:
            await supervisor.noticed(site, hospitals.approval(site, "approved"))
        assert hospitals.state.run(hospitals.run_id).state == "waiting"
        await supervisor.noticed(sites[0], hospitals.approval(sites[0], "denied"))  # too late: it has decided
        await supervisor.noticed(sites[2], hospitals.approval(sites[2], "approved", units=100))
        await hospitals.until("finished")
        async with asyncio.timeout(10):
            while sum(notice.kind == "ended" for _, notice in hospitals.notices) < len(sites):
                await asyncio.sleep(0.01)
        await supervisor.close()

    play(scenario())
    offers = [json.loads(notice.body) for _, notice in hospitals.notices if notice.kind == "offer"]
    assert {one["plan_digest"] for one in offers} == {hospitals.plan.digest}
    assert [one["name"] for one in offers[0]["sites"]] == sites
    assert parse_plan(offers[0]["plan"]).digest == hospitals.plan.digest
    assert offers[0]["size"] == sum(offers[0]["tensors"]) == hospitals.participants.layout.size
    ends = [(site, json.loads(notice.body)["state"]) for site, notice in hospitals.notices if notice.kind == "ended"]
    assert sorted(ends) == [(site, "finished") for site in sites]


def test_a_site_that_denies_ends_the_run_with_its_reason(tmp_path: Path) -> None:
    hospitals = Hospitals.of(tmp_path / "state", small_plan(), approve=False)

    async def scenario() -> None:
        supervisor = hospitals.connect()
        await supervisor.start(hospitals.run_id)
        await supervisor.noticed(ONE, hospitals.approval(ONE, "denied", reason="no ethics vote"))
        run = hospitals.state.run(hospitals.run_id)
        assert (run.state, run.reason) == ("failed", "denied by site-01: no ethics vote")
        await supervisor.close()

    play(scenario())
    assert not (hospitals.state.folder.runs / hospitals.run_id).exists()


def test_a_decision_must_be_signed_by_its_site_and_be_about_this_run_and_plan(tmp_path: Path) -> None:
    hospitals = Hospitals.of(tmp_path / "state", small_plan(), approve=False)
    stranger = SigningKey.make(os.urandom)
    good = json.loads(hospitals.approval(ONE, "approved").body)
    bad: list[Notice] = [
        hospitals.approval(ONE, "approved", key=stranger),
        Notice(kind="approval", body=json.dumps({**good, "verdict": "denied"}).encode()),  # signed was the other word
        hospitals.approval(ONE, "approved", plan_digest="0" * 64),
        hospitals.approval(ONE, "approved", run="0" * 32),
        hospitals.approval(ONE, "approved", units=-1),
        hospitals.approval(ONE, "approved", units=True),
        hospitals.approval(ONE, "waiting"),
        Notice(kind="approval", body=b"[]"),
        Notice(kind="approval", body=json.dumps({**good, "signature": 7}).encode()),
        Notice(kind="approval", body=b"\xff"),
    ]

    async def scenario() -> None:
        supervisor = hospitals.connect()
        await supervisor.start(hospitals.run_id)
        for notice in bad:
            with pytest.raises(RemoteError):
                await supervisor.noticed(ONE, notice)
        with pytest.raises(RemoteError):
            await supervisor.noticed(SiteId("site-02"), hospitals.approval(ONE, "approved"))
        await supervisor.close()

    play(scenario())
    assert [one.kind for one in hospitals.state.events(hospitals.run_id)] == ["run.offered"]


def test_what_cannot_be_run_by_hospitals_is_refused_before_anybody_is_asked(tmp_path: Path) -> None:
    hospitals = Hospitals.of(tmp_path / "state", small_plan("simulation.late_dropout=0"))
    hospitals.state.database.close()
    plan = small_plan("simulation.dropout=0.2", "cohort.min_replies=1")
    hospitals = Hospitals.of(tmp_path / "other", plan)

    async def scenario() -> None:
        supervisor = hospitals.connect()
        with pytest.raises(LocalError, match=r"simulation\.dropout: .*drop-outs are real here"):
            await supervisor.start(hospitals.run_id)
        with pytest.raises(LocalError, match="expected a run that exists"):
            await supervisor.start("no such run")
        Sites(hospitals.state.database).revoke(ONE, datetime.now(UTC))
        with pytest.raises(LocalError):
            await supervisor.start(hospitals.run_id)
        await supervisor.close()

    play(scenario())
    assert not hospitals.notices


# -- pause, resume, stop --------------------------------------------------------------------------


class Gate:
    """Lets nobody train in `round_number` until it is opened."""

    def __init__(self, round_number: int) -> None:
        self.round, self.reached, self.open = round_number, asyncio.Event(), asyncio.Event()

    async def __call__(self, site: SiteId, call: Call) -> Reply | None:
        if call.kind == "train" and json.loads(call.order)["round"] == self.round:
            self.reached.set()
            await self.open.wait()
        return None


def test_a_run_is_paused_after_its_round_and_goes_on(tmp_path: Path) -> None:
    hospitals = Hospitals.of(tmp_path / "state", small_plan())

    async def scenario() -> None:
        gate = hospitals.tamper = Gate(2)
        supervisor = hospitals.connect()
        await supervisor.start(hospitals.run_id)
        await gate.reached.wait()
        await supervisor.pause(hospitals.run_id)
        async with asyncio.timeout(30):
            while (doing := supervisor.progress(hospitals.run_id)) is not None and len(doing.asked) < 3:
                await asyncio.sleep(0.01)
        assert doing is not None
        assert (doing.round, doing.rounds, doing.doing, doing.answered) == (1, 3, "training", ())
        assert doing.asked == tuple(hospitals.state.keys)
        gate.open.set()
        async with asyncio.timeout(30):
            while supervisor.progress(hospitals.run_id) is not None:
                await asyncio.sleep(0.01)
        run = hospitals.state.run(hospitals.run_id)
        assert (run.state, run.round) == ("paused", 2)
        with pytest.raises(LocalError, match="expected one that is running, got one that is paused"):
            await supervisor.pause(hospitals.run_id)
        await supervisor.resume(hospitals.run_id)
        await hospitals.until("finished")
        await supervisor.close()

    play(scenario())
    assert set(hospitals.trained.values()) == {1}
    assert [line["round"] for line in lines(hospitals)] == [1, 2, 3]


def test_who_resumes_before_the_round_is_over_has_paused_nothing(tmp_path: Path) -> None:
    hospitals = Hospitals.of(tmp_path / "state", small_plan())

    async def scenario() -> None:
        gate = hospitals.tamper = Gate(2)
        supervisor = hospitals.connect()
        await supervisor.start(hospitals.run_id)
        await gate.reached.wait()
        await supervisor.pause(hospitals.run_id)
        await supervisor.resume(hospitals.run_id)
        gate.open.set()
        await hospitals.until("finished")
        await supervisor.close()

    play(scenario())


def test_a_run_is_stopped_in_the_middle_of_a_round(tmp_path: Path) -> None:
    hospitals = Hospitals.of(tmp_path / "state", small_plan())

    async def scenario() -> None:
        gate = hospitals.tamper = Gate(2)
        supervisor = hospitals.connect()
        await supervisor.start(hospitals.run_id)
        await gate.reached.wait()
        await supervisor.stop(hospitals.run_id)
        run = await hospitals.until("stopped")
        assert (run.reason, run.round) == ("stopped by a person", 1)
        for again in (supervisor.stop, supervisor.pause, supervisor.resume, supervisor.start):
            with pytest.raises(LocalError):
                await again(hospitals.run_id)
        await supervisor.close()

    play(scenario())
    assert (hospitals.state.folder.runs / hospitals.run_id / "report.html").exists()
    with pytest.raises(AssertionError):
        hospitals.state.model(hospitals.run_id)


def test_a_run_that_is_stopped_while_it_pauses_ends(tmp_path: Path) -> None:
    hospitals = Hospitals.of(tmp_path / "state", small_plan())

    async def scenario() -> None:
        gate = hospitals.tamper = Gate(2)
        supervisor = hospitals.connect()
        await supervisor.start(hospitals.run_id)
        await gate.reached.wait()
        await supervisor.pause(hospitals.run_id)
        await supervisor.stop(hospitals.run_id)
        await hospitals.until("stopped")
        await supervisor.close()

    play(scenario())


def test_a_waiting_and_a_paused_run_are_stopped_at_once(tmp_path: Path) -> None:
    hospitals = Hospitals.of(tmp_path / "state", small_plan(), approve=False)

    async def scenario() -> None:
        supervisor = hospitals.connect()
        await supervisor.start(hospitals.run_id)
        await supervisor.stop(hospitals.run_id)
        assert hospitals.state.run(hospitals.run_id).state == "stopped"
        other = hospitals.state.add_run(hospitals.plan, hospitals.participants)
        for state, event in (("waiting", "ready"), ("ready", "running"), ("running", "paused")):
            assert Runs(hospitals.state.database).move(other.id, {state}, event, reason="", now=datetime.now(UTC))
        await supervisor.stop(other.id)
        assert hospitals.state.run(other.id).state == "stopped"
        await supervisor.close()

    play(scenario())


def test_several_runs_at_once(tmp_path: Path) -> None:
    hospitals = Hospitals.of(tmp_path / "state", small_plan())
    run = hospitals.state.add_run(hospitals.plan, hospitals.participants)
    others = Hospitals(hospitals.state, hospitals.plan, hospitals.participants, run.id)

    class Both:
        async def call(self, site: SiteId, call: Call, **options: Any) -> Reply:
            return await (hospitals if call.run == hospitals.run_id else others).call(site, call, **options)

        async def notify(self, site: SiteId, notice: Notice) -> None:
            of = hospitals if json.loads(notice.body)["run"] == hospitals.run_id else others
            await of.notify(site, notice)

        def away_s(self, site: SiteId) -> float:
            return 0.0

    async def scenario() -> None:
        supervisor = hospitals.state.supervisor(Both())
        hospitals.supervisor = others.supervisor = supervisor
        await supervisor.start(hospitals.run_id)
        await supervisor.start(run.id)
        await asyncio.gather(hospitals.until("finished"), others.until("finished"))
        await supervisor.close()

    play(scenario())
    assert np.array_equal(released(hospitals), released(others))


# -- sites that do not answer ---------------------------------------------------------------------


async def silent(site: SiteId, call: Call) -> Reply | None:
    """As the link reports a site that has not answered by the deadline."""
    if site == ONE and call.kind == "train":
        raise TimeoutError
    return None


def test_the_others_go_on_without_a_site_that_never_answers(tmp_path: Path) -> None:
    async def never(site: SiteId, call: Call) -> Reply | None:
        if site == ONE and call.kind == "train":
            await asyncio.Event().wait()
        return None

    plan = small_plan("cohort.deadline_s=5", "cohort.min_replies=2", "rounds=1")
    hospitals = Hospitals.of(tmp_path / "state", plan, tamper=never)
    play(to_the_end(hospitals))
    [line] = lines(hospitals)
    assert line["absences"] == [{"site": "site-01", "reason": "no reply by the deadline"}]
    assert not any(line["void"] for line in lines(hospitals))


async def unattached(site: SiteId, call: Call) -> Reply | None:
    """As the link does with a call to a site that is away."""
    if site == ONE and call.kind in ("train", "evaluate"):
        await asyncio.Event().wait()
    return None


@pytest.mark.parametrize(
    "settings",
    [("cohort.min_replies=2",), ("robust.rule=median", "robust.num_byzantine=1", "simulation.sites=5")],
)
def test_no_round_waits_for_a_site_that_is_long_away_if_the_others_are_enough(
    tmp_path: Path, settings: tuple[str, ...]
) -> None:
    plan = small_plan(*settings, "cohort.deadline_s=86400")
    hospitals = Hospitals.of(tmp_path / "state", plan, tamper=unattached, away={ONE: 720.0})
    play(to_the_end(hospitals))
    assert [line["absences"] for line in lines(hospitals)] == [[{"site": "site-01", "reason": "is away"}]] * 3
    assert hospitals.calls[ONE, "train"] == 3


def test_a_cable_that_is_cut_for_ten_minutes_makes_no_site_long_away() -> None:
    """The server sees a cut at once at the earliest, the agent as late as it can, and then waits as long as it can."""
    limits = Limits()
    delay_s = max(retry_delay_s(failures, lambda: 1.0, limits) for failures in range(1, 100))
    back_s = 600 + limits.keepalive_s + limits.keepalive_answer_s + delay_s
    assert back_s < inspect.signature(Supervisor).parameters["away_s"].default


def test_a_site_that_comes_back_is_in_the_next_round(tmp_path: Path) -> None:
    plan = small_plan("cohort.min_replies=2", "cohort.deadline_s=86400")
    hospitals = Hospitals.of(tmp_path / "state", plan, away={ONE: 100.0})

    async def back(site: SiteId, call: Call) -> Reply | None:
        if call.kind != "train" or json.loads(call.order)["round"] < 3:
            return await unattached(site, call) if hospitals.away[ONE] else None
        hospitals.away[ONE], looks = 0.0, hospitals.looks[ONE]
        while hospitals.looks[ONE] < looks + 3:  # the worker knows
            await asyncio.sleep(0.01)
        return None

    hospitals.tamper = back
    play(to_the_end(hospitals, away_s=0.6))
    assert [len(line["absences"]) for line in lines(hospitals)] == [1, 1, 0]


def test_a_run_that_needs_every_site_at_its_start_waits_for_them(tmp_path: Path) -> None:
    undisturbed = Hospitals.of(tmp_path / "one", small_plan())
    play(to_the_end(undisturbed))
    hospitals, asked = Hospitals.of(tmp_path / "state", small_plan()), 0

    async def late(site: SiteId, call: Call) -> Reply | None:
        nonlocal asked
        if site == ONE and call.kind == "query.statistics" and (asked := asked + 1) < 4:
            raise TimeoutError
        return None

    hospitals.tamper = late
    play(to_the_end(hospitals))
    assert asked == 4 and np.array_equal(released(hospitals), released(undisturbed))


def test_a_run_that_waits_for_its_sites_can_be_paused_and_stopped(tmp_path: Path) -> None:
    hospitals, asked = Hospitals.of(tmp_path / "state", small_plan()), asyncio.Event()

    async def never(site: SiteId, call: Call) -> Reply | None:
        if site == ONE:
            asked.set()
            raise TimeoutError
        return None

    async def scenario() -> None:
        hospitals.tamper = never
        supervisor = hospitals.connect()
        await supervisor.start(hospitals.run_id)
        await asked.wait()
        await supervisor.pause(hospitals.run_id)
        async with asyncio.timeout(60):
            while supervisor.progress(hospitals.run_id) is not None:
                await asyncio.sleep(0.01)
        assert hospitals.state.run(hospitals.run_id).state == "paused"
        asked.clear()
        await supervisor.resume(hospitals.run_id)
        await asked.wait()
        await supervisor.stop(hospitals.run_id)
        await hospitals.until("stopped")
        await supervisor.close()

    play(scenario())


@pytest.mark.parametrize("reason", ["refused", "refused, unsigned", "revoked"])
def test_a_run_does_not_wait_for_a_site_that_will_never_give_what_it_needs(tmp_path: Path, reason: str) -> None:
    hospitals = Hospitals.of(tmp_path / "state", small_plan())

    async def refuse(site: SiteId, call: Call) -> Reply | None:
        if site != ONE or call.kind != "query.statistics":
            return None
        if reason == "revoked":
            Sites(hospitals.state.database).revoke(ONE, datetime.now(UTC))
            raise TimeoutError
        if reason == "refused, unsigned":  # as the link does with a call that is too large
            return Reply(fault=Fault.REFUSED, reason="not our columns")
        digest = call_digest(call.run, call.kind, call.order, call.protocol, call.spec, call.model_digest)
        return hospitals.signed(site, digest, Fault.REFUSED, "not our columns", b"")

    hospitals.tamper = refuse
    play(to_the_end(hospitals, "failed"))
    why = {"revoked": "is revoked", "refused": "not our columns"}.get(reason, "refused, unsigned: not our columns")
    assert hospitals.state.run(hospitals.run_id).reason == f"standardisation needs every site; site-01: {why}"


def test_a_run_whose_sites_all_refuse_its_statistics_ends_with_their_reason(tmp_path: Path) -> None:
    """Under secure aggregation too, where nobody knows a sum yet: they are not asked again and again."""
    hospitals = Hospitals.of(tmp_path / "state", small_plan(*MASKED, "rounds=1"))

    async def refuse(site: SiteId, call: Call) -> Reply | None:
        return Reply(fault=Fault.REFUSED, reason="too large") if call.kind == "query.statistics" else None

    hospitals.tamper = refuse
    play(to_the_end(hospitals, "failed"))
    assert "standardisation needs every site" in (reason := hospitals.state.run(hospitals.run_id).reason)
    assert "refused, unsigned: too large" in reason
    assert {hospitals.calls[site, "query.statistics"] for site in hospitals.state.keys} == {1}


def test_a_masked_run_on_many_columns(tmp_path: Path) -> None:
    """Their names do not travel, and their means go through every channel with each order."""
    names = [f"gene {number:06}" for number in range(2500)]
    rows = [
        f"{number % 2},{','.join('0.25' if (number + at) % 3 else '0.5' for at in range(2500))}" for number in range(60)
    ]
    (tmp_path / "rows.csv").write_text("\n".join([f"d,{','.join(names)}", *rows]), encoding="utf-8")
    columns = "\n".join(f'  {{ name = "{name}", range = [0, 1] }},' for name in names)
    before, after = PLAN.split("columns = [")[0], PLAN.split("\n]\n", 1)[1]
    target = '"diagnosis", classes = ["benign", "malignant"]'
    text = f"{before}columns = [\n{columns}\n]\n{after}".replace(target, '"d", classes = ["0", "1"]')
    text = text.replace('source = "breast-cancer"', 'source = "csv"\npath = "rows.csv"')
    plan = parse_plan(text, folder=tmp_path).override((*MASKED, "rounds=1", "evaluation.every=0", "data.test=0"))
    hospitals = Hospitals.of(tmp_path / "state", plan)
    play(to_the_end(hospitals))
    assert lines(hospitals)[0]["absences"] == []


def test_too_few_replies_are_void_rounds_and_in_the_end_a_failed_run(tmp_path: Path) -> None:
    hospitals = Hospitals.of(tmp_path / "state", small_plan("rounds=9"), tamper=silent)
    play(to_the_end(hospitals, "failed"))
    run = hospitals.state.run(hospitals.run_id)
    assert run.reason.startswith("5 rounds in a row were void") and run.round == 5
    assert all(line["void"] for line in lines(hospitals))


def test_a_revoked_site_is_not_called_any_more(tmp_path: Path) -> None:
    hospitals = Hospitals.of(tmp_path / "state", small_plan("cohort.min_replies=2"))

    async def revoke(site: SiteId, call: Call) -> Reply | None:
        if call.kind == "train" and json.loads(call.order)["round"] == 2:
            Sites(hospitals.state.database).revoke(ONE, datetime.now(UTC))
        return None

    hospitals.tamper = revoke
    play(to_the_end(hospitals))
    assert lines(hospitals)[2]["absences"] == [{"site": "site-01", "reason": "is revoked"}]
    assert hospitals.trained[ONE, 3, 0] == 0


def test_a_site_that_is_not_ready_is_asked_again(tmp_path: Path) -> None:
    hospitals = Hospitals.of(tmp_path / "state", small_plan())
    asked = 0

    async def slow(site: SiteId, call: Call) -> Reply | None:
        nonlocal asked
        if site == ONE and call.kind == "train" and (asked := asked + 1) < 3:
            return Reply(fault=Fault.NOT_READY, reason="is being started")
        return None

    hospitals.tamper = slow
    play(to_the_end(hospitals))
    assert asked == 5 and not any(line["absences"] for line in lines(hospitals))


@pytest.mark.parametrize("lie", ["unsigned", "of another", "of another call", "changed"])
def test_a_reply_counts_only_with_the_signature_of_its_site_over_this_call(tmp_path: Path, lie: str) -> None:
    hospitals = Hospitals.of(tmp_path / "state", small_plan("cohort.min_replies=2"))
    kept: list[Reply] = []

    async def forged(site: SiteId, call: Call) -> Reply | None:
        if site != ONE or call.kind != "train":
            return None
        honest = await asyncio.to_thread(hospitals.answer, site, call)
        kept.append(honest)
        frame = bytes(honest.frame)
        if lie == "unsigned":
            return replace(honest, signature=b"")
        if lie == "of another":
            digest = call_digest(call.run, call.kind, call.order, call.protocol, call.spec, call.model_digest)
            return hospitals.signed(SiteId("site-02"), digest, Fault.NONE, "", frame)
        if lie == "of another call":
            return kept[0] if len(kept) > 1 else None
        return replace(honest, frame=memoryview(frame[:-40] + bytes(8) + frame[-32:]))

    hospitals.tamper = forged
    play(to_the_end(hospitals))
    for line in lines(hospitals)[lie == "of another call" :]:
        assert line["absences"] == [
            {"site": "site-01", "reason": "site-01: expected a valid signature under the key of this name"}
        ]


def test_a_site_without_budget_ends_the_run_as_a_simulation_would(tmp_path: Path) -> None:
    hospitals = Hospitals.of(tmp_path / "state", small_plan())

    async def spent(site: SiteId, call: Call) -> Reply | None:
        if call.kind == "train" and json.loads(call.order)["round"] == 2:
            digest = call_digest(call.run, call.kind, call.order, call.protocol, call.spec, call.model_digest)
            return hospitals.signed(site, digest, Fault.SPENT, "no budget is left", b"")
        return None

    hospitals.tamper = spent
    play(to_the_end(hospitals))
    run = hospitals.state.run(hospitals.run_id)
    assert (run.round, run.reason) == (2, "site-01: no budget is left")


# -- crashes --------------------------------------------------------------------------------------


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def test_a_worker_that_is_killed_while_sites_train_gives_the_same_model(tmp_path: Path) -> None:
    undisturbed = Hospitals.of(tmp_path / "one", small_plan())
    play(to_the_end(undisturbed))
    hospitals = Hospitals.of(tmp_path / "state", small_plan())
    pids: list[int] = []

    async def scenario() -> None:
        gate = hospitals.tamper = Gate(2)
        supervisor = hospitals.connect()
        await supervisor.start(hospitals.run_id)
        await gate.reached.wait()
        doing = supervisor.progress(hospitals.run_id)
        assert doing is not None
        pids.append(doing.pid)
        gate.open.set()
        kill(doing.pid)
        await hospitals.until("finished")
        await supervisor.close()

    play(scenario())
    assert np.array_equal(released(hospitals), released(undisturbed))
    assert set(hospitals.trained.values()) == {1}
    kinds = [one.kind for one in hospitals.state.events(hospitals.run_id)]
    assert kinds.count("worker.crashed") == 1 and kinds.count("round.done") == 3


def test_a_worker_that_hangs_is_killed_and_one_that_waits_for_a_slow_site_is_not(tmp_path: Path) -> None:
    undisturbed = Hospitals.of(tmp_path / "one", small_plan())
    play(to_the_end(undisturbed))
    hospitals = Hospitals.of(tmp_path / "state", small_plan())

    async def scenario() -> None:
        gate = hospitals.tamper = Gate(2)
        supervisor = hospitals.connect(stuck_s=5.0)
        await supervisor.start(hospitals.run_id)
        await gate.reached.wait()
        await asyncio.sleep(7)  # the slow site
        doing = supervisor.progress(hospitals.run_id)
        assert doing is not None and doing.restarts == 0
        os.kill(doing.pid, signal.SIGSTOP)
        [crash] = await hospitals.until_event("worker.crashed")
        assert crash.detail == {"crashes": 1, "round": 1, "stuck": True}
        with pytest.raises(ProcessLookupError):
            os.kill(doing.pid, 0)
        gate.open.set()
        await hospitals.until("finished")
        await supervisor.close()

    play(scenario())
    assert np.array_equal(released(hospitals), released(undisturbed))
    assert set(hospitals.trained.values()) == {1}


def killed_python(folder: Path) -> Path:
    """A Python whose worker is killed where the file `kill` in `folder` says."""
    script, tests = folder / "python", Path(__file__).parent
    command = f'PYTHONPATH="{tests.parents[2]}" exec "{sys.executable}" "{tests / "killed_worker.py"}"'
    script.write_text(f'#!/bin/sh\n{command} "{folder / "kill"}" "$4"\n')
    script.chmod(0o755)
    return script


@pytest.mark.parametrize("count", [6, pytest.param(40, marks=pytest.mark.slow)])
def test_a_worker_that_is_killed_before_any_change_of_the_disk_gives_the_same_model(tmp_path: Path, count: int) -> None:
    plan = small_plan("server_optimizer.name=fedadam", "rounds=4")
    undisturbed = Hospitals.of(tmp_path / "one", plan, run_id="0" * 32)
    python = killed_python(tmp_path)
    play(to_the_end(undisturbed, python=str(python)))
    total = int((tmp_path / "kill.calls").read_text())
    model = undisturbed.state.model("0" * 32)
    assert total > 40
    for at in random.Random(count).sample(range(total), count):  # noqa: S311
        (tmp_path / "kill").write_text(f"call-{at}")
        hospitals = Hospitals.of(tmp_path / f"state-{at}", plan, run_id="0" * 32)
        play(to_the_end(hospitals, python=str(python)))
        assert not (tmp_path / "kill").exists()
        assert hospitals.state.model("0" * 32) == model, at
        assert set(hospitals.trained.values()) == {1}, at
        events = hospitals.state.events("0" * 32)
        assert [one.detail["round"] for one in events if one.kind == "round.done"] == [1, 2, 3, 4], at
        assert sum(one.kind == "worker.crashed" for one in events) == 1, at
        hospitals.state.database.close()


@pytest.mark.parametrize("at", [0, 2, 5, 11])
def test_a_full_disk_pauses_the_run_which_goes_on_when_there_is_room(tmp_path: Path, at: int) -> None:
    undisturbed = Hospitals.of(tmp_path / "one", small_plan())
    play(to_the_end(undisturbed))
    hospitals = Hospitals.of(tmp_path / "state", small_plan())
    python = killed_python(tmp_path)
    (tmp_path / "kill").write_text(f"full-{at}")

    async def scenario() -> None:
        supervisor = hospitals.connect(python=str(python))
        await supervisor.start(hospitals.run_id)
        run = await hospitals.until("paused", "failed", "finished")
        assert run.state == "paused" and "No space left on device" in run.reason
        async with asyncio.timeout(30):
            while supervisor.progress(hospitals.run_id) is not None:
                await asyncio.sleep(0.01)
        await supervisor.resume(hospitals.run_id)
        await hospitals.until("finished")
        await supervisor.close()

    play(scenario())
    assert np.array_equal(released(hospitals), released(undisturbed))
    assert set(hospitals.trained.values()) == {1}


def test_a_worker_that_crashes_again_and_again_ends_the_run_with_the_reason(tmp_path: Path) -> None:
    hospitals = Hospitals.of(tmp_path / "state", small_plan())
    script, waits = tmp_path / "python", list[float]()
    script.write_text("#!/bin/sh\nexit 3\n")
    script.chmod(0o755)

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    play(to_the_end(hospitals, "failed", python=str(script), sleep=sleep))
    assert hospitals.state.run(hospitals.run_id).reason.startswith("its worker crashed 5 times in a row after round 0")
    assert waits == [0.5, 1.0, 2.0, 4.0]


def test_a_server_that_ends_and_starts_again_goes_on_with_its_runs(tmp_path: Path) -> None:
    undisturbed = Hospitals.of(tmp_path / "one", small_plan())
    play(to_the_end(undisturbed))
    hospitals = Hospitals.of(tmp_path / "state", small_plan())

    async def first() -> None:
        gate = hospitals.tamper = Gate(2)
        supervisor = hospitals.connect()
        await supervisor.start(hospitals.run_id)
        await gate.reached.wait()
        await supervisor.close()
        assert hospitals.state.run(hospitals.run_id).state == "running"

    async def second() -> None:
        hospitals.tamper = None
        supervisor = hospitals.connect()
        await supervisor.open()
        await hospitals.until("finished")
        await supervisor.close()

    play(first())
    play(second())
    assert np.array_equal(released(hospitals), released(undisturbed))
    assert not any(one.kind == "worker.crashed" for one in hospitals.state.events(hospitals.run_id))


def test_a_server_that_starts_again_asks_who_has_not_decided(tmp_path: Path) -> None:
    hospitals = Hospitals.of(tmp_path / "state", small_plan(), verdicts={ONE: "approved"}, approve=False)

    async def first() -> None:
        supervisor = hospitals.connect()
        await supervisor.start(hospitals.run_id)
        await hospitals.until_event("site.approved")
        await supervisor.close()

    async def second() -> None:
        hospitals.notices.clear()
        hospitals.verdicts = dict.fromkeys(hospitals.state.keys, "approved")
        supervisor = hospitals.connect()
        await supervisor.open()
        await hospitals.until("finished")
        await supervisor.close()

    play(first())
    play(second())
    assert sorted(site for site, notice in hospitals.notices if notice.kind == "offer") == ["site-02", "site-03"]


# -- protection and privacy -----------------------------------------------------------------------


def test_secure_aggregation_with_a_drop_out(tmp_path: Path) -> None:
    plan = small_plan(*MASKED, "rounds=2")

    async def gone(site: SiteId, call: Call) -> Reply | None:
        if site == ONE and call.kind == "train" and json.loads(call.order)["round"] == 2:
            raise TimeoutError
        return None

    hospitals = Hospitals.of(tmp_path / "state", plan, tamper=gone)
    play(to_the_end(hospitals))
    first, second = lines(hospitals)
    assert first["protection"]["groups"] == [{"number": 0, "members": 5, "survivors": 5}]
    assert second["protection"]["groups"] == [{"number": 0, "members": 5, "survivors": 4}]
    assert second["protection"]["lost"] == {"update": ["site-01"]}


def test_statistics_are_asked_again_under_secure_aggregation_only_while_no_sum_is_known(tmp_path: Path) -> None:
    late = Hospitals.of(tmp_path / "late", small_plan(*MASKED, "rounds=1"))
    lost = Hospitals.of(tmp_path / "lost", small_plan(*MASKED, "rounds=1"))
    hellos = 0

    async def no_hello(site: SiteId, call: Call) -> Reply | None:
        nonlocal hellos
        if site == ONE and call.kind == "query.secagg" and (hellos := hellos + 1) < 4:
            raise TimeoutError
        return None

    async def no_sums(site: SiteId, call: Call) -> Reply | None:
        if site == ONE and call.kind == "query.statistics":
            raise TimeoutError
        return None

    late.tamper, lost.tamper = no_hello, no_sums
    play(to_the_end(late))
    play(to_the_end(lost, "failed"))
    assert hellos > 4
    assert "they are not asked again, since two sums may tell" in lost.state.run(lost.run_id).reason
    assert sum(lost.calls[ONE, kind] for kind in ("query.statistics", "train")) == 1


def test_secure_aggregation_does_not_wait_for_a_member_that_is_long_away(tmp_path: Path) -> None:
    hospitals = Hospitals.of(tmp_path / "state", small_plan(*MASKED, "cohort.deadline_s=86400"))

    async def gone(site: SiteId, call: Call) -> Reply | None:
        if site == ONE and call.kind == "train" and json.loads(call.order)["round"] == 2:
            hospitals.away[ONE] = 100.0
        if site == ONE and ONE in hospitals.away:
            await asyncio.Event().wait()
        return None

    hospitals.tamper = gone
    play(to_the_end(hospitals, away_s=0.6))
    assert [line["protection"]["groups"][0]["survivors"] for line in lines(hospitals)] == [5, 4, 4]


def test_a_protected_round_that_was_broken_off_is_another_try_in_another_epoch(tmp_path: Path) -> None:
    hospitals = Hospitals.of(tmp_path / "state", small_plan(*MASKED))

    async def scenario() -> None:
        gate = hospitals.tamper = Gate(2)
        supervisor = hospitals.connect()
        await supervisor.start(hospitals.run_id)
        await gate.reached.wait()
        doing = supervisor.progress(hospitals.run_id)
        assert doing is not None
        hospitals.tamper = None
        gate.open.set()
        await asyncio.sleep(0)
        async with asyncio.timeout(20):
            while not hospitals.trained[ONE, 2, 0]:
                await asyncio.sleep(0.001)
        kill(doing.pid)
        await hospitals.until("finished")
        await supervisor.close()

    play(scenario())
    assert [line["round"] for line in lines(hospitals)] == [1, 2, 3]
    assert not any(line["void"] for line in lines(hospitals))


@pytest.mark.parametrize(
    ("at", "reason"),
    [
        (2, "site-01: all 3 releases of the claim have begun"),
        (3, "round 3 was broken off, and the claim has no room for another try"),
    ],
)
def test_a_try_that_the_claim_has_no_room_for_ends_the_run_with_the_model_it_has(
    tmp_path: Path, at: int, reason: str
) -> None:
    settings = ("privacy.unit=row", "privacy.noise_multiplier=1.5", "privacy.public_sizes=true")
    hospitals = Hospitals.of(tmp_path / "state", small_plan(*MASKED, *settings, "data.standardize=range"))

    async def scenario() -> None:
        supervisor, killed = hospitals.connect(), asyncio.Event()

        async def crash(site: SiteId, call: Call) -> Reply | None:
            if call.kind == "train" and json.loads(call.order)["round"] == at and not killed.is_set():
                reply = await asyncio.to_thread(hospitals.answer, site, call)
                if all(hospitals.trained[one, at, 0] for one in hospitals.state.keys):
                    killed.set()
                    doing = supervisor.progress(hospitals.run_id)
                    assert doing is not None
                    kill(doing.pid)
                return reply
            return None

        hospitals.tamper = crash
        await supervisor.start(hospitals.run_id)
        await hospitals.until("finished", "failed")
        await supervisor.close()

    play(scenario())
    run = hospitals.state.run(hospitals.run_id)
    assert (run.state, run.round, run.reason) == ("finished", 3, reason)
    page = (hospitals.state.folder.runs / hospitals.run_id / "report.html").read_text()
    assert f"Training stopped early: {reason}." in page and "each beginning spends privacy" in page


def test_rows_are_hidden_and_the_server_says_what_sites_spend_at_most(tmp_path: Path) -> None:
    plan = small_plan(
        "privacy.unit=row",
        "privacy.noise_multiplier=1.5",
        "privacy.public_sizes=true",
        "data.standardize=range",
        "cohort.weighting=uniform",
    )
    hospitals = Hospitals.of(tmp_path / "state", plan)
    play(to_the_end(hospitals))
    first, _, last = (line["privacy"] for line in lines(hospitals))
    assert set(last["sites"]) == set(hospitals.state.keys)
    assert 0 < first["epsilon"] < last["epsilon"] == max(last["sites"].values())
    card = (hospitals.state.folder.runs / hospitals.run_id / "model-card.md").read_text()
    assert "No differential privacy" not in card and "Differential privacy: " in card


def test_clients_are_hidden_and_every_begun_round_is_charged(tmp_path: Path) -> None:
    plan = small_plan(
        "privacy.unit=client",
        "privacy.noise_multiplier=1.0",
        "privacy.clip_norm=1.0",
        "privacy.delta=1e-6",
        "data.standardize=range",
        "cohort.weighting=uniform",
        "simulation.sites=5",
        "rounds=4",
    )
    hospitals = Hospitals.of(tmp_path / "state", plan)
    play(to_the_end(hospitals))
    assert all(line["cohort"] == sorted(hospitals.state.keys) for line in lines(hospitals))
    spent = [line["privacy"]["epsilon"] for line in lines(hospitals)]
    assert spent == sorted(spent) and spent[-1] > spent[0] > 0


def test_a_round_that_a_crash_ended_is_charged_and_another_is_begun(tmp_path: Path) -> None:
    plan = small_plan(
        "privacy.unit=client",
        "privacy.noise_multiplier=1.0",
        "data.standardize=range",
        "cohort.weighting=uniform",
        "simulation.sites=5",
        "rounds=4",
    )
    hospitals = Hospitals.of(tmp_path / "state", plan)

    async def scenario() -> None:
        gate = hospitals.tamper = Gate(2)
        supervisor = hospitals.connect()
        await supervisor.start(hospitals.run_id)
        await gate.reached.wait()
        doing = supervisor.progress(hospitals.run_id)
        assert doing is not None
        hospitals.tamper = None
        kill(doing.pid)
        gate.open.set()
        await hospitals.until("finished")
        await supervisor.close()

    play(scenario())
    run = hospitals.state.run(hospitals.run_id)
    assert run.round == 3 and run.reason.startswith("the privacy budget is spent: 4 rounds were begun")
    first, second, third = (line["privacy"]["epsilon"] for line in lines(hospitals))
    assert second - first > third - second > 0  # two charges lie between the first and the second


def test_nobody_is_told_who_takes_part_where_the_claim_rests_on_it(tmp_path: Path) -> None:
    plan = small_plan(
        "privacy.unit=client",
        "privacy.noise_multiplier=1.0",
        "privacy.sampling=poisson",
        "privacy.evaluation=off",
        "evaluation.every=0",
        "data.standardize=range",
        "cohort.weighting=uniform",
        "cohort.size=3",
        "simulation.sites=6",
        "rounds=6",
    )
    hospitals = Hospitals.of(tmp_path / "state", plan)
    seen: list[tuple[SiteId, ...]] = []

    async def look(site: SiteId, call: Call) -> Reply | None:
        assert hospitals.supervisor is not None
        doing = hospitals.supervisor.progress(hospitals.run_id)
        assert doing is not None and doing.doing == "training"
        seen.append(doing.asked + doing.answered)
        return None

    hospitals.tamper = look
    play(to_the_end(hospitals))
    assert seen and set(seen) == {()}
    assert all(line["cohort"] == line["absences"] == [] for line in lines(hospitals))
    rounds = [one for one in hospitals.state.events(hospitals.run_id) if one.kind == "round.done"]
    assert all((one.detail["asked"], one.detail["seconds"]) == (0, 0) for one in rounds)
    log = hospitals.state.folder.runs / hospitals.run_id / "metrics.jsonl"
    digests = [hashlib.sha256(line).hexdigest() for line in log.read_bytes().splitlines()]
    assert [one.detail["line_sha256"] for one in rounds] == digests


def test_a_masked_model_is_that_of_clear_updates_up_to_their_encoding(tmp_path: Path) -> None:
    hospitals = Hospitals.of(tmp_path / "state", small_plan(*MASKED))
    play(to_the_end(hospitals))
    unmasked = simulate(small_plan("cohort.weighting=uniform", "clipping.clip_norm=2.0", "simulation.sites=5"))
    assert np.abs(released(hospitals) - unmasked.model).max() < 1e-4
