"""A run's progress for a person or a program: a live bar, plain lines, or JSON."""

import sys
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

from wardround.plan import Plan
from wardround.server.runs.caveat import NO_CRYPTOGRAPHY, caveat
from wardround.server.runs.metrics import PRIMARY, Kind
from wardround.server.runs.record_line import encode_line
from wardround.strategies.records import RoundRecord, RunState

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "JsonProgress",
    "LineProgress",
    "LiveProgress",
    "Progress",
    "attendance_words",
    "show_progress",
    "validation_words",
]

_BASELINES = "each hospital alone, all rows pooled, then the report"


class Progress:
    """Shows nothing. An `Observer`, and a context in which the run takes place."""

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def tuning(self, done: int, total: int, last: str) -> None:
        """A trial run of `robust.rule = "auto"` is over; in the end `last` says which rule was chosen."""

    def round_done(self, record: RoundRecord, state: RunState) -> None:
        """A round is over."""


class JsonProgress(Progress):
    """One JSON object per round, as in metrics.jsonl."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def round_done(self, record: RoundRecord, state: RunState) -> None:
        self._out.write(encode_line(record).decode())
        self._out.flush()


class LineProgress(Progress):
    """One line of text per round."""

    def __init__(self, out: TextIO, plan: Plan, *, report: bool = True) -> None:
        self._out, self._plan, self._report = out, plan, report

    def __enter__(self) -> "LineProgress":
        if said := caveat(self._plan):
            self._out.write(f"{said}\n")
        return self

    def tuning(self, done: int, total: int, last: str) -> None:
        self._out.write(f"choosing a rule {done}/{total}  {last}\n")
        self._out.flush()

    def round_done(self, record: RoundRecord, state: RunState) -> None:
        parts = (validation_text(record, self._plan), attendance_text(record), f"{record.seconds:.2f} s")
        text = "  ".join(part for part in parts if part)
        self._out.write(f"round {record.round}/{self._plan.rounds}  {text}\n")
        if ending := ending_text(record, state, self._plan, report=self._report):
            self._out.write(f"{ending}\n")
        self._out.flush()


class LiveProgress(Progress):
    """A bar with the round, the last validation, the time left, and how many sites were there."""

    def __init__(self, console: "Console", plan: Plan, *, report: bool = True) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        self._plan, self._report = plan, report
        self._validation = ""
        self._bar = Bar(
            TextColumn("{task.description}", markup=False),
            MofNCompleteColumn(),
            BarColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
            TextColumn("{task.fields[state]}", markup=False),
            console=console,
        )
        self._task = self._bar.add_task("round", total=plan.rounds, state="preparing")
        self._started = False

    def __enter__(self) -> "LiveProgress":
        self._bar.start()
        if said := caveat(self._plan):
            self._bar.console.print(said, highlight=False, markup=False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def tuning(self, done: int, total: int, last: str) -> None:
        if done == total:
            self._bar.console.print(f"chose the rule {last}", highlight=False, markup=False)
            self._bar.reset(self._task, description="round", total=self._plan.rounds, state="")
        else:
            self._bar.update(self._task, description="choosing a rule", completed=done, total=total, state=last)

    def round_done(self, record: RoundRecord, state: RunState) -> None:
        if not self._started:  # a resumed run begins in the middle
            self._bar.reset(self._task, completed=record.round - 1)
            self._started = True
        self._validation = validation_text(record, self._plan) or self._validation
        text = "  ".join(part for part in (self._validation, attendance_text(record)) if part)
        self._bar.update(self._task, completed=record.round, state=text)
        if ending := ending_text(record, state, self._plan, report=self._report):
            self._bar.console.print(ending, highlight=False, markup=False)


def show_progress(plan: Plan, *, quiet: bool = False, as_json: bool = False, report: bool = True) -> Progress:
    """What suits standard output: JSON or nothing when asked for, a live bar on a terminal, lines elsewhere."""
    if quiet:
        return Progress()
    if as_json:
        return JsonProgress(sys.stdout)
    if not sys.stdout.isatty():
        return LineProgress(sys.stdout, plan, report=report)
    from rich.console import Console

    return LiveProgress(Console(), plan, report=report)


def validation_text(record: RoundRecord, plan: Plan) -> str:
    """The validation's leading metric and its loss, e.g. `auc 0.981  loss 0.083`; empty without a validation."""
    return "" if record.validation is None else validation_words(record.validation.total.metrics(), plan)


def validation_words(found: Mapping[str, float | None], plan: Plan) -> str:
    """The leading one of a validation's metrics, and its loss."""
    leading = PRIMARY[Kind.of(plan.data.target)] if plan.data.target is not None else "accuracy"
    values = {name: found.get(name) for name in (leading, "loss")}
    return "  ".join(f"{name} {value:.4g}" for name, value in values.items() if value is not None)


def attendance_text(record: RoundRecord) -> str:
    """How many of the cohort's sites are in the round, and in how many sums, and why others are not."""
    protection = record.protection
    return attendance_words(
        len(record.cohort),
        [absence.reason for absence in record.absences],
        sums=None if protection is None else sum(bool(group.survivors) for group in protection.groups),
        accounted=protection is not None and protection.accounted,
        void=record.void,
    )


def attendance_words(
    cohort: int, absences: Sequence[str], *, sums: int | None, accounted: bool = False, void: bool = False
) -> str:
    """The same of a cohort of so many sites, and of the reasons of those who are absent."""
    there = f"{cohort - len(absences)}/{cohort} sites"
    if sums is not None:
        there += f" in {sums} group{'' if sums == 1 else 's'}"
        there += f", {NO_CRYPTOGRAPHY}" if accounted else ""
    why = f" ({', '.join(sorted(set(absences)))})" if absences else ""
    return f"{there}{why}{', round void' if void else ''}"


def ending_text(record: RoundRecord, state: RunState, plan: Plan, *, report: bool) -> str:
    """After the last round: why it was the last, if it was not planned to be, and what comes next."""
    stopped = f"stopped after round {record.round}: {state.stopped}" if state.stopped else ""
    if not (stopped or record.round == plan.rounds):
        return ""
    baselines = report and plan.simulation.baselines and plan.task.flower_app is None
    return "; ".join(part for part in (stopped, f"now {_BASELINES}" if baselines else "") if part)
