"""Secure aggregation of a Flower app as a plan: what its sites approve, and what of a message a round is bound to."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from flwr.app import ArrayRecord, RecordDict

from wardround.plan import Plan, parse_plan

__all__ = ["digest_of_records", "flower_plan", "own_records"]

_OURS = "wardround."
"""Begins the names of records that are not the app's own."""


def flower_plan(
    *,
    population: int,
    rounds: int,
    clip_norm: float | None = None,
    weight_cap: int | None = None,
    timeout: float = 3600.0,
    metrics: Sequence[str] = (),
    rule: str | None = None,
    num_byzantine: int | None = None,
    pre: Sequence[str] = (),
    detectors: Sequence[str] = (),
    options: Mapping[str, Mapping[str, bool | int | float]] | None = None,
    privacy: Mapping[str, Any] | None = None,
    **protection: Any,
) -> Plan:
    """The plan of an app at `population` sites, of which a site approves the digest; its checks are those of any plan.

    `clip_norm` bounds every update's L2 norm. `weight_cap`: updates are weighted by their examples, up to that; absent:
    equally. `metrics` are the names of an app's metrics whose sums leave the sites. `rule`, `num_byzantine`, `pre`,
    `detectors`, `options` are the keys of [robust], `privacy` those of [privacy] (its unit is the client, its mechanism
    Skellam noise), `protection` those of [protection]. Raises PlanError, with the key, for what does not fit together.
    """
    cohort: dict[str, Any] = {"weighting": "uniform", "deadline_s": float(timeout)}
    if weight_cap is not None:
        cohort |= {"weighting": "capped", "weight_cap": weight_cap}
    table: dict[str, Any] = {
        "name": "flower",
        "rounds": rounds,
        "task": {"flower_app": "app:client", "flower_initial": "app:initial"},
        "data": {"source": "app"},
        "cohort": cohort,
        "simulation": {"sites": population},
        "protection": {**protection, "mode": "masking", "metrics": sorted(metrics)},
    }
    if clip_norm is not None:
        table["clipping"] = {"clip_norm": clip_norm}
    if rule is not None:
        robust = {"rule": rule, "num_byzantine": num_byzantine, "pre": list(pre), "detectors": list(detectors)}
        table["robust"] = {key: value for key, value in robust.items() if value is not None}
        table["robust"]["options"] = {name: dict(values) for name, values in (options or {}).items()}
    if privacy is not None:
        table["privacy"] = {"mechanism": "skellam", **privacy, "unit": "client"}
    return parse_plan(table)


def own_records(content: RecordDict) -> RecordDict:
    """The app's own records of a message, without those that wardround added."""
    return RecordDict({name: record for name, record in content.items() if not name.startswith(_OURS)})


def digest_of_records(records: RecordDict) -> str:
    """SHA-256 of all names and values in the records, hex; equal on both sides of the wire.

    Arrays count in their order, since that is the order of an update's values.
    """
    digest = hashlib.sha256(b"wardround records 1\0")
    for name in sorted(records):
        record = records[name]
        _add(digest, type(record).__name__, name, str(len(record)))
        if isinstance(record, ArrayRecord):
            for key, array in record.items():
                _add(digest, key, array.dtype, repr(tuple(array.shape)), array.stype, array.data)
        else:
            for key in sorted(record):
                _add(digest, key, repr(record[key]))
    return digest.hexdigest()


def _add(digest: "hashlib._Hash", *parts: str | bytes) -> None:
    for part in parts:
        data = part if isinstance(part, bytes) else part.encode()
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
