"""What a run directory refuses, repairs and keeps. (That it survives a kill: test_run_directory_kill.py.)"""

import errno
import json
import os
import resource
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.contribution import Evidence, Report, Verdict
from wardround.errors import LocalError
from wardround.orders import SiteId
from wardround.plan import Plan, load_plan, parse_plan
from wardround.server.runs.model_file import read_model
from wardround.server.runs.run_directory import RunDirectory, first_suspicions, kept_rounds, read_lines
from wardround.strategies.records import RoundRecord, RunState
from wardround.strategies.reputation import Reputation
from wardround.vector import Layout, TensorSpec

PLAN = """
name = "tiny"
rounds = 3
[task]
name = "tabular-classifier"
[data]
source = "arrays"
target = { name = "ill", classes = ["no", "yes"] }
[simulation]
sites = 2
"""
ENGINE = {"executor": "flat", "block_size": 1, "workers": 2}


def create(path: Path, plan: Plan | None = None) -> RunDirectory:
    return RunDirectory.create(path, plan or parse_plan(PLAN), ENGINE)


def record(number: int) -> RoundRecord:
    return RoundRecord(
        round=number,
        cohort=(SiteId("a"),),
        absences=(),
        void=False,
        lr=0.1,
        update_norm=1.0,
        train=None,
        validation=None,
        report=Report(),
        seconds=0.0,
        cpu_seconds=0.0,
    )


def state(number: int, size: int = 10, best: int = 0) -> RunState:
    return RunState(round=number, model=np.full(size, number, dtype=np.float32), best_round=best)


def advance(run: RunDirectory, *rounds: int, size: int = 10, best: int = 0) -> None:
    for number in rounds:
        run.round_done(record(number), state(number, size, best))


def tree(path: Path) -> dict[str, bytes]:
    return {p.relative_to(path).as_posix(): p.read_bytes() for p in path.rglob("*") if p.is_file()}


# -- creating ---------------------------------------------------------------------------------------


def test_a_new_run_and_its_continuation_agree(tmp_path: Path) -> None:
    with create(tmp_path / "runs" / "a") as run:
        info = run.info
        assert run.latest() is None and run.lines() == [] and run.plan.digest == info.plan_digest == info.source_digest
        advance(run, 1, 2)
    with RunDirectory.open(tmp_path / "runs" / "a") as run:
        assert run.info == info and run.info.engine == ENGINE and run.plan.digest == info.plan_digest
        latest = run.latest()
        assert latest is not None and latest.state.model.tobytes() == state(2).model.tobytes()
        advance(run, 3)
        assert [line["round"] for line in run.lines()] == [1, 2, 3]
    assert len(info.run_id) == 32 and int(info.run_id, 16) > 0


