"""What befalls a federation of real processes: SIGKILL, hanging, cut cables, full disks, revocation, an old backup.

One server and three hospitals for all tests here, in which every fault is put right again; the hospital that is
revoked comes last. A round is held where a test needs it by freezing one hospital.
"""

import json
import os
import re
import signal
from collections.abc import Iterator

import pytest

from tests.federation.field import HOSPITALS, SERVER, Field, StartedRun, build_field, until, why_no_network

pytestmark = pytest.mark.slow
A, B, C = HOSPITALS
ROUNDS = 6
K_OF_N = ("cohort.min_replies=2", "cohort.deadline_s=20")
"""Within that, on a loaded machine, the two who are there answer, a command sees that they have, and one is thawed."""
PRIVATE = (
    'privacy.unit="row"',
    "privacy.epsilon=3.0",
    "privacy.delta=1e-5",
    "privacy.clip_norm=0.5",
    'privacy.sampling="full"',
    "privacy.public_sizes=true",
    "clipping.clip_norm=",
    "evaluation.every=0",
)
WORKER, JOB = "wardround.server.runs.worker", "wardround.client.job"


@pytest.fixture(scope="module")
def field(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Field]:
    with build_field(tmp_path_factory.mktemp("field")) as field:
        yield field


@pytest.fixture(autouse=True)
def thawed(field: Field) -> Iterator[None]:
    yield
    field.thaw_all()


@pytest.fixture(scope="module")
def undisturbed(field: Field) -> tuple[StartedRun, StartedRun]:
    """Two runs of one plan, at the same time: both are in their first round before either can end it."""
    first, second = field.begin_held(rounds=ROUNDS, by=A, count=2)
    field.stage.thaw(A)
    for run in (first, second):
        field.wait_ended(run)
    return first, second


def test_two_runs_at_the_same_time_reach_the_same_model(
    field: Field, undisturbed: tuple[StartedRun, StartedRun]
) -> None:
    first, second = undisturbed
    ended = [field.show(run) for run in undisturbed]
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
    field.wait(run, lambda found: any(event["kind"] == "worker.crashed" for event in found["events"]))
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


@pytest.mark.skipif(bool(why_no_network()), reason=why_no_network() or "-")
def test_a_cable_that_is_cut_for_longer_than_a_round_and_mended(field: Field) -> None:
    """Ten minutes are not waited for: what counts is that the link is lost, and that rounds end meanwhile."""
    (run,) = field.begin_held(*K_OF_N, "evaluation.every=0", rounds=ROUNDS, by=B)
    field.network.cut(C)
    try:
        field.stage.thaw(B)
        until(lambda: C in _absent(field, run), lambda: f"no round without {C}: {field.rounds(run)}", every_s=0.02)
    finally:
        field.network.mend(C)
    found = field.wait_ended(run)
    field.check_numbers(run, found, ROUNDS)
    lines = field.rounds(run)
    assert C not in [one["site"] for one in lines[0]["absences"]]  # it had sent its update before
    assert [C] in [[one["site"] for one in line["absences"]] for line in lines]
    assert not any(line["void"] for line in lines)
    field.wait_present(C)


def test_budgets_are_spent_once_whatever_is_killed(field: Field) -> None:
    rounds = 5
    for hospital in HOSPITALS:
        table = field.stage.folder / f"{hospital}.csv"
        rows = (field.stage.folder / "data" / table.name).read_text(encoding="utf-8").splitlines(keepends=True)
        table.write_text("".join(rows[:-1]), encoding="utf-8")  # the same rows would be the same data
        wanted = ("--name", "private", "--max-epsilon", "40", "--delta", "1e-5", "--unit", "row")
        field.stage.run(hospital, "client", "data", "add", str(table), *wanted)
    (run,) = field.begin_held(*PRIVATE, rounds=rounds, by=B, data="private")
    field.restart(B)  # charged maybe, and not answered
    field.hold(run, by=C, after=1)
    field.restart(A)  # charged, and answered
    field.restart(SERVER)
    field.wait_answered(run, but=C)
    field.stage.thaw(C)
    field.hold(run, by=C, after=2)
    (worker,) = field.descendants(SERVER, WORKER)
    os.kill(worker, signal.SIGKILL)
    field.wait(run, lambda found: any(event["kind"] == "worker.crashed" for event in found["events"]))
    field.stage.thaw(C)

    field.check_numbers(run, field.wait_ended(run), rounds)
    assert all(line["absences"] == [] for line in field.rounds(run))
    for hospital in HOSPITALS:
        assert field.budget(hospital, run) == rounds


