"""What a site signs at the end of a run: one model, once, and how often it answered."""

import base64
import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.client.agent.site_world import NOW, RUN, FakeJob, World, plan_text
from tests.client.agent.test_agent import Site
from wardround.client.agent.admission import Admission
from wardround.client.agent.participation import participation_notice
from wardround.client.agent.plan_store import Decision, Outcome, PlanStore, RunState, Verdict
from wardround.client.agent.site_run import SiteRun, finish_run
from wardround.errors import LocalError
from wardround.link.messages import Fault, Notice
from wardround.link.signing_inputs import participation_bytes
from wardround.plan_privacy import Unit
from wardround.signing_key import check_signature

MODEL = "ab" * 32
HIDDEN = (
    'privacy.unit="client"',
    'privacy.sampling="poisson"',
    "privacy.clip_norm=1.0",
    "privacy.noise_multiplier=1.0",
    "cohort.size=1",
    'cohort.weighting="uniform"',
)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World.make(tmp_path)


def end(site: Site, model: object = MODEL) -> None:
    body = {"run": RUN, "state": "finished", "model": model}
    site.agent.notice(Notice(kind="ended", body=json.dumps(body).encode()))
    wait(site)


def look(site: Site) -> None:
    site.agent.look()
    wait(site)


def wait(site: Site) -> None:
    """Until what was begun is over."""
    for thread in list(site.agent._threads):
        thread.join(60)


def words(site: Site) -> list[dict[str, Any]]:
    return [json.loads(notice.body) for notice in site.sent if notice.kind == "participation"]


def check_word(world: World, word: dict[str, Any], rounds: int | None) -> None:
    plan = PlanStore(world.folder).plan(RUN)
    assert (word["run"], word["plan_digest"], word["model"], word["rounds"]) == (RUN, plan.digest, MODEL, rounds)
    signed = participation_bytes(RUN, plan.digest, bytes.fromhex(MODEL), rounds, word["at"])
    check_signature(world.folder.signing_key.public, base64.b64decode(word["signature"]), signed, "site")


def test_a_site_signs_the_model_and_the_rounds_that_it_answered(world: World) -> None:
    site = Site(world)
    site.ready()
    plan = PlanStore(world.folder).plan(RUN)
    for call in (world.train(plan, 1)[0], world.train(plan, 1)[0], world.train(plan, 3)[0]):
        assert site.agent.call(call).fault is Fault.NONE
    end(site)
    [word] = words(site)
    check_word(world, word, 2)
    assert not (world.folder.path / "runs" / RUN).exists()


def test_it_is_told_again_after_a_restart_but_not_for_ever(world: World) -> None:
    site = Site(world)
    site.ready()
    end(site)
    [first] = words(site)
    check_word(world, first, 0)
    again = Site(world)
    again.agent.look()
    again.agent.look()
    assert words(again) == [first]
    assert participation_notice(world.folder, RUN, NOW + timedelta(days=29)) is not None
    assert participation_notice(world.folder, RUN, NOW + timedelta(days=31)) is None


def test_a_second_model_of_the_same_run_is_not_signed(world: World) -> None:
    site = Site(world)
    site.ready()
    end(site)
    end(site, "cd" * 32)
    restarted = Site(world)
    restarted.agent.look()
    end(restarted, "cd" * 32)
    assert {word["model"] for word in words(site) + words(restarted)} == {MODEL}


def test_a_kill_before_the_word_is_kept_loses_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(world)
    site.ready()
    assert site.agent.call(world.train(PlanStore(world.folder).plan(RUN))[0]).fault is Fault.NONE

    def killed(*about: object) -> None:
        raise LocalError("killed")

    with monkeypatch.context() as patched:
        patched.setattr("wardround.client.agent.site_run.keep_participation", killed)
        end(site)
    assert words(site) == []
    known = PlanStore(world.folder).outcome(RUN)
    assert known is not None and known.state is RunState.ENDED and known.model == MODEL
    again = Site(world)
    look(again)
    [word] = words(again)
    check_word(world, word, 1)


def test_a_round_is_counted_whose_reply_was_kept_before_a_kill(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(world)
    site.ready()
    call = world.train(PlanStore(world.folder).plan(RUN))[0]

    def killed(admission: Admission, round: int | None = None) -> None:
        raise LocalError("killed")

    with monkeypatch.context() as patched:
        patched.setattr(Admission, "answered", killed)
        assert site.agent.call(call).fault is Fault.REFUSED
    assert site.agent.call(call).fault is Fault.NONE
    assert site.agent.call(call).fault is Fault.NONE
    end(site)
    check_word(world, words(site)[0], 1)


def test_where_the_plan_hides_who_took_part_no_number_is_told(world: World) -> None:
    world.offer(plan_text(*HIDDEN))
    world.approve(world.data(epsilon=20.0, unit=Unit.CLIENT))
    run = SiteRun(world.folder, RUN, lambda *about: FakeJob(), now=lambda: NOW)
    run.prepare()
    run.close()
    PlanStore(world.folder).note(RUN, Outcome(state=RunState.ENDED, model=MODEL))
    finish_run(world.folder, RUN, "over", now=lambda: NOW)
    notice = participation_notice(world.folder, RUN, NOW)
    assert notice is not None
    check_word(world, json.loads(notice.body), None)


@pytest.mark.parametrize("decided", ["nothing", "denied"])
def test_a_site_that_did_not_take_part_signs_nothing(world: World, decided: str) -> None:
    site = Site(world)
    site.offer()
    if decided == "denied":
        world.data()
        digest = PlanStore(world.folder).offer(RUN).plan_digest
        PlanStore(world.folder).decide(
            RUN, Decision(verdict=Verdict.DENIED, plan_digest=digest, by="IT", at=NOW.isoformat())
        )
        look(site)
    end(site)
    again = Site(world)
    look(again)
    assert words(site) == words(again) == []


def test_a_run_without_a_model_is_not_signed(world: World) -> None:
    site = Site(world)
    site.ready()
    end(site, None)
    assert words(site) == []


@pytest.mark.parametrize("model", ["", "AB" * 32, "ab" * 31, "../../etc", 7, ["ab" * 32]])
def test_what_is_no_digest_ends_nothing_or_signs_nothing(world: World, model: object) -> None:
    site = Site(world)
    site.ready()
    end(site, model)
    assert words(site) == []


def test_a_damaged_note_is_said_and_stops_nothing(world: World) -> None:
    site = Site(world)
    site.ready()
    end(site)
    world.folder.write(f"plans/{RUN}/participation.json", b"{}")
    with pytest.raises(LocalError, match="damaged"):
        participation_notice(world.folder, RUN, NOW)
    again = Site(world)
    again.agent.look()
    assert words(again) == []
