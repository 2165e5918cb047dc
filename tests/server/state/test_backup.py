"""Backup and restore: all of it, checked before anything is replaced, and never a step back in silence."""

import json
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest
import sqlalchemy as sa

from tests.postgresql import Cluster
from tests.server.state.kept_server import CODE, A, B, KeptServer
from tests.server.state.rows import NOW, later, public_key
from tests.server.state.state_folders import SECRET, keyring
from wardround.errors import LocalError
from wardround.server.state import archive as archive_module
from wardround.server.state import backup as backup_module
from wardround.server.state.accounts import Accounts
from wardround.server.state.archive import ArchiveWriter
from wardround.server.state.backup import backup
from wardround.server.state.blob_store import BlobStore
from wardround.server.state.certificates import CertificateKind, Certificates
from wardround.server.state.database import Database
from wardround.server.state.events import Events
from wardround.server.state.folder import FILES, StateFolder
from wardround.server.state.invitations import Invitations
from wardround.server.state.models import Models
from wardround.server.state.plans import Plans
from wardround.server.state.restore import RESTORED, check_backup, restore
from wardround.server.state.runs import Runs
from wardround.server.state.sessions import Sessions
from wardround.server.state.settings import CRL_LIST, CRL_NUMBER, GENERATION, SCRAPE_TOKEN, Settings
from wardround.server.state.sites import Sites, SiteState
from wardround.server.state.tables import METADATA
from wardround.server.state.vault import Vault

THEN = later(24)
Rows = dict[str, list[Any]]


