"""Two runs side by side: what was asked for, what came of it round by round, and what it took."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wardround.decoding import encode
from wardround.errors import LocalError
from wardround.plan import Plan
from wardround.simulations.run_summary import RunSummary, read_summary

__all__ = ["RunComparison", "compare_runs", "plan_differences"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunComparison:
    """Two runs that predict the same thing.

    `plan` has the keys that differ, each with its two values (None: absent). `differences` are second minus first of
    the final scores; empty when one run was judged on test rows and the other on validation rows. `same_data` says
    whether both dealt out the same rows in the same way (None: a run did not note it), so that its scores are on the
    same patients. `validation` has the metrics of both after each round that either evaluated.
    """

    first: RunSummary
    second: RunSummary
    plan: dict[str, tuple[Any, Any]]
    differences: dict[str, float]
    same_data: bool | None
    validation: dict[int, tuple[dict[str, float] | None, dict[str, float] | None]]

    def to_json(self) -> dict[str, Any]:
        """Dicts, lists and numbers."""
        runs = [
            {"run_id": run.info.run_id, "plan_digest": run.info.plan_digest, "engine": dict(run.info.engine)}
            | {name: encode(getattr(run, name)) for name in _FIGURES}
            for run in (self.first, self.second)
        ]
        return {
            "runs": runs,
            "plan": self.plan,
            "differences": self.differences,
            "same_data": self.same_data,
            "validation": [{"round": number, "runs": metrics} for number, metrics in self.validation.items()],
        }


_FIGURES = ("name", "rounds", "seconds", "cpu_seconds", "split", "scores", "participants")


def compare_runs(first: str | Path, second: str | Path) -> RunComparison:
    """Compare the runs in two folders, finished or not.

    Raises LocalError when a folder holds no run, or when the runs predict different things.
    """
    a, b = read_summary(Path(first)), read_summary(Path(second))
    for name in ("name", "classes", "unit"):
        values = [None if run.plan.data.target is None else getattr(run.plan.data.target, name) for run in (a, b)]
        if values[0] != values[1]:
            raise LocalError(
                f"cannot compare {a.name} and {b.name}: expected the same data.target.{name}, "
                f"got {_said(values[0])} and {_said(values[1])}"
            )
    shared = [name for name in a.scores if name in b.scores and a.split == b.split]
    data = [run.info.engine.get("data") for run in (a, b)]
    return RunComparison(
        first=a,
        second=b,
        plan=plan_differences(a.plan, b.plan),
        differences={name: b.scores[name].value - a.scores[name].value for name in shared},
        same_data=None if None in data else data[0] == data[1],
        validation={
            number: (a.validation.get(number), b.validation.get(number))
            for number in sorted(a.validation.keys() | b.validation.keys())
        },
    )


def _said(value: object) -> str:
    return "none" if not value else str(list(value) if isinstance(value, tuple) else value)


def plan_differences(first: Plan, second: Plan) -> dict[str, tuple[Any, Any]]:
    """The keys that differ, each with its two values (None: absent). Columns count as one value."""
    a, b = dict(_leaves(encode(first))), dict(_leaves(encode(second)))
    return {path: (a.get(path), b.get(path)) for path in sorted(a | b) if a.get(path) != b.get(path)}


def _leaves(table: dict[str, Any], above: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, value in table.items():
        if isinstance(value, dict):
            found += _leaves(value, f"{above}{name}.")
        elif name != "folder":
            found.append((f"{above}{name}", value))
    return found
