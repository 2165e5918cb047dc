"""A worker process that says nothing at all."""

import asyncio
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from wardround.clock import utc_now
from wardround.link.messages import Reply
from wardround.orders import SiteId
from wardround.server.runs import worker_process
from wardround.server.runs.worker_messages import Start
from wardround.server.runs.worker_process import WorkerProcess


def start(plan_toml: str) -> Start:
    return Start(
        run_id="run",
        plan_toml=plan_toml,
        code_files=(),
        plan_digest="0" * 64,
        created="2026-01-01T00:00:00+00:00",
        folder="/nowhere",
        models="/nowhere",
        first_blob="b",
        layout=(("w", (3,)),),
        spec="{}",
        sites=(),
        identity_authority=b"",
        revocations=b"",
        known_round=0,
        pulse_s=1.0,
        signing_secret=b"1" * 32,
        data_key=b"1" * 32,
    )


async def nothing(event: Mapping[str, Any]) -> None:
    pass


async def no_call(site: SiteId, call: object, **options: object) -> Reply:
    raise AssertionError("nobody is called")


@pytest.mark.parametrize("letters", [1, 900_000])
def test_one_that_hangs_before_it_has_read_its_start_is_killed(
    tmp_path: Path, letters: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small start fits into the channel, a large one waits for a reader: on a disk that does not answer, say."""
    monkeypatch.setattr(worker_process, "_START_S", 0.5)
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexec sleep 120\n")
    python.chmod(0o755)

    async def scene() -> None:
        worker = WorkerProcess(
            start("x" * letters),
            python=str(python),
            call=no_call,
            refused=lambda site: "",
            rounds=nothing,
            clock=utc_now,
            stuck_s=0.5,
            away=lambda site: False,
            look_s=60.0,
        )
        begun = time.monotonic()
        assert await asyncio.wait_for(worker.run(), 60) is None
        assert worker.was_stuck and time.monotonic() - begun < 15, "nor is it only given up on"
        with pytest.raises(ProcessLookupError):
            os.kill(worker.pid, 0)

    asyncio.run(scene())
