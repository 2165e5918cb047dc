"""Lines of JSON that nobody can forge."""

import json
import logging

from wardround.client.agent.json_log import JsonLines


def record(message: str, **more: object) -> logging.LogRecord:
    made = logging.LogRecord("wardround", logging.WARNING, "x.py", 1, message, None, None)
    made.__dict__.update(more)
    return made


def test_an_event_is_one_line_with_its_time_level_and_run() -> None:
    found = json.loads(JsonLines().format(record("attached", run="abc")))
    assert (found["event"], found["level"], found["run"]) == ("attached", "warning", "abc")
    assert found["at"].endswith("+00:00")


def test_what_a_peer_said_can_neither_break_the_line_nor_write_to_a_terminal() -> None:
    line = JsonLines().format(record('refused: "\n{"at": 1}\x1b[2J' + "x" * 10_000))
    assert "\n" not in line and "\x1b" not in line and len(line) < 3000
    assert json.loads(line)["event"].startswith('refused: "')


def test_of_a_bug_there_is_its_kind_and_place_and_no_text() -> None:
    try:
        raise ZeroDivisionError("John Smith, 47")
    except ZeroDivisionError as error:
        line = JsonLines().format(record("a bug", exc_info=(type(error), error, error.__traceback__)))
    assert "Smith" not in line and "ZeroDivisionError at test_json_log.py:" in line
