"""What a run leaves behind: its state after a round, and the record of a round."""

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from wardround.contribution import Report
from wardround.orders import SiteId, Statistics
from wardround.strategies.reputation import Reputation
from wardround.strategies.rules.rule import Memory
from wardround.strategies.secagg.round_evidence import ProtectionRecord
from wardround.tally import Tally
from wardround.vector import F32

__all__ = ["Absence", "EvaluationRecord", "Observer", "PrivacyRecord", "RoundRecord", "RunState"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """Everything that the next round depends on. Restoring it continues the run bit for bit."""

    round: int
    model: F32
    optimizer: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    rule_memory: Memory = field(default_factory=dict)
    """What the rule and the detectors keep between rounds."""
    reputation: Reputation = field(default_factory=Reputation)
    statistics: Statistics | None = None
    best_round: int = 0
    best_loss: float | None = None
    best_model: F32 | None = None
    evaluations_without_gain: int = 0
    void_rounds: int = 0
    """Rounds in a row that missed their quorum."""
    stopped: str = ""
    """Why the run ended before its last planned round; empty: it did not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Absence:
    """A drawn site that is not in the round's result, and why.

    `failed`: it answered with an error, or with something that was rejected; else it was not there. `spent`: it has no
    privacy budget left for this run.
    """

    site: SiteId
    reason: str
    failed: bool = False
    spent: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationRecord:
    """An evaluation: the sum over the sites that answered, and each one's tally where the mode lets it be seen."""

    total: Tally
    sites: dict[SiteId, Tally] = field(default_factory=dict)
    absences: tuple[Absence, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivacyRecord:
    """What has been spent after a round: the largest epsilon of all claims, and each site's own where it has one.

    `noise_to_signal` is the expected norm of the noise over that of the noisy update, where the server adds it. A
    simulation, which knows more than any party, also tells of training in the sites the share of rows that were
    `clipped`, and the noise over the clipped gradients.
    """

    epsilon: float
    delta: float
    clip_norm: float
    sites: dict[SiteId, float] = field(default_factory=dict)
    clipped: float | None = None
    noise_to_signal: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundRecord:
    """One round. `void`: too few usable updates came, the model is unchanged; `reason` says why."""

    round: int
    cohort: tuple[SiteId, ...]
    absences: tuple[Absence, ...]
    void: bool
    lr: float
    update_norm: float
    train: Tally | None
    validation: EvaluationRecord | None
    report: Report
    seconds: float
    cpu_seconds: float
    reason: str = ""
    reputation: Reputation = field(default_factory=Reputation)
    """Of the sites, after this round."""
    privacy: PrivacyRecord | None = None
    protection: ProtectionRecord | None = None
    simulated_seconds: float | None = None


class Observer(Protocol):
    """Told of a run's progress; what it raises ends the run."""

    def round_done(self, record: RoundRecord, state: RunState) -> None:
        """A round is over; `state` is what the next one starts from."""
        ...