@pytest.mark.skipif(bool(why_no_network()), reason=why_no_network() or "-")
def test_a_full_disk_at_the_server(field: Field, undisturbed: tuple[StartedRun, StartedRun]) -> None:
    (run,) = field.begin_held(rounds=ROUNDS, by=B)
    before = len(field.log(SERVER))
    with field.full_disk(SERVER):
        field.stage.thaw(B)
        until(lambda: "No space left" in field.log(SERVER)[before:], lambda: field.log(SERVER)[before:], every_s=0.2)
        assert len(field.rounds(run)) < ROUNDS
    # whether there was room to write the pause itself down is chance: without it the run goes on of its own accord
    if field.wait(run, lambda found: found["state"] != "running")["state"] == "paused":
        field.stage.run(SERVER, "run", "resume", str(run.number))
    field.check_numbers(run, field.wait_ended(run), ROUNDS)
    assert field.model(run) == field.model(undisturbed[0])


@pytest.mark.skipif(bool(why_no_network()), reason=why_no_network() or "-")
def test_a_full_disk_at_a_hospital(field: Field) -> None:
    (run,) = field.begin_held(*K_OF_N, rounds=ROUNDS, by=B)
    before = len(field.log(C))
    with field.full_disk(C):
        field.stage.thaw(B)
        field.wait_rounds(run, 1)
        until(lambda: "No space left" in field.log(C)[before:], lambda: field.log(C)[before:], every_s=0.2)
    found = field.wait_ended(run)
    field.check_numbers(run, found, ROUNDS)
    lines = field.rounds(run)
    assert any(one["site"] == C for line in lines for one in line["absences"])
    assert not any(line["void"] for line in lines)


def test_pause_resume_and_stop(field: Field) -> None:
    (run,) = field.begin_held(rounds=50, by=B)
    field.stage.run(SERVER, "run", "pause", str(run.number))
    field.stage.thaw(B)
    field.wait_rounds(run, 1)
    found = field.wait(run, lambda found: found["progress"] is None)
    assert found["state"] == "paused" and found["round"] == 1  # the round at work was finished
    field.stage.run(SERVER, "run", "resume", str(run.number))
    field.wait_rounds(run, 2)
    field.stage.freeze(C)
    field.stage.run(SERVER, "run", "stop", str(run.number))  # in the middle of a round
    found = field.wait_ended(run, "stopped")
    field.stage.thaw(C)
    assert 2 <= found["round"] < 50
    field.check_numbers(run, found, found["round"])