def test_the_name_of_a_new_run_is_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []

    def fsync(descriptor: int, call: Callable[[int], None] = os.fsync) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")))
        call(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with create(tmp_path / "a") as run:
        assert synced.count(tmp_path) == 1 and run.path in synced


def test_every_run_has_its_own_id(tmp_path: Path) -> None:
    assert create(tmp_path / "a").info.run_id != create(tmp_path / "b").info.run_id


@pytest.mark.parametrize("name", ["notes.txt", "plan.toml", "run.json"])
def test_a_folder_with_content_is_refused_and_left_as_it_is(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(LocalError, match=r"exists; use --resume to continue it, or another --out"):
        create(tmp_path)
    assert tree(tmp_path) == {name: b"mine"}


def test_a_run_is_not_created_over_a_run(tmp_path: Path) -> None:
    with create(tmp_path / "a") as run:
        advance(run, 1)
    (tmp_path / "a" / "run.json").unlink()  # even a broken one
    before = tree(tmp_path / "a")
    with pytest.raises(LocalError, match="exists"):
        create(tmp_path / "a")
    assert tree(tmp_path / "a") == before


def test_an_empty_folder_and_an_interrupted_creation_are_used(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    create(tmp_path / "a").close()
    (tmp_path / "a" / "run.json").unlink()
    with pytest.raises(LocalError, match="expected a run directory, got none"):
        RunDirectory.open(tmp_path / "a")
    create(tmp_path / "a").close()
    RunDirectory.open(tmp_path / "a").close()


def test_what_cannot_be_a_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(LocalError, match=r"Not a directory; nothing was (kept|changed)$"):
            create(path)
    assert tree(tmp_path) == {"file": b"mine"}


def test_a_parent_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    with (
        file_system(tmp_path, "size=1m,ro"),
        pytest.raises(LocalError, match="Read-only file system; nothing was kept"),
    ):
        create(tmp_path / "run")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_parent_that_may_not_be_written_is_one_line(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(LocalError, match="Permission denied; nothing was kept"):
        create(tmp_path / "run")


def test_a_failed_creation_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "new", tmp_path / "empty"):
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", _full)
            with pytest.raises(LocalError, match="No space left on device; nothing was kept"):
                create(path)
    assert list(tmp_path.rglob("*")) == [tmp_path / "empty"]


def _full(descriptor: int, data: bytes) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


# -- the stored plan --------------------------------------------------------------------------------


def test_code_is_copied_and_relative_data_still_found(tmp_path: Path) -> None:
    (tmp_path / "study" / "mine" / "deep").mkdir(parents=True)
    (tmp_path / "study" / "mine" / "task.py").write_text("x = 1\n")
    (tmp_path / "study" / "mine" / "deep" / "more.py").write_text("y = 2\n")
    (tmp_path / "rows.csv").write_text("ill\nyes\n")
    text = PLAN.replace('name = "tabular-classifier"', 'code = "mine"\nentry = "task:Task"')
    text = text.replace('source = "arrays"', 'source = "csv"\npath = "../rows.csv"\ncolumns = [{ name = "age" }]')
    (tmp_path / "study" / "plan.toml").write_text(text)
    plan = load_plan(tmp_path / "study" / "plan.toml")
    with create(tmp_path / "runs" / "a", plan) as run:
        stored = run.plan
        assert run.info.source_digest == plan.digest and run.info.plan_digest == stored.digest
    assert stored.code_files == plan.code_files and stored.task.code == "code"
    assert (stored.folder / "code" / "deep" / "more.py").read_text() == "y = 2\n"
    assert stored.data.path is not None
    assert (stored.folder / stored.data.path).read_text() == "ill\nyes\n"
    (tmp_path / "study" / "mine" / "task.py").write_text("x = 2\n")
    with RunDirectory.open(tmp_path / "runs" / "a") as run:
        assert run.plan == stored
    with pytest.raises(LocalError, match="expected the plan and code with digest"):
        create(tmp_path / "runs" / "b", plan)
    assert not (tmp_path / "runs" / "b").exists()


def test_the_code_of_an_interrupted_creation_is_replaced(tmp_path: Path) -> None:
    text = PLAN.replace('name = "tabular-classifier"', 'code = "mine"\nentry = "task:Task"')
    for name in ("old.py", "new.py"):
        (tmp_path / name / "mine").mkdir(parents=True)
        (tmp_path / name / "mine" / name).write_text("x = 1\n")
        create(tmp_path / "run", parse_plan(text, folder=tmp_path / name)).close()
        assert [path.name for path in (tmp_path / "run" / "code").iterdir()] == [name]
        (tmp_path / "run" / "run.json").unlink()


def test_a_changed_plan_is_refused(tmp_path: Path) -> None:
    create(tmp_path / "a").close()
    path = tmp_path / "a" / "plan.toml"
    path.write_text(path.read_text().replace("rounds = 3", "rounds = 4"))
    with pytest.raises(LocalError, match="a file was changed or is missing: restore it, or start a new run"):
        RunDirectory.open(tmp_path / "a")


FIELDS = '"run_id": "", "plan_digest": "", "source_digest": "", "version": "", "created": "", "engine": {}'
ORIGINS = [f'{{"format": 1, {FIELDS}, "origin": {origin}}}' for origin in ("[]", "5", "{}", '{"from_round": "x"}')]


@pytest.mark.parametrize("text", ["", "[]", "{", '{"format": 2}', '{"format": 1}', '{"format": 1, "x": 2}', *ORIGINS])
def test_a_strange_run_json_is_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(LocalError, match=r"run.json: (cannot be read|expected )"):
        RunDirectory.open(tmp_path)


# -- one writer -------------------------------------------------------------------------------------


def test_a_second_writer_is_refused_until_the_first_is_done(tmp_path: Path) -> None:
    with create(tmp_path / "a"):
        with pytest.raises(LocalError, match="another process is writing this run"):
            RunDirectory.open(tmp_path / "a")
        with pytest.raises(LocalError, match="exists"):
            create(tmp_path / "a")
    RunDirectory.open(tmp_path / "a").close()


def test_a_failed_open_lets_go_of_the_lock(tmp_path: Path) -> None:
    with create(tmp_path / "a") as run:
        advance(run, 1)
    lines = (tmp_path / "a" / "metrics.jsonl").read_bytes()
    (tmp_path / "a" / "metrics.jsonl").write_bytes(b"")
    with pytest.raises(LocalError, match=r"expected the lines of rounds 1 to 1 .* got 0 whole ones"):
        RunDirectory.open(tmp_path / "a")
    (tmp_path / "a" / "metrics.jsonl").write_bytes(lines)
    RunDirectory.open(tmp_path / "a").close()


# -- rounds -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("numbers", [(2, 2), (1, 2), (2, 1), (0, 0)])
def test_only_the_next_round_is_taken(tmp_path: Path, numbers: tuple[int, int]) -> None:
    with create(tmp_path / "a") as run:
        before = tree(tmp_path / "a")
        with pytest.raises(ValueError, match="expected round 1, got"):
            run.round_done(record(numbers[0]), state(numbers[1]))
        assert tree(tmp_path / "a") == before


@given(
    st.sets(st.integers(1, 60)),
    st.integers(0, 60),
    st.none() | st.integers(1, 9),
    st.sets(st.integers(0, 60), max_size=5),
)
def test_kept_rounds(rounds: set[int], best: int, every: int | None, clean: set[int]) -> None:
    kept = kept_rounds(rounds, best, every, clean)
    assert kept <= rounds and (clean or kept == kept_rounds(rounds, best, every))
    for number in rounds:
        later = sum(other > number for other in rounds)
        counted = later < 3 or number == best or number in clean
        assert (number in kept) == (counted or bool(every and number % every == 0))


def test_disk_use_is_bounded_and_the_best_round_stays(tmp_path: Path) -> None:
    with RunDirectory.create(tmp_path / "a", parse_plan(PLAN), ENGINE, keep_every=4) as run:
        advance(run, *range(1, 10), best=2)
        assert run.checkpoint(2).state.round == 2
        with pytest.raises(LocalError, match=r"round-000003.safetensors: cannot be read"):
            run.checkpoint(3)
    names = sorted(path.name for path in (tmp_path / "a" / "checkpoints").iterdir())
    assert names == [f"round-00000{number}.safetensors" for number in (2, 4, 7, 8, 9)]


def test_a_round_that_failed_can_be_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the call that failed (or was interrupted), the next try and the next opening find a whole run."""
    with create(tmp_path / "whole") as run:
        advance(run, 1, 2, 3)
        whole = tree(tmp_path / "whole")["metrics.jsonl"]
    for kind in (OSError, KeyboardInterrupt):
        for call in ("fsync", "replace", "write", "close"):
            for at in range({"replace": 1, "write": 2}.get(call, 3)):
                path = tmp_path / f"{kind.__name__}-{call}-{at}"
                with create(path) as run:
                    advance(run, 1)
                    with monkeypatch.context() as patch:
                        patch.setattr(os, call, failing(getattr(os, call), at, kind(errno.EIO, "broken")))
                        with pytest.raises(LocalError if kind is OSError else kind):
                            advance(run, 2)
                    advance(run, 2)
                with RunDirectory.open(path) as run:
                    advance(run, 3)
                assert tree(path)["metrics.jsonl"] == whole, path
                assert not list(path.rglob(".tmp-*")), path


def failing(call: Callable[..., Any], at: int, error: BaseException) -> Callable[..., Any]:
    """`call`, but its `at`-th use raises after it is done."""
    uses = count()

    def used(*arguments: Any, **options: Any) -> Any:
        result = call(*arguments, **options)
        if next(uses) == at:
            raise error
        return result

    return used


@pytest.mark.parametrize("surplus", [b'{"round":3', b'{"round":3}\n', b'{"round":3}\n{"round":4}\n{"rou', b"\0\0\0"])
def test_surplus_and_torn_lines_and_temporary_files_go(tmp_path: Path, surplus: bytes) -> None:
    with create(tmp_path / "a") as run:
        advance(run, 1, 2)
    before = tree(tmp_path / "a")
    with (tmp_path / "a" / "metrics.jsonl").open("ab") as file:
        file.write(surplus)
    (tmp_path / "a" / ".tmp-model.safetensors").write_bytes(b"half")
    (tmp_path / "a" / "checkpoints" / ".tmp-round-000003.safetensors").write_bytes(b"half")
    assert [line["round"] for line in read_lines(tmp_path / "a")][:2] == [1, 2]
    RunDirectory.open(tmp_path / "a").close()
    assert tree(tmp_path / "a") == before


def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path) -> None:
    for name in "ab":
        with create(tmp_path / name) as run:
            advance(run, 1)
    (tmp_path / "a" / "checkpoints").rename(tmp_path / "c")
    (tmp_path / "b" / "checkpoints").rename(tmp_path / "a" / "checkpoints")
    with pytest.raises(LocalError, match="got one of another run"):
        RunDirectory.open(tmp_path / "a")


# -- suspicion and quarantine -------------------------------------------------------------------------


def suspicious(number: int, *sites: str, quarantined: bool = False) -> RoundRecord:
    """The record of a round in which `sites` were refused, or put into quarantine too."""
    lines = tuple(
        Evidence(members=(SiteId(site),), weight=0.0, norm=None, verdict=Verdict.REFUSED, reason="not finite")
        for site in sites
    )
    notes = tuple(f"{site} is quarantined from round {number} (…)" for site in sites)
    held = Reputation(quarantined=dict.fromkeys(map(SiteId, sites), number), notes=notes)
    return replace(record(number), report=Report(lines), reputation=held if quarantined else Reputation())


def test_the_last_checkpoint_before_a_suspicion_stays(tmp_path: Path) -> None:
    with create(tmp_path / "a") as run:
        advance(run, 1, 2, 3)
        run.round_done(suspicious(4, "a"), state(4))
        advance(run, 5)
        run.round_done(suspicious(6, "a", "b"), state(6))
        advance(run, *range(7, 12))
        kept = run.kept()
        assert run.suspicions == {"a": 4, "b": 6}
    assert kept == [3, 5, 9, 10, 11]
    with RunDirectory.open(tmp_path / "a") as run:
        assert run.suspicions == {"a": 4, "b": 6} and run.kept() == kept
        advance(run, 12)
        assert run.kept() == [3, 5, 10, 11, 12]


def test_a_suspicion_in_the_first_round_keeps_nothing_more(tmp_path: Path) -> None:
    with create(tmp_path / "a") as run:
        run.round_done(suspicious(1, "a"), state(1))
        advance(run, *range(2, 8))
        assert run.kept() == [5, 6, 7]


def test_refused_and_flagged_are_suspicious_and_rejected_is_not() -> None:
    def line(number: int, verdict: str, *flags: str) -> dict[str, Any]:
        return {"round": number, "evidence": [{"members": [verdict, "c"], "verdict": verdict, "flags": list(flags)}]}

    lines = [line(1, "rejected"), line(2, "down-weighted"), line(3, "accepted", "norm"), line(4, "refused")]
    assert first_suspicions(lines) == {"accepted": 3, "c": 3, "refused": 4}
    assert first_suspicions([]) == {}


def test_a_quarantine_is_logged_once_though_its_round_was_lost(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with create(path) as run:
        advance(run, 1)
        run.round_done(suspicious(2, "a", quarantined=True), state(2))
    (path / "checkpoints" / "round-000002.safetensors").unlink()  # as if killed between the line and the checkpoint
    assert (path / "audit.jsonl").read_bytes().count(b"\n") == 1
    with RunDirectory.open(path) as run:
        assert run.rounds == 1 and run.audit.events() == [] and run.suspicions == {}
        run.round_done(suspicious(2, "a", quarantined=True), state(2))
        advance(run, 3)
    with RunDirectory.open(path) as run:
        (event,) = run.audit.events()
        assert (event["event"], event["site"], event["round"]) == ("quarantine", "a", 2)


def test_a_quarantine_is_logged_once_though_its_round_was_tried_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for at in range(6):
        with create(tmp_path / str(at)) as run:
            advance(run, 1)
            with monkeypatch.context() as patch:
                patch.setattr(os, "fsync", failing(os.fsync, at, OSError(errno.EIO, "broken")))
                try:
                    run.round_done(suspicious(2, "a", quarantined=True), state(2))
                except LocalError:
                    run.round_done(suspicious(2, "a", quarantined=True), state(2))
            assert [event["site"] for event in run.audit.events()] == ["a"], at


def test_the_audit_log_is_no_file_to_write_over(tmp_path: Path) -> None:
    with create(tmp_path / "a") as run, pytest.raises(ValueError, match="not the run's own"):
        run.write_text("audit.jsonl", "")


# -- a run that repeats another -----------------------------------------------------------------------


def test_a_run_begins_where_another_was(tmp_path: Path) -> None:
    with create(tmp_path / "a") as source:
        advance(source, 1)
        source.round_done(suspicious(2, "a"), state(2))
        advance(source, 3)
        lines, checkpoint = source.lines(), source.checkpoint(2)
        before = tree(tmp_path / "a")
    origin = {"run_id": source.info.run_id, "without": ["a"], "from_round": 3}
    with RunDirectory.create(tmp_path / "b", parse_plan(PLAN), ENGINE, origin=origin) as target:
        with pytest.raises(ValueError, match="expected a new run and 2 lines, got 3"):
            target.adopt(lines, checkpoint)
        target.adopt(lines[:2], checkpoint)
        assert target.rounds == 2 and target.suspicions == {"a": 2} and target.lines() == lines[:2]
        with pytest.raises(ValueError, match="expected a new run"):
            target.adopt(lines[:2], checkpoint)
        advance(target, 3)
    with RunDirectory.open(tmp_path / "b") as target:
        latest = target.latest()
        assert target.info.origin == origin and target.lines() == lines
        assert latest is not None and latest.run_id == target.info.run_id != source.info.run_id
    assert tree(tmp_path / "a") == before


def test_a_run_whose_adoption_was_interrupted_is_not_mistaken_for_a_new_one(tmp_path: Path) -> None:
    origin = {"run_id": "0" * 32, "without": ["a"], "from_round": 3}
    RunDirectory.create(tmp_path / "b", parse_plan(PLAN), ENGINE, origin=origin).close()
    with pytest.raises(LocalError, match=r"expected rounds 1 to 2 of the run that it repeats, got 0; .* delete it"):
        RunDirectory.open(tmp_path / "b")
    RunDirectory.create(tmp_path / "c", parse_plan(PLAN), ENGINE, origin={**origin, "from_round": 1}).close()
    RunDirectory.open(tmp_path / "c").close()


# -- other files ------------------------------------------------------------------------------------


def test_files_of_the_run(tmp_path: Path) -> None:
    layout = Layout((TensorSpec(name="w", shape=(5, 2)),))
    with create(tmp_path / "a") as run:
        advance(run, 1)
        run.write_text("results.json", "ä")
        run.write_model(layout, state(1).model, round=1, statistics=None)
        for name in ("../x", "plan.toml", "run.json", "metrics.jsonl", "a/b", "code", ""):
            with pytest.raises(ValueError, match="expected the plain name"):
                run.write_text(name, "")
    model = read_model(tmp_path / "a" / "model.safetensors")
    assert (model.run_id, model.plan_digest, model.round) == (run.info.run_id, run.info.plan_digest, 1)
    assert (tmp_path / "a" / "results.json").read_text(encoding="utf-8") == "ä"


# -- a full disk ------------------------------------------------------------------------------------


@contextmanager
def file_system(path: Path, options: str) -> Iterator[None]:
    """A tmpfs of its own at `path`; skips the test where that is not allowed."""
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("mounting a tmpfs needs root")
    try:
        yield
    finally:
        subprocess.run(["umount", str(path)], check=True)


@contextmanager
def largest_file(size_bytes: int) -> Iterator[None]:
    """No file may grow beyond `size_bytes`: writes end short, then fail with EFBIG."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def check_nothing_lost(path: Path, before: dict[str, bytes]) -> None:
    """After a failed write: every byte is as it was once the run is opened again, and the run goes on."""
    with RunDirectory.open(path) as run:
        assert tree(path) == before
        advance(run, 3)
        assert [line["round"] for line in run.lines()] == [1, 2, 3]


def test_a_full_disk_in_a_checkpoint_keeps_the_rounds_before(tmp_path: Path) -> None:
    with file_system(tmp_path, "size=256k"):
        with create(tmp_path / "a") as run:
            advance(run, 1, 2)
            before = tree(tmp_path / "a")
            for _ in range(2):  # also when tried again
                with pytest.raises(LocalError, match="No space left on device; rounds 1 to 2 are kept; put that right"):
                    advance(run, 3, size=100_000)
            with pytest.raises(LocalError, match="No space left on device; rounds 1 to 2 are kept"):
                run.write_bytes("report.html", bytes(300_000))
        check_nothing_lost(tmp_path / "a", before)


def test_a_full_disk_in_the_metrics_keeps_the_rounds_before(tmp_path: Path) -> None:
    with file_system(tmp_path, "size=64k"):
        with create(tmp_path / "a") as run:
            advance(run, 1, 2)
            filler = tmp_path / "filler"
            with pytest.raises(OSError, match="No space left"), filler.open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(4096))
            before = tree(tmp_path / "a")
            long = replace(record(3), cohort=tuple(SiteId(f"site-{i}") for i in range(5000)))
            with pytest.raises(LocalError, match="No space left on device; rounds 1 to 2 are kept"):
                run.round_done(long, state(3))
            filler.unlink()
        check_nothing_lost(tmp_path / "a", before)


def test_a_full_disk_before_the_first_round(tmp_path: Path) -> None:
    with file_system(tmp_path, "size=4k"), pytest.raises(LocalError, match="No space left on device; nothing was kept"):
        create(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_may_not_grow_keeps_the_rounds_before(tmp_path: Path) -> None:
    with create(tmp_path / "a") as run:
        advance(run, 1, 2)
        before = tree(tmp_path / "a")
        long = replace(record(3), cohort=tuple(SiteId(f"site-{i}") for i in range(5000)))
        with largest_file(20_000):
            with pytest.raises(LocalError, match="File too large; rounds 1 to 2 are kept"):
                advance(run, 3, size=100_000)
            with pytest.raises(LocalError, match="File too large; rounds 1 to 2 are kept"):
                run.round_done(long, state(3))
    check_nothing_lost(tmp_path / "a", before)


def test_a_failure_before_the_first_round_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with create(tmp_path / "a") as run:
        monkeypatch.setattr(os, "write", _full)
        with pytest.raises(LocalError, match="no round was finished"):
            advance(run, 1)


def test_run_json_is_for_people_too(tmp_path: Path) -> None:
    with create(tmp_path / "a") as run:
        table = json.loads((tmp_path / "a" / "run.json").read_text())
    assert table["engine"] == ENGINE and table["run_id"] == run.info.run_id and table["created"].endswith("+00:00")
