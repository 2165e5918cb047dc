"""The log says who asked for what and how it ended, and has no secret in it, whatever happens."""

import json
import logging
from collections.abc import Iterator
from io import StringIO
from typing import Any

import pytest

from tests.server.api.test_routes import joined
from tests.server.api.worlds import PASSWORD, World, first_model
from wardround.server.api.json_log import adopt_standard_logging, json_log
from wardround.server.state.runs import Runs


def test_a_line_for_each_request(world: World) -> None:
    answer = world.ask("GET", "/runs/7")
    line = world.lines()[-1]
    assert answer.headers["x-request-id"] == line["request"]
    assert line | {"ms": 0, "timestamp": ""} == {
        "event": "request",
        "level": "info",
        "timestamp": "",
        "request": line["request"],
        "method": "GET",
        "route": "/api/v1/runs/{run}",
        "account": "ada",
        "from": "127.0.0.1",
        "status": 404,
        "ms": 0,
    }


def test_requests_of_strangers_do_not_fill_the_disk(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("wardround.server.api.request_log.time.monotonic", lambda: now[0])
    for _ in range(310):
        world.ask("GET", "/nothing", token="")
    assert len(world.lines()) == 300
    world.ask("GET", "/session")
    assert world.lines()[-1]["account"] == "ada", "who has a session always has a line"
    now[0] += 60
    world.ask("GET", "/nothing", token="")
    warning, line = world.lines()[-2:]
    assert (warning["event"], warning["left_out"]) == ("requests without a line", 10)
    assert line["status"] == 404


def test_every_answer_has_the_headers_of_a_careful_server(world: World) -> None:
    for answer in (
        world.ask("GET", "/health", token=""),
        world.ask("GET", "/nothing"),
        world.ask("GET", "/runs", token=""),
    ):
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["strict-transport-security"].startswith("max-age=")


def test_a_whole_scenario_leaves_no_secret_in_the_log(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    """Nor on standard output, where a stray print would go."""
    line = world.ask("POST", "/invitations", {"site": "Hospital A"}).json()["invitation"]
    token = line.partition("#")[2]
    body = joined(line, "Hospital A")
    world.ask("POST", "/join", body, token="")
    world.ask("POST", "/join", joined(line, "Hospital A"), token="")
    scrape = world.ask("POST", "/metrics/token").json()["token"]
    world.ask("GET", "/metrics", token=scrape)
    world.ask("POST", "/session", {"name": "ada", "password": "a wrong guess at it"}, token="")
    world.ask("POST", "/session", {"name": PASSWORD, "password": "x"}, token="")  # typed into the wrong field
    world.ask("POST", "/session", {"name": "ada", "password": PASSWORD * 100}, token="")
    world.ask("GET", f"/runs/{world.token}")
    world.ask("GET", f"/clients?token={world.token}")
    world.ask("GET", f"/{world.token}")
    digest = world.add_plan(model=False)
    world.ask("PUT", f"/plans/{digest}/first-model", content=first_model(digest))
    world.ask("DELETE", "/session")
    out, err = capfd.readouterr()
    said = world.log.getvalue() + out + err
    assert len(world.lines()) > 12
    secrets = (world.token, PASSWORD, token, scrape, "a wrong guess", body["proof"], body["csr"], body["token"])
    assert not [one for one in secrets if one in said]


def test_what_nobody_foresaw_is_500_and_logged_without_its_text(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: Runs, states: Any = None) -> Any:
        raise KeyError("s3cret")

    monkeypatch.setattr(Runs, "list", fails)
    answer = world.ask("GET", "/runs")
    assert (answer.status_code, answer.json()) == (500, {"error": "a failure of the server; its log says more"})
    line = world.lines()[-1]
    assert (line["level"], line["status"], line["error"]) == ("error", 500, "KeyError")
    assert line["where"].startswith("test_request_log.py:")
    assert "s3cret" not in world.log.getvalue()


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    found = logging.getLogger()
    handlers, level = found.handlers, found.level
    yield found
    found.handlers = handlers
    found.setLevel(level)


def test_what_libraries_log_comes_without_values(root: logging.Logger) -> None:
    out = StringIO()
    adopt_standard_logging(json_log(out))
    try:
        raise ValueError("s3cret")
    except ValueError:
        logging.getLogger("lib").exception("could not do %s", "s3cret")
    logging.getLogger("lib").info("chatter")
    (line,) = map(json.loads, out.getvalue().splitlines())
    assert (line["event"], line["logger"], line["error"], line["level"]) == (
        "could not do %s",
        "lib",
        "ValueError",
        "error",
    )
    assert "s3cret" not in out.getvalue()
