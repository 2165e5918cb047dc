"""The state folder: whole or not there, private, and one server's at a time."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.server.state.state_folders import SECRET, authorities, keyring, make_folder
from wardround.durable_file import replace_file
from wardround.errors import LocalError
from wardround.server.state.folder import StateFolder, StateSettings, default_state


def test_a_folder_comes_back_as_it_was_made(tmp_path: Path) -> None:
    path = tmp_path / "new" / "state"
    made = make_folder(path)
    opened = StateFolder.open(path)
    assert opened.settings == made.settings
    assert (opened.tls_authority(), opened.identity_authority()) == authorities()
    assert opened.keyring(SECRET).data_key == keyring().data_key
    assert opened.database_url == f"sqlite:///{path}/server.db"
    assert opened.runs.is_dir()
    assert opened.models.is_dir()


def test_everything_in_it_is_its_owners_alone(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        make_folder(tmp_path / "state")
    finally:
        os.umask(old)
    for path in [tmp_path / "state", *(tmp_path / "state").rglob("*")]:
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path


def test_a_folder_is_not_made_twice(tmp_path: Path) -> None:
    make_folder(tmp_path / "state")
    with pytest.raises(LocalError, match="is the state of a server already"):
        make_folder(tmp_path / "state")
    StateFolder.open(tmp_path / "state").keyring(SECRET)


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.mkdir(mode=0o700)
    (path / "patients.csv").write_text("x")
    with pytest.raises(LocalError, match=r"patients\.csv"):
        make_folder(path)
    assert {one.name for one in path.iterdir()} <= {"patients.csv", "lock"}


@pytest.mark.parametrize("name", ["keyring", "tls-authority.der", "identity-authority.der", "state.json"])
def test_a_making_that_was_interrupted_begins_anew(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(path: Path, data: bytes, *, mode: int) -> None:
        if path.name == name:
            raise OSError(28, "No space left on device")
        replace_file(path, data, mode=mode)

    monkeypatch.setattr("wardround.server.state.folder.replace_file", fails)
    with pytest.raises(LocalError, match="No space left"):
        make_folder(tmp_path / "state")
    monkeypatch.undo()
    with pytest.raises(LocalError, match="wardround server init"):
        StateFolder.open(tmp_path / "state")
    make_folder(tmp_path / "state")
    StateFolder.open(tmp_path / "state")


def test_a_preparation_that_fails_leaves_no_state(tmp_path: Path) -> None:
    def fails(folder: StateFolder) -> None:
        raise LocalError("no account was made")

    with pytest.raises(LocalError, match="no account"):
        make_folder(tmp_path / "state", prepare=fails)
    with pytest.raises(LocalError, match="expected the state of a server"):
        StateFolder.open(tmp_path / "state")
    make_folder(tmp_path / "state")


@pytest.mark.parametrize("name", [".", "keyring", "state.json", "server.db"])
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_what_others_may_read_is_refused(tmp_path: Path, name: str, mode: int) -> None:
    path = make_folder(tmp_path / "state").path
    (path / name).chmod(mode | 0o100 if name == "." else mode)
    with pytest.raises(LocalError, match="others may read or write it"):
        StateFolder.open(path)


def test_what_belongs_to_another_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make_folder(tmp_path / "state").path
    another = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: another)
    with pytest.raises(LocalError, match="belongs to another user"):
        StateFolder.open(path)


def test_a_link_is_refused(tmp_path: Path) -> None:
    path = make_folder(tmp_path / "state").path
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(LocalError, match="got a link"):
        StateFolder.open(tmp_path / "link")


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"more": 1},
        {"host": ""},
        {"host": "a\nb"},
        {"https_port": "8443"},
        {"grpc_port": 65536},
        {"https_port": True},
        {"database": "postgresql://w:password@localhost/w"},
    ],
)
def test_a_state_file_that_was_changed_badly_is_one_line(tmp_path: Path, change: dict[str, object]) -> None:
    path = make_folder(tmp_path / "state").path / "state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(LocalError, match=r"state\.json: ") as refused:
        StateFolder.open(path.parent)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("text", ["", "[]", "{}", "\udcff", "nul"])
def test_a_state_file_that_is_none_is_one_line(tmp_path: Path, text: str) -> None:
    path = make_folder(tmp_path / "state").path / "state.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(LocalError, match=r"state\.json: "):
        StateFolder.open(path.parent)


HOLDS = """
import sys
from pathlib import Path
from wardround.server.state.folder import StateFolder
with StateFolder.open(Path(sys.argv[1])).lock():
    print("held", flush=True)
    sys.stdin.read()
"""


def test_one_server_works_on_it_at_a_time_and_a_killed_one_leaves_it_free(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "state")
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS, folder.path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(LocalError, match="a server is running on it"), folder.lock():
            pytest.fail("held twice")
        process.kill()
    (folder.models / ".tmp-abc").touch()
    with folder.lock():
        assert list(folder.models.iterdir()) == []


def test_where_the_state_lies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WARDROUND_SERVER_STATE", str(tmp_path / "a"))
    assert default_state() == tmp_path / "a"
    monkeypatch.delenv("WARDROUND_SERVER_STATE")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "b"))
    assert default_state() == tmp_path / "b" / "wardround" / "server"
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_state() == tmp_path / ".local" / "state" / "wardround" / "server"


def test_a_database_elsewhere_is_named_in_the_state(tmp_path: Path) -> None:
    settings = StateSettings(name="x", host="h", database="postgresql:///w?host=/run/postgresql")
    assert StateFolder(tmp_path, settings).database_url == settings.database