@pytest.fixture(autouse=True)
def cheap_scrypt(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the secret is stretched by is tested elsewhere; here it would take most of the time."""
    from wardround.server.state import keyring as keyring_module

    stretched = keyring_module.stretched
    known: dict[tuple[bytes, bytes, int], bytes] = {}

    def remembered(secret: bytes, salt: bytes, cost: int) -> bytes:
        key = (secret, salt, cost)
        if key not in known:
            known[key] = stretched(secret, salt, cost)
        return known[key]

    monkeypatch.setattr(keyring_module, "stretched", remembered)
    monkeypatch.setattr(archive_module, "stretched", lambda secret, salt, cost: (secret + salt)[-32:].rjust(32, b"-"))


@pytest.fixture(params=["sqlite", "postgresql"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[KeptServer]:
    with ExitStack() as stack:
        url = None
        if request.param == "postgresql":
            cluster: Cluster = request.getfixturevalue("postgresql")
            url = stack.enter_context(cluster.database())
        made = KeptServer(tmp_path / "state", database=url)
        stack.callback(made.close)
        yield made


@pytest.fixture
def local(tmp_path: Path) -> Iterator[KeptServer]:
    made = KeptServer(tmp_path / "state")
    yield made
    made.close()


def rows(database: Database) -> Rows:
    with database.reading() as connection:
        return {
            table.name: sorted(map(tuple, connection.execute(sa.select(table))), key=repr)
            for table in METADATA.sorted_tables
        }


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith((".", "server.db", "lock"))
    }


def reopened(folder: Path) -> tuple[StateFolder, Database]:
    found = StateFolder.open(folder)
    return found, Database.open(found.database_url)


# -- there and back ------------------------------------------------------------------------------------


def test_everything_comes_back(server: KeptServer, tmp_path: Path) -> None:
    path = server.folder.path
    expected_rows, expected_files = rows(server.database), files(path)
    backup(server.folder, server.database, tmp_path / "backup", SECRET, now=later(5))
    assert (tmp_path / "backup").stat().st_mode & 0o777 == 0o600
    checked = check_backup(tmp_path / "backup", SECRET)
    assert (checked.name, checked.created) == ("cardio", later(5).isoformat(timespec="seconds"))
    assert checked.rows == {name: len(found) for name, found in expected_rows.items()}
    assert rows(server.database) == expected_rows, "checking changes nothing"
    server.close()
    shutil.rmtree(path)

    restored = restore(tmp_path / "backup", path, SECRET, now=THEN)
    folder, database = reopened(path)
    assert files(path) == expected_files
    for one in [path, *path.rglob("*")]:
        assert one.stat().st_mode & 0o077 == 0, one
    found = rows(database)
    for table in ("accounts", "sites", "certificates", "plans", "plan_files", "first_models", "run_sites", "models"):
        assert found[table] == expected_rows[table]
    assert folder.keyring(SECRET).data_key == keyring().data_key
    vault = Vault(keyring().data_key)
    assert Plans(database, vault).files("d1") == CODE
    (model,) = Models(database).list()
    assert BlobStore(folder.models, vault).get(model.blob) == b"a model" * 1000
    assert restored.replaced is None
    event = Events(database).add("after", now=THEN)
    assert [one.id for one in Events(database).list()] == list(range(1, event.id + 1)), "no number is given twice"
    database.close()


def test_a_run_before_its_first_round_can_go_on(local: KeptServer, tmp_path: Path) -> None:
    """Its folder of checkpoints is empty, and a backup has files alone."""
    run = local.folder.runs / local.runs[2].id
    (run / "checkpoints").mkdir(mode=0o700, parents=True)
    (run / "run.json").touch(mode=0o600)
    backup(local.folder, local.database, tmp_path / "backup", SECRET, now=later(5))
    local.close()
    shutil.rmtree(local.folder.path)
    restore(tmp_path / "backup", local.folder.path, SECRET, now=THEN)
    assert (run / "checkpoints").is_dir()


def test_a_restored_server_takes_no_step_back(server: KeptServer, tmp_path: Path) -> None:
    path = server.folder.path
    for key in (CRL_LIST, SCRAPE_TOKEN):
        Settings(server.database).put(key, "of the time of the backup")
    backup(server.folder, server.database, tmp_path / "backup", SECRET, now=later(5))
    # what happens after the backup
    database = server.database
    Settings(database).advance(CRL_NUMBER, to=2_000_000_000)
    Sites(database).revoke(B, later(6))
    Certificates(database).revoke_site(B, later(6))
    Certificates(database).revoke(CertificateKind.TLS, 1, later(6))
    (session,) = rows(database)["sessions"]
    server.add_round(server.runs[1], 3)
    server.close()

    restored = restore(tmp_path / "backup", path, SECRET, now=THEN)
    _, database = reopened(path)
    settings = Settings(database)
    assert restored.generation == settings.counter(GENERATION) == int(THEN.timestamp())
    assert settings.counter(CRL_NUMBER) == 2_000_000_001
    assert settings.get(CRL_LIST) is settings.get(SCRAPE_TOKEN) is None
    assert {one.name: one.state for one in Sites(database).list()} == {A: SiteState.ACTIVE, B: SiteState.REVOKED}
    assert Certificates(database).all_revoked(CertificateKind.TLS) == {1, 2}
    assert Certificates(database).all_revoked(CertificateKind.IDENTITY) == {2}
    assert Sessions(database).find(session[0], now=NOW, idle=timedelta(hours=12)) is None
    assert all(one.used_at or one.withdrawn for one in Invitations(database).list())
    assert [run.state for run in Runs(database).list()] == ["finished", "paused", "waiting"]
    assert "restored from a backup of 2026-03-01T17:30:15" in Runs(database).list()[1].reason
    event = Events(database).list()[-1]
    assert (event.kind, event.at) == (RESTORED, THEN)
    assert event.detail["paused"] == list(restored.paused) == [2]
    assert event.detail["revoked"] == list(restored.revoked) == [B]
    assert (event.detail["sessions"], event.detail["invitations"]) == (1, 1)
    database.close()
    again = restore(tmp_path / "backup", path, SECRET, now=THEN + timedelta(seconds=0.5, minutes=-1))
    assert again.generation == restored.generation + 1, "even with a clock that was set back"


def test_a_site_that_has_joined_again_since_does_not_get_its_old_key_back(local: KeptServer, tmp_path: Path) -> None:
    backup(local.folder, local.database, tmp_path / "backup", SECRET)
    sites = Sites(local.database)
    sites.revoke(A, later(6))
    sites.add(A, public_key(9), now=later(7))
    local.close()
    restored = restore(tmp_path / "backup", local.folder.path, SECRET, now=THEN)
    _, database = reopened(local.folder.path)
    assert restored.revoked == (A,)
    assert {one.name: one.state for one in Sites(database).list()} == {A: SiteState.REVOKED, B: SiteState.ACTIVE}
    assert Certificates(database).all_revoked(CertificateKind.IDENTITY) == {1}
    database.close()


def test_a_database_that_is_damaged_does_not_keep_a_backup_out(local: KeptServer, tmp_path: Path) -> None:
    backup(local.folder, local.database, tmp_path / "backup", SECRET)
    local.close()
    for path in local.folder.path.glob("server.db*"):
        path.write_bytes(b"damaged" * 1000)
    restored = restore(tmp_path / "backup", local.folder.path, SECRET, now=THEN)
    assert restored.generation == int(THEN.timestamp())


def test_a_restore_that_was_killed_between_its_renames_is_done_again(local: KeptServer, tmp_path: Path) -> None:
    backup(local.folder, local.database, tmp_path / "backup", SECRET)
    local.close()
    local.folder.path.rename(tmp_path / "state.before-20260301T000000Z")
    (tmp_path / "state.restoring" / "runs").mkdir(parents=True)
    (tmp_path / "state.restoring" / "keyring").write_bytes(b"half")
    restore(tmp_path / "backup", local.folder.path, SECRET, now=THEN)
    StateFolder.open(local.folder.path).keyring(SECRET)
    assert not (tmp_path / "state.restoring").exists()
    StateFolder.open(tmp_path / "state.before-20260301T000000Z")


def test_what_was_there_is_kept_beside_it(local: KeptServer, tmp_path: Path) -> None:
    path = local.folder.path
    backup(local.folder, local.database, tmp_path / "backup", SECRET)
    Settings(local.database).put("after", "the backup")
    local.close()
    restored = restore(tmp_path / "backup", path, SECRET, now=THEN)
    assert restored.replaced == tmp_path / "state.before-20260302T123015Z"
    _, database = reopened(restored.replaced)
    assert Settings(database).get("after") == "the backup"
    database.close()
    _, database = reopened(path)
    assert Settings(database).get("after") is None
    database.close()
    assert sorted(one.name for one in tmp_path.iterdir()) == ["backup", "state", restored.replaced.name]
    with pytest.raises(LocalError, match="is there already"):
        restore(tmp_path / "backup", path, SECRET, now=THEN)


def test_a_postgresql_goes_back_to_what_it_held(postgresql: Cluster, tmp_path: Path) -> None:
    with postgresql.database() as url:
        server = KeptServer(tmp_path / "state", database=url)
        backup(server.folder, server.database, tmp_path / "backup", SECRET)
        for number in range(3):
            Accounts(server.database).add(name=f"x{number}", password_hash=str(number), role="owner", now=NOW)
        expected = [one.name for one in Accounts(server.database).list()]
        with pytest.raises(LocalError, match="another server is running"), server.database.hold():
            restore(tmp_path / "backup", tmp_path / "state", SECRET, now=THEN)
        assert [one.name for one in Accounts(server.database).list()] == expected
        assert (tmp_path / "state" / "keyring").exists()
        restore(tmp_path / "backup", tmp_path / "state", SECRET, now=THEN)
        assert [one.name for one in Accounts(server.database).list()] == ["ada"]
        assert not (tmp_path / "state" / "server.db").exists()
        server.close()


@pytest.mark.parametrize("renamed", [True, False])
def test_a_swap_that_fails_leaves_folder_and_postgresql(
    renamed: bool, postgresql: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wardround.server.state import restore as module

    with postgresql.database() as url:
        server = KeptServer(tmp_path / "state", database=url)
        backup(server.folder, server.database, tmp_path / "backup", SECRET)
        Settings(server.database).put("after", "the backup")
        before = files(tmp_path / "state")
        swap = module._swap

        def fails(staging: Path, into: Path, aside: Path) -> None:
            if renamed:
                swap(staging, into, aside)
            else:
                into.rename(aside)
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(module, "_swap", fails)
        with pytest.raises(LocalError, match="cannot be written"):
            restore(tmp_path / "backup", tmp_path / "state", SECRET, now=THEN)
        assert Settings(server.database).get("after") == "the backup"
        assert files(tmp_path / "state") == before
        assert sorted(one.name for one in tmp_path.iterdir()) == ["backup", "state"]
        server.close()


def test_a_backup_of_sqlite_may_become_a_postgresql(postgresql: Cluster, local: KeptServer, tmp_path: Path) -> None:
    """Rows are the same lines from either."""
    expected = rows(local.database)
    backup(local.folder, local.database, tmp_path / "backup", SECRET)
    with postgresql.database() as url:
        with pytest.raises(LocalError, match="no password"):
            restore(tmp_path / "backup", tmp_path / "elsewhere", SECRET, now=THEN, database="postgresql://w:x@/w")
        assert not (tmp_path / "elsewhere").exists()
        restore(tmp_path / "backup", tmp_path / "elsewhere", SECRET, now=THEN, database=url)
        _, database = reopened(tmp_path / "elsewhere")
        assert database.dialect == "postgresql"
        for table in ("certificates", "run_sites", "plan_files", "models"):
            assert rows(database)[table] == expected[table]
        database.close()


# -- while the server works ----------------------------------------------------------------------------


def test_a_backup_while_the_server_works_is_whole(
    local: KeptServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between any two files: a round ends, old checkpoints go, a model comes."""
    run, number = local.runs[1], 2
    copy = backup_module._copy

    def works_meanwhile(archive: ArchiveWriter, root: Path, path: Path, *, needed: bool = False) -> bool:
        nonlocal number
        number += 1
        local.add_round(run, number)
        local.checkpoint(run, number - 2).unlink(missing_ok=True)
        local.blobs.put(b"another model")
        return copy(archive, root, path, needed=needed)

    monkeypatch.setattr(backup_module, "_copy", works_meanwhile)
    backup(local.folder, local.database, tmp_path / "backup", SECRET)
    monkeypatch.undo()
    monkeypatch.setattr(archive_module, "stretched", lambda secret, salt, cost: (secret + salt)[-32:].rjust(32, b"-"))
    restore(tmp_path / "backup", tmp_path / "other", SECRET, now=THEN)
    folder = tmp_path / "other" / "runs" / run.id
    newest = max(int(path.stem[-6:]) for path in (folder / "checkpoints").iterdir())
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["round"] for line in lines[:newest]] == list(range(1, newest + 1))


