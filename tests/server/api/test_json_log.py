"""The server's log: what is our own comes whole, and a log that cannot be written stops nobody."""

import io
import json
import logging
from collections.abc import Iterator

import pytest

from wardround.server.api.json_log import adopt_standard_logging, json_log


@pytest.fixture
def root() -> Iterator[None]:
    """The root logger, put back afterwards."""
    logger = logging.getLogger()
    handlers, level = list(logger.handlers), logger.level
    yield
    logger.handlers = handlers
    logger.setLevel(level)


def test_our_own_warnings_come_with_their_figures_and_a_librarys_without(root: None) -> None:
    out = io.StringIO()
    adopt_standard_logging(json_log(out))
    logging.getLogger("wardround").warning("run %s: its worker ended after round %d", "7f\x1b[2J", 3)
    logging.getLogger("sqlalchemy.pool").warning("a value: %s", "Mrs Smith")
    own, foreign = (json.loads(line)["event"] for line in out.getvalue().splitlines())
    assert own == "run 7f\ufffd[2J: its worker ended after round 3"
    assert foreign == "a value: %s"


def test_a_log_on_a_full_disk_is_lost_and_no_error() -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    json_log(Full()).warning("the disk is full")