def test_a_server_from_an_old_backup_repeats_no_round(field: Field) -> None:
    """Every site finds that the server forgot what it has signed, and takes no part until that is accepted.

    Then they do not do again what they have done: this run ends, and another can begin.
    """
    stage = field.stage
    passphrase = ("--passphrase-file", str(stage.folder / SERVER / "passphrase"))
    backup = stage.folder / SERVER / "yesterday"
    (run,) = field.begin_held(rounds=200, by=B)
    stage.run(SERVER, "server", "backup", str(backup), *passphrase)
    found = re.search(r"^ *records +(\d+),", stage.run(SERVER, "server", "audit", "verify"), re.MULTILINE)
    assert found
    stage.thaw(B)
    until(
        lambda: all(_head_of(field, hospital) > int(found[1]) for hospital in HOSPITALS),
        lambda: "no hospital has seen more of the server's log than is in the backup",
        every_s=0.1,
    )
    field.hold(run, by=C, after=5)  # an agent sends its last replies again, and these are more
    assert stage.stop(SERVER) == 0
    stage.thaw(C)
    restored = json.loads(stage.run(SERVER, "server", "restore", str(backup), *passphrase, "--json"))
    assert restored["paused"] == [run.number]
    stage.start_server()
    stage.log_in()
    assert "restored from a backup" in field.show(run)["reason"]
    differs = "the server's history differs from what this site has seen"
    until(
        lambda: all(differs in field.log(hospital) for hospital in HOSPITALS),
        lambda: "the old backup was not noticed",
        every_s=0.5,
    )
    for hospital in HOSPITALS:
        said = stage.try_run(hospital, "client", "audit", "verify")
        assert said.returncode == 1 and differs in said.stdout
        assert "this site takes part again" in stage.run(hospital, "client", "audit", "accept-restore")
        assert stage.try_run(hospital, "client", "audit", "verify").returncode == 0
    stage.run(SERVER, "run", "resume", str(run.number))

    ended = field.wait_ended(run, "failed")
    assert "it was done here and is not done again" in ended["reason"]
    assert field.rounds(run) == []
    for hospital in HOSPITALS:
        assert "it was done here and is not done again" in field.log(hospital)
    again = field.begin(rounds=2)
    field.check_numbers(again, field.wait_ended(again), 2)
    _check_evidence(field)


def _head_of(field: Field, hospital: str) -> int:
    """How many records of the server's log the hospital has signed."""
    path = field.stage.folder / hospital / "state" / "audit" / "server-head.json"
    return int(json.loads(path.read_text())["seq"]) if path.exists() else 0


def _check_evidence(field: Field) -> None:
    """An auditor verifies all bundles with the authority alone, the server's against those of the sites."""
    stage = field.stage
    root, bundles = stage.folder / "ca.pem", {party: stage.folder / f"{party}.zip" for party in (SERVER, *HOSPITALS)}
    stage.run(SERVER, "server", "authority", "--out", str(root))
    stage.run(SERVER, "server", "audit", "verify")
    for hospital in HOSPITALS:
        stage.run(hospital, "client", "audit", "export", str(bundles[hospital]))
        assert "verified" in stage.run(A, "verify", "audit", str(bundles[hospital]), "--root", str(root))
    stage.run(SERVER, "server", "audit", "export", str(bundles[SERVER]))  # last: what sites have seen is in it
    against = [part for hospital in HOSPITALS for part in ("--against", str(bundles[hospital]))]
    said = stage.run(A, "verify", "audit", str(bundles[SERVER]), "--root", str(root), *against)
    for hospital in HOSPITALS:
        assert f"co-signed   by {hospital!r}: the first " in said
        assert f"'{hospital}' accepted on " in said


def test_a_revocation_takes_effect_in_the_middle_of_a_run(field: Field) -> None:
    (run,) = field.begin_held(*K_OF_N, rounds=8, by=B)
    field.stage.run(SERVER, "server", "revoke", C, "--reason", "a stolen laptop")
    done = len(field.rounds(run))
    field.stage.thaw(B)
    found = field.wait_ended(run)
    field.check_numbers(run, found, 8)
    lines = field.rounds(run)
    assert not any(line["void"] for line in lines)
    for line in lines[done + 1 :]:
        assert [one["site"] for one in line["absences"]] == [C], line
    until(lambda: "revoked" in field.log(C), lambda: field.log(C), every_s=0.2)
    assert {one["site"]: one["present"] for one in found["sites"]}[C] is False


def _absent(field: Field, run: StartedRun) -> set[str]:
    """Who has missed a round."""
    return {one["site"] for line in field.rounds(run) for one in line["absences"]}


def _complete(field: Field, run: StartedRun) -> bool:
    """Whether the last round was one of all hospitals."""
    lines = field.rounds(run)
    return bool(lines) and not lines[-1]["absences"]
