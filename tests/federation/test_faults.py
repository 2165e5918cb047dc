"""What befalls a federation of real processes: SIGKILL, hanging, cut cables, full disks, revocation, an old backup.

One server and three hospitals for all tests here, in which every fault is put right again; the hospital that is
revoked comes last. A round is held where a test needs it by freezing one hospital.
"""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.federation.field import HOSPITALS, SERVER, Field, StartedRun, build_field, until, why_no_network

pytestmark = pytest.mark.slow
A, B, C = HOSPITALS
ROUNDS = 6
K_OF_N = ("cohort.min_replies=2", "cohort.deadline_s=6")
WORKER, JOB = "wardround.server.runs.worker", "wardround.client.job"


@pytest.fixture(scope="module")
def field(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Field]:
    with build_field(tmp_path_factory.mktemp("field")) as field:
        yield field


@pytest.fixture(scope="module")
def undisturbed(field: Field) -> tuple[StartedRun, StartedRun]:
    """Two runs of one plan, at the same time: both are in their first round before either can end it."""
    first, second = field.begin_held(rounds=ROUNDS, by=A, count=2)
    field.stage.thaw(A)
    return first, second


def test_two_runs_at_the_same_time_reach_the_same_model(
    field: Field, undisturbed: tuple[StartedRun, StartedRun]
) -> None:
    first, second = undisturbed
    ended = [field.wait_ended(run) for run in undisturbed]
    for run, found in zip(undisturbed, ended, strict=True):
        field.check_numbers(run, found, ROUNDS)
    assert ended[1]["started"] < ended[0]["ended"]
    assert field.model(first) == field.model(second)


def test_sigkill_of_the_server_and_of_a_worker_in_the_middle_of_a_round(
    field: Field, undisturbed: tuple[StartedRun, StartedRun]
) -> None:
    (run,) = field.begin_held(rounds=ROUNDS, by=B)
    field.restart(SERVER)
    field.wait_answered(run, but=B)  # those who have answered send the same again
    field.stage.thaw(B)

    field.hold(run, by=C, after=2)
    (worker,) = field.descendants(SERVER, WORKER)
    os.kill(worker, signal.SIGKILL)
    field.wait(run, lambda found: any(event["kind"] == "worker-crashed" for event in found["events"]))
    field.wait_answered(run, but=C)
    field.stage.thaw(C)

    field.check_numbers(run, field.wait_ended(run), ROUNDS)
    assert f"run {run.id}: its worker ended after round" in field.log(SERVER)
    assert field.model(run) == field.model(undisturbed[0])


def test_sigkill_of_an_agent_before_and_after_its_reply(
    field: Field, undisturbed: tuple[StartedRun, StartedRun]
) -> None:
    (run,) = field.begin_held(rounds=ROUNDS, by=B)
    field.restart(B)  # before
    field.hold(run, by=C, after=2)
    field.restart(A)  # after
    field.stage.thaw(C)

    field.check_numbers(run, field.wait_ended(run), ROUNDS)
    assert all(line["absences"] == [] for line in field.rounds(run))
    assert field.model(run) == field.model(undisturbed[0])


def test_a_hanging_hospital_and_a_killed_job_cost_a_reply_and_no_more(field: Field) -> None:
    (run,) = field.begin_held(*K_OF_N, rounds=ROUNDS, by=B)
    field.wait_rounds(run, 1)  # at the deadline, with the two others
    field.stage.thaw(B)
    until(lambda: _complete(field, run), lambda: f"{B} did not come back: {field.rounds(run)}", every_s=0.02)

    job = field.descendants(A, JOB)[-1]
    os.kill(job, signal.SIGKILL)
    found = field.wait_ended(run)
    field.check_numbers(run, found, ROUNDS)
    lines = field.rounds(run)
    assert {one["site"]: one["reason"] for one in lines[0]["absences"]} == {B: "no reply by the deadline"}
    assert not any(line["void"] for line in lines)


def _complete(field: Field, run: StartedRun) -> bool:
    """Whether the last round was one of all hospitals."""
    lines = field.rounds(run)
    return bool(lines) and not lines[-1]["absences"]
