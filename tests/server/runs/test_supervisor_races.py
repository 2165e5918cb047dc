"""What happens to a run while it is about to be offered, or its worker about to be started."""

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.server.runs.hospitals import Hospitals
from tests.server.runs.test_supervisor import ONE, play, small_plan
from wardround.errors import LocalError
from wardround.server.runs.supervisor import Supervisor
from wardround.server.runs.worker_messages import Start, b64
from wardround.server.runs.worker_process import WorkerProcess
from wardround.server.state.runs import Run

Act = Callable[[Supervisor, str], Awaitable[None]]
NEWER = b"a newer list"
QUICK = ("rounds=1", "data.standardize=range")


async def pause(supervisor: Supervisor, run_id: str) -> None:
    await supervisor.pause(run_id)


async def pause_and_think_better_of_it(supervisor: Supervisor, run_id: str) -> None:
    await supervisor.pause(run_id)
    await supervisor.resume(run_id)


async def stop(supervisor: Supervisor, run_id: str) -> None:
    await supervisor.stop(run_id)


@pytest.mark.parametrize(
    ("act", "state"), [(pause, "paused"), (pause_and_think_better_of_it, "finished"), (stop, "stopped")]
)
def test_what_a_worker_is_told_before_its_start_is_told_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, act: Act, state: str
) -> None:
    hospitals = Hospitals.of(tmp_path / "state", small_plan(*QUICK))
    spawn = WorkerProcess._spawn

    async def scenario() -> None:
        supervisor = hospitals.connect()

        async def act_first(self: WorkerProcess, theirs: socket.socket) -> asyncio.subprocess.Process:
            await act(supervisor, hospitals.run_id)
            return await spawn(self, theirs)

        monkeypatch.setattr(WorkerProcess, "_spawn", act_first)
        await supervisor.start(hospitals.run_id)
        await hospitals.until(state)
        await supervisor.close()

    play(scenario())
    assert [one for one in hospitals.state.events(hospitals.run_id) if one.kind == "worker.crashed"] == []


def test_a_list_that_comes_while_a_start_is_made_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hospitals = Hospitals.of(tmp_path / "state", small_plan(*QUICK))
    told = []
    spawn = WorkerProcess._spawn

    async def note(self: WorkerProcess, theirs: socket.socket) -> asyncio.subprocess.Process:
        told.extend(self._early or [])
        return await spawn(self, theirs)

    async def scenario() -> None:
        supervisor, loop = hospitals.connect(), asyncio.get_running_loop()
        made = supervisor._starts.of

        def renewed_meanwhile(run: Run) -> Start:
            start = made(run)
            asyncio.run_coroutine_threadsafe(supervisor.renewed(NEWER), loop).result()
            return start

        monkeypatch.setattr(WorkerProcess, "_spawn", note)
        monkeypatch.setattr(supervisor._starts, "of", renewed_meanwhile)
        await supervisor.start(hospitals.run_id)
        await hospitals.until("finished")
        await supervisor.close()

    play(scenario())
    assert told == [{"type": "revocations", "der": b64(NEWER)}]


def test_a_run_that_is_stopped_while_it_is_about_to_be_offered_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hospitals = Hospitals.of(tmp_path / "state", small_plan(*QUICK), approve=False)

    async def scenario() -> None:
        supervisor, loop = hospitals.connect(), asyncio.get_running_loop()
        make = supervisor._offers.make

        def stopped_meanwhile(run: Run) -> None:
            make(run)
            asyncio.run_coroutine_threadsafe(supervisor.stop(run.id), loop).result()

        monkeypatch.setattr(supervisor._offers, "make", stopped_meanwhile)
        with pytest.raises(LocalError, match="expected one that is waiting, got one that is stopped"):
            await supervisor.start(hospitals.run_id)
        await supervisor.close()

    play(scenario())
    assert [notice.kind for _, notice in hospitals.notices if notice.kind == "offer"] == []


def test_a_site_that_approves_a_run_which_has_ended_is_told_so_again(tmp_path: Path) -> None:
    hospitals = Hospitals.of(tmp_path / "state", small_plan(*QUICK), approve=False)

    def ends() -> list[dict[str, str]]:
        return [json.loads(notice.body) for site, notice in hospitals.notices if (site, notice.kind) == (ONE, "ended")]

    async def told(times: int) -> None:
        async with asyncio.timeout(30):
            while len(ends()) < times:
                await asyncio.sleep(0.005)

    async def scenario() -> None:
        supervisor = hospitals.connect()
        await supervisor.start(hospitals.run_id)
        await supervisor.stop(hospitals.run_id)
        await told(1)
        await supervisor.noticed(ONE, hospitals.approval(ONE, "approved"))
        await told(2)
        await supervisor.close()

    play(scenario())
    assert ends() == [{"run": hospitals.run_id, "state": "stopped", "model": None}] * 2
