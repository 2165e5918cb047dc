"""Events and settings: numbers that only go up."""

from threading import Event as Flag
from threading import Thread

import pytest

from tests.server.state.at_once import at_once
from tests.server.state.rows import NOW
from wardround.errors import LocalError
from wardround.server.state.database import Database
from wardround.server.state.events import Events
from wardround.server.state.settings import Settings


def test_events_come_back_in_order_after_a_number_and_by_run(database: Database) -> None:
    events = Events(database)
    assert events.newest() == 0
    added = [
        events.add("round", now=NOW, subject="A", run_id=f"run {i % 2}", who="server", detail={"round": i, "x": [None]})
        for i in range(6)
    ]
    assert events.list() == added
    assert events.newest() == added[-1].id
    assert events.list(after=added[3].id) == added[4:]
    assert events.list(run_id="run 1", after=added[1].id) == [added[3], added[5]]
    assert events.list(most=2) == added[:2]


def test_a_detail_is_what_json_can_say(database: Database) -> None:
    for detail in ({"x": float("nan")}, {"x": b"bytes"}):
        with pytest.raises((ValueError, TypeError)):
            Events(database).add("x", now=NOW, detail=detail)
    text = {"x": "zero \0, surrogate \ud800"}
    assert Events(database).add("x", now=NOW, detail=text).detail == Events(database).list()[0].detail == text


def test_a_reader_that_goes_on_after_the_last_misses_none(database: Database, url: str) -> None:
    """Without the lock a later number could be visible before an earlier one, whose transaction takes longer."""

    def add(one: Database, i: int) -> None:
        for k in range(10):
            with one.transaction():
                Events(one).add("x", now=NOW, detail={"i": i, "k": k})

    stop, read = Flag(), list[int]()

    def follow() -> None:
        ending = False
        while not ending:
            ending = stop.is_set()
            after = read[-1] if read else 0
            read.extend(one.id for one in Events(database).list(after=after))

    reader = Thread(target=follow)
    reader.start()
    try:
        at_once(url, 6, add)
    finally:
        stop.set()
        reader.join(timeout=60)
    assert read == [one.id for one in Events(database).list()]
    assert len(read) == 60


def test_the_number_of_an_event_that_was_undone_leaves_no_later_one_hidden(database: Database, url: str) -> None:
    """One transaction adds an event and waits; the other's waits for it, so no number overtakes."""
    other = Database.open(url)
    order: list[str] = []

    def second() -> None:
        Events(other).add("second", now=NOW)
        order.append("second")

    thread = Thread(target=second)
    with database.transaction():
        first = Events(database).add("first", now=NOW)
        thread.start()
        thread.join(timeout=0.2)
        order.append("first")
    thread.join(timeout=60)
    other.close()
    assert order == ["first", "second"]
    assert [one.kind for one in Events(database).list()] == ["first", "second"]
    assert Events(database).list()[0] == first


def test_a_setting_is_what_was_last_put(database: Database, url: str) -> None:
    settings = Settings(database)
    assert settings.get("key") is None
    at_once(url, 4, lambda one, i: Settings(one).put("key", str(i)))
    assert settings.get("key") in {"0", "1", "2", "3"}
    settings.put("key", "words")
    assert settings.get("key") == "words"
    settings.put("other", "words")
    settings.remove("other")
    assert settings.get("other") is None
    with pytest.raises(LocalError, match="none"):
        settings.counter("key")


def test_a_counter_only_goes_up(database: Database) -> None:
    settings = Settings(database)
    assert (settings.counter("n"), settings.advance("n"), settings.advance("n"), settings.counter("n")) == (0, 1, 2, 2)
    assert settings.advance("n", to=10) == 10
    for to in (10, 9, -1):
        with pytest.raises(LocalError, match="expected a number above 10"):
            settings.advance("n", to=to)
