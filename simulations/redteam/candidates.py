"""The rules that a red-team run compares, each with what comes before it."""

from dataclasses import dataclass, replace

from wardround.decoding import PlanError
from wardround.errors import LocalError
from wardround.plan import Plan
from wardround.plan_robust import OFF, Robust
from wardround.registry import names, nearest
from wardround.strategies.composition import check

__all__ = ["CANDIDATES", "Candidate", "parse_candidate", "why_not"]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A rule and its pre-aggregators, by their registered names."""

    rule: str
    pre: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """E.g. `nnm+trimmed_mean`."""
        return "+".join((*self.pre, self.rule))

    def plan(self, plan: Plan, num_byzantine: int) -> Plan:
        """`plan` with this rule, evidence left out (it changes no model), and every site kept in."""
        if self.rule == OFF:
            return replace(plan, robust=Robust())
        settings = plan.robust
        pieces = {self.rule, *self.pre}
        robust = Robust(
            rule=self.rule,
            pre=self.pre,
            num_byzantine=0 if self.rule == "mean" else num_byzantine,
            detectors=(),
            norm_factor=settings.norm_factor,
            options={name: options for name, options in settings.options.items() if name in pieces},
            root_examples=settings.root_examples if self.rule == "fltrust" else 0,
            quarantine=replace(settings.quarantine, enabled=False),
        )
        return replace(plan, robust=robust)


def parse_candidate(label: str) -> Candidate:
    """The candidate called `nnm+trimmed_mean`, or `off` (FedAvg). Raises LocalError for an unknown name."""
    if label == OFF:
        return Candidate(OFF)
    *pre, rule = label.split("+")
    for name, kind in (*((name, "preaggregators") for name in pre), (rule, "rules")):
        known = names(f"wardround.{kind}")
        if name not in known:
            raise LocalError(
                f"{label}: expected a registered rule after pre-aggregators, got {name!r}{nearest(name, known)}"
            )
    return Candidate(rule, tuple(pre))


CANDIDATES = (
    Candidate(OFF),
    Candidate("mean"),
    Candidate("median"),
    Candidate("trimmed_mean"),
    Candidate("krum"),
    Candidate("multi_krum"),
    Candidate("bulyan"),
    Candidate("geometric_median"),
    Candidate("centered_clipping"),
    Candidate("caf"),
    Candidate("dnc"),
    Candidate("median", ("nnm",)),
    Candidate("trimmed_mean", ("nnm",)),
    Candidate("geometric_median", ("nnm",)),
    Candidate("centered_clipping", ("nnm",)),
    Candidate("caf", ("nnm",)),
    Candidate("geometric_median", ("arc",)),
    Candidate("trimmed_mean", ("arc", "nnm")),
)
"""What is compared unless a person says otherwise."""


def why_not(candidate: Candidate, plan: Plan, num_byzantine: int) -> str:
    """Why the candidate cannot be used for `plan`; empty when it can."""
    try:
        check(candidate.plan(plan, num_byzantine))
    except PlanError as error:
        return error.expected
    return ""
