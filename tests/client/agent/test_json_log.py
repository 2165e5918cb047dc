"""Lines of JSON that nobody can forge."""

import io
import json
import logging

from wardround.client.agent.json_log import BoundedLines, JsonLines


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


def test_who_makes_the_agent_say_something_again_and_again_fills_no_disk() -> None:
    stream, now = io.StringIO(), [0.0]
    handler = BoundedLines(stream, lambda: now[0])
    handler.setFormatter(JsonLines())

    def log(count: int, message: str, line: int) -> list[tuple[str, object]]:
        """What is written for events of one place, with how often."""
        start = stream.tell()
        for number in range(count):
            made = record(f"{message} {number}")
            made.lineno = line
            handler.handle(made)
        found = [json.loads(one) for one in stream.getvalue()[start:].splitlines()]
        return [(one["event"], one.get("times")) for one in found]

    assert log(10_000, "refused", 1) == [(f"refused {number}", None) for number in range(10)]
    now[0] = 59.0
    assert log(1, "attached", 2) == [("attached 0", None)]
    assert log(5, "refused", 1) == []
    now[0] = 60.0
    assert log(1, "attached", 2) == [("refused 4", 9995), ("attached 0", None)]
    assert log(12, "refused", 1) == [(f"refused {number}", None) for number in range(10)]
    handler.close()
    last = json.loads(stream.getvalue().splitlines()[-1])
    assert (last["event"], last["times"]) == ("refused 11", 2)


def test_of_a_bug_there_is_its_kind_and_place_and_no_text() -> None:
    try:
        raise ZeroDivisionError("John Smith, 47")
    except ZeroDivisionError as error:
        line = JsonLines().format(record("a bug", exc_info=(type(error), error, error.__traceback__)))
    assert "Smith" not in line and "ZeroDivisionError at test_json_log.py:" in line