def test_a_running_server_is_not_replaced(local: KeptServer, tmp_path: Path) -> None:
    backup(local.folder, local.database, tmp_path / "backup", SECRET)
    with local.folder.lock(), pytest.raises(LocalError, match="a server is running on it"):
        restore(tmp_path / "backup", local.folder.path, SECRET, now=THEN)
    assert not list(tmp_path.glob("state.*"))


def test_a_folder_of_something_else_is_not_replaced(local: KeptServer, tmp_path: Path) -> None:
    backup(local.folder, local.database, tmp_path / "backup", SECRET)
    (tmp_path / "patients").mkdir(mode=0o700)
    (tmp_path / "patients" / "list.csv").touch()
    with pytest.raises(LocalError, match="expected the state of a server"):
        restore(tmp_path / "backup", tmp_path / "patients", SECRET, now=THEN)
    assert (tmp_path / "patients" / "list.csv").exists()
    (tmp_path / "empty").mkdir()
    restore(tmp_path / "backup", tmp_path / "empty", SECRET, now=THEN)
    StateFolder.open(tmp_path / "empty")


# -- what is refused, with everything as it was --------------------------------------------------------


def refused(archive: Path, local: KeptServer, reason: str, secret: bytes = SECRET) -> None:
    before = files(local.folder.path)
    with pytest.raises(LocalError, match=reason) as found:
        check_backup(archive, secret)
    assert "\n" not in str(found.value)
    with pytest.raises(LocalError, match=reason):
        restore(archive, local.folder.path, secret, now=THEN)
    assert files(local.folder.path) == before
    assert not list(archive.parent.glob("state.*"))


