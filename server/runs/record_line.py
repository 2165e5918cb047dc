"""A round's record as one line of metrics.jsonl.

    {"round", "void", "cohort": [site], "absences": [{"site", "reason"}], "lr", "update_norm",
     "train": {"n", "metrics": {name: value}} | null,
     "validation": {"n", "metrics", "sites": {site: {"n", "metrics"}}, "absences": as above, if any} | null,
     "evidence": [{"members", "weight", "norm", "cosine", "score", "verdict", "reason", "flags": [detector]}],
     "aggregation": why the rule gave nothing, or "", "reputation": {site: suspicion above 0},
     "quarantined": [site], "notes": [sentence],
     "privacy": {"epsilon", "delta", "clip_norm", "sites": {site: epsilon}, "clipped", "noise_to_signal"} | null,
     "protection": {"epoch", "round", "groups": [{"number", "members", "survivors"}], "lost": {stage: [site]},
         "aborts": [{"cause", "parties", "reason"}], "costs": {stage: {"seconds", "sent_bytes", "received_bytes"}},
         "accounted": whether no cryptography ran} | null: of the training alone; members and survivors are counts,
     "seconds", "cpu_seconds", "simulated_seconds"}

"clipped" and "noise_to_signal" are the researcher's where rows or patients are hidden: they depend on rows, and no
real hospital sends them.

Numbers round-trip; what is not finite is null. Of more than `COMPACT_ABOVE` sites, only what is not
plainly accepted (another verdict, or a reason) is in `evidence`, and only its members are in
`validation.sites`.
"""

import json
import math
from dataclasses import asdict
from typing import Any

from wardround.contribution import Evidence, Verdict
from wardround.strategies.records import Absence, EvaluationRecord, RoundRecord
from wardround.strategies.secagg.round_evidence import ProtectionRecord
from wardround.tally import Tally

__all__ = ["COMPACT_ABOVE", "decode_lines", "encode_line", "record_table"]

COMPACT_ABOVE = 1000


def encode_line(record: RoundRecord) -> bytes:
    """The line of `record`, with its newline."""
    text = json.dumps(record_table(record), separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode() + b"\n"


def record_table(record: RoundRecord) -> dict[str, Any]:
    """What the line of `record` decodes to."""
    evidence, reputation = record.report.lines, record.reputation
    if len(record.cohort) > COMPACT_ABOVE:
        evidence = tuple(line for line in evidence if line.verdict is not Verdict.ACCEPTED or line.reason)
    table: dict[str, Any] = {
        "round": record.round,
        "void": record.void,
        "cohort": list(record.cohort),
        "absences": [_absence(absence) for absence in record.absences],
        "lr": record.lr,
        "update_norm": record.update_norm,
        "train": None if record.train is None else _finite(_counted(record.train)),
        "validation": None if record.validation is None else _finite(_validation(record.validation, evidence)),
        "evidence": [_evidence(line) for line in evidence],
        "aggregation": record.reason,
        "reputation": {site: one.suspicion for site, one in sorted(reputation.standings.items()) if one.suspicion > 0},
        "quarantined": sorted(reputation.quarantined),
        "notes": list(reputation.notes),
        "privacy": None if record.privacy is None else _finite(asdict(record.privacy)),
        "protection": None if record.protection is None else _protection(record.protection),
        "seconds": record.seconds,
        "cpu_seconds": record.cpu_seconds,
        "simulated_seconds": record.simulated_seconds,
    }
    return {name: None if _is_odd(value) else value for name, value in table.items()}


def decode_lines(data: bytes) -> tuple[list[dict[str, Any]], list[int]]:
    """The records of rounds 1, 2, ... at the start of `data`, and where each one ends in it.

    Reading stops at the first line that is torn, no record, or of another round than the next.
    """
    lines: list[dict[str, Any]] = []
    ends: list[int] = []
    at = 0
    while (newline := data.find(b"\n", at)) >= 0:
        try:
            line = json.loads(data[at:newline])
        except ValueError:
            break
        if not isinstance(line, dict) or line.get("round") != len(lines) + 1:
            break
        at = newline + 1
        lines.append(line)
        ends.append(at)
    return lines, ends


def _counted(tally: Tally) -> dict[str, Any]:
    return {"n": tally.n, "metrics": tally.metrics()}


def _validation(record: EvaluationRecord, evidence: tuple[Evidence, ...]) -> dict[str, Any]:
    sites = record.sites
    if len(sites) > COMPACT_ABOVE:
        named = {site for line in evidence for site in line.members}
        sites = {site: tally for site, tally in sites.items() if site in named}
    table = _counted(record.total) | {"sites": {site: _counted(tally) for site, tally in sites.items()}}
    return table | {"absences": [_absence(absence) for absence in record.absences]} if record.absences else table


def _absence(absence: Absence) -> dict[str, str]:
    return {"site": absence.site, "reason": absence.reason}


def _evidence(line: Evidence) -> dict[str, Any]:
    return {
        "members": list(line.members),
        "weight": line.weight,
        "norm": None if _is_odd(line.norm) else line.norm,
        "cosine": line.cosine,
        "score": line.score,
        "verdict": line.verdict.value,
        "reason": line.reason,
        "flags": list(line.flags),
    }


def _protection(record: ProtectionRecord) -> dict[str, Any]:
    groups = [
        {"number": one.number, "members": len(one.members), "survivors": len(one.survivors)} for one in record.groups
    ]
    return {
        "epoch": record.epoch,
        "round": record.round,
        "groups": groups,
        "lost": {stage.value: list(sites) for stage, sites in record.lost.items()},
        "aborts": [{"cause": one.cause, "parties": list(one.parties), "reason": one.reason} for one in record.aborts],
        "costs": {stage.value: asdict(cost) for stage, cost in record.costs.items()},
        "accounted": record.accounted,
        "scheme": record.scheme,
    }


def _is_odd(value: object) -> bool:
    """Whether `value` is a number that JSON cannot hold."""
    return isinstance(value, float) and not math.isfinite(value)


def _finite(value: Any) -> Any:
    """`value` with every number that JSON cannot hold replaced by None."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if _is_odd(value) else value
