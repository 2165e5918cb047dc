"""Adding to a log: by several at once, after kills and power cuts, and never on top of what somebody has changed."""

import fcntl
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from datetime import timedelta
from pathlib import Path

import pytest

from tests.audit.logs import AUTHORITY, OTHER_KEY, START, Owner, certificate_of, entries, forged, rechained
from wardround.audit.log import AuditLog, last_head, whole_bytes
from wardround.audit.record import CLOCK_SET_BACK, MOST_LINE_BYTES, Entry, Record
from wardround.audit.seal import SEAL_EVERY
from wardround.audit.verify import SeenHead, verify_log
from wardround.errors import LocalError


@pytest.fixture
def owner(tmp_path: Path) -> Owner:
    return Owner(tmp_path / "audit")


def records(owner: Owner) -> list[Record]:
    found: list[Record] = []
    with owner.path.open("rb") as file:
        verify_log(file, AUTHORITY, each=found.append)
    return found


def test_a_new_log_says_whose_it_is_and_is_sealed(owner: Owner) -> None:
    owner.open()
    assert [one.kind for one in records(owner)] == ["log.begun", "log.signer", "log.sealed"]
    assert owner.verify().name == "wardround server"
    assert owner.path.stat().st_mode & 0o777 == 0o600 and owner.folder.stat().st_mode & 0o777 == 0o700


def test_what_is_written_is_read_back_in_order(owner: Owner) -> None:
    log = owner.open()
    log.append(entries(5))
    log.add("site.invited", "Hôpital\nA", by="owner", kind="a detail of this name")
    log.seal()
    found = [one for one in records(owner) if not one.kind.startswith("log.")]
    assert [one.detail for one in found[:5]] == [one.detail for one in entries(5)]
    assert found[5].subject == "Hôpital\ufffdA"
    assert found[5].detail == {"by": "owner", "kind": "a detail of this name"}
    assert not owner.verify().remarks


def test_a_log_goes_on_after_it_was_closed_with_and_without_a_seal(owner: Owner) -> None:
    for sealed in (True, False, False, True):
        log = owner.open()
        log.append(entries(3))
        if sealed:
            log.seal()
    assert [one.seq for one in records(owner)] == list(range(1, 18))
    assert owner.verify().records - owner.verify().sealed == 1


def test_there_is_a_seal_every_thousand_records_also_within_one_append(owner: Owner) -> None:
    log = owner.open()
    log.append(entries(3 * SEAL_EVERY + 7))
    kinds = [one.kind for one in records(owner)]
    assert kinds.count("log.sealed") == 4
    assert owner.verify().remarks == ("the last 7 records have no seal yet",)
    log.seal()
    assert not owner.verify().remarks


def test_sealing_again_writes_nothing_and_says_the_same_head(owner: Owner) -> None:
    log = owner.open()
    log.add("data.added", "ehr")
    assert log.has_unsealed
    head, size = log.seal(), owner.path.stat().st_size
    assert log.seal() == head and owner.path.stat().st_size == size and not log.has_unsealed
    assert owner.open().seal() == head == last_head(owner.path)


def test_two_that_have_it_open_read_what_the_other_has_added(owner: Owner) -> None:
    one, other = owner.open(), owner.open()
    for number in range(6):
        (one, other)[number % 2].add("data.added", str(number))
    one.seal()
    other.add("data.removed", "0")
    other.seal()
    assert [one.subject for one in records(owner) if one.kind == "data.added"] == list("012345")


def _adds(folder: Path, name: str, count: int) -> None:
    log = Owner(folder).open()
    for number in range(count):
        log.add("data.added", f"{name}{number}")
        if number % 7 == 0:
            log.seal()


