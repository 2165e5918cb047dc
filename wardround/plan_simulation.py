"""The plan's section on the federation that one machine plays."""

from dataclasses import dataclass
from enum import StrEnum

from wardround.decoding import PlanError, check_bounds, key
from wardround.registry import names

__all__ = ["Attack", "Budget", "Cryptography", "ExecutorChoice", "Partition", "Simulation", "Stragglers"]


class ExecutorChoice(StrEnum):
    AUTO = "auto"
    FLAT = "flat"
    BLOCKS = "blocks"


class Cryptography(StrEnum):
    REAL = "real"
    ACCOUNTING = "accounting"


def _attacks() -> tuple[str, ...]:
    return ("none", *names("wardround.attacks"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """How a simulation deals one data set out to its sites."""

    kind: str = key("iid", doc="registered partition", choices=lambda: names("wardround.partitions"))
    alpha: float = key(
        0.5, doc="`dirichlet`: concentration of labels; `quantity`: of sizes; smaller is more uneven", gt=0
    )
    column: str | None = key(None, doc="`column`: its values name the sites; `feature-shift`: the column to sort by")

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.kind == "column" and self.column is None:
            raise PlanError("column", "the column whose values name the sites")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stragglers:
    """Simulated slow sites."""

    fraction: float = key(0.0, doc="share of a cohort that is slow in a round", ge=0, le=1)
    delay_s: float = key(60.0, doc="mean extra delay of a slow site (exponentially distributed)", unit="s", gt=0)

    def __post_init__(self) -> None:
        check_bounds(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attack:
    """Simulated attackers: they take part as the protocol says, and lie."""

    name: str = key("none", doc="registered attack; `none`: everybody is honest", choices=_attacks)
    attackers: int = key(0, doc="how many of the sites attack; drawn from the seed", ge=0)
    from_round: int = key(1, doc="first training round in which they do", ge=1)
    claim: int | None = key(None, doc="number of examples that they claim to have; absent: the true one", ge=1)
    options: dict[str, bool | int | float] = key({}, doc="options of the attack, e.g. `scale`")

    def __post_init__(self) -> None:
        check_bounds(self)
        if (self.name == "none") != (self.attackers == 0):
            raise PlanError("attackers", 'at least 1, and 0 exactly when name = "none"', self.attackers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """The privacy budget that each simulated site's ledger is made with, for all jobs on its rows together."""

    epsilon: float | None = key(None, doc="cap on epsilon; absent: what this plan's own claim takes", gt=0)
    delta: float | None = key(None, doc="cap on delta", gt=0, lt=1)

    def __post_init__(self) -> None:
        check_bounds(self)
        if (self.epsilon is None) != (self.delta is None):
            raise PlanError("delta", "a number exactly when epsilon is set", self.delta)


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulation:
    """[simulation]: the federation that one machine plays."""

    sites: int = key(10, doc="how many sites", ge=1)
    partition: Partition = key(Partition, doc="how the data set is dealt out to them")
    executor: ExecutorChoice = key(
        ExecutorChoice.AUTO,
        doc="`flat`: one client after another; `blocks`: many at once; `auto`: the faster, by a trial",
    )
    workers: int = key(0, doc="threads that train; 0: one per core", ge=0)
    block_size: int = key(0, doc="clients in a block; 0: bounded by `memory_mib`", ge=0)
    memory_mib: int = key(512, doc="memory that a block of clients may take", unit="MiB", ge=16)
    dropout: float = key(0.0, doc="share of a cohort that vanishes in a round", ge=0, lt=1)
    late_dropout: float = key(
        0.0, doc="share of a cohort that vanishes after it sent its update, under `protection`", ge=0, lt=1
    )
    cryptography: Cryptography = key(
        Cryptography.REAL,
        doc="under `protection`: `real`, or `accounting`: the same integer sums without keys, which hides nothing",
    )
    stragglers: Stragglers = key(Stragglers, doc="slow sites, against `cohort.deadline_s` on a simulated clock")
    attack: Attack = key(Attack, doc="sites that attack, to see what that does")
    budget: Budget = key(Budget, doc="what the sites' ledgers allow, where a plan has privacy or ledgers are given")
    baselines: bool = key(True, doc="also train each site alone and all data pooled, for the report")
    bootstrap: int = key(1000, doc="resamples for the report's 95 % intervals; 0: none", ge=0)

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.attack.attackers >= self.sites:
            raise PlanError("attack.attackers", f"fewer than the {self.sites} sites", self.attack.attackers)
