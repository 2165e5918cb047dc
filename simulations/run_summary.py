"""A finished or unfinished run in a few figures, read from its directory."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wardround.errors import LocalError
from wardround.plan import Plan
from wardround.server.runs.comparison import Comparison, Estimate, Model
from wardround.server.runs.run_directory import read_lines
from wardround.server.runs.run_info import RunInfo, read_info, read_stored_plan

__all__ = ["RunSummary", "read_summary"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """`scores` are the federated model's on all test rows; while a run has no results, those of its last validation.

    `validation` has the metrics of each round that was evaluated, `participants` the rounds that each site took part
    in. `seconds` and `cpu_seconds` are sums over the rounds.
    """

    name: str
    info: RunInfo
    plan: Plan
    rounds: int
    seconds: float
    cpu_seconds: float
    split: str
    scores: dict[str, Estimate]
    validation: dict[int, dict[str, float]]
    participants: dict[str, int]


def read_summary(folder: Path) -> RunSummary:
    """The summary of the run in `folder`. Raises LocalError when it holds none, or a file was changed."""
    info = read_info(folder)
    plan = read_stored_plan(folder, info)
    lines = read_lines(folder)
    validation = {
        line["round"]: {name: value for name, value in line["validation"]["metrics"].items() if value is not None}
        for line in lines
        if line["validation"]
    }
    results = folder / "results.json"
    if results.exists():
        split, scores = "test", _comparison(results).overall[Model.FEDERATED]
    else:
        last: dict[str, float] = next(reversed(validation.values()), {})
        split, scores = "validation", {name: Estimate(value=value) for name, value in last.items()}
    return RunSummary(
        name=str(folder),
        info=info,
        plan=plan,
        rounds=len(lines),
        seconds=sum(line["seconds"] for line in lines),
        cpu_seconds=sum(line["cpu_seconds"] for line in lines),
        split=split,
        scores=scores,
        validation=validation,
        participants=dict(Counter(site for line in lines for site in _present(line))),
    )


def _present(line: dict[str, Any]) -> set[str]:
    return set(line["cohort"]) - {absence["site"] for absence in line["absences"]}


def _comparison(path: Path) -> Comparison:
    try:
        return Comparison.from_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise LocalError(f"{path}: cannot be read ({error})") from None