def test_processes_and_threads_add_at_the_same_time(owner: Owner) -> None:
    owner.open()
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_adds, args=(owner.folder, name, 40)) for name in "ab"]
    for process in processes:
        process.start()
    log = owner.open()
    threads = [threading.Thread(target=lambda: log.append(entries(30))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for process in processes:
        process.join()
    for thread in threads:
        thread.join()
    assert [one.exitcode for one in processes] == [0, 0]
    log.seal()
    found = records(owner)
    assert sum(one.kind == "round.done" for one in found) == 120
    for name in "ab":
        assert [one.subject for one in found if one.subject.startswith(name)] == [f"{name}{n}" for n in range(40)]


@pytest.mark.parametrize("left", [1, 40, 200])
def test_a_line_without_its_end_is_cut_off_and_the_log_goes_on(owner: Owner, left: int) -> None:
    log = owner.open()
    log.append(entries(4))
    whole = owner.path.read_bytes()
    last = owner.lines()[-1]
    owner.path.write_bytes(whole[: len(whole) - len(last) + left])
    assert whole_bytes(owner.path) == len(whole) - len(last)
    again = owner.open()
    again.add("data.added", "after")
    again.seal()
    assert [one.subject for one in records(owner) if one.kind == "round.done"] == ["run 1", "run 2", "run 3"]
    assert records(owner)[-2].subject == "after"


def test_a_log_that_was_killed_before_its_first_line_was_whole_begins_anew(owner: Owner) -> None:
    owner.open()
    whole = owner.path.read_bytes()
    for size in (0, 10, len(owner.lines()[0]) + 5, len(whole) - 3):
        owner.path.write_bytes(whole[:size])
        owner.open().seal()
        assert not owner.verify().remarks


@pytest.mark.parametrize("where", ["body", "hash", "gone", "swapped", "put in"])
def test_what_comes_after_the_last_seal_is_checked_before_anything_is_added(owner: Owner, where: str) -> None:
    owner.open().append(entries(4))
    lines = owner.lines()
    changed = {
        "body": [*lines[:-2], lines[-2].replace(b"run 3", b"run 7"), lines[-1]],
        "hash": [*lines[:-2], lines[-2][:-10] + b"0000000" + lines[-2][-3:], lines[-1]],
        "gone": [*lines[:-2], lines[-1]],
        "swapped": [*lines[:-2], lines[-1], lines[-2]],
        "put in": [*lines, lines[-1]],
    }[where]
    owner.path.write_bytes(b"".join(changed))
    with pytest.raises(LocalError, match=r"was changed by somebody else .*record \d+"):
        owner.open()
    assert owner.lines() == changed


def test_a_seal_by_another_key_is_refused(owner: Owner, tmp_path: Path) -> None:
    stranger = Owner(tmp_path / "other", key=OTHER_KEY)
    stranger.open()
    owner.open()
    owner.path.write_bytes(b"".join(stranger.lines()))
    with pytest.raises(LocalError, match="record 3 is a seal by another key"):
        owner.open()


def test_a_changed_record_under_the_last_seal_is_found_by_the_seal(owner: Owner) -> None:
    log = owner.open()
    log.append(entries(3))
    log.seal()
    lines = owner.lines()
    lines[3] = forged(lines[3], subject="another")
    owner.path.write_bytes(b"".join(rechained(lines)))
    with pytest.raises(LocalError, match="was changed by somebody else"):
        owner.open()


def test_a_file_that_is_cut_while_it_is_in_use_is_noticed(owner: Owner) -> None:
    log = owner.open()
    log.append(entries(3))
    owner.path.write_bytes(b"".join(owner.lines()[:-2]))
    with pytest.raises(LocalError, match="was cut while in use"):
        log.add("data.added")


def test_a_full_disk_leaves_whole_records_alone(owner: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    log = owner.open()
    log.append(entries(2))

    def fails(descriptor: int, data: bytes) -> None:
        os.write(descriptor, data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(LocalError, match="No space left on device"):
        patch.setattr("wardround.audit.log.write_all", fails)
        log.append(entries(3))
    log.append(entries(1))
    log.seal()
    assert sum(one.kind == "round.done" for one in records(owner)) == 3


def test_a_clock_that_is_set_back_is_written_down_and_jitter_is_not(owner: Owner) -> None:
    log = owner.open()
    owner.clock.now = START + timedelta(hours=3)
    log.add("data.added", "ehr")
    owner.clock.now -= timedelta(seconds=4)
    log.add("data.added", "lab")
    assert all(one.kind != CLOCK_SET_BACK for one in records(owner))
    owner.clock.now -= timedelta(hours=2)
    log.add("data.added", "echo")
    log.seal()
    assert [one.detail["from"][:13] for one in records(owner) if one.kind == CLOCK_SET_BACK] == ["2026-03-01T11"]
    assert len(owner.verify().remarks) == 1


def test_a_detail_that_is_too_long_is_there_as_its_digest(owner: Owner) -> None:
    log = owner.open()
    log.add("plan.added", text="x" * MOST_LINE_BYTES)
    log.seal()
    assert set(records(owner)[3].detail) == {"left_out_bytes", "left_out_sha256"}


@pytest.mark.parametrize("kind", ["", "Noun.verb", "noun", "noun.verb\n", "a." + "b" * 80])
def test_a_kind_is_a_noun_and_a_verb(kind: str) -> None:
    with pytest.raises(ValueError, match="expected a kind"):
        Entry(kind=kind)


@pytest.mark.parametrize("detail", [{"loss": float("nan")}, {"data": b"bytes"}])
def test_what_is_not_json_is_refused_and_nothing_is_written(owner: Owner, detail: dict[str, object]) -> None:
    log = owner.open()
    size = owner.path.stat().st_size
    with pytest.raises((ValueError, TypeError)):
        log.append([Entry(kind="data.added", detail=detail)])
    log.add("data.added")
    assert owner.path.stat().st_size > size and len(records(owner)) == 4


def test_a_renewed_certificate_is_noted_and_seals_go_by_it(owner: Owner) -> None:
    log = owner.open()
    newer = certificate_of(owner.key, owner.name, (START - timedelta(hours=1), START + timedelta(days=9)))
    log.signed_with(newer)
    log.signed_with(newer)
    log.seal()
    assert [one.kind for one in records(owner)].count("log.signer") == 2
    owner.certificate = newer
    owner.open()
    assert len(records(owner)) == 5
    owner.certificate = b""
    owner.open().seal()
    assert [one.kind for one in records(owner)].count("log.signer") == 3


def test_files_that_others_may_read_and_links_are_refused(owner: Owner, tmp_path: Path) -> None:
    owner.open()
    owner.path.chmod(0o644)
    with pytest.raises(LocalError, match="chmod 600"):
        owner.open()
    owner.path.rename(tmp_path / "elsewhere")
    owner.path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(LocalError, match="cannot be opened"):
        owner.open()


@pytest.mark.parametrize("since", [None, 0, 1, 2, 255, 256, 257, 1500, 2000, 99999])
def test_an_extension_leads_from_anywhere_to_the_head(owner: Owner, since: int | None) -> None:
    log = owner.open()
    log.append(entries(1700))
    for one in (log, owner.open()):
        found = one.extension(since)
        found.check(None)
        assert found.head == log.seal() and len(found.digests) == found.head.seq - found.first
        assert owner.verify(SeenHead(head=found.head, by="here")).agreed == 1
        assert one.hash_at(found.head.seq) == found.head.hash and one.hash_at(found.head.seq + 9) is None


def test_a_long_extension_comes_in_pieces(owner: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wardround.audit.log.MOST_DIGESTS", 100)
    log = owner.open()
    log.append(entries(350))
    seen = [log.extension(0)]
    while seen[-1].head != log.seal():
        seen.append(log.extension(seen[-1].head.seq))
        seen[-1].check(seen[-2].head)
    assert len(seen) == 4
    assert owner.verify(*(SeenHead(head=one.head, by="here") for one in seen)).agreed == 4


def test_records_are_read_back_from_the_last_one(owner: Owner) -> None:
    log = owner.open()
    log.append(entries(3000))
    assert [one.seq for one in log.newest_first()] == list(range(len(records(owner)), 0, -1))


_APPENDER = """
import sys
from pathlib import Path
from tests.audit.logs import Owner, entries
log = Owner(Path(sys.argv[1])).open()
print("open", flush=True)
number = 0
while True:
    number += 1
    log.append(entries(1 + number % 50))
    if number % 3 == 0:
        log.seal()
        print(number, flush=True)
"""


@pytest.mark.parametrize("after", [1, 2, 5, 9])
def test_a_killed_appender_leaves_a_log_that_goes_on(owner: Owner, after: int) -> None:
    for _ in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", _APPENDER, str(owner.folder)], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
        ) as process:
            assert process.stdout is not None
            for _ in range(after):
                process.stdout.readline()
            os.kill(process.pid, signal.SIGKILL)
        log = owner.open()
        log.add("data.added", "after")
        log.seal()
        assert owner.verify().sealed == owner.verify().records - 1


@pytest.mark.parametrize("cut", range(0, 2600, 97))
def test_a_power_cut_anywhere_behind_the_last_sync_leaves_a_log_that_goes_on(owner: Owner, cut: int) -> None:
    log = owner.open()
    log.append(entries(3))
    head = log.seal()
    kept = owner.path.stat().st_size
    log.append(entries(9))
    whole = owner.path.read_bytes()
    owner.path.write_bytes(whole[: min(len(whole), kept + cut)])
    again: AuditLog = owner.open()
    again.add("data.added", "after")
    again.seal()
    assert owner.verify(SeenHead(head=head, by="here")).agreed == 1


def test_whoever_adds_waits_for_the_lock(owner: Owner) -> None:
    log = owner.open()
    done = threading.Event()

    def add() -> None:
        log.add("data.added")
        done.set()

    with owner.path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        thread = threading.Thread(target=add)
        thread.start()
        assert not done.wait(0.05)
    assert done.wait(10)
    thread.join()
