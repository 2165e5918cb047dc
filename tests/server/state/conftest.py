"""Databases for tests: a new, empty one, of either kind."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.postgresql import Cluster, running
from wardround.server.state.database import Database, sqlite_url


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Cluster]:
    with running() as cluster:
        yield cluster


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a new, empty database."""
    if request.param == "sqlite":
        yield sqlite_url(tmp_path / "server.db")
        return
    cluster: Cluster = request.getfixturevalue("postgresql")
    with cluster.database() as found:
        yield found


@pytest.fixture
def opened() -> Iterator[Callable[[str], Database]]:
    """Opens databases, and closes them at the end."""
    with ExitStack() as stack:

        def open_one(url: str) -> Database:
            database = Database.open(url)
            stack.callback(database.close)
            return database

        yield open_one


@pytest.fixture
def database(url: str, opened: Callable[[str], Database]) -> Database:
    """A database with its tables."""
    found = opened(url)
    found.migrate()
    return found
