"""A finished or unfinished run in a few figures, read from its directory."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wardround.decoding import encode
from wardround.errors import LocalError
from wardround.plan import Plan
from wardround.simulations.comparison import Comparison, Estimate, Model
from wardround.simulations.run_directory import read_lines
from wardround.simulations.run_info import read_info, read_stored_plan

__all__ = ["RunSummary", "plan_differences", "read_summary"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """`scores` are the federated model's on all test rows; while a run has no results, those of its last validation.

    `seconds` and `cpu_seconds` are sums over the rounds.
    """

    name: str
    plan: Plan
    rounds: int
    seconds: float
    cpu_seconds: float
    split: str
    scores: dict[str, Estimate]


def read_summary(folder: Path) -> RunSummary:
    """The summary of the run in `folder`. Raises LocalError when it holds none, or a file was changed."""
    plan = read_stored_plan(folder, read_info(folder))
    lines = read_lines(folder)
    results = folder / "results.json"
    if results.exists():
        comparison = _comparison(results)
        split, scores = "test", comparison.overall[Model.FEDERATED]
    else:
        last: dict[str, Any] = next(
            (line["validation"] for line in reversed(lines) if line["validation"]), {"metrics": {}}
        )
        split, scores = "validation", {name: Estimate(value=value) for name, value in last["metrics"].items()}
    return RunSummary(
        name=str(folder),
        plan=plan,
        rounds=len(lines),
        seconds=sum(line["seconds"] for line in lines),
        cpu_seconds=sum(line["cpu_seconds"] for line in lines),
        split=split,
        scores=scores,
    )


def _comparison(path: Path) -> Comparison:
    try:
        return Comparison.from_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise LocalError(f"{path}: cannot be read ({error})") from None


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
