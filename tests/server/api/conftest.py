"""A server for each test."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.api.worlds import World, make_world


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    found = make_world(tmp_path)
    yield found
    found.database.close()
