"""Every event is in the audit log once and in order, whatever happens in between."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.audit.worlds import World, now
from wardround.audit.log import LOG_FILE
from wardround.audit.record import Record
from wardround.audit.verify import verify_file
from wardround.errors import LocalError
from wardround.identity import Authority
from wardround.server.audit.auditor import EVENTS_LOST


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.close()


def records(world: World) -> list[Record]:
    return [one for one in reversed(list(world.log.newest_first())) if not one.kind.startswith("log.")]


def numbers(world: World) -> list[int]:
    return [one.detail["event"] for one in records(world)]


def test_events_are_records_with_all_that_they_say(world: World) -> None:
    world.events.add("site.invited", now=now(), subject="Hospital A", who="ada", detail={"invitation": "x"})
    world.events.add("run.started", now=now(), subject="r1", run_id="r1")
    assert [one.kind for one in world.auditor.catch_up()] == ["site.invited", "run.started"]
    first, second = records(world)
    assert (first.kind, first.subject, first.detail["who"]) == ("site.invited", "Hospital A", "ada")
    assert first.detail["detail"] == {"invitation": "x"}
    assert second.detail.keys() == {"event", "at", "run"}
    assert not verify_file(world.folder.audit / LOG_FILE, Authority(world.folder.identity_authority())).remarks


def test_catching_up_twice_or_after_a_restart_writes_nothing_again(world: World) -> None:
    world.happen(5)
    assert world.auditor.catch_up() == []
    world.open()
    assert world.auditor.catch_up() == []
    world.happen(2)
    assert numbers(world) == [1, 2, 3, 4, 5, 6, 7]


def test_a_kill_between_append_and_seal_writes_nothing_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch, pytest.raises(LocalError):

        def killed() -> None:
            raise LocalError("killed")

        patch.setattr(world.log, "seal", killed)
        world.happen(3)
    world.open()
    world.happen(1)
    assert numbers(world) == [1, 2, 3, 4]


def test_a_kill_in_the_middle_of_a_batch_goes_on_behind_its_last_whole_line(world: World) -> None:
    world.happen(3)
    path = world.folder.audit / LOG_FILE
    sealed = path.stat().st_size
    for number in range(2):
        world.events.add("round.done", now=now(), detail={"round": number})
    world.auditor.catch_up()
    whole = path.read_bytes()
    for cut in range(sealed, len(whole), 61):
        path.write_bytes(whole[:cut])
        world.open()
        world.auditor.catch_up()
        assert numbers(world) == [1, 2, 3, 4, 5]
        verify_file(path, Authority(world.folder.identity_authority()))


def test_many_events_are_caught_up_at_the_first_start(world: World) -> None:
    with world.database.transaction():
        for number in range(2500):
            world.events.add("round.done", now=now(), detail={"round": number})
    assert len(world.auditor.catch_up()) == 2500
    assert numbers(world) == list(range(1, 2501))


def test_a_database_of_another_server_is_written_down_and_nothing_of_it_lost(world: World, tmp_path: Path) -> None:
    world.happen(5)
    other = World(tmp_path / "other")
    other.happen(2)
    (other.folder.audit / LOG_FILE).write_bytes((world.folder.audit / LOG_FILE).read_bytes())
    other.open()
    other.happen(1)
    found = records(other)
    assert [one.kind for one in found[5:]] == [EVENTS_LOST, "round.done", "round.done", "round.done"]
    assert found[5].detail == {"records": 5, "agreed": 0} and found[-1].detail["event"] == 3
    other.open()
    other.happen(1)
    assert records(other)[-1].detail["event"] == 4 and len(records(other)) == 10
    other.close()


def test_what_log_and_database_agree_on_is_not_written_again(world: World) -> None:
    world.happen(5)
    with world.database.transaction() as connection:
        connection.exec_driver_sql("DELETE FROM events WHERE id > 3")
    world.open()
    world.happen(2)
    found = records(world)
    assert (found[5].kind, found[5].detail) == (EVENTS_LOST, {"records": 2, "agreed": 3})
    assert [one.detail.get("event") for one in found[6:]] == [6, 7]


def test_an_event_with_a_long_detail_or_subject_keeps_its_number(world: World) -> None:
    world.events.add("plan.added", now=now(), subject="x\n" * 400, detail={"text": "y" * 100_000})
    world.auditor.catch_up()
    world.open()
    assert world.auditor.catch_up() == []
    (found,) = records(world)
    assert found.detail["event"] == 1 and set(found.detail["detail"]) == {"left_out_bytes", "left_out_sha256"}


def test_an_event_of_an_older_spelling_is_written_under_a_kind_of_its_own(world: World) -> None:
    world.events.add("run-started", now=now())
    world.auditor.catch_up()
    assert records(world)[0].kind == "event.noted" and records(world)[0].detail["kind"] == "run-started"


def test_a_changed_log_does_not_let_the_server_start(world: World) -> None:
    world.happen(3)
    path = world.folder.audit / LOG_FILE
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:-1], lines[-1].replace(b'"signature":"', b'"signature":"0', 1)]))
    with pytest.raises(LocalError, match="was changed by somebody else"):
        world.open()
