from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.client.doctor.served_site import ServedSite, served_site


@pytest.fixture
def served(tmp_path: Path) -> Iterator[ServedSite]:
    with served_site(tmp_path) as made:
        yield made
