"""Whatever is sent, the server does not fail, and answers as its own description says (schemathesis)."""

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.server.api.worlds import World, make_world
from wardround.server.api.permissions import PERMISSIONS

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
MODES = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """With a run, so that something answers with more than 404."""
    world = make_world(tmp_path_factory.mktemp("server"))
    world.start_run()
    yield world
    world.database.close()


@pytest.fixture(scope="module")
def description(fuzzed: World) -> Any:
    """Our own description, as the server gives it."""
    return schemathesis.openapi.from_dict(fuzzed.ask("GET", "/openapi.json").json())


def fuzz(operation: Any, world: World, token: str, examples: int) -> None:
    for mode in MODES:

        @given(operation.as_strategy(generation_mode=mode))
        @settings(
            max_examples=examples,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        def one(case: Any) -> None:
            check(case, world, token)

        try:
            one()
        except Exception as error:
            if type(error).__name__ != "Unsatisfiable":  # nothing about this route can be wrong
                raise


def check(case: Any, world: World, token: str) -> None:
    wanted = case.as_transport_kwargs(base_url="https://server")
    headers = {name: value for name, value in wanted["headers"].items() if name.lower() != "authorization"}
    headers |= {"authorization": f"Bearer {token}"} if token else {}
    parts = {name: wanted[name] for name in ("json", "params", "files") if wanted.get(name) is not None}
    if wanted.get("data") is not None:
        parts["content" if isinstance(wanted["data"], str | bytes) else "data"] = wanted["data"]
    answer = world.ask(
        wanted["method"],
        wanted["url"].removeprefix("https://server/api/v1"),
        parts.pop("json", None),
        token="",
        headers=headers,
        **parts,
    )
    case.validate_response(answer, checks=CHECKS)


@pytest.mark.parametrize(("method", "path"), sorted(PERMISSIONS))
def test_with_a_session(method: str, path: str, fuzzed: World, description: Any) -> None:
    ends_sessions = (method, path) == ("DELETE", "/api/v1/session")
    fuzz(description[path][method], fuzzed, fuzzed.log_in() if ends_sessions else fuzzed.token, 15)


@pytest.mark.parametrize(("method", "path"), sorted(PERMISSIONS))
def test_without_a_session(method: str, path: str, fuzzed: World, description: Any) -> None:
    fuzz(description[path][method], fuzzed, "", 5)


def test_every_route_is_described(fuzzed: World) -> None:
    described = fuzzed.ask("GET", "/openapi.json").json()["paths"]
    assert {(method.upper(), path) for path, one in described.items() for method in one} == PERMISSIONS.keys()
