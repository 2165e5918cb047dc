"""A kill of the agent at any durable write of an order: nothing is charged twice, and no second answer leaves.

The order is done in a fork of this process, which ends without warning at its n-th sync of a file or folder, for every
n there is. Then another one goes on from what is on disk.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.client.agent.site_world import NOW, RUN, FakeJob, World, plan_text
from tests.client.agent.test_site_run import PRIVATE
from wardround.client.agent.data_registry import DataRegistry
from wardround.client.agent.plan_store import PlanStore, RunState
from wardround.client.agent.site_folder import SiteFolder
from wardround.client.agent.site_run import SiteRun, finish_run
from wardround.link.messages import Call, Fault

_KILLED = 9


def run_of(folder: SiteFolder) -> SiteRun:
    return SiteRun(folder, RUN, lambda run, plan, data: FakeJob(noise=True), now=lambda: NOW)


def killed_at(number: int, before: bool, work: Callable[[], None]) -> bool:
    """Do `work` in a fork that ends at its `number`-th sync; whether it came so far."""
    child = os.fork()
    if child == 0:
        try:
            sync, left = os.fsync, [number]

            def counted(fd: Any) -> None:
                left[0] -= 1
                if left[0] == 0 and before:
                    os._exit(_KILLED)
                sync(fd)
                if left[0] == 0:
                    os._exit(_KILLED)

            os.fsync = counted
            work()
            os._exit(0)
        finally:
            os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, _KILLED)
    return code == _KILLED


def restored(world: World, copy: Path) -> SiteFolder:
    """The site's folder as it was at first."""
    shutil.rmtree(world.folder.path)
    shutil.copytree(copy, world.folder.path)
    return SiteFolder(world.folder.path)


def begun(folder: SiteFolder) -> tuple[int, ...]:
    ledger = DataRegistry(folder).ledger("ehr")
    assert ledger is not None
    job = ledger.account().jobs.get(RUN)
    return () if job is None else job.started


def answered(folder: SiteFolder, call: Call, digest: bytes) -> bytes:
    run = run_of(folder)
    try:
        reply = run.answer(call, digest)
        assert reply.fault is Fault.NONE, reply.reason
        return bytes(reply.frame)
    finally:
        run.close()


@pytest.mark.parametrize("before", [True, False])
def test_an_order_is_charged_once_and_answered_with_one_draw_of_noise(tmp_path: Path, before: bool) -> None:
    world = World.make(tmp_path)
    plan = world.offer(plan_text(*PRIVATE))
    world.approve(world.data(epsilon=10.0))
    answered(world.folder, *world.train(plan, 1))
    copy, sent = tmp_path / "copy", tmp_path / "sent"
    shutil.copytree(world.folder.path, copy)
    call, digest = world.train(plan, 2)
    number = 1
    while True:
        folder = restored(world, copy)
        sent.unlink(missing_ok=True)

        def work(folder: SiteFolder = folder) -> None:
            sent.write_bytes(answered(folder, call, digest))

        killed = killed_at(number, before, work)
        frame = answered(folder, call, digest)
        assert begun(folder) == (1, 2), f"killed at sync {number}"
        assert not sent.exists() or sent.read_bytes() == frame
        assert answered(folder, call, digest) == frame
        answered(folder, *world.train(plan, 3))
        assert begun(folder) == (1, 2, 3)
        if not killed:
            break
        number += 1
    assert number > 6  # admission, its charge, the kept state, the reply, and that it is answered


def test_an_end_is_finished_by_the_next_process(tmp_path: Path) -> None:
    world = World.make(tmp_path)
    plan = world.offer(plan_text(*PRIVATE))
    world.approve(world.data(epsilon=10.0))
    answered(world.folder, *world.train(plan, 1))
    copy = tmp_path / "copy"
    shutil.copytree(world.folder.path, copy)
    number = 1
    while True:
        folder = restored(world, copy)
        killed = killed_at(number, True, lambda folder=folder: finish_run(folder, RUN, "finished"))  # type: ignore[misc]
        finish_run(folder, RUN, "finished")
        outcome, ledger = PlanStore(folder).outcome(RUN), DataRegistry(folder).ledger("ehr")
        assert outcome is not None and outcome.state is RunState.ENDED
        assert ledger is not None and ledger.account().jobs[RUN].closed
        assert not (folder.path / "runs" / RUN).exists()
        if not killed:
            break
        number += 1
    assert number > 2
