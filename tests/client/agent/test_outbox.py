"""Replies on disk: the same bytes again, or none."""

import os
import time
from pathlib import Path

import pytest

from wardround.client.agent.outbox import Outbox
from wardround.errors import LocalError

KEY = bytes(range(32))
CALLS = [bytes([number]) * 32 for number in range(8)]


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3 << 20])
def test_a_reply_comes_back_from_another_process(tmp_path: Path, size: int) -> None:
    reply = os.urandom(size)
    Outbox(tmp_path, KEY).put(CALLS[0], reply)
    box = Outbox(tmp_path, KEY)
    assert CALLS[0] in box and box.get(CALLS[0]) == reply
    assert box.get(CALLS[1]) is None


def test_the_last_few_are_kept(tmp_path: Path) -> None:
    box = Outbox(tmp_path, KEY, most=3)
    for number, call in enumerate(CALLS):
        box.put(call, bytes([number]))
    assert [number for number, call in enumerate(CALLS) if box.get(call) is not None] == [5, 6, 7]
    box.put(CALLS[5], b"again")  # as after a crash: it is the newest now
    box.put(CALLS[0], b"another")
    assert [number for number, call in enumerate(CALLS) if box.get(call) is not None] == [0, 5, 7]


def test_a_clock_that_is_set_back_makes_no_new_reply_the_oldest(tmp_path: Path) -> None:
    box = Outbox(tmp_path, KEY, most=3)
    later = (time.time_ns() + 3600 * 10**9,) * 2
    for call in CALLS[:3]:
        box.put(call, b"before")
        os.utime(tmp_path / call.hex(), ns=later)
    for call in CALLS[3:]:
        box.put(call, b"after")
        assert box.get(call) == b"after"


def test_nothing_readable_is_on_disk(tmp_path: Path) -> None:
    Outbox(tmp_path, KEY).put(CALLS[0], b"an update of a hospital")
    (file,) = tmp_path.iterdir()
    assert b"update" not in file.read_bytes() and file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("at", [0, 25, 33, 45, -1])
def test_a_changed_byte_is_refused(tmp_path: Path, at: int) -> None:
    box = Outbox(tmp_path, KEY)
    box.put(CALLS[0], b"x" * 100)
    file = tmp_path / CALLS[0].hex()
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.write_bytes(data)
    with pytest.raises(LocalError, match="does not open"):
        box.get(CALLS[0])


def test_a_cut_a_swapped_and_a_moved_chunk_are_refused(tmp_path: Path) -> None:
    box = Outbox(tmp_path, KEY)
    box.put(CALLS[0], os.urandom(2 << 20))
    file = tmp_path / CALLS[0].hex()
    data, chunk = file.read_bytes(), (1 << 20) + 16
    for changed in (data[:-chunk], data[:39] + data[39 + chunk :] + data[39 : 39 + chunk], data[:20], b""):
        file.write_bytes(changed)
        with pytest.raises(LocalError, match="does not open"):
            box.get(CALLS[0])
    (tmp_path / CALLS[1].hex()).write_bytes(data)  # the reply to another call
    with pytest.raises(LocalError, match="does not open"):
        box.get(CALLS[1])
    file.write_bytes(data)
    with pytest.raises(LocalError, match="does not open"):
        Outbox(tmp_path, bytes(32)).get(CALLS[0])


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    box = Outbox(tmp_path, KEY)

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(LocalError, match="No space left"):
        box.put(CALLS[0], b"x")
    assert list(tmp_path.iterdir()) == []
