"""Sites are told how runs ended: each end until they know it, one at a time, whatever comes in between."""

import asyncio
import json
from collections.abc import Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.server.runs.hospitals import ServerState
from wardround.errors import LocalError
from wardround.link.messages import Notice
from wardround.orders import SiteId
from wardround.server.runs.ends import Ends
from wardround.server.runs.run_state import RunEvent, RunState
from wardround.server.runs.telling import Telling
from wardround.server.state.events import Events
from wardround.server.state.plans import Plans
from wardround.server.state.runs import Runs
from wardround.server.state.sites import Sites
from wardround.server.state.vault import Vault

HERE, AWAY = SiteId("here"), SiteId("away")
NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Hub:
    """Keeps what sites were told; those in `away` take nothing until they come back."""

    def __init__(self, *away: SiteId) -> None:
        self.away = {site: asyncio.Event() for site in away}
        self.waiting: list[SiteId] = []
        self.told: list[tuple[SiteId, str, str]] = []
        self.fails = False

    async def notify(self, site: SiteId, notice: Notice) -> None:
        self.waiting.append(site)
        try:
            if site in self.away:
                await self.away[site].wait()
            if self.fails:
                raise LocalError("the server stops")
        finally:
            self.waiting.remove(site)
        body = json.loads(notice.body)
        self.told.append((site, body["run"], body["state"]))


@pytest.fixture
def state(tmp_path: Path) -> ServerState:
    made = ServerState.make(tmp_path / "state", [HERE, AWAY])
    Plans(made.database, Vault(made.keyring.data_key)).add(
        digest="0" * 64, name="plan", toml="", files={}, created_by="owner", now=NOW
    )
    return made


def add_run(state: ServerState, run_id: str) -> None:
    Runs(state.database).create(
        plan_digest="0" * 64, name="plan", sites=[HERE, AWAY], created_by="owner", now=NOW, run_id=run_id
    )


def happen(state: ServerState, run_id: str, event: RunEvent, to: RunState) -> None:
    runs = Runs(state.database)
    run = runs.get(run_id)
    assert run is not None and runs.move(run_id, {run.state}, to, reason="", now=NOW)
    Events(state.database).add(f"run.{event}", now=NOW, run_id=run_id)


def ended(state: ServerState, *runs: str) -> None:
    for run_id in runs:
        add_run(state, run_id)
        happen(state, run_id, RunEvent.STOP, RunState.STOPPED)


async def until_quiet(hub: Hub, telling: Telling, *left: SiteId) -> None:
    """Until only `left` are being told."""
    async with asyncio.timeout(30):
        while {key[-1] for key in telling._tasks} != set(left) or set(hub.waiting) != set(left):
            await asyncio.sleep(0.005)


def play(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


def test_a_site_that_is_away_costs_one_notice_and_is_told_everything_when_it_is_back(state: ServerState) -> None:
    async def scenario() -> None:
        hub, telling = Hub(AWAY), Telling()
        ends = Ends(state.database, hub, telling)
        for number in range(20):
            ended(state, f"run {number}")
            ends.tell([HERE, AWAY])
        await until_quiet(hub, telling, AWAY)
        assert hub.waiting == [AWAY]
        hub.away[AWAY].set()
        await until_quiet(hub, telling)
        for site in (HERE, AWAY):
            assert [one for one in hub.told if one[0] == site] == [(site, f"run {n}", "stopped") for n in range(20)]
        ends.tell_all()
        await until_quiet(hub, telling)
        assert len(hub.told) == 40

    play(scenario())


def test_what_a_server_did_not_get_told_the_next_one_tells(state: ServerState) -> None:
    ended(state, "one", "two")

    async def first() -> None:
        hub, telling = Hub(AWAY), Telling()
        ends = Ends(state.database, hub, telling)
        ends.tell_all()
        await until_quiet(hub, telling, AWAY)
        hub.fails = True
        ended(state, "three")
        ends.tell([HERE])
        await until_quiet(hub, telling, AWAY)
        await telling.close()
        ends.tell_all()
        assert not telling._tasks

    async def second() -> None:
        hub, telling = Hub(), Telling()
        Ends(state.database, hub, telling).tell_all()
        await until_quiet(hub, telling)
        told = {site: [run for at, run, _ in hub.told if at == site] for site in (HERE, AWAY)}
        assert told == {HERE: ["three"], AWAY: ["one", "two", "three"]}

    play(first())
    play(second())


def test_a_revoked_site_is_told_nothing_and_ends_are_told_as_they_came_about(state: ServerState) -> None:
    for run_id in ("one", "two", "open"):
        add_run(state, run_id)
        happen(state, run_id, RunEvent.STARTED, RunState.RUNNING)
    happen(state, "one", RunEvent.STOP, RunState.STOPPING)
    happen(state, "open", RunEvent.STOP, RunState.STOPPING)
    happen(state, "two", RunEvent.FAILED, RunState.FAILED)
    happen(state, "one", RunEvent.FINISHED, RunState.FINISHED)
    Events(state.database).add("model.exported", now=NOW, run_id="two")
    Sites(state.database).revoke(AWAY, NOW)

    async def scenario() -> None:
        hub, telling = Hub(), Telling()
        ends = Ends(state.database, hub, telling)
        ends.tell([HERE, AWAY])
        ends.tell_all()
        await until_quiet(hub, telling)
        assert hub.told == [(HERE, "two", "failed"), (HERE, "one", "finished")]
        happen(state, "open", RunEvent.HALTED, RunState.STOPPED)
        ends.tell([HERE, AWAY])
        await until_quiet(hub, telling)
        assert hub.told[2:] == [(HERE, "open", "stopped")]

    play(scenario())
