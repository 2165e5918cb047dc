"""What a report is made from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from wardround.plan import Plan
from wardround.simulations.comparison import Comparison
from wardround.simulations.run_info import RunInfo

__all__ = ["ReportedRun"]

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedRun:
    """A run as its directory tells it. What is absent is left out of the report, with a sentence.

    `lines` are those of metrics.jsonl (see `record_line`), `differences` is `Heterogeneity.to_json()`, `stopped` says
    why the run ended before its last planned round, `resumed` the rounds before which it was continued. `info` is
    absent when nothing was written to disk.
    """

    plan: Plan
    info: RunInfo | None = None
    lines: Sequence[Json] = ()
    comparison: Comparison | None = None
    differences: Json | None = None
    released_round: int = 0
    stopped: str = ""
    resumed: Sequence[int] = ()
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def sites(self) -> list[str]:
        """Every hospital that is known by name, in the order of the data, or else of the rounds."""
        if self.differences is not None:
            return [site["site"] for site in self.differences["sites"]]
        return sorted({site for line in self.lines for site in line["cohort"]})

    @property
    def num_sites(self) -> int:
        return len(self.sites) or self.plan.simulation.sites
