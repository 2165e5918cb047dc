"""What `run start --watch` and `run watch` show, from what a server answers."""

import json
from io import StringIO
from typing import Any

import pytest

from wardround.errors import LocalError
from wardround.plan import parse_plan
from wardround.server.commands.api_client import UnreachableError
from wardround.server.commands.watching import (
    JsonDisplay,
    LineDisplay,
    LiveDisplay,
    doing_text,
    ending,
    follow,
    run_text,
)

PLAN = parse_plan(
    """
name = "cardio"
rounds = 2
[task]
name = "tabular-classifier"
[data]
source = "csv"
path = "example.csv"
target = { name = "diagnosis", classes = ["no", "yes"] }
columns = [{ name = "age", unit = "years", range = [0, 120] }]
[simulation]
sites = 2
"""
)


def site(name: str, verdict: str = "waiting", *, present: bool = True, reason: str = "") -> dict[str, Any]:
    return {"site": name, "verdict": verdict, "present": present, "reason": reason}


def run(state: str = "waiting", *, round: int = 0, sites: Any = (), **more: Any) -> dict[str, Any]:
    found = {"number": 4, "name": "cardio", "state": state, "reason": "", "round": round, "rounds": 2}
    return found | {"sites": list(sites), "progress": None, "model": None, "report": False} | more


def line(number: int, **more: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"round": number, "void": False, "cohort": ["A", "B"], "absences": [], "seconds": 1.25}
    return found | {"protection": None, "validation": {"metrics": {"auc": 0.98123, "loss": 0.5, "n": 3}}} | more


class FakeServer:
    """Answers `events` with one news after another, and `rounds` with what is done."""

    def __init__(self, *news: dict[str, Any] | Exception, lines: Any = ()) -> None:
        self.news, self.lines = list(news), list(lines)
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def ask(self, method: str, path: str, body: Any = None, **query: Any) -> Any:
        self.asked.append((path, query))
        if path.endswith("/rounds"):
            return [one for one in self.lines if one["round"] > query["after"]]
        found = self.news.pop(0)
        if isinstance(found, Exception):
            raise found
        return {"run": found, "events": [{"id": 10 + len(self.asked)}]}


def watched(server: FakeServer) -> tuple[str, list[float]]:
    out, slept = StringIO(), list[float]()
    follow(server, 4, LineDisplay(out, PLAN), sleep=slept.append)  # type: ignore[arg-type]
    return out.getvalue(), slept


def test_a_run_from_its_approvals_to_its_end() -> None:
    server = FakeServer(
        run(sites=[site("A"), site("B", present=False)]),
        run(sites=[site("A", "approved"), site("B", present=False)]),
        run("running", sites=[site("A", "approved"), site("B", "approved")]),
        run("running", round=1, sites=[site("A", "approved"), site("B", "approved")]),
        run("finished", round=2, sites=[site("A", "approved"), site("B", "approved")]),
        lines=[line(1), line(2, absences=[{"site": "B", "reason": "no answer"}])],
    )
    said, _ = watched(server)
    assert said.splitlines() == [
        "run 4 cardio: waiting for the approval of A, B (not connected: B)",
        "A: approved",
        "run 4 cardio: waiting for the approval of B (not connected: B)",
        "B: approved",
        "run 4 cardio: running",
        "round 1/2  auc 0.9812  loss 0.5  2/2 sites  1.25 s",
        "round 2/2  auc 0.9812  loss 0.5  1/2 sites (no answer)  1.25 s",
    ]
    waits = [query["wait_s"] for path, query in server.asked if path.endswith("/events")]
    assert waits == [0, 20, 20, 20, 20]
    afters = [query["after"] for path, query in server.asked if path.endswith("/events")]
    assert afters == sorted(afters)


def test_a_protected_round_says_in_how_many_sums() -> None:
    protection = {"accounted": False, "groups": [{"number": 0, "members": 2, "survivors": 2}]}
    said, _ = watched(FakeServer(run("finished", round=1), lines=[line(1, protection=protection, validation=None)]))
    assert "round 1/2  2/2 sites in 1 group  1.25 s" in said


def test_a_server_that_is_away_is_waited_for_and_said_once() -> None:
    away = UnreachableError("https://h:1: nothing listens there")
    said, slept = watched(FakeServer(run("running"), away, away, away, run("finished")))
    assert said.count("waiting for it") == 1
    assert slept == [5.0] * 3


def test_a_server_that_stays_away_is_given_up() -> None:
    with pytest.raises(UnreachableError):
        watched(FakeServer(*[UnreachableError("away")] * 200))


def test_a_refusal_is_not_waited_for() -> None:
    with pytest.raises(LocalError, match="log in"):
        watched(FakeServer(LocalError("expected a session; log in")))


def test_a_worker_that_was_started_again_is_said() -> None:
    progress = {"doing": "train", "asked": ["A"], "answered": [], "restarts": 1}
    assert (
        "its worker had ended and was started again"
        in watched(FakeServer(run("running", progress=progress), run("finished")))[0]
    )


def test_what_is_waited_for() -> None:
    progress = {"doing": "train", "asked": list("ABCDEFGH"), "answered": ["A"], "restarts": 0}
    assert doing_text(run("running", progress=progress)) == "train: waiting for B, C, D, E, F and 2 more"
    assert doing_text(run("running", progress=progress | {"asked": ["A"]})) == "train"
    assert doing_text(run("running")) == ""
    assert run_text(run("paused", reason="ada")) == "paused: ada"


def test_endings() -> None:
    ended = run("finished", round=2, model={"name": "cardio", "version": 3}, report=True)
    assert ending(ended) == "run 4: finished after round 2\nmodel   cardio@3\nreport  wardround run report 4"
    assert ending(run("stopped", round=1, reason="by ada")) == "run 4: stopped after round 1: by ada"
    with pytest.raises(LocalError, match="run 4: failed after round 0: B denied it"):
        ending(run("failed", reason="B denied it"))


def test_json_says_each_change_once() -> None:
    out = StringIO()
    server = FakeServer(run(), run(), run("finished", round=1), lines=[line(1)])
    follow(server, 4, JsonDisplay(out))  # type: ignore[arg-type]
    said = [json.loads(one) for one in out.getvalue().splitlines()]
    assert [next(iter(one)) for one in said] == ["run", "run", "round"]


def test_the_live_display_shows_the_same_lines_above_its_bar() -> None:
    from rich.console import Console

    out = StringIO()
    console = Console(file=out, force_terminal=True, width=120)
    progress = {"doing": "train", "asked": ["A", "B"], "answered": ["A"], "restarts": 0}
    server = FakeServer(
        run(sites=[site("A"), site("B")]),
        run("running", round=1, progress=progress),
        run("finished", round=2),
        lines=[line(1), line(2)],
    )
    follow(server, 4, LiveDisplay(console, PLAN))  # type: ignore[arg-type]
    said = out.getvalue()
    assert "waiting for the approval of A, B" in said
    assert "round 2/2  auc 0.9812" in said
