import errno
import hashlib
import json
import os
import resource
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from wardround.client.guard.ledger_file import LedgerError, LedgerFile

NOW = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file of four lines."""
    path = tmp_path / "population.ledger"
    LedgerFile.create(path, {"entry": "open", "n": 0}, NOW)
    for number in range(1, 4):
        add(path, number)
    return path


def add(path: Path, number: int) -> None:
    file = LedgerFile(path)
    with file.locked(NOW):
        file.append({"entry": "count", "n": number}, NOW)


def read(path: Path) -> list[dict[str, Any]]:
    file = LedgerFile(path)
    with file.locked(NOW):
        return [line.entry for line in file.lines]


def refused(path: Path) -> str:
    """Why the file is refused; it stays as it is."""
    before = path.read_bytes()
    with pytest.raises(LedgerError) as caught:
        read(path)
    assert path.read_bytes() == before
    return str(caught.value)


def test_lines_come_back_as_they_were_written(path: Path) -> None:
    assert read(path) == [{"entry": "open", "n": 0}, *({"entry": "count", "n": n} for n in (1, 2, 3))]
    file = LedgerFile(path)
    with file.locked(NOW):
        assert [line.number for line in file.lines] == [1, 2, 3, 4]
        assert {line.time for line in file.lines} == {NOW}


def test_the_chain_is_what_it_is_said_to_be(path: Path) -> None:
    """Checked by hand, as an auditor would: each line's hash over all before it, which has the last line's hash."""
    previous = "0" * 64
    for line in path.read_bytes().splitlines():
        body, _, rest = line.rpartition(b',"hash":"')
        table = json.loads(line)
        assert hashlib.sha256(body).hexdigest() == table["hash"] == rest[:64].decode()
        assert table["prev"] == previous
        previous = table["hash"]


@pytest.mark.parametrize("change", [0x01, 0x20, 0x80, None], ids=["last-bit", "case", "first-bit", "line-end"])
def test_a_flipped_byte_anywhere_is_found_with_the_number_of_its_line(path: Path, change: int | None) -> None:
    whole = path.read_bytes()
    for at, byte in enumerate(whole):
        new = ord("\n") if change is None else byte ^ change
        if new == byte:
            continue
        path.write_bytes(whole[:at] + bytes([new]) + whole[at + 1 :])
        number = 1 + whole.count(b"\n", 0, at)
        assert f"line {number}:" in refused(path), at


@pytest.mark.parametrize("number", [1, 2, 3])
def test_deleting_a_line_is_found(path: Path, number: int) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[: number - 1] + lines[number:]))
    assert f"line {number}:" in refused(path)


def test_doubling_exchanging_and_inserting_lines_is_found(path: Path) -> None:
    one, two, three, four = path.read_bytes().splitlines(keepends=True)
    for lines, number in (
        ([one, two, two, three, four], 3),
        ([one, three, two, four], 2),
        ([one, two, b"\n", three, four], 3),
        ([one, two, b"{}\n", three, four], 3),
        ([two, three, four], 1),
    ):
        path.write_bytes(b"".join(lines))
        assert f"line {number}:" in refused(path)


def test_a_line_of_another_file_is_found(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.ledger"
    LedgerFile.create(other, {"entry": "open", "n": 7}, NOW)
    add(other, 1)
    path.write_bytes(path.read_bytes() + other.read_bytes().splitlines(keepends=True)[1])
    assert "line 5:" in refused(path)


@pytest.mark.parametrize("content", [b"", b"{", b"\n"])
def test_a_file_without_a_first_line_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "population.ledger"
    path.write_bytes(content)
    assert "line 1:" in refused(path)


def test_a_torn_last_line_is_cut_off_wherever_it_was_torn_and_a_line_says_so(path: Path) -> None:
    whole = path.read_bytes()
    last = whole.splitlines(keepends=True)[-1]
    for left in range(1, len(last) - 1):
        path.write_bytes(whole[: len(whole) - len(last) + left])
        assert read(path)[3:] == [{"entry": "repair", "bytes": left, "kept": False}]
        assert read(path)[3:] == [{"entry": "repair", "bytes": left, "kept": False}]


def test_a_line_that_lacks_its_end_alone_counts(path: Path) -> None:
    """Dropping it would make what was spent less."""
    path.write_bytes(path.read_bytes()[:-1])
    assert read(path)[3:] == [
        {"entry": "count", "n": 3},
        {"entry": "repair", "bytes": _last(path), "kept": True},
    ]
    add(path, 4)
    assert read(path)[-1] == {"entry": "count", "n": 4}


def _last(path: Path) -> int:
    return len(path.read_bytes().splitlines()[3])


def test_zeros_after_the_last_line_as_a_power_cut_leaves_them_are_cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes() + bytes(100))
    assert read(path)[4:] == [{"entry": "repair", "bytes": 100, "kept": False}]


def test_a_file_that_lost_lines_under_an_open_ledger_is_refused(path: Path) -> None:
    file = LedgerFile(path)
    with file.locked(NOW):
        pass
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:3]))
    with pytest.raises(LedgerError, match=r"expected the 4 lines that were read before.*rolled back"), file.locked(NOW):
        pass


def test_another_file_in_its_place_is_refused_by_an_open_ledger(path: Path, tmp_path: Path) -> None:
    file = LedgerFile(path)
    with file.locked(NOW):
        pass
    other = tmp_path / "other.ledger"
    LedgerFile.create(other, {"entry": "open", "n": 7}, NOW)
    for number in range(9):
        add(other, number)
    os.replace(other, path)
    with pytest.raises(LedgerError, match="rolled back or exchanged"), file.locked(NOW):
        pass


def test_what_another_process_added_is_read_before_something_is_added(path: Path) -> None:
    first, second = LedgerFile(path), LedgerFile(path)
    for number in range(4, 10):
        file = (first, second)[number % 2]
        with file.locked(NOW):
            assert len(file.lines) == number
            file.append({"entry": "count", "n": number}, NOW)
    assert [entry["n"] for entry in read(path)] == list(range(10))


def test_nobody_else_reads_or_adds_while_the_file_is_held(path: Path) -> None:
    file, order = LedgerFile(path), list[str]()

    def later() -> None:
        add(path, 5)
        order.append("second")

    other = threading.Thread(target=later)
    with file.locked(NOW):
        other.start()
        other.join(0.2)
        order.append("first")
        file.append({"entry": "count", "n": 4}, NOW)
    other.join()
    assert order == ["first", "second"]
    assert [entry["n"] for entry in read(path)] == [0, 1, 2, 3, 4, 5]


def test_a_file_that_was_exchanged_while_another_waited_is_opened_again(path: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.write_bytes(path.read_bytes())
    file = LedgerFile(path)
    waiting = threading.Thread(target=add, args=(path, 4))
    with file.locked(NOW):
        waiting.start()
        waiting.join(0.2)
        os.replace(copy, path)
    waiting.join()
    assert [entry["n"] for entry in read(path)] == [0, 1, 2, 3, 4]


def test_an_existing_file_is_never_replaced(path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(LedgerError, match="expected no file, since a ledger is never replaced"):
        LedgerFile.create(path, {"entry": "open"}, NOW)
    assert path.read_bytes() == before
    assert [one.name for one in path.parent.iterdir()] == [path.name]


def test_a_missing_file_and_a_missing_folder_are_errors_in_words(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="cannot be opened"):
        read(tmp_path / "none.ledger")
    with pytest.raises(LedgerError, match="cannot be made"):
        LedgerFile.create(tmp_path / "none" / "none.ledger", {"entry": "open"}, NOW)


def test_adding_without_the_lock_is_a_bug(path: Path) -> None:
    with pytest.raises(RuntimeError, match="under the lock"):
        LedgerFile(path).append({"entry": "count"}, NOW)


class FullDisk:
    """`os.write` of a disk with `room` bytes left, and `os.fsync`, `os.ftruncate` that may fail."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, *, room: int, fsync: bool = True, truncate: bool = True
    ) -> None:
        self.room, write, sync, cut = room, os.write, os.fsync, os.ftruncate

        def short(descriptor: int, data: bytes | memoryview) -> int:
            if self.room <= 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            written = write(descriptor, data[: self.room])
            self.room -= written
            return written

        def unless(works: bool, call: Callable[..., None]) -> Callable[..., None]:
            def failing(*arguments: int) -> None:
                if not works:
                    raise OSError(errno.EIO, os.strerror(errno.EIO))
                call(*arguments)

            return failing

        monkeypatch.setattr(os, "write", short)
        monkeypatch.setattr(os, "fsync", unless(fsync, sync))
        monkeypatch.setattr(os, "ftruncate", unless(truncate, cut))


