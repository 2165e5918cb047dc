"""The evidence of a round of secure aggregation: survivors, who was lost and when, why it ended, what it cost."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from wardround.orders import SiteId

__all__ = ["AbortRecord", "Evidence", "GroupOutcome", "ProtectionRecord", "Stage", "StageCost"]


class Stage(StrEnum):
    """What a round waits for; "epoch" is what comes before the first."""

    EPOCH = "epoch"
    UPDATE = "update"
    SIGNATURE = "signature"
    OPENING = "opening"


@dataclass(frozen=True, slots=True, kw_only=True)
class StageCost:
    """At the server: wall seconds, and bytes of messages, the model in each request included."""

    seconds: float = 0.0
    sent_bytes: int = 0
    received_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupOutcome:
    """A group, and whose updates are in its sum; nobody's where it gave none."""

    number: int
    members: tuple[SiteId, ...]
    survivors: tuple[SiteId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AbortRecord:
    """Why an epoch, a committee's round or groups of it ended without a result, and the parties who are the reason."""

    cause: str
    parties: tuple[SiteId, ...]
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProtectionRecord:
    """Of one round of the protocol, all committees together.

    `lost` are those who were asked and did not answer in order, by the first stage in which they did not. `accounted`:
    a simulation in which no cryptography ran. `scheme`: of homomorphic aggregation, how updates were encrypted.
    """

    epoch: int
    round: int
    groups: tuple[GroupOutcome, ...]
    lost: Mapping[Stage, tuple[SiteId, ...]] = field(default_factory=dict)
    aborts: tuple[AbortRecord, ...] = ()
    costs: Mapping[Stage, StageCost] = field(default_factory=dict)
    accounted: bool = False
    scheme: str = ""


class Evidence:
    """Gathers the record of a round."""

    def __init__(self) -> None:
        self.lost: dict[SiteId, Stage] = {}
        self._said: dict[SiteId, str] = {}
        self._costs: dict[Stage, StageCost] = {}
        self._groups: list[GroupOutcome] = []
        self._aborts: list[AbortRecord] = []

    def lose(self, stage: Stage, site: SiteId, reason: str = "") -> bool:
        """A site did not answer in order, and said why; whether this is the first time, which alone counts."""
        if site in self.lost:
            return False
        self.lost[site], self._said[site] = stage, reason
        return True

    def cost(self, stage: Stage, *, seconds: float = 0.0, sent_bytes: int = 0, received_bytes: int = 0) -> None:
        """Add to what a stage has cost."""
        before = self._costs.get(stage, StageCost())
        self._costs[stage] = replace(
            before,
            seconds=before.seconds + seconds,
            sent_bytes=before.sent_bytes + sent_bytes,
            received_bytes=before.received_bytes + received_bytes,
        )

    def group(self, number: int, members: Iterable[SiteId], survivors: Iterable[SiteId]) -> None:
        """What became of a group."""
        self._groups.append(GroupOutcome(number=number, members=tuple(members), survivors=tuple(survivors)))

    def abort(self, cause: str, parties: Iterable[str], reason: str) -> None:
        """A committee's round, or an epoch, ended without a result; what the first of its parties said is added."""
        sites = tuple(map(SiteId, parties))
        said = [f"{site}: {self._said[site]}" for site in sites if self._said.get(site)]
        self._aborts.append(AbortRecord(cause=cause, parties=sites, reason="; ".join((reason, *said[:1]))))

    def record(self, *, epoch: int, round: int, accounted: bool = False, scheme: str = "") -> ProtectionRecord:
        """What was gathered."""
        stages = {stage: tuple(sorted(site for site, at in self.lost.items() if at is stage)) for stage in Stage}
        return ProtectionRecord(
            epoch=epoch,
            round=round,
            groups=tuple(self._groups),
            lost={stage: sites for stage, sites in stages.items() if sites},
            aborts=tuple(self._aborts),
            costs=dict(self._costs),
            accounted=accounted,
            scheme=scheme,
        )
