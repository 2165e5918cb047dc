"""A released model that the server keeps only as a file that the run's members open: its making, kills, refusals."""

import random
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.server.opened_files import found_in, windows_of
from tests.server.runs.hospitals import Hospitals
from tests.server.runs.test_releasing import Server, finished
from tests.server.runs.test_supervisor import killed_python, lines, play, small_plan, to_the_end
from wardround.errors import LocalError
from wardround.released_model import ReleasedModel
from wardround.server.runs.model_file import decode_model, read_model
from wardround.server.runs.run_directory import RunDirectory
from wardround.server.runs.run_work import RunWork
from wardround.server.runs.sealed_release import SealedRelease
from wardround.server.runs.worker_messages import Ended, Start
from wardround.server.state import backup_check
from wardround.server.state.blob_store import BlobStore
from wardround.server.state.vault import Vault
from wardround.strategies.he.sealed_model import read_sealed
from wardround.strategies.records import RunState

pytest.importorskip("tenseal")
BFV = (
    "protection.mode=bfv",
    "cohort.weighting=uniform",
    "clipping.clip_norm=2.0",
    "rounds=2",
    'data.standardize="range"',
)
SEALED = (*BFV, "protection.sealed_model=true")


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Server:
    """With a model that is sealed; for tests that change nothing."""
    return finished(tmp_path_factory.mktemp("kept"), *SEALED)


def opened(hospitals: Hospitals) -> list[bytes]:
    """The model, as each hospital opens it."""
    sealed = read_sealed(hospitals.state.model(hospitals.run_id))
    found = []
    for keys in hospitals.archives.values():
        (key,) = {one.fingerprint: one for one in keys if one.fingerprint == sealed.fingerprint}.values()
        found.append(key.open(sealed))
    return found


def run_folder(hospitals: Hospitals) -> Path:
    return hospitals.state.folder.runs / hospitals.run_id


def start_of(hospitals: Hospitals) -> Start:
    """What another worker of the run would be given."""
    return hospitals.connect()._starts.of(hospitals.state.run(hospitals.run_id))


def another_worker(hospitals: Hospitals) -> tuple[Ended, list[dict[str, Any]]]:
    """How another worker says that the run stands, and the rounds that it tells of. It may ask nobody."""
    told: list[dict[str, Any]] = []

    def asked() -> bool:
        raise AssertionError("a run that has ended is not asked about")

    work = RunWork(start_of(hospitals), told=told.append, newest=lambda: b"")
    try:
        return work.run(None, asked), work.lines_after(0)  # type: ignore[arg-type]
    finally:
        work.close()


def test_the_server_keeps_nothing_of_the_model_but_what_members_open(kept: Server) -> None:
    hospitals = kept.hospitals
    models = opened(hospitals)
    assert len(set(models)) == 1 and len(models) == 3
    found = decode_model(models[0], "opened")
    assert (found.run_id, found.plan_digest, found.round) == (hospitals.run_id, hospitals.plan.digest, 2)
    assert list((run_folder(hospitals) / "checkpoints").iterdir()) == []
    assert [line["round"] for line in lines(hospitals)] == [1, 2]
    assert found_in(hospitals.state.path, kept.vault, windows_of(models[0])) == {}


def test_the_search_finds_a_model_that_is_not_sealed(tmp_path: Path) -> None:
    """The control of the test before: the same run without the key."""
    server = finished(tmp_path, *BFV)
    model = server.hospitals.state.model(server.hospitals.run_id)
    found = found_in(server.hospitals.state.path, server.vault, windows_of(model))
    assert any(name.startswith("models/") and name.endswith("opened") for name in found)
    assert any("/checkpoints/round-000002" in name and name.endswith("opened") for name in found)


