"""What the timeline has of a round, and that a long line is cut and not refused."""

import json
from typing import Any

import pytest

from wardround.errors import RemoteError
from wardround.server.runs.round_event import round_event

MOST = 1 << 16


def line(**changes: Any) -> dict[str, Any]:
    return {
        "round": 1,
        "void": False,
        "aggregation": "",
        "cohort": ["a", "b"],
        "absences": [],
        "protection": None,
        "privacy": None,
        "train": None,
        "validation": None,
        "quarantined": [],
        "seconds": 1.0,
    } | changes


def absences(letters: int, site: str = "Hospital") -> list[dict[str, str]]:
    return [{"site": f"{site} {number}", "reason": "\U0001f3e5" * letters} for number in range(60)]


def metrics(number: int, value: float = 0.1234567890123456) -> dict[str, Any]:
    return {"metrics": {f"class {one:05d}: F1 score": value for one in range(number)}}


def size(event: dict[str, Any]) -> int:
    return len(json.dumps(event, ensure_ascii=False).encode())


def test_a_short_line_is_whole() -> None:
    event = round_event(line(absences=absences(10), validation=metrics(300)))
    assert event["absent"] == 60 and len(event["absences"]) == 50
    assert event["absences"][0]["reason"] == "\U0001f3e5" * 10
    assert len(event["validation"]) == 300


def test_reasons_go_first() -> None:
    event = round_event(line(absences=absences(200), validation=metrics(800)))
    assert size(event) <= MOST and len(event["validation"]) == 800
    assert event["absences"][0] == {"site": "Hospital 0", "reason": ""}


def test_then_absences_which_are_still_counted() -> None:
    event = round_event(line(absences=absences(0, "\U0001f3e5" * 200), validation=metrics(800)))
    assert size(event) <= MOST and len(event["validation"]) == 800
    assert event["absences"] == [] and event["absent"] == 60


def test_then_metrics_beyond_two_hundred() -> None:
    event = round_event(line(absences=absences(5), train=metrics(150), validation=metrics(20_000)))
    assert size(event) <= MOST and event["absences"] == []
    assert list(event["validation"]) == list(metrics(200)["metrics"]) and len(event["train"]) == 150


def test_names_without_end_are_cut_too() -> None:
    event = round_event(line(validation={"metrics": {f"{one}" + "x" * 10_000: 0.5 for one in range(300)}}))
    assert size(event) <= MOST and event["validation"] == {}


@pytest.mark.parametrize(
    "changes",
    [
        {"quarantined": ["x" * MOST]},
        {"validation": metrics(20_000, float("nan"))},
        {"validation": {"metrics": {**metrics(20_000)["metrics"], "last": "text"}}},  # in what would be cut
        {"round": 0},
        {"round": 1 << 31},
        {"absences": [{}]},
        {"seconds": "1"},
    ],
)
def test_what_is_no_line_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(RemoteError, match="expected the line of a round"):
        round_event(line(**changes))