def test_another_secret_does_not_open_it(local: KeptServer, tmp_path: Path) -> None:
    with pytest.raises(LocalError, match="the passphrase or the key file"):
        backup(local.folder, local.database, tmp_path / "backup", b"another")
    assert not (tmp_path / "backup").exists()
    backup(local.folder, local.database, tmp_path / "backup", SECRET)
    refused(tmp_path / "backup", local, "does not open", b"another")
    data = (tmp_path / "backup").read_bytes()
    for secret in (keyring().data_key, b"print('a task')", b"Hospital A", b"metrics.jsonl"):
        assert secret not in data


def test_a_damaged_or_cut_backup_is_refused(local: KeptServer, tmp_path: Path) -> None:
    backup(local.folder, local.database, tmp_path / "backup", SECRET)
    data = (tmp_path / "backup").read_bytes()
    damaged = {
        f"flipped at {at}": data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        for at in (0, 19, 25, 70, 5000, -1 + len(data))
    }
    damaged |= {
        "cut": data[:-1],
        "half": data[: len(data) // 2],
        "head": data[:30],
        "empty": b"",
        "longer": data + b"x",
    }
    for what, some in damaged.items():
        path = tmp_path / "damaged"
        path.write_bytes(some)
        with pytest.raises(LocalError):
            pytest.fail(f"{what}: {check_backup(path, SECRET)}")
    refused(tmp_path / "damaged", local, "does not open")
    refused(tmp_path / "missing", local, "cannot be read")


def _flipped(data: bytes, random: Random) -> bytes:
    at = random.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << random.randrange(8)]) + data[at + 1 :]