def test_what_people_read_says_that_it_is_sealed(kept: Server) -> None:
    folder = run_folder(kept.hospitals)
    card, report = (folder / "model-card.md").read_text(), (folder / "report.html").read_text()
    assert "(sealed; a member opens it: `wardround client model open`)" in card and "- Sealed model: at rest" in card
    assert "The released model is sealed to the hospitals" in report
    assert "not sealed in this simulation" not in card + report


def test_another_worker_tells_of_the_same_end_and_does_nothing(kept: Server) -> None:
    before = sorted(path.name for path in run_folder(kept.hospitals).iterdir())
    ended, rounds = another_worker(kept.hospitals)
    assert (ended.state, ended.round, ended.released_round) == ("finished", 2, 2)
    assert (ended.blob, ended.sha256) == (kept.model.blob, kept.model.sha256)
    assert ended.metrics and [line["round"] for line in rounds] == [1, 2]
    assert sorted(path.name for path in run_folder(kept.hospitals).iterdir()) == before
    assert [line["round"] for line in lines(kept.hospitals)] == [1, 2]


def test_it_cannot_be_released_since_the_server_cannot_read_it(kept: Server) -> None:
    with pytest.raises(LocalError, match=r"sealed to the members.*model export tumours@1.*client model open"):
        kept.releasing.release(kept.model, by="ada")
    assert "model.released" not in kept.kinds()


def test_what_reads_models_says_what_to_do_with_a_sealed_one(kept: Server, tmp_path: Path) -> None:
    path = tmp_path / "tumours-1.sealed"
    path.write_bytes(kept.hospitals.state.model(kept.hospitals.run_id))
    with pytest.raises(LocalError, match="sealed to the members of its run; one of them opens it: wardround client"):
        read_model(path)
    with pytest.raises(Exception, match="expected a released model, got one that is sealed to the members"):
        ReleasedModel(path)


