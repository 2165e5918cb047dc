"""The server shows its heads, sites sign them, and a history that was changed or set back is found by any of them."""

import json
import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from tests.server.audit.worlds import World, now
from tests.server.state.state_folders import SECRET, keyring
from wardround.audit.bundle import verify_bundle
from wardround.audit.head import CoSigned, Head, sign_head
from wardround.audit.log import LOG_FILE
from wardround.audit.verify import verify_file
from wardround.client.agent.site_log import export_log
from wardround.errors import LocalError, RemoteError
from wardround.identity import Authority
from wardround.link.messages import Notice
from wardround.orders import SiteId
from wardround.server.audit import heads as heads_module
from wardround.server.audit.evidence import export_audit_log, verify_audit_log
from wardround.server.state.backup import backup
from wardround.server.state.database import Database
from wardround.server.state.dump import dump
from wardround.server.state.folder import StateFolder
from wardround.server.state.restore import check_backup, restore
from wardround.signing_key import SigningKey

A, B = SiteId("Hospital A"), SiteId("Hospital B")


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path, A, B)
    yield world
    world.close()


def signed(world: World, name: str) -> int | None:
    return world.cosignatures.newest(SiteId(name), world.log.id)


def test_sites_sign_each_head_that_they_are_shown(world: World) -> None:
    for count in (3, 1, 5):
        world.happen(count)
        world.shown()
        head = world.log.seal()
        assert signed(world, A) == signed(world, B) == head.seq
        assert world.site(A).heads.known() == head
    assert not world.site(A).alarms
    found, counts = verify_audit_log(world.folder, world.database)
    assert (found.agreed, counts) == (6, {A: head.seq, B: head.seq})


