"""Secure aggregation of a Flower app as a plan: what its sites approve, and what of a message a round is bound to."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from flwr.app import ArrayRecord, RecordDict

from wardround.plan import Plan, parse_plan

__all__ = ["RunSetting", "digest_of_arrays", "digest_of_records", "flower_plan", "own_records"]

RunSetting = bool | float | int | str
"""A value of a run's configuration."""
_OURS = "wardround."
"""Begins the names of records that are not the app's own."""


def flower_plan(
    *,
    population: int,
    rounds: int,
    name: str = "flower",
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

    Another `name` makes another plan of the same settings, and so another run, with rounds and groups of its own.
    `clip_norm` bounds every update's L2 norm. `weight_cap`: updates are weighted by their examples, up to that; absent:
    equally. `metrics` are the names of an app's metrics whose sums leave the sites. `rule`, `num_byzantine`, `pre`,
    `detectors`, `options` are the keys of [robust], `privacy` those of [privacy] (its unit is the client, its mechanism
    Skellam noise), `protection` those of [protection]. Raises PlanError, with the key, for what does not fit together.
    """
    cohort: dict[str, Any] = {"weighting": "uniform", "deadline_s": float(timeout)}
    if weight_cap is not None:
        cohort |= {"weighting": "capped", "weight_cap": weight_cap}
    table: dict[str, Any] = {
        "name": name,
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
    """The app's own records of a message, without those that wardround added; by name, whatever order they came in."""
    own = sorted(name for name in content if not name.startswith(_OURS))
    return RecordDict({name: _sorted(content[name]) for name in own})


def _sorted(record: Any) -> Any:
    """By name; arrays stay as they are, since their order is that of an update's values."""
    return record if isinstance(record, ArrayRecord) else type(record)({key: record[key] for key in sorted(record)})


def digest_of_arrays(records: RecordDict) -> str:
    """SHA-256 of the arrays in the records, hex: of the model, whatever else is sent with it.

    Arrays count in their order, since that is the order of an update's values.
    """
    digest = hashlib.sha256(b"wardround arrays 1\0")
    for name, record in sorted(records.array_records.items()):
        _add(digest, name, str(len(record)))
        for key, array in record.items():
            _add(digest, key, array.dtype, repr(tuple(array.shape)), array.stype, array.data)
    return digest.hexdigest()


def digest_of_records(records: RecordDict, run_config: Mapping[str, RunSetting]) -> str:
    """SHA-256 of all that the app's work may depend on beside its own node, hex; equal on both sides of the wire.

    That is all names and values in the records, and the run's configuration, which the SuperLink sends to every node:
    a learning rate of 0 at all but one would leave the sum to that one.
    """
    digest = hashlib.sha256(b"wardround records 1\0" + digest_of_arrays(records).encode())
    tables = {name: record for name, record in records.items() if not isinstance(record, ArrayRecord)}
    for name, record in sorted(tables.items()):
        _add(digest, type(record).__name__, name)
        _add_table(digest, record)
    _add_table(digest, run_config)
    return digest.hexdigest()


def _add_table(digest: "hashlib._Hash", table: Mapping[str, object]) -> None:
    _add(digest, str(len(table)))
    for key, value in sorted(table.items()):
        _add(digest, key, repr(value))


def _add(digest: "hashlib._Hash", *parts: str | bytes) -> None:
    for part in parts:
        data = part if isinstance(part, bytes) else part.encode()
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