def test_a_backup_of_it_is_whole_without_checkpoints(kept: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    state = kept.hospitals.state
    monkeypatch.setattr(backup_check, "_check_authorities", lambda *about: None)
    backup_check.check_contents(state.folder, state.keyring, state.database)
    with monkeypatch.context() as patched:
        patched.setattr(SealedRelease, "read", lambda folder: None)
        with pytest.raises(LocalError, match="expected the checkpoint of round 2"):
            backup_check.check_contents(state.folder, state.keyring, state.database)


def test_a_damaged_note_of_the_end_is_refused_and_nothing_begins_anew(tmp_path: Path) -> None:
    server = finished(tmp_path, *SEALED)
    path = run_folder(server.hospitals) / "released.json"
    text = path.read_text()
    for damaged in ("", "{", "[]", text.replace('"blob"', '"blub"'), text.replace('"rounds": 2', '"rounds": 1')):
        path.write_text(damaged)
        with pytest.raises(LocalError, match=r"released\.json: expected what wardround wrote"):
            RunWork(start_of(server.hospitals), told=lambda line: None, newest=lambda: b"")
        assert [line["round"] for line in lines(server.hospitals)] == [1, 2]


def killed_at(folder: Path, at: int, python: Path) -> Hospitals:
    (folder / "kill").write_text(f"call-{at}")
    hospitals = Hospitals.of(folder / f"state-{at}", small_plan(*SEALED), run_id="0" * 32)
    play(to_the_end(hospitals, python=str(python)))
    assert not (folder / "kill").exists()
    return hospitals


def check_sealed(hospitals: Hospitals, vault: Vault) -> None:
    models = opened(hospitals)
    assert len(set(models)) == 1
    assert list((run_folder(hospitals) / "checkpoints").iterdir()) == []
    assert [line["round"] for line in lines(hospitals)] == [1, 2]
    assert set(hospitals.trained.values()) == {1}
    assert found_in(hospitals.state.path, vault, windows_of(models[0])) == {}
    assert "Sealed model" in (run_folder(hospitals) / "model-card.md").read_text()
    events = hospitals.state.events(hospitals.run_id)
    assert [one.detail["round"] for one in events if one.kind == "round.done"] == [1, 2]
    assert [one.detail["version"] for one in events if one.kind == "model.made"] == [1]
    assert sum(one.kind == "worker.crashed" for one in events) == 1


LAST = 26
"""Changes of the disk from the seal on, and some before."""


@pytest.mark.slow
def test_a_worker_that_is_killed_at_any_change_of_the_disk_at_the_end_seals_once(tmp_path: Path) -> None:
    python = killed_python(tmp_path)
    undisturbed = Hospitals.of(tmp_path / "one", small_plan(*SEALED), run_id="0" * 32)
    play(to_the_end(undisturbed, python=str(python)))
    total = int((tmp_path / "kill.calls").read_text())
    for at in range(total - LAST, total):
        hospitals = killed_at(tmp_path, at, python)
        check_sealed(hospitals, Vault(hospitals.state.keyring.data_key))
        hospitals.state.database.close()


def test_a_worker_that_is_killed_while_checkpoints_go_lets_the_next_finish(tmp_path: Path) -> None:
    python = killed_python(tmp_path)
    undisturbed = Hospitals.of(tmp_path / "one", small_plan(*SEALED), run_id="0" * 32)
    play(to_the_end(undisturbed, python=str(python)))
    total = int((tmp_path / "kill.calls").read_text())
    at = total - random.Random(1).randint(1, 4)  # noqa: S311
    hospitals = killed_at(tmp_path, at, python)
    check_sealed(hospitals, Vault(hospitals.state.keyring.data_key))


@pytest.mark.parametrize("step", ["blobs", "note", "report", "discard"])
def test_a_failure_between_any_two_steps_of_the_end_is_made_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """The worker's end in this process, broken off before a step; the next finishes from what is durable."""
    server = finished(tmp_path, *SEALED)
    hospitals, folder = server.hospitals, run_folder(server.hospitals)
    first = opened(hospitals)[0]
    found = decode_model(first, "opened")
    work = RunWork(start_of(hospitals), told=lambda line: None, newest=lambda: b"")
    try:
        (folder / "released.json").unlink()
        state = RunState(round=2, model=found.model, statistics=found.statistics)

        def broken(*about: object, **more: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            if step == "blobs":
                patched.setattr(BlobStore, "put", broken)
            elif step == "note":
                patched.setattr(RunDirectory, "write_text", broken)
            elif step == "report":
                patched.setattr(RunWork, "_write_report", broken)
            else:
                patched.setattr(RunDirectory, "discard_models", broken)
            with pytest.raises(KeyboardInterrupt):
                work._finish(None, state)  # type: ignore[arg-type]
    finally:
        work.close()
    noted = SealedRelease.read(folder)
    assert (noted is None) == (step in ("blobs", "note"))
    if noted is not None:
        ended, _ = another_worker(hospitals)
        assert (ended.blob, ended.sha256) == (noted.blob, bytes.fromhex(noted.sha256))


def test_a_run_without_a_key_has_nobody_to_seal_to(kept: Server) -> None:
    work = RunWork(start_of(kept.hospitals), told=lambda line: None, newest=lambda: b"")
    try:
        protection: Any = work._protection
        assert read_sealed(protection.seal(b"model")).run == kept.hospitals.run_id  # what is durable is enough
        other = replace(protection._federation, run="f" * 32)
        lonely: Any = SimpleNamespace(_federation=other, _archive_key=f"secagg-server/{'f' * 32}/he-archive")
        with pytest.raises(LocalError, match="expected an epoch with a key, got none; there is nobody"):
            type(protection).seal(lonely, b"model")
        store, at = protection._federation.store, protection._archive_key
        before = store.get(at)
        try:
            store.put(at, b'{"epoch": 0, "fingerprint": "", "archive": "00"}')
            with pytest.raises(LocalError, match="expected an archive key of members"):
                protection.seal(b"model")
        finally:
            store.put(at, before)
    finally:
        work.close()
