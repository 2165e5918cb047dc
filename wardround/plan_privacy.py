"""The section [privacy]: what differential privacy is claimed, and by which mechanism."""

from dataclasses import dataclass, fields
from enum import StrEnum

from wardround.decoding import PlanError, check_bounds, key

__all__ = [
    "Disclosure",
    "Mechanism",
    "Privacy",
    "PrivateStatistics",
    "Relation",
    "Sampling",
    "Unit",
    "UnitClipping",
]


class Unit(StrEnum):
    """Whose presence is hidden."""

    OFF = "off"
    ROW = "row"
    PATIENT = "patient"
    CLIENT = "client"


class Relation(StrEnum):
    """When two data sets are neighbours: one unit more, one unit's part set to zero, or one unit exchanged."""

    ADD_REMOVE = "add-remove"
    ZERO_OUT = "zero-out"
    REPLACE_ONE = "replace-one"


class Sampling(StrEnum):
    """Which units take part in a step (rows, patients) or a round (clients)."""

    FULL = "full"
    POISSON = "poisson"
    FIXED_SIZE = "fixed-size"
    SHUFFLE = "shuffle"


class UnitClipping(StrEnum):
    FLAT = "flat"
    PER_LAYER = "per-layer"
    ADAPTIVE = "adaptive"


class Mechanism(StrEnum):
    GAUSSIAN = "gaussian"
    BANDED_MF = "banded-mf"
    SKELLAM = "skellam"


class PrivateStatistics(StrEnum):
    OFF = "off"
    DP = "dp"


class Disclosure(StrEnum):
    OFF = "off"
    CLEAR = "clear"


@dataclass(frozen=True, slots=True, kw_only=True)
class Privacy:
    """[privacy]: differential privacy, of patients' rows inside each hospital or of whole hospitals."""

    unit: Unit = key(
        Unit.OFF,
        doc="whose presence is hidden: of a `row` or a `patient` inside each site, of a whole `client`, or `off`",
    )
    epsilon: float | None = key(
        None,
        doc="the claim; the noise is computed from it. Beside `noise_multiplier`: training stops before it is exceeded",
        gt=0,
    )
    delta: float | None = key(
        None, doc="the claim's failure probability; absent: min(1e-6, n^-1.1) of n units", gt=0, lt=1
    )
    research_delta: bool = key(False, doc="accept a `delta` above min(1e-5, 1/(10 n)); every output says so")
    noise_multiplier: float | None = key(
        None,
        doc="noise's standard deviation over the clip (`skellam`: over the clip with its rounding, of the noise that "
        "honest clients of a sum add for certain); epsilon is computed from it",
        gt=0,
    )
    relation: Relation | None = key(
        None, doc="neighbouring data sets; absent: `add-remove` of rows and patients, `zero-out` of clients"
    )
    sampling: Sampling | None = key(
        None, doc="who takes part in a step or round; absent: `poisson` of rows and patients, `full` of clients"
    )
    clip_norm: float = key(1.0, doc="largest L2 norm of a row's gradient or a client's update", ge=1e-9, le=1e9)
    clipping: UnitClipping = key(
        UnitClipping.FLAT,
        doc="one norm for all (`flat`), an equal share per tensor (`per-layer`), or, of clients, `adaptive` from "
        "`clip_norm` on (Andrew et al. 2021)",
    )
    target_quantile: float = key(0.5, doc="`adaptive`: share of clients that are not clipped", gt=0, lt=1)
    clip_lr: float = key(0.2, doc="`adaptive`: learning rate of the clip's logarithm", gt=0)
    count_noise: float | None = key(
        None, doc="`adaptive`: noise on the count of clients that are not clipped; absent: 2.5 noise multipliers", gt=0
    )
    mechanism: Mechanism = key(
        Mechanism.GAUSSIAN,
        doc="fresh noise in each round; of clients also noise that later rounds cancel (`banded-mf`), or that they add "
        "themselves where updates are hidden (`skellam`)",
    )
    bands: int | None = key(None, doc="`banded-mf`: bands of the strategy matrix, rounds between two of a client", ge=2)
    max_rows: int = key(1, doc="`patient`: most training rows of one patient; noise grows with it", ge=1)
    public_sizes: bool = key(
        False, doc="the sites' numbers of rows are no secret (batches, steps and noise would tell them)"
    )
    statistics: PrivateStatistics = key(
        PrivateStatistics.OFF, doc='`dp`: `standardize = "federated"` from noisy sums, charged once'
    )
    statistics_noise_multiplier: float | None = key(
        None, doc="noise on these sums over their sensitivity; exactly with statistics = `dp`", gt=0
    )
    evaluation: Disclosure = key(
        Disclosure.OFF,
        doc="losses and scores on held-out rows: none leaves a site (`off`), or they do (`clear`), outside the claim",
    )

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.unit is Unit.OFF:
            for field in fields(self):
                if getattr(self, field.name) != field.default:
                    raise PlanError("unit", f'"row", "patient" or "client", since {field.name} is set', self.unit.value)
            return
        if self.epsilon is None and self.noise_multiplier is None:
            raise PlanError("epsilon", "a number (or noise_multiplier), since unit is set")
        if (self.mechanism is Mechanism.BANDED_MF) != (self.bands is not None):
            raise PlanError("bands", 'a number exactly when mechanism = "banded-mf"', self.bands)
        noisy = self.statistics is PrivateStatistics.DP
        if noisy != (self.statistics_noise_multiplier is not None):
            expected = 'a number exactly when statistics = "dp"'
            raise PlanError("statistics_noise_multiplier", expected, self.statistics_noise_multiplier)
        if self.max_rows > 1 and self.unit is not Unit.PATIENT:
            raise PlanError("max_rows", '1 unless unit = "patient"', self.max_rows)
        if self.count_noise is not None and self.clipping is not UnitClipping.ADAPTIVE:
            raise PlanError("count_noise", 'no key unless clipping = "adaptive"', self.count_noise)

    @property
    def on(self) -> bool:
        return self.unit is not Unit.OFF

    @property
    def per_example(self) -> bool:
        """Whether noise is added inside each site, so that single rows or patients are hidden."""
        return self.unit in (Unit.ROW, Unit.PATIENT)

    @property
    def per_client(self) -> bool:
        """Whether whole clients are hidden."""
        return self.unit is Unit.CLIENT

    @property
    def hides_participation(self) -> bool:
        """Whether the claim rests on nobody's learning which clients took part."""
        return self.per_client and self.claimed_sampling is not Sampling.FULL

    @property
    def claimed_relation(self) -> Relation:
        if self.relation is not None:
            return self.relation
        return Relation.ZERO_OUT if self.per_client else Relation.ADD_REMOVE

    @property
    def claimed_sampling(self) -> Sampling:
        if self.sampling is not None:
            return self.sampling
        return Sampling.FULL if self.per_client else Sampling.POISSON