def _cut(data: bytes, random: Random) -> bytes:
    return data[: random.randrange(len(data))]


def _cut_out(data: bytes, random: Random) -> bytes:
    first, last = sorted(random.sample(range(len(data)), 2))
    return data[:first] + data[last:]


def _swapped(data: bytes, random: Random) -> bytes:
    """Two pieces of one length in each other's place, sealed segments among them."""
    size, start = random.choice(((1, 0), (16, 0), (SEGMENT + 16, data.index(b"wardround sealed 1") + 51)))
    first, last = sorted(random.sample(range(start, len(data) - size, size), 2))
    one, other = data[first : first + size], data[last : last + size]
    return data[:first] + other + data[first + size : last] + one + data[last + size :]


SEGMENT = 4096


@pytest.mark.parametrize("spoil", [_flipped, _cut, _cut_out, _swapped])
def test_five_hundred_ways_to_damage_a_backup_are_each_refused_in_a_line(
    tmp_path: Path, spoil: Callable[[bytes, Random], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also in the midst of it, when much was unpacked already; nothing is replaced, and nothing stays behind."""
    monkeypatch.setattr("wardround.server.state.vault._SEGMENT", SEGMENT)
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    local = KeptServer(tmp_path / "state")
    backup(local.folder, local.database, tmp_path / "backup", SECRET)
    check_backup(tmp_path / "backup", SECRET)
    data, before, random = (tmp_path / "backup").read_bytes(), files(local.folder.path), Random(6)  # noqa: S311
    local.close()
    damaged = tmp_path / "damaged"
    for number in range(500):
        some = spoil(data, random)
        if some == data:
            continue
        damaged.write_bytes(some)
        with pytest.raises(LocalError) as refused:
            restore(damaged, local.folder.path, SECRET, now=THEN) if number % 5 == 0 else check_backup(damaged, SECRET)
        assert "\n" not in str(refused.value)
    assert files(local.folder.path) == before
    assert sorted(one.name for one in tmp_path.iterdir()) == ["backup", "damaged", "state"]


def test_a_backup_is_not_written_over(local: KeptServer, tmp_path: Path) -> None:
    (tmp_path / "backup").write_text("an older one")
    with pytest.raises(LocalError, match="name another file"):
        backup(local.folder, local.database, tmp_path / "backup", SECRET)
    assert (tmp_path / "backup").read_text() == "an older one"
    with pytest.raises(LocalError, match="cannot be written"):
        backup(local.folder, local.database, tmp_path / "missing" / "backup", SECRET)


Spoil = Callable[[KeptServer], object]


def _other_checkpoint(server: KeptServer) -> None:
    """A sealed checkpoint of another round, under this round's name and sealed for it."""
    path = server.checkpoint(server.runs[1], 2)
    other = server.checkpoint(server.runs[1], 1)
    content = server.vault.open_file(other.relative_to(server.folder.path).as_posix(), other)
    server.vault.seal_file(path.relative_to(server.folder.path).as_posix(), content, path)


def _no_first_model(server: KeptServer) -> None:
    (model,) = Models(server.database).list()
    for name in server.blobs.names() - {model.blob}:
        server.blobs.delete(name)


SPOILT: dict[str, tuple[Spoil, str]] = {
    "a model is gone": (lambda s: s.blobs.delete(Models(s.database).list()[0].blob), "cannot be read"),
    "a model is damaged": (
        lambda s: (s.folder.models / Models(s.database).list()[0].blob).write_bytes(b"junk"),
        "is damaged",
    ),
    "a first model is gone": (
        _no_first_model,
        "cannot be read",
    ),
    "a checkpoint is gone": (lambda s: s.checkpoint(s.runs[1], 2).unlink(), "expected the checkpoint of round 2"),
    "a run directory is gone": (
        lambda s: shutil.rmtree(s.folder.runs / s.runs[1].id),
        "expected the checkpoint of round 2, got 0",
    ),
    "a checkpoint is damaged": (
        lambda s: s.checkpoint(s.runs[1], 2).write_bytes(s.checkpoint(s.runs[1], 2).read_bytes()[:-1]),
        "does not open",
    ),
    "a checkpoint is another round's file": (
        lambda s: shutil.copy(s.checkpoint(s.runs[1], 1), s.checkpoint(s.runs[1], 2)),
        "does not open",
    ),
    "a checkpoint is another round's": (_other_checkpoint, "of this run and round"),
    "an authority is another's": (
        lambda s: (s.folder.path / "identity-authority.der").write_bytes(s.folder.tls_authority()),
        "identity authority: expected a certificate of the key",
    ),
    "an authority is none": (
        lambda s: (s.folder.path / "tls-authority.der").write_bytes(b"junk"),
        "TLS authority: expected a certificate of the key",
    ),
    "a strange file": (lambda s: (s.folder.models / "notes.txt").write_text("x"), "expected files of a server"),
}


@pytest.mark.parametrize("what", SPOILT)
def test_a_backup_of_a_server_that_lacks_something_is_refused(local: KeptServer, tmp_path: Path, what: str) -> None:
    spoil, reason = SPOILT[what]
    spoil(local)
    backup(local.folder, local.database, tmp_path / "backup", SECRET)
    refused(tmp_path / "backup", local, reason)


def test_a_plan_whose_code_was_changed_is_refused(local: KeptServer, tmp_path: Path) -> None:
    with local.database.transaction() as connection:
        connection.execute(sa.text("UPDATE plan_files SET sealed = X'00'"))
    backup(local.folder, local.database, tmp_path / "backup", SECRET)
    refused(tmp_path / "backup", local, "is damaged")


def test_a_database_that_is_not_up_to_date_is_not_copied(local: KeptServer, tmp_path: Path) -> None:
    with local.database.transaction() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '0000'"))
    with pytest.raises(LocalError, match="expected tables of revision"):
        backup(local.folder, local.database, tmp_path / "backup", SECRET)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["state"]


# -- archives that only a holder of the secret could make ----------------------------------------------


def made_of(path: Path, members: dict[str, bytes]) -> Path:
    with ArchiveWriter(path, SECRET, os.urandom) as archive:
        for name, data in members.items():
            archive.add(name, data)
        archive.commit({})
    return path


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "../outside",
        "runs/../../outside",
        f"runs/{'0' * 32}/../../../outside",
        f"runs/{'0' * 32}/./x",
        f"runs/{'0' * 32}//x",
        f"runs/{'0' * 32}",
        f"runs/{'0' * 32}/" + "x/" * 600 + "x",
        "models/short",
        "server.db",
        "database/000001.jsonl",
        "lock",
    ],
)
def test_a_name_that_is_not_a_servers_is_refused(local: KeptServer, tmp_path: Path, name: str) -> None:
    refused(made_of(tmp_path / "backup", {name: b"x"}), local, "expected files of a server|a name inside the folder")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE])
