"""Deny by default: what is not in the table does not start, and what is asks for a session and a role."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.api.worlds import World, make_world
from wardround.server.api.app import make_routes
from wardround.server.api.login import Login
from wardround.server.api.metrics import ServerMetrics
from wardround.server.api.permissions import PERMISSIONS, ROLES, Permission, allowed, check_routes

PUBLIC = {
    ("GET", "/api/v1/health"),
    ("GET", "/api/v1/authority"),
    ("POST", "/api/v1/join"),
    ("POST", "/api/v1/leave"),
    ("POST", "/api/v1/session"),
}
NEEDS_SESSION = sorted(PERMISSIONS.keys() - PUBLIC)
NEEDS_MORE = sorted(one for one, needed in PERMISSIONS.items() if needed not in (Permission.PUBLIC, Permission.SESSION))
VALUES = {"{run}": "1", "{digest}": "0" * 64, "{invitation}": "0" * 32}


def address(path: str) -> str:
    for name, value in VALUES.items():
        path = path.replace(name, value)
    return path.removeprefix("/api/v1")


@pytest.fixture
def staffed(tmp_path: Path) -> Iterator[World]:
    """With a role that sees sites and nothing else, and one that no table has."""
    world = make_world(tmp_path, roles={**ROLES, "viewer": frozenset({Permission.SEE_SITES})})
    world.add_account("vera", "viewer")
    world.add_account("stray", "stray")
    yield world
    world.database.close()


def test_no_more_than_these_are_public() -> None:
    assert {one for one, needed in PERMISSIONS.items() if needed is Permission.PUBLIC} == PUBLIC


def test_a_route_without_an_entry_does_not_start(world: World) -> None:
    app = make_routes(world.services, Login(world.services), ServerMetrics(world.services))
    check_routes(app)

    @app.get("/api/v1/forgotten")
    def forgotten() -> str:
        return "everything"

    with pytest.raises(RuntimeError, match="expected every route in the table of permissions, got GET /api/v1/forgo"):
        check_routes(app)


def test_an_entry_without_a_route_does_not_start(world: World) -> None:
    app = make_routes(world.services, Login(world.services), ServerMetrics(world.services))
    with pytest.raises(RuntimeError, match="expected a route for every row"):
        check_routes(app, {**PERMISSIONS, ("GET", "/api/v1/gone"): Permission.PUBLIC})


def test_what_is_no_plain_route_does_not_start(world: World) -> None:
    app = make_routes(world.services, Login(world.services), ServerMetrics(world.services))
    app.mount("/files", app)
    with pytest.raises(RuntimeError, match="got Mount"):
        check_routes(app)


@pytest.mark.parametrize(("method", "path"), NEEDS_SESSION)
def test_without_a_session_it_is_401(world: World, method: str, path: str) -> None:
    for token in ("", "x" * 43):
        answer = world.ask(method, address(path), token=token)
        assert answer.status_code == 401
        assert answer.json() == {"error": "expected a session; log in: wardround login"}


@pytest.mark.parametrize(("method", "path"), NEEDS_MORE)
def test_without_the_permission_it_is_403(staffed: World, method: str, path: str) -> None:
    vera, stray = staffed.log_in("vera"), staffed.log_in("stray")
    assert staffed.ask(method, address(path), token=stray).status_code == 403
    needed = PERMISSIONS[method, path]
    answer = staffed.ask(method, address(path), token=vera)
    if needed is Permission.SEE_SITES:
        assert answer.status_code == 200
    else:
        assert answer.status_code == 403
        assert answer.json()["error"] == f"the role 'viewer' may not do that ({needed.value})"


def test_a_refused_body_is_not_read(world: World) -> None:
    """Not even that it is no JSON is found out."""
    answer = world.ask("POST", "/runs", token="", content=b"{", headers={"content-type": "application/json"})
    assert answer.status_code == 401


def test_an_unknown_role_may_have_a_session_and_nothing_else() -> None:
    assert allowed("stray", Permission.SESSION)
    assert not any(allowed("stray", one) for one in Permission if one not in (Permission.PUBLIC, Permission.SESSION))
    assert all(allowed("owner", one) for one in Permission)


@pytest.mark.parametrize("path", ["/docs", "/", "/nothing", "/session/", "/session/x", "//session"])
def test_there_is_nothing_else(world: World, path: str) -> None:
    assert world.ask("GET", path).status_code == 404
    assert world.ask("GET", f"/..{path}").status_code in (307, 404)


def test_another_method_is_405(world: World) -> None:
    assert world.ask("DELETE", "/clients").status_code == 405
    assert world.ask("HEAD", "/clients", token="").status_code == 405
    assert world.ask("OPTIONS", "/session", token="").status_code == 405


def test_the_scrape_token_reads_metrics_and_nothing_else(world: World) -> None:
    first = world.ask("POST", "/metrics/token").json()["token"]
    second = world.ask("POST", "/metrics/token").json()["token"]
    answer = world.ask("GET", "/metrics", token=second)
    assert answer.status_code == 200
    assert world.ask("GET", "/metrics", token=first).status_code == 401
    for method, path in NEEDS_SESSION:
        if path != "/api/v1/metrics":
            assert world.ask(method, address(path), token=second).status_code == 401
    assert second not in world.services.settings.get("metrics.scrape-token")  # type: ignore[operator]
