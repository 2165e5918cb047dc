"""Live progress of a run in the terminal: who has to approve, each round as in a simulation, and how it ends."""

import json
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from wardround.errors import LocalError
from wardround.plan import Plan
from wardround.server.commands.api_client import ApiClient
from wardround.server.runs.progress import attendance_words, validation_words

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Display", "JsonDisplay", "LineDisplay", "LiveDisplay", "ending", "follow", "round_text", "run_text"]

_WAIT_S = 20
_PATIENCE_S = 600.0
_ENDED = ("finished", "stopped", "failed")


class Display(Protocol):
    """What is shown. `wait_s` says how long it can do without a look at the run."""

    wait_s: int

    def run(self, run: dict[str, Any]) -> None:
        """Where the run stands now."""

    def round(self, line: dict[str, Any]) -> None:
        """A round is done."""

    def note(self, text: str) -> None:
        """Something else happened."""

    def close(self) -> None: ...


def follow(
    client: ApiClient, number: int, display: Display, *, sleep: Callable[[float], None] = time.sleep
) -> dict[str, Any]:
    """Show a run until it has ended, and give it. A server that is away for less than ten minutes is waited for."""
    after, rounds, away_s, wait_s = 0, 0, 0.0, 0
    try:
        while True:
            try:
                news = client.ask("GET", f"/runs/{number}/events", after=after, wait_s=wait_s)
                display.run(news["run"])
                while rounds < news["run"]["round"]:
                    lines = client.ask("GET", f"/runs/{number}/rounds", after=rounds)
                    if not lines:
                        break
                    for line in lines:
                        display.round(line)
                        rounds = line["round"]
            except LocalError as error:
                if away_s >= _PATIENCE_S or not _passes(error):
                    raise
                if away_s == 0:
                    display.note(f"{error}; waiting for it")
                sleep(5.0)
                away_s += 5.0
                continue
            away_s, wait_s = 0.0, display.wait_s
            after = max((event["id"] for event in news["events"]), default=after)
            if news["run"]["state"] in _ENDED:
                run: dict[str, Any] = news["run"]
                return run
    finally:
        display.close()


def ending(run: dict[str, Any]) -> str:
    """How a run ended, and where its result is; LocalError for one that made none."""
    number = run["number"]
    said = f"run {number}: {run['state']} after round {run['round']}"
    if run["reason"]:
        said += f": {run['reason']}"
    if run["state"] == "failed":
        raise LocalError(said)
    if run["model"] is not None:
        said += f"\nmodel   {run['model']['name']}@{run['model']['version']}"
    if run["report"]:
        said += f"\nreport  wardround run report {number}"
    return said


def run_text(run: dict[str, Any]) -> str:
    """Where a run stands, in a line."""
    if run["state"] == "waiting":
        waiting = [one["site"] for one in run["sites"] if one["verdict"] == "waiting"]
        away = [one["site"] for one in run["sites"] if one["verdict"] == "waiting" and not one["present"]]
        text = f"waiting for the approval of {', '.join(waiting)}"
        return f"{text} (not connected: {', '.join(away)})" if away else text
    reason = f": {run['reason']}" if run["reason"] else ""
    return f"{run['state']}{reason}"


def doing_text(run: dict[str, Any]) -> str:
    """What the sites of a running run were asked, and who has not answered."""
    progress = run["progress"]
    if progress is None or not progress["doing"]:
        return ""
    missing = [site for site in progress["asked"] if site not in progress["answered"]]
    if not missing:
        return str(progress["doing"])
    names = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
    return f"{progress['doing']}: waiting for {names}"


def round_text(line: dict[str, Any], plan: Plan) -> str:
    """A line of metrics.jsonl as a simulation shows its round."""
    parts = [validation_words(line["validation"]["metrics"], plan) if line["validation"] else "", attendance_of(line)]
    return "  ".join(part for part in (*parts, f"{line['seconds']:.2f} s") if part)


