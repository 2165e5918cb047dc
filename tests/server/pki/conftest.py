"""A federation on SQLite."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.pki.federation import Federation


@pytest.fixture
def federation(tmp_path: Path) -> Iterator[Federation]:
    made = Federation(tmp_path / "server")
    yield made
    made.close()