def test_a_member_that_is_no_file_is_refused(local: KeptServer, tmp_path: Path, kind: bytes) -> None:
    with ArchiveWriter(tmp_path / "backup", SECRET, os.urandom) as archive:
        info = tarfile.TarInfo("keyring")
        info.type, info.linkname = kind, "/etc/passwd"
        archive._tar.addfile(info)
        archive.commit({})
    refused(tmp_path / "backup", local, "expected files alone")


def test_members_that_the_manifest_does_not_name_are_refused(local: KeptServer, tmp_path: Path) -> None:
    with ArchiveWriter(tmp_path / "backup", SECRET, os.urandom) as archive:
        archive.add("keyring", b"x")
        archive._members["keyring"] = (1, "0" * 64)
        archive.commit({})
    refused(tmp_path / "backup", local, "what its manifest names")
    refused(made_of(tmp_path / "little", {"keyring": b"x"}), local, r"expected state\.json in the backup")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda lines: lines[:-1], "is cut"),
        (lambda lines: lines[:3], "is cut"),
        (lambda lines: [], "cut or damaged"),
        (lambda lines: [b'{"format":1,"revision":"9999"}\n', *lines[1:]], "a newer wardround made this"),
        (lambda lines: [b'{"format":2,"revision":"0001"}\n', *lines[1:]], "expected a dump"),
        (lambda lines: [*lines, lines[-1]], "in the last line"),
        (
            lambda lines: [line for line in lines if not line.startswith(b'["d1","cardio"')],
            "nothing was changed|every table",
        ),
        (lambda lines: [line.replace(b'"table":"settings"', b'"table":"secrets"') for line in lines], "own revision"),
        (lambda lines: [line.replace(b'"waiting"', b'"dancing"') for line in lines], "nothing was changed"),
        (lambda lines: [line.replace(b'"plain"', b'"pickle"') for line in lines], "rows as wardround writes them"),
        (lambda lines: [line.replace(b'"plain"', b"[]") for line in lines], "rows as wardround writes them"),
        (lambda lines: [line.replace(b"2026-", b"9999999-") for line in lines], "rows as wardround writes them"),
        (lambda lines: [*lines[:2], b"[" * 100_000 + b"\n", *lines[2:]], "rows as wardround writes them"),
        (lambda lines: [*lines[:2], b"\xff\n", *lines[2:]], "expected a dump"),
        (lambda lines: [*lines[:2], b'{"a":' * 100_000 + b"\n", *lines[2:]], "expected a dump"),
        (lambda lines: [b"[\xff]\n" if line.startswith(b"[") else line for line in lines], "rows as wardround writes"),
    ],
)
def test_rows_that_are_not_whole_or_break_a_rule_are_refused(
    local: KeptServer, tmp_path: Path, change: Callable[[list[bytes]], list[bytes]], reason: str
) -> None:
    from wardround.server.state.dump import dump

    lines: list[bytes] = []
    dump(local.database, lines.append)
    members = {"database/000000.jsonl": b"".join(change(lines))}
    members |= {name: (local.folder.path / name).read_bytes() for name in FILES}
    refused(made_of(tmp_path / "backup", members), local, reason)


@pytest.mark.parametrize("manifest", [b"", b"[]", b"null", b"[" * 100_000, b"\xff", b'{"about": 1, "members": []}'])
def test_a_manifest_that_is_none_is_refused(local: KeptServer, tmp_path: Path, manifest: bytes) -> None:
    add = ArchiveWriter.add
    with ArchiveWriter(tmp_path / "backup", SECRET, os.urandom) as archive, pytest.MonkeyPatch.context() as patch:
        patch.setattr(ArchiveWriter, "add", lambda self, name, data: add(self, name, manifest))
        archive.commit({})
    refused(tmp_path / "backup", local, "what its manifest names")


def test_a_full_disk_leaves_no_backup(local: KeptServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from wardround.server.state import vault as module

    written = 0

    def fills_up(descriptor: int, data: bytes) -> None:
        nonlocal written
        written += len(data)
        if written > 1000:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_all", fills_up)
    with pytest.raises(LocalError, match="No space left on device"):
        backup(local.folder, local.database, tmp_path / "backup", SECRET)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["state"]
