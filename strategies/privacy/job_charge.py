"""What a job asks of a ledger: its events, fixed before it starts, and how many rounds it may begin."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from wardround.plan_privacy import Relation, Unit
from wardround.strategies.privacy.events import Event, FixedSizeGaussian, Gaussian, PoissonGaussian, Skellam
from wardround.strategies.privacy.terms import Terms

__all__ = ["JobCharge", "charge_of", "client_charge_on_examples", "decode_charge", "encode_charge", "times"]

_VERSION = 1
_LONGEST = 200
_KINDS: dict[str, type[Event]] = {
    "gaussian": Gaussian,
    "poisson-gaussian": PoissonGaussian,
    "fixed-size-gaussian": FixedSizeGaussian,
    "skellam": Skellam,
}
_FIELDS: dict[str, dict[str, type]] = {
    "gaussian": {"noise_std": float},
    "poisson-gaussian": {"noise_std": float, "rate": float},
    "fixed-size-gaussian": {"noise_std": float, "drawn": int, "population": int},
    "skellam": {"variance": float, "l1_sensitivity": float},
}
_COMMON = {"sensitivity": float, "relation": str, "count": int}


@dataclass(frozen=True, slots=True, kw_only=True)
class JobCharge:
    """The most that a job releases on one population.

    `once` counts from the reservation on. `per_round` is what one begun round releases, and at most `rounds` are begun,
    every attempt at a round being one; with `whole` it is what all rounds release together, and counts in full from
    the first begun round on. `delta` is the failure probability of the job's own claim.
    """

    job: str
    plan_digest: str
    unit: Unit
    once: tuple[Event, ...]
    per_round: tuple[Event, ...]
    rounds: int
    whole: bool
    delta: float

    def __post_init__(self) -> None:
        if not (0 < len(self.job) <= _LONGEST and self.job.isprintable()):
            raise ValueError(f"expected a job's name of 1 to {_LONGEST} printable letters, got {self.job[:80]!r}")
        if self.rounds < 0:
            raise ValueError(f"expected at least 0 rounds, got {self.rounds}")
        if not 0 < self.delta < 1:
            raise ValueError(f"expected a delta between 0 and 1, got {self.delta}")
        if self.unit is Unit.OFF:
            raise ValueError("expected a unit whose presence is hidden, got off")

    @property
    def worst(self) -> tuple[Event, ...]:
        """What is released when every round is begun."""
        return self.once + (self.per_round if self.whole else times(self.per_round, self.rounds))


def times(events: tuple[Event, ...], count: int) -> tuple[Event, ...]:
    """`events`, `count` times over."""
    return tuple(replace(event, count=count * event.count) for event in events)


def charge_of(terms: Terms, job: str, plan_digest: str) -> JobCharge:
    """The charge of a job under `terms` on the population that they are for; as a whole where noise is correlated."""
    whole = terms.spans is not None
    return JobCharge(
        job=job,
        plan_digest=plan_digest,
        unit=terms.unit,
        once=terms.once,
        per_round=terms.events(terms.rounds if whole else 1)[len(terms.once) :],
        rounds=terms.rounds if terms.spans is None else terms.spans,
        whole=whole,
        delta=terms.delta,
    )


def client_charge_on_examples(terms: Terms, job: str, plan_digest: str, relation: Relation) -> JobCharge:
    """What a job that hides clients costs the patients of one of them, whose ledger is under `relation`.

    However a client's data change, by a patient more, less or exchanged, its clipped update stays in the ball of radius
    C and moves by 2C at most: the same noise, twice the sensitivity of zero-out, under any relation. Nothing is gained
    from the sampling of clients, since the client knows in which rounds it takes part.
    """
    wider = 1.0 if terms.relation is Relation.REPLACE_ONE else 2.0

    def seen(event: Event) -> Event:
        if isinstance(event, Skellam):
            return replace(event.times(wider), relation=relation)
        return Gaussian(
            noise_std=event.noise_std, sensitivity=wider * event.sensitivity, relation=relation, count=event.count
        )

    charge = charge_of(terms, job, plan_digest)
    return replace(
        charge,
        unit=Unit.PATIENT,
        once=tuple(map(seen, charge.once)),
        per_round=tuple(map(seen, charge.per_round)),
    )


def encode_charge(charge: JobCharge) -> dict[str, Any]:
    """The plain form of `charge`, for JSON."""
    return {
        "v": _VERSION,
        "job": charge.job,
        "plan_digest": charge.plan_digest,
        "unit": charge.unit.value,
        "once": [_encode_event(event) for event in charge.once],
        "per_round": [_encode_event(event) for event in charge.per_round],
        "rounds": charge.rounds,
        "whole": charge.whole,
        "delta": float(charge.delta),
    }


def decode_charge(table: object) -> JobCharge:
    """The inverse of `encode_charge`. Raises ValueError for anything else."""
    keys = {"v": int, "job": str, "plan_digest": str, "unit": str, "once": list, "per_round": list}
    keys |= {"rounds": int, "whole": bool, "delta": float}
    found = _checked("charge", table, keys)
    if found["v"] != _VERSION:
        raise ValueError(f"charge: expected version {_VERSION}, got {found['v']}")
    return JobCharge(
        job=found["job"],
        plan_digest=found["plan_digest"],
        unit=Unit(found["unit"]),
        once=tuple(map(_decode_event, found["once"])),
        per_round=tuple(map(_decode_event, found["per_round"])),
        rounds=found["rounds"],
        whole=found["whole"],
        delta=found["delta"],
    )


def _encode_event(event: Event) -> dict[str, Any]:
    kind = next(name for name, cls in _KINDS.items() if type(event) is cls)
    plain = {name: cast(getattr(event, name)) for name, cast in {**_COMMON, **_FIELDS[kind]}.items()}
    return {"kind": kind, **plain}


def _decode_event(table: object) -> Event:
    if not isinstance(table, Mapping) or table.get("kind") not in _KINDS:
        raise ValueError(f"event: expected a kind of {', '.join(_KINDS)}, got {str(table)[:80]}")
    kind = table["kind"]
    found = _checked("event", table, {"kind": str, **_COMMON, **_FIELDS[kind]})
    del found["kind"]
    return _KINDS[kind](**{**found, "relation": Relation(found["relation"])})


def _checked(name: str, table: object, types: Mapping[str, type]) -> dict[str, Any]:
    """`table`, if it has exactly these keys with values of exactly these types; a whole number is no float."""
    if not isinstance(table, Mapping) or table.keys() != types.keys():
        raise ValueError(f"{name}: expected exactly the keys {', '.join(types)}, got {str(table)[:80]}")
    for key, kind in types.items():
        if type(table[key]) is not kind:
            raise ValueError(f"{name}.{key}: expected {kind.__name__}, got {table[key]!r}")
    return dict(table)