def attendance_of(line: dict[str, Any]) -> str:
    """How many sites were there."""
    protection = line["protection"]
    return attendance_words(
        len(line["cohort"]),
        [absence["reason"] for absence in line["absences"]],
        sums=None if protection is None else sum(bool(group["survivors"]) for group in protection["groups"]),
        accounted=protection is not None and protection["accounted"],
        void=line["void"],
    )


class JsonDisplay:
    """A JSON object for each change of the run's state and for each round."""

    wait_s = _WAIT_S

    def __init__(self, out: TextIO) -> None:
        self._out, self._last = out, ""

    def run(self, run: dict[str, Any]) -> None:
        said = json.dumps({"run": run}, ensure_ascii=False)
        if said != self._last:
            self._last = said
            self._write(said)

    def round(self, line: dict[str, Any]) -> None:
        self._write(json.dumps(line, ensure_ascii=False))

    def note(self, text: str) -> None:
        self._write(json.dumps({"note": text}))

    def close(self) -> None:
        return None

    def _write(self, text: str) -> None:
        self._out.write(f"{text}\n")
        self._out.flush()


class LineDisplay:
    """A line of text for each of them."""

    wait_s = _WAIT_S

    def __init__(self, out: "TextIO | _Above", plan: Plan) -> None:
        self._out, self._plan = out, plan
        self._said: str = ""
        self._verdicts: dict[str, str] = {}
        self._restarts = 0

    def run(self, run: dict[str, Any]) -> None:
        for one in run["sites"]:
            if self._verdicts.get(one["site"], "waiting") != one["verdict"]:
                reason = f": {one['reason']}" if one["reason"] else ""
                self.note(f"{one['site']}: {one['verdict']}{reason}")
            self._verdicts[one["site"]] = one["verdict"]
        restarts = run["progress"]["restarts"] if run["progress"] is not None else 0
        if restarts > self._restarts:
            self.note("its worker had ended and was started again")
        self._restarts = restarts
        said = run_text(run)
        if said != self._said and run["state"] not in _ENDED:
            self.note(f"run {run['number']} {run['name']}: {said}")
        self._said = said

    def round(self, line: dict[str, Any]) -> None:
        self.note(f"round {line['round']}/{self._plan.rounds}  {round_text(line, self._plan)}")

    def note(self, text: str) -> None:
        self._out.write(f"{text}\n")
        self._out.flush()

    def close(self) -> None:
        return None


class LiveDisplay:
    """A bar with the round, what is being waited for, the last validation, and lines above it for the rest."""

    wait_s = 1

    def __init__(self, console: "Console", plan: Plan) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

        self._plan, self._console = plan, console
        self._lines = LineDisplay(_Above(console), plan)
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("round"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("{task.fields[state]}", markup=False),
            console=console,
        )
        self._task = self._bar.add_task("round", total=plan.rounds, state="")
        self._validation = ""
        self._bar.start()

    def run(self, run: dict[str, Any]) -> None:
        self._lines.run(run)
        state = doing_text(run) or run_text(run)
        text = "  ".join(part for part in (self._validation, state) if part)
        self._bar.update(self._task, completed=run["round"], state=text)

    def round(self, line: dict[str, Any]) -> None:
        if line["validation"]:
            self._validation = validation_words(line["validation"]["metrics"], self._plan)
        self._lines.round(line)

    def note(self, text: str) -> None:
        self._lines.note(text)

    def close(self) -> None:
        self._bar.stop()


class _Above:
    """Writes above a bar."""

    def __init__(self, console: "Console") -> None:
        self._console = console

    def write(self, text: str) -> int:
        self._console.print(text, end="", highlight=False, markup=False)
        return len(text)

    def flush(self) -> None:
        return None


def chosen_display(plan: Plan, *, as_json: bool) -> Display:
    """What suits standard output."""
    if as_json:
        return JsonDisplay(sys.stdout)
    if not sys.stdout.isatty():
        return LineDisplay(sys.stdout, plan)
    from rich.console import Console

    return LiveDisplay(Console(), plan)


def _passes(error: LocalError) -> bool:
    """Whether a failure is of the connection, and may pass."""
    from wardround.server.commands.api_client import UnreachableError

    return isinstance(error, UnreachableError)
