"""Homomorphic aggregation between real processes: a run, kills, a hospital that is gone, a revocation, and the key.

One server and three hospitals for all tests here; the hospital that is revoked comes last. A round is held where a test
needs it by freezing one hospital.
"""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.federation.field import HOSPITALS, SERVER, Field, StartedRun, build_field, until
from tests.federation.memory_search import in_files, in_memory, key_windows, loads, why_no_memory

pytestmark = pytest.mark.slow
A, B, C = HOSPITALS
ROUNDS = 6
BFV = (
    'protection.mode="bfv"',
    "protection.min_survivors=2",
    "protection.min_roster=2",
    'cohort.weighting="uniform"',
    "cohort.deadline_s=60",
)
WORKER, JOB = "wardround.server.runs.worker", "wardround.client.job"
LIBRARY = "_tenseal_cpp"


@pytest.fixture(scope="module")
def field(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Field]:
    with build_field(tmp_path_factory.mktemp("field")) as field:
        run = field.offer(*BFV, rounds=1)
        field.acquaint(run)
        field.stage.run(SERVER, "run", "stop", str(run.number))
        yield field


@pytest.fixture(autouse=True)
def thawed(field: Field) -> Iterator[None]:
    yield
    field.thaw_all()


def audited(field: Field, hospital: str, run: StartedRun, *kinds: str) -> list[dict[str, Any]]:
    """What the hospital has written down of the run, of these kinds, the oldest first."""
    tail = field.stage.run(hospital, "client", "audit", "tail", "-n", "10000", show=False)
    records = [json.loads(line) for line in tail.splitlines()]
    return [one for one in records if one["subject"] == run.id and one["kind"] in kinds]


def keys_of(field: Field, hospital: str, run: StartedRun) -> list[dict[str, Any]]:
    """The keys that it had: epoch, fingerprint, dealer and members of each."""
    return [one["detail"] for one in audited(field, hospital, run, "key.dealt", "key.accepted")]


def epochs(field: Field, run: StartedRun) -> list[int]:
    return [line["protection"]["epoch"] for line in field.rounds(run)]


def test_an_agent_without_such_a_run_has_not_loaded_tenseal(field: Field) -> None:
    """It comes first here: the module's field has offered such a run, and nobody has approved one."""
    assert not any(loads(field.stage.pid(hospital), LIBRARY) for hospital in HOSPITALS)


def test_a_run_to_its_released_model(field: Field) -> None:
    run = field.begin(*BFV, rounds=ROUNDS)
    found = field.wait_ended(run)
    field.check_numbers(run, found, ROUNDS)
    lines = field.rounds(run)
    assert all(line["absences"] == [] and not line["void"] for line in lines)
    (scheme,) = {line["protection"]["scheme"] for line in lines}
    for hospital in HOSPITALS:
        (key,) = keys_of(field, hospital, run)
        assert key["members"] == list(HOSPITALS) and key["dealer"] in HOSPITALS
        assert scheme == f"bfv-seeded, key {key['fingerprint'][:16]}"
        (erased,) = audited(field, hospital, run, "key.erased")
        assert "the run has ended" in erased["detail"]["reason"]
        assert not (field.stage.folder / hospital / "state" / "runs" / run.id).exists()
        assert loads(field.stage.pid(hospital), LIBRARY)
    dealt = [len(audited(field, hospital, run, "key.dealt")) for hospital in HOSPITALS]
    assert sorted(dealt) == [0, 0, 1]
    opened = [len(audited(field, hospital, run, "sum.opened")) for hospital in HOSPITALS]
    assert sum(opened) >= 2 * ROUNDS and all(opened)  # two of them open a sum, in turn
    assert lines[-1]["validation"]["metrics"]["loss"] < lines[0]["validation"]["metrics"]["loss"]
    assert sum(map(len, field.model(run).values())) > 0


@pytest.mark.skipif(bool(why_no_memory()), reason=why_no_memory() or "-")
def test_the_key_is_at_the_hospitals_and_nowhere_at_the_server(field: Field, tmp_path: Path) -> None:
    """In the middle of a run, after rounds of it, and after its end."""
    stage = field.stage
    run = field.begin(*BFV, rounds=30)
    field.hold(run, by=C, after=2)
    stage.freeze(A)
    windows = key_windows(stage.folder / A / "state", run.id, tmp_path)
    (worker,) = field.descendants(SERVER, WORKER)
    assert windows.keys() <= in_memory(stage.pid(A), windows)  # the search finds what is there
    assert loads(worker, LIBRARY)
    jobs = field.descendants(A, JOB)
    assert jobs
    for pid in (stage.pid(SERVER), worker, *jobs):
        assert in_memory(pid, windows) == set()
    files, found = in_files(stage.folder / SERVER, windows)
    assert found == set() and files > 10
    (tmp_path / "copy").write_bytes(b"".join(windows.values()))
    assert in_files(tmp_path, windows) == (1, set(windows))
    assert in_files(stage.folder / A, windows)[1] == set()  # it is sealed there

    stage.thaw(A)
    stage.thaw(C)
    field.check_numbers(run, field.wait_ended(run), 30)
    assert in_memory(stage.pid(SERVER), windows) == set()
    assert in_files(stage.folder / SERVER, windows)[1] == set()
    for log in (stage.log(party) for party in (SERVER, *HOSPITALS)):
        assert not any(window.hex() in log.read_text(encoding="utf-8") for window in windows.values())


