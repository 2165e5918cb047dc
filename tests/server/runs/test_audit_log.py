import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wardround.errors import LocalError
from wardround.orders import SiteId
from wardround.server.runs.audit_log import AUDIT_FILE, AuditLog
from wardround.strategies.reputation import Reputation

NORTH, SOUTH = SiteId("north"), SiteId("sité\n\u2028south")
NOT_TEXT = b"Dr. \xc4".decode(errors="surrogateescape")  # what a terminal in Latin-1 hands over


def reputation(round_number: int, *sites: SiteId) -> Reputation:
    notes = tuple(f"{site} is quarantined from round {round_number} (…)" for site in sites)
    return Reputation(quarantined=dict.fromkeys(sites, round_number), notes=("something else", *notes))


def test_who_was_quarantined_and_released_when_by_whom_and_why(tmp_path: Path) -> None:
    log = AuditLog(tmp_path)
    assert log.events() == [] and not (tmp_path / AUDIT_FILE).exists()
    log.quarantined(reputation(3, NORTH, SOUTH), 3)
    log.released(SOUTH, 5, "Dr. Ä", "a new scanner\nand a new line")
    first, second, third = log.events()
    assert (first["event"], first["site"], first["round"], first["by"]) == ("quarantine", NORTH, 3, "wardround")
    assert first["reason"] == "north is quarantined from round 3 (…)" and second["site"] == SOUTH
    assert (third["event"], third["site"], third["round"]) == ("release", SOUTH, 5)
    assert (third["by"], third["reason"]) == ("Dr. Ä", "a new scanner\nand a new line")
    for event in (first, second, third):
        time = datetime.fromisoformat(event["time"])
        assert time.utcoffset() == UTC.utcoffset(None) and time <= datetime.now(UTC)
    assert [json.loads(line) for line in (tmp_path / AUDIT_FILE).read_text().split("\n")[:-1]] == log.events()


def test_only_what_began_in_the_round_is_noted(tmp_path: Path) -> None:
    log = AuditLog(tmp_path)
    log.quarantined(reputation(3, NORTH), 4)
    log.quarantined(Reputation(), 4)
    assert not (tmp_path / AUDIT_FILE).exists()


def test_a_release_counts_for_the_round_after_which_it_was(tmp_path: Path) -> None:
    log = AuditLog(tmp_path)
    log.quarantined(reputation(3, NORTH, SOUTH), 3)
    log.released(SOUTH, 5, "me", "x")
    assert [log.out_of_quarantine(number) for number in (3, 4, 5, 6)] == [[], [], [SOUTH], []]


@settings(max_examples=30)
@given(st.lists(st.integers(1, 9), max_size=9).map(sorted), st.integers(0, 9), st.data())
def test_repair_cuts_a_torn_line_and_rounds_that_are_not_durable(
    tmp_path_factory: pytest.TempPathFactory, numbers: list[int], durable: int, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("log")
    log = AuditLog(folder)
    for number in numbers:
        log.released(NORTH, number, "me", "why")
    path = folder / AUDIT_FILE
    whole = path.read_bytes() if numbers else b""
    cut = data.draw(st.integers(0, len(whole)))
    if numbers:
        path.write_bytes(whole[:cut])
    left = whole[:cut].count(b"\n")
    expected = [number for number in numbers[:left] if number <= durable]
    log.repair(durable)
    assert [event["round"] for event in log.events()] == expected
    assert not numbers or path.read_bytes() == whole[: len(path.read_bytes())]
    log.released(SOUTH, 10, "me", "why")
    assert [event["round"] for event in log.events()] == [*expected, 10]


def test_a_name_that_is_no_text_is_kept_too(tmp_path: Path) -> None:
    log = AuditLog(tmp_path)
    log.released(NORTH, 1, NOT_TEXT, "x")
    assert log.events()[0]["by"] == NOT_TEXT


def test_the_next_line_replaces_a_torn_one(tmp_path: Path) -> None:
    log = AuditLog(tmp_path)
    log.released(NORTH, 1, "me", "x")
    with (tmp_path / AUDIT_FILE).open("ab") as file:
        file.write(b'{"time": "2026')
    log.released(SOUTH, 2, "me", "y")
    assert [event["site"] for event in log.events()] == [NORTH, SOUTH]


@pytest.mark.parametrize("line", ["", "[]", "5", "null", "{}", '{"event": 1', '{"event":"x","site":"y","round":"z"}'])
def test_a_whole_line_that_is_no_event_is_never_cut(tmp_path: Path, line: str) -> None:
    log = AuditLog(tmp_path)
    log.released(NORTH, 1, "me", "x")
    log.released(NORTH, 2, "me", "y")
    path = tmp_path / AUDIT_FILE
    first, second = path.read_text().splitlines()
    path.write_text(f"{first}\n{line}\n{second}\n")
    before = path.read_bytes()
    for touch in (log.events, lambda: log.repair(1), lambda: log.released(SOUTH, 2, "me", "z")):
        with pytest.raises(LocalError, match=r"audit\.jsonl: expected what wardround wrote, got line 2; restore it"):
            touch()
    assert path.read_bytes() == before
