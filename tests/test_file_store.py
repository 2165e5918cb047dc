"""Durable state: the contract of a store, damage of every byte, full disks, and SIGKILL."""

import errno
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wardround import file_store
from wardround.errors import LocalError
from wardround.file_store import FileStore
from wardround.state_store import MemoryStore, StateStore

Use = Callable[[], object]
KEYS = ["run-1/round", "", "../up", "ключ\n", "k" * 5000]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture(params=["memory", "file"])
def store(request: pytest.FixtureRequest, folder: Path) -> Iterator[StateStore]:
    if request.param == "memory":
        yield MemoryStore()
        return
    with FileStore(folder) as store:
        yield store


def child(program: str, *arguments: str | Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


# -- the contract --------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", KEYS)
def test_a_value_is_what_was_last_put(store: StateStore, key: str) -> None:
    assert store.get(key) is None
    for value in (b"", b"one", bytes(range(256)) * 300):
        store.put(key, value)
        assert store.get(key) == value
    assert store.get(key + "x") is None


@pytest.mark.parametrize("key", KEYS)
def test_a_counter_only_goes_up(store: StateStore, key: str) -> None:
    store.advance(key, 0)
    store.advance(key, 2**70)
    for to in (2**70, 5, 0, -1):
        with pytest.raises(LocalError, match=rf"expected a value above {2**70}, got {to}"):
            store.advance(key, to)
    store.advance(key, 2**70 + 1)


def test_a_counter_starts_at_zero(store: StateStore) -> None:
    with pytest.raises(LocalError, match="above -1, got -1"):
        store.advance("c", -1)


def test_a_value_and_a_counter_of_one_key_are_two_things(store: StateStore) -> None:
    store.put("k", b"7")
    store.advance("k", 3)
    assert store.get("k") == b"7"


@settings(max_examples=30, deadline=None)  # every call is a sync of the disk
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("put"), st.sampled_from("abc"), st.binary(max_size=20)),
            st.tuples(st.just("advance"), st.sampled_from("abc"), st.integers(-2, 6)),
            st.tuples(st.just("reopen"), st.just(""), st.just(0)),
        ),
        max_size=12,
    )
)
def test_it_does_what_a_memory_does_and_forgets_nothing(calls: list[tuple[str, str, bytes | int]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        model, store = MemoryStore(), FileStore(name)
        for call, key, value in calls:
            if isinstance(value, bytes):
                model.put(key, value)
                store.put(key, value)
            elif call == "reopen":
                store.close()
                store = FileStore(name)
            else:
                assert outcome(model, key, value) == outcome(store, key, value)
            assert [store.get(k) for k in "abc"] == [model.get(k) for k in "abc"]
        store.close()


def outcome(store: StateStore, key: str, to: int) -> str:
    try:
        store.advance(key, to)
    except LocalError as error:
        return str(error)
    return "advanced"


# -- who may open it -----------------------------------------------------------------------------------


def test_files_are_for_their_owner_only(folder: Path) -> None:
    old = os.umask(0)
    try:
        with FileStore(folder) as store:
            store.put("secret", b"noise key")
            store.advance("c", 1)
    finally:
        os.umask(old)
    assert folder.stat().st_mode & 0o777 == 0o700
    assert [path.stat().st_mode & 0o777 for path in folder.iterdir()] == [0o600] * 3


OPEN = "import sys; from wardround.file_store import FileStore; FileStore(sys.argv[1]); print('open', flush=True);"


def test_a_second_process_is_refused_until_the_first_is_gone(folder: Path) -> None:
    holder = child(OPEN + "sys.stdin.read(); import time; time.sleep(60)", folder)
    assert holder.stdout is not None and holder.stdout.readline() == "open\n"
    with pytest.raises(LocalError, match="state: is open in another process"):
        FileStore(folder)
    holder.kill()  # a killed process holds nothing
    holder.communicate()
    FileStore(folder).close()


def test_a_second_store_in_one_process_is_refused(folder: Path) -> None:
    with FileStore(folder), pytest.raises(LocalError, match="is open in another"):
        FileStore(folder)
    FileStore(folder).close()


def test_a_closed_store_does_nothing(folder: Path) -> None:
    store = FileStore(folder)
    store.close()
    store.close()
    uses: list[Use] = [lambda: store.get("k"), lambda: store.put("k", b""), lambda: store.advance("k", 1)]
    for use in uses:
        with pytest.raises(LocalError, match="is closed; open it again"):
            use()


def test_a_forked_process_does_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with FileStore(folder) as store:
        parent = os.getpid()
        monkeypatch.setattr(os, "getpid", lambda: parent + 1)
        with pytest.raises(LocalError, match="opened by another process"):
            store.advance("k", 1)


def test_a_folder_that_cannot_be_made_or_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    for path in (tmp_path / "missing" / "state", tmp_path / "file"):
        with pytest.raises(LocalError, match="cannot be opened"):
            FileStore(path)


def test_a_folder_with_other_content_is_neither_locked_nor_tidied(folder: Path) -> None:
    folder.mkdir()
    (folder / ".tmp-notes").write_text("mine")
    with pytest.raises(LocalError, match=r"\.tmp-notes: is no file of a state folder; move it away"):
        FileStore(folder)
    assert [path.name for path in folder.iterdir()] == [".tmp-notes"]


def test_what_a_killed_writer_left_is_taken_away(folder: Path) -> None:
    with FileStore(folder) as store:
        store.put("k", b"whole")
    path = next(folder.glob("value-*"))
    path.with_name(".tmp-" + path.name).write_bytes(b"torn")
    with FileStore(folder) as store:
        assert store.get("k") == b"whole"
    assert not list(folder.glob(".tmp-*"))


# -- damage --------------------------------------------------------------------------------------------


@pytest.fixture
def counter(folder: Path) -> Path:
    with FileStore(folder) as store:
        store.advance("run/round", 41)
    return next(folder.glob("counter-*"))


def damaged(data: bytes) -> Iterator[bytes]:
    """Cut at every length, and with every byte changed."""
    for at in range(len(data)):
        yield data[:at]
        yield data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]
    yield data + b"0"


def test_a_file_that_is_cut_or_changed_anywhere_is_named_and_kept(folder: Path, counter: Path) -> None:
    whole = counter.read_bytes()
    for data in damaged(whole):
        counter.write_bytes(data)
        with pytest.raises(LocalError, match=rf"{counter.name}: is damaged .*move it away"):
            FileStore(folder)
        assert counter.read_bytes() == data
    counter.write_bytes(whole)
    FileStore(folder).close()


def test_damage_while_the_store_is_open_is_found_by_the_next_use(folder: Path, counter: Path) -> None:
    with FileStore(folder) as store:
        counter.write_bytes(counter.read_bytes()[:-1])
        with pytest.raises(LocalError, match="is damaged"):
            store.advance("run/round", 50)


def test_a_file_under_the_name_of_another_is_refused(folder: Path, counter: Path) -> None:
    with FileStore(folder) as store:
        store.advance("other/round", 3)
        other = next(path for path in folder.glob("counter-*") if path != counter)
        other.write_bytes(counter.read_bytes())
        with pytest.raises(LocalError, match="holds the counter of 'run/round', whose file is " + counter.name):
            store.advance("other/round", 7)
    with pytest.raises(LocalError, match="holds the counter of 'run/round'"):
        FileStore(folder)


# -- failing disks -------------------------------------------------------------------------------------


def failing(number: int) -> Callable[..., int]:
    def fail(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
def test_a_full_disk_changes_nothing_and_the_store_goes_on(
    folder: Path, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FileStore(folder) as store:
        store.advance("c", 1)
        store.put("k", b"old")
        with monkeypatch.context() as patched:
            patched.setattr(os, call, failing(errno.ENOSPC))
            uses: list[Use] = [lambda: store.advance("c", 2), lambda: store.put("k", b"new")]
            for use in uses:
                with pytest.raises(LocalError, match=r"cannot be written .*No space left.* as it was before"):
                    use()
        assert store.get("k") == b"old"
        assert not list(folder.glob(".tmp-*"))
        store.advance("c", 2)


def test_what_may_not_last_closes_the_store(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with FileStore(folder) as store:
        store.advance("c", 1)
        with monkeypatch.context() as patched:
            patched.setattr("wardround.durable_file.sync_folder", failing(errno.EIO))
            with pytest.raises(LocalError, match="the store is closed, put that right and open it again"):
                store.advance("c", 2)
        with pytest.raises(LocalError, match="is closed"):
            store.advance("c", 3)
    with FileStore(folder) as store, pytest.raises(LocalError, match="above 2, got 2"):
        store.advance("c", 2)


def test_content_is_synced_before_it_has_its_name_and_the_name_before_the_call_returns(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def noted(name: str) -> Callable[..., object]:
        real: Callable[..., object] = getattr(os, name)

        def call(*arguments: object) -> object:
            what = "" if name != "fsync" else (" folder" if os.path.isdir(f"/dev/fd/{arguments[0]}") else " file")
            calls.append(name + what)
            return real(*arguments)

        return call

    for name in ("write", "fsync", "replace"):
        monkeypatch.setattr(os, name, noted(name))
    with FileStore(folder) as store:
        assert calls == ["fsync folder"]  # the parent's, for the new folder
        calls.clear()
        store.advance("c", 1)
        assert calls == ["write", "fsync file", "replace", "fsync folder"]
        calls.clear()
        store.get("c")
        assert calls == []


# -- SIGKILL -------------------------------------------------------------------------------------------

COUNT = """
import os, signal, sys
from wardround.file_store import FileStore

folder, n, killed_at = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
calls = 0

def noted(real):
    def call(*arguments):
        global calls
        calls += 1
        if calls == killed_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments)
    return call

store = FileStore(folder)
for name in ("open", "write", "fsync", "close", "replace"):
    setattr(os, name, noted(getattr(os, name)))
while True:
    n += 1
    store.advance("c", n)
    sys.stdout.write(f"{n}\\n")
    sys.stdout.flush()
    store.put("n", str(n).encode())
"""


def check_survival(folder: Path, said: str, before: int) -> int:
    """Nothing that a killed process was told is lost, and no file is torn; where the counter stands."""
    numbers = [int(word) for word in said.split()]
    told = max([before, *numbers])
    with FileStore(folder) as store:
        refusal = re.fullmatch(r"c: expected a value above (-?\d+), got -1", outcome(store, "c", -1))
        assert refusal is not None
        stands = max(int(refusal[1]), 0)
        assert told <= stands <= told + 1
        value = int(store.get("n") or b"0")
        assert value <= told
        assert value >= told - 1 or len(numbers) < 2
    return stands


@pytest.mark.parametrize("killed_at", range(1, 18))
def test_a_kill_at_any_step_of_a_write_takes_no_counter_back(folder: Path, killed_at: int) -> None:
    process = child(COUNT, folder, "0", str(killed_at))
    said, complaint = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, complaint
    check_survival(folder, said, 0)


def test_kills_at_random_points_take_no_counter_back(folder: Path) -> None:
    draw, last = random.Random(7), 0  # noqa: S311 (when to kill)
    for _ in range(8):
        process = child(COUNT, folder, str(last), "0")
        assert process.stdout is not None
        said = process.stdout.readline()
        try:
            process.wait(draw.uniform(0, 0.03))
        except subprocess.TimeoutExpired:
            process.kill()
        rest, complaint = process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL, complaint
        last = check_survival(folder, said + rest, last)
    assert last >= 8


def test_the_store_loads_nothing_heavy() -> None:
    program = OPEN + "print({'numpy', 'torch', 'flwr'} & set(sys.modules))"
    with tempfile.TemporaryDirectory() as name:
        said, complaint = child(program, Path(name) / "state").communicate(timeout=60)
    assert said == "open\nset()\n", complaint


def test_it_is_a_state_store(folder: Path) -> None:
    with FileStore(str(folder)) as store:
        checked: StateStore = store
        assert checked.get("k") is None
    assert file_store.__all__ == ["FileStore"]
