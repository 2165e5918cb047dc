"""What a report is made from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from wardround.contribution import Verdict
from wardround.plan import Plan
from wardround.server.runs.comparison import Comparison
from wardround.server.runs.run_info import RunInfo

__all__ = ["ReportedRun", "verdict_of"]

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedRun:
    """A run as its directory tells it. What is absent is left out of the report, with a sentence.

    `lines` are those of metrics.jsonl (see `record_line`), `differences` is `Heterogeneity.to_json()`, `stopped` says
    why the run ended before its last planned round, `resumed` the rounds before which it was continued. `info` is
    absent when nothing was written to disk. `attackers` are the sites that attacked, which only a simulation knows.
    `deployed`: the hospitals were real. `tested` is what they counted on their test rows, `{"n", "metrics"}`, where
    there is no comparison.
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
    attackers: Sequence[str] = ()
    deployed: bool = False
    tested: Json | None = None

    @property
    def sites(self) -> list[str]:
        """Every hospital that is known by name, in the order of the data, or else of the rounds."""
        if self.differences is not None:
            return [site["site"] for site in self.differences["sites"]]
        return sorted({site for line in self.lines for site in line["cohort"]})

    @property
    def num_sites(self) -> int:
        return len(self.sites) or self.plan.simulation.sites


def verdict_of(evidence: Json) -> Verdict:
    """The verdict in a line's evidence. Lines from before there were rules call "rejected" what is refused now."""
    found = Verdict(evidence["verdict"])
    return Verdict.REFUSED if found is Verdict.REJECTED and "cosine" not in evidence else found