def test_sigkill_of_hospitals_in_a_round_costs_nothing_and_no_new_key(field: Field) -> None:
    (run,) = field.begin_held(*BFV, rounds=ROUNDS, by=B)
    field.restart(B)  # while keys are agreed on
    field.hold(run, by=C, after=2)
    field.restart(A)  # it has the epoch's key, and has sent its update
    field.stage.thaw(C)

    field.check_numbers(run, field.wait_ended(run), ROUNDS)
    lines = field.rounds(run)
    assert all(line["absences"] == [] and not line["void"] for line in lines)
    assert epochs(field, run) == [0] * ROUNDS
    assert len({key["fingerprint"] for hospital in HOSPITALS for key in keys_of(field, hospital, run)}) == 1
    assert audited(field, A, run, "sum.forged") == []


def test_sigkill_of_the_servers_worker_in_a_round_is_another_epoch(field: Field) -> None:
    (run,) = field.begin_held(*BFV, rounds=ROUNDS, by=B)
    field.stage.thaw(B)
    field.hold(run, by=C, after=2)
    (worker,) = field.descendants(SERVER, WORKER)
    os.kill(worker, signal.SIGKILL)
    field.wait(run, lambda found: any(event["kind"] == "worker.crashed" for event in found["events"]))
    field.stage.thaw(C)

    field.check_numbers(run, field.wait_ended(run), ROUNDS)
    assert all(line["absences"] == [] and not line["void"] for line in field.rounds(run))
    assert sorted(set(epochs(field, run))) == [0, 1]  # what a worker knows of an epoch ends with it
    first, second = keys_of(field, A, run)
    assert first["fingerprint"] != second["fingerprint"]
    reasons = [one["detail"]["reason"] for one in audited(field, A, run, "key.erased")]
    assert reasons[0] == "another epoch begins" and len(reasons) == 2


def test_a_hospital_that_is_gone_is_done_without(field: Field) -> None:
    run = field.begin(*BFV, "cohort.deadline_s=10", "evaluation.every=0", "data.test=0.0", rounds=3)
    field.wait_rounds(run, 1)
    field.stage.kill(B)
    try:
        found = field.wait_ended(run)
    finally:
        field.start(B)
    field.check_numbers(run, found, 3)
    lines = field.rounds(run)
    assert not any(line["void"] for line in lines)
    assert [one["site"] for one in lines[-1]["absences"]] == [B]
    assert epochs(field, run) == [0] * 3  # the others need no other key
    field.wait_present(B)
    until(lambda: bool(audited(field, B, run, "key.erased")), lambda: field.log(B), every_s=0.2)


def test_a_revoked_hospital_has_no_key_of_the_next_epoch(field: Field) -> None:
    (run,) = field.begin_held(*BFV, rounds=8, by=B)
    field.stage.thaw(B)
    field.hold(run, by=B, after=2)
    done = len(field.rounds(run))
    field.stage.run(SERVER, "server", "revoke", C, "--reason", "a stolen laptop")
    field.stage.thaw(B)
    field.check_numbers(run, field.wait_ended(run), 8)
    lines = field.rounds(run)
    assert not any(line["void"] for line in lines)
    for line in lines[done + 1 :]:
        assert [one["site"] for one in line["absences"]] == [C], line
    assert sorted(set(epochs(field, run))) == [0, 1]
    for hospital in (A, B):
        first, second = keys_of(field, hospital, run)
        assert first["members"] == list(HOSPITALS) and second["members"] == [A, B]
        assert first["fingerprint"] != second["fingerprint"]
        erased, _ = audited(field, hospital, run, "key.erased")
        assert erased["detail"]["reason"] == "another epoch begins"
    assert [key["epoch"] for key in keys_of(field, C, run)] == [0]
    until(lambda: "revoked" in field.log(C), lambda: field.log(C), every_s=0.2)
