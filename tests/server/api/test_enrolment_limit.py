"""What strangers may ask of the enrolment: so much from a network, so much in all, and then not even a signature is
checked."""

from datetime import timedelta

import pytest

from tests.server.api.test_routes import joined
from tests.server.api.worlds import World
from wardround.server.api import session_routes


@pytest.fixture
def handled(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The joins that were worked on."""
    found: list[object] = []

    def handle(enrolment: object, body: object) -> tuple[int, dict[str, str]]:
        found.append(body)
        return 403, {"error": "unknown", "message": "no"}

    monkeypatch.setattr(session_routes, "handle_join", handle)
    return found


def join(world: World, address: str) -> int:
    return world.ask("POST", "/join", {"version": 1}, token="", address=address).status_code


def test_thirty_a_minute_from_a_network(world: World, handled: list[object]) -> None:
    assert [join(world, f"2001:db8::{number:x}") for number in range(40)] == [403] * 30 + [429] * 10
    assert len(handled) == 30
    assert join(world, "192.0.2.1") == 403
    world.pass_time(timedelta(seconds=20, microseconds=1))
    answer = world.ask("POST", "/join", content=b"x" * 16384, token="", address="2001:db8::1")
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "40")
    assert answer.json() == {"error": "busy", "message": "too many ask to join or leave; try again in 40 seconds"}
    world.pass_time(timedelta(seconds=40))
    assert join(world, "2001:db8::1") == 403


def test_who_leaves_counts_as_who_joins(world: World, handled: list[object]) -> None:
    assert [join(world, "192.0.2.1") for _ in range(30)] == [403] * 30
    assert world.ask("POST", "/leave", {"version": 1}, token="", address="192.0.2.1").status_code == 429
    assert world.ask("POST", "/leave", {"version": 1}, token="", address="192.0.2.2").status_code == 400


def test_six_hundred_a_minute_in_all(world: World, handled: list[object]) -> None:
    for number in range(25):
        for _ in range(31):
            join(world, f"203.0.113.{number}")
    assert len(handled) == 600
    assert join(world, "192.0.2.1") == 429
    world.pass_time(timedelta(minutes=1))
    assert join(world, "192.0.2.1") == 403


def test_who_is_in_and_who_logs_in_notice_nothing(world: World) -> None:
    line = world.ask("POST", "/invitations", {"site": "Hospital A"}).json()["invitation"]
    for number in range(21):
        for _ in range(30):
            join(world, f"203.0.113.{number}")
    assert world.ask("GET", "/authority", token="").status_code == 200
    assert world.log_in()
    world.pass_time(timedelta(minutes=1))
    assert world.ask("POST", "/join", joined(line, "Hospital A"), token="").status_code == 200