def test_a_bundle_has_the_newest_co_signature_of_each_day(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for day in range(3):
        at = now() + timedelta(days=day)
        monkeypatch.setattr("tests.server.audit.worlds.now", lambda at=at: at)
        for _ in range(3):
            world.happen(1)
            world.shown()
    assert len(list(world.cosignatures.all(world.log.id))) == 18
    out = world.path / "server.zip"
    assert export_audit_log(world.folder, world.database, out, now()) == 6
    with out.open("rb") as file:
        found = verify_bundle(file, Authority(world.folder.identity_authority()))
    assert {one.seq for one in found.sites.values()} == {world.log.seal().seq} and found.log.agreed == 7


def test_nobody_is_shown_the_same_head_again(world: World) -> None:
    world.happen(3)
    world.shown()
    sent = world.hub.sent
    world.shown()
    assert world.hub.sent == sent
    world.heads.forget(A)  # it attaches again, and its word has come
    world.shown()
    assert world.hub.sent == sent


def test_a_word_that_was_lost_is_asked_for_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.happen(3)
    world.shown(A)
    before = signed(world, A)
    world.happen(3)
    with monkeypatch.context() as patch:
        patch.setattr(world.heads, "take", lambda site, notice: False)
        world.shown(A)
    assert signed(world, A) == before
    world.open()
    world.shown(A)
    assert signed(world, A) == world.log.seal().seq and not world.site(A).alarms


def test_a_site_that_is_shown_too_late_a_part_says_what_it_knows(world: World) -> None:
    world.happen(3)
    world.shown(A)
    with world.database.transaction() as connection:
        connection.exec_driver_sql("DELETE FROM cosignatures")  # its first word never came
    world.open()
    world.happen(4)
    world.shown(A)
    assert signed(world, A) == world.log.seal().seq and not world.site(A).alarms


def test_a_long_absence_is_shown_in_pieces(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.shown(A)
    monkeypatch.setattr("wardround.audit.log.MOST_DIGESTS", 10)
    world.happen(35)
    sent = world.hub.sent
    world.shown(A)
    assert world.hub.sent - sent >= 4
    assert signed(world, A) == world.log.seal().seq
    assert verify_audit_log(world.folder, world.database)[0].agreed >= 4


def test_a_site_whose_words_were_lost_is_not_made_to_accuse_an_honest_server(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It knows more than a first message can show to somebody who has signed nothing for long."""
    world.happen(3)
    world.shown(A)
    monkeypatch.setattr("wardround.audit.log.MOST_DIGESTS", 10)
    with monkeypatch.context() as patch:
        patch.setattr(world.heads, "take", lambda site, notice: False)
        world.happen(35)
        world.shown(A)
    site, known = world.site(A), world.site(A).heads.known()
    assert known == world.log.seal() and signed(world, A) is not None and (signed(world, A) or 0) < known.seq - 30
    world.open()
    world.shown(A)
    assert not site.alarms and not site.heads.differs
    world.happen(2)
    world.shown(A)
    assert signed(world, A) == world.log.seal().seq and not site.alarms


def test_a_history_that_was_written_anew_is_found_by_every_site(world: World) -> None:
    world.happen(5)
    world.shown()
    path = world.folder.audit / LOG_FILE
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:4]))
    world.open()
    world.happen(9)
    verify_file(path, Authority(world.folder.identity_authority()))  # by itself it is faultless
    world.shown()
    for name in (A, B):
        assert "differs from what this site has seen: its first 8 records are not" in world.site(name).alarms[0]
        assert world.site(name).heads.differs
    assert signed(world, A) == 8
    with pytest.raises(RemoteError, match="is not what was there on"):
        verify_audit_log(world.folder, world.database)
    world.auditor.catch_up()
    disputed = [one for one in world.log.newest_first() if one.kind == "head.disputed"]
    assert {one.subject for one in disputed} == {A, B}


def test_a_log_that_was_begun_anew_is_found(world: World) -> None:
    world.happen(2)
    world.shown()
    os.rename(world.folder.audit, world.path / "elsewhere")
    world.open()
    world.auditor.catch_up()
    world.shown(A)
    assert "it is another log" in world.site(A).alarms[0]


def restored(world: World, archive: Path) -> World:
    world.close()
    restore(archive, world.folder.path, SECRET, now=now())
    again = World(world.path, folder=StateFolder.open(world.folder.path))
    again.hub.sites = world.hub.sites
    return again


@pytest.mark.parametrize("later", [0, 1, 40], ids=["behind", "behind still", "further"])
def test_a_server_from_an_old_backup_is_found_and_goes_on_where_that_is_accepted(world: World, later: int) -> None:
    world.happen(5)
    world.shown(A)
    archive = world.path / "backup"
    backup(world.folder, world.database, archive, SECRET)
    check_backup(archive, SECRET)
    world.happen(20)
    world.shown(A)
    before = world.site(A).heads.known()
    assert before is not None

    world = restored(world, archive)
    assert world.log.seal().seq < before.seq
    world.happen(later)
    world.shown(A)
    site = world.site(A)
    assert len(site.alarms) == 1 and "the server's history differs" in site.alarms[0]
    assert site.heads.known() == before, "nothing was signed"
    world.happen(1)
    world.shown(A)
    assert site.heads.differs and site.heads.known() == before

    site.heads.accept(site.log, by="the administrator")
    assert not site.heads.differs
    world.happen(1)
    world.shown(A)
    assert site.heads.known() == world.log.seal() and not site.heads.differs
    assert [one.kind for one in site.log.newest_first() if one.kind.partition(".")[0] in ("head", "restore")][:3] == [
        "head.cosigned",
        "restore.accepted",
        "head.differs",
    ]
    verify_audit_log(world.folder, world.database)
    with pytest.raises(LocalError, match="nothing is to be accepted"):
        site.heads.accept(site.log, by="the administrator")
    world.close()


def test_an_auditor_sees_what_was_restored_in_the_bundles(world: World) -> None:
    world.happen(5)
    archive = world.path / "backup"
    backup(world.folder, world.database, archive, SECRET)
    world.happen(9)
    world.shown()
    world = restored(world, archive)
    world.happen(1)
    world.shown()
    site, authority = world.site(A), Authority(world.folder.identity_authority())
    early, late, server = (world.path / name for name in ("early.zip", "late.zip", "server.zip"))
    export_log(site.folder, early, now())
    site.heads.accept(site.log, by="the administrator")
    world.happen(1)
    world.shown(A)
    export_log(site.folder, late, now())
    assert export_audit_log(world.folder, world.database, server, now()) >= 1
    with server.open("rb") as file, late.open("rb") as other:
        found = verify_bundle(file, authority, against=[other])
    assert "accepted on" in found.remarks[0] and found.against >= 1
    with server.open("rb") as file, early.open("rb") as other, pytest.raises(RemoteError, match="by 'Hospital A'"):
        verify_bundle(file, authority, against=[other])
    world.close()


def test_a_backup_has_no_event_in_its_log_that_its_rows_do_not_have(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slowly(database: Database, write: Callable[[bytes], object]) -> None:
        world.happen(3)
        dump(database, write)
        world.happen(3)

    monkeypatch.setattr("wardround.server.state.backup.dump", slowly)
    world.happen(2)
    backup(world.folder, world.database, world.path / "backup", SECRET)
    world = restored(world, world.path / "backup")
    world.auditor.catch_up()
    numbers = [one.detail["event"] for one in world.log.newest_first() if "event" in one.detail]
    assert numbers == [6, 5, 4, 3, 2, 1]  # and 6 is the restore
    assert next(world.log.newest_first()).kind == "log.sealed"
    world.close()


def test_a_backup_with_a_changed_audit_log_is_refused(world: World) -> None:
    world.happen(5)
    path = world.folder.audit / LOG_FILE
    path.write_bytes(path.read_bytes().replace(b'"round":3', b'"round":2'))
    backup(world.folder, world.database, world.path / "backup", SECRET)
    with pytest.raises(LocalError, match="audit log, record 7: was changed"):
        check_backup(world.path / "backup", SECRET)


def test_what_a_site_has_not_signed_is_refused(world: World) -> None:
    world.happen(3)
    world.shown()
    head, site = world.log.seal(), world.site(A)

    def refused(sender: SiteId, table: object, what: str) -> None:
        count = len(list(world.cosignatures.all(world.log.id)))
        with pytest.raises(RemoteError, match=what):
            world.heads.take(sender, Notice(kind="cosigned", body=json.dumps(table).encode()))
        assert len(list(world.cosignatures.all(world.log.id))) == count

    stranger = SigningKey.make(os.urandom)
    good = CoSigned.make(site.key, head, A, now())
    refused(B, {"cosigned": good.table()}, "got one of another site")
    refused(A, {"cosigned": CoSigned.make(stranger, head, A, now()).table()}, "expected a valid signature")
    late = CoSigned.make(site.key, head, A, now() + timedelta(days=60))
    refused(A, {"cosigned": late.table()}, "certified when it signed")
    forged = sign_head(stranger, head.log, head.seq, bytes(32), head.time)
    refused(A, {"cosigned": CoSigned.make(site.key, forged, A, now()).table()}, "head: expected a valid signature")
    world.auditor.catch_up()
    (event,) = (one for one in world.log.newest_first() if one.kind == "head.refused" and one.subject == B)
    assert "of another site" in event.detail["detail"]["reason"]
    bad: list[object] = [{}, [], None, 3, {"cosigned": 3}, {"differs": 3}, {"cosigned": {}}, {"differs": ""}]
    for table in bad * 3:
        refused(A, table, "expected a head that it has signed")
    world.auditor.catch_up()
    assert sum(one.kind == "head.refused" and one.subject == A for one in world.log.newest_first()) == 3


def test_a_head_of_before_a_restore_is_no_co_signature_of_this_log(world: World) -> None:
    world.happen(3)
    old = sign_head(keyring().signing, world.log.id, 4, bytes(32), world.log.seal().time)
    body = json.dumps({"cosigned": CoSigned.make(world.site(A).key, old, A, now()).table()}).encode()
    assert not world.heads.take(A, Notice(kind="cosigned", body=body))
    assert signed(world, A) is None
    world.auditor.catch_up()
    assert sum(one.kind == "head.disputed" for one in world.log.newest_first()) == 1
    world.heads.take(A, Notice(kind="cosigned", body=body))
    world.auditor.catch_up()
    assert sum(one.kind == "head.disputed" for one in world.log.newest_first()) == 1, "once while it runs"


def test_a_site_that_always_says_less_than_it_was_shown_is_not_shown_more_for_ever(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.happen(3)
    world.shown(A)
    site, known = world.site(A), world.site(A).heads.known()
    assert known is not None
    world.happen(3)
    table = {"cosigned": CoSigned.make(site.key, known, A, now()).table()}
    stubborn = Notice(kind="cosigned", body=json.dumps(table).encode())
    monkeypatch.setattr(site, "take", lambda body: stubborn)
    sent = world.hub.sent
    world.shown(A)
    assert world.hub.sent - sent <= heads_module._MOST_REWOUND + 1


def test_a_site_cannot_have_itself_shown_the_log_again_and_again(world: World) -> None:
    """Its word is a few hundred bytes, what it is shown then up to 700 KB."""
    world.happen(3)
    world.shown(A)
    key, old = world.site(A).key, world.site(A).heads.known()
    assert old is not None
    world.happen(3)
    world.shown(A)
    newest = world.log.seal()

    def is_shown_more(head: Head) -> bool:
        table = {"cosigned": CoSigned.make(key, head, A, now()).table()}
        more = world.heads.take(A, Notice(kind="cosigned", body=json.dumps(table).encode()))
        if more:
            world.heads._shown[A] = newest.seq  # as `tell` does
        return more

    assert sum(is_shown_more(old) + is_shown_more(newest) for _ in range(20)) == heads_module._MOST_REWOUND
    world.happen(1)
    world.shown(A)
    assert is_shown_more(old)  # what is new was signed: a word may be lost again


def test_a_head_that_the_server_has_not_signed_changes_nothing_at_the_site(world: World) -> None:
    world.happen(3)
    world.shown(A)
    site, known = world.site(A), world.site(A).heads.known()
    found = world.log.extension(0)
    table = json.loads(found.encode())
    table["head"]["signature"] = "00" * 64
    for body in (json.dumps(table).encode(), b"", b"[]", b"{}"):
        with pytest.raises(RemoteError):
            site.take(body)
    assert site.heads.known() == known and not site.heads.differs
