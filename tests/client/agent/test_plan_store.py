"""Decisions on plans: one after another, and a denial is for good."""

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from tests.client.agent.site_world import RUN, World
from wardround.client.agent import plan_store
from wardround.client.agent.plan_store import Decision, PlanStore, Verdict
from wardround.client.agent.site_folder import SiteFolder


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World.make(tmp_path)


def test_what_one_administrator_denies_another_does_not_approve_at_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, data = world.offer(), world.data()
    no = Decision(verdict=Verdict.DENIED, plan_digest=plan.digest, by="Bob", at="2026-11-30T09:00:00+00:00")
    yes = replace(no, verdict=Verdict.APPROVED, by="Ann", data=data.name, data_digest=data.binding)
    other = threading.Thread(target=lambda: PlanStore(world.folder).decide(RUN, no))

    def slow(folder: SiteFolder, kind: str, *more: object, **detail: object) -> None:
        if kind == "plan.approved":
            other.start()
            other.join(0.3)  # it waits, or has denied by then

    monkeypatch.setattr(plan_store, "note", slow)
    PlanStore(world.folder).decide(RUN, yes)
    other.join()
    decided = PlanStore(world.folder).decision(RUN)
    assert decided is not None and (decided.verdict, decided.by) == (Verdict.DENIED, "Bob")