@pytest.mark.parametrize("room", [0, 1, 100, 200])
def test_a_full_disk_leaves_the_file_as_it_was(path: Path, room: int) -> None:
    before = path.read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        FullDisk(patch, room=room)
        with pytest.raises(LedgerError, match=r"could not be written .No space left on device.; nothing was reserved"):
            add(path, 4)
    assert path.read_bytes() == before
    add(path, 4)
    assert [entry["n"] for entry in read(path)] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("room", [0, 1, 100, 200])
def test_what_a_full_disk_could_not_take_back_is_repaired_as_torn(path: Path, room: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        FullDisk(patch, room=room, truncate=False)
        with pytest.raises(LedgerError, match="could not be written"):
            add(path, 4)
    add(path, 4)
    repaired = [{"entry": "repair", "bytes": room, "kept": False}] if room else []
    assert read(path)[4:] == [*repaired, {"entry": "count", "n": 4}]


def test_a_line_that_could_not_be_made_durable_is_taken_back(path: Path) -> None:
    before = path.read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        FullDisk(patch, room=10**6, fsync=False)
        with pytest.raises(LedgerError, match="Input/output error"):
            add(path, 4)
    assert path.read_bytes() == before


def test_a_line_that_could_neither_be_made_durable_nor_taken_back_counts(path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        FullDisk(patch, room=10**6, fsync=False, truncate=False)
        with pytest.raises(LedgerError, match="Input/output error"):
            add(path, 4)
    assert read(path)[4:] == [{"entry": "count", "n": 4}]


def test_a_failed_line_leaves_the_open_ledger_usable(path: Path) -> None:
    file = LedgerFile(path)
    with file.locked(NOW), pytest.MonkeyPatch.context() as patch:
        FullDisk(patch, room=9)
        with pytest.raises(LedgerError, match="could not be written"):
            file.append({"entry": "count", "n": 4}, NOW)
    with file.locked(NOW):
        assert len(file.lines) == 4
        file.append({"entry": "count", "n": 5}, NOW)
    assert [entry["n"] for entry in read(path)] == [0, 1, 2, 3, 5]


def test_a_repair_on_a_full_disk_is_an_error_and_done_later(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b'{"prev":')
    with pytest.MonkeyPatch.context() as patch:
        FullDisk(patch, room=0, truncate=False)
        with pytest.raises(LedgerError, match="its last line cannot be repaired"):
            read(path)
    assert read(path)[4:] == [{"entry": "repair", "bytes": 8, "kept": False}]


@contextmanager
def most_bytes(size: int) -> Iterator[None]:
    """The kernel lets no file grow beyond `size`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("more", [0, 1, 100, 200])
def test_a_file_that_the_kernel_lets_not_grow_stays_as_it_was(path: Path, more: int) -> None:
    before = path.read_bytes()
    with most_bytes(len(before) + more), pytest.raises(LedgerError, match=r"could not be written .File too large."):
        add(path, 4)
    assert path.read_bytes() == before
    add(path, 4)


def test_a_first_line_that_does_not_fit_leaves_no_file(tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        FullDisk(patch, room=20)
        with pytest.raises(LedgerError, match=r"cannot be made .No space left on device."):
            LedgerFile.create(tmp_path / "population.ledger", {"entry": "open"}, NOW)
    assert list(tmp_path.iterdir()) == []
