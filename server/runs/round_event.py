"""A durable round in the timeline of the server: what a person who watches wants to know of it."""

from collections.abc import Mapping
from typing import Any

from wardround.plain_text import plain_text

__all__ = ["round_event"]

_MOST_ABSENCES = 50


def round_event(line: Mapping[str, Any]) -> dict[str, Any]:
    """From a round's line in metrics.jsonl: counts, figures and reasons, of bounded size; no value and no update."""
    absences, protection, privacy = line["absences"], line["protection"], line["privacy"]
    return {
        "round": line["round"],
        "void": line["void"],
        "reason": plain_text(line["aggregation"] or "", 500),
        "asked": len(line["cohort"]),
        "absent": len(absences),
        "absences": [
            {"site": one["site"], "reason": plain_text(one["reason"], 200)} for one in absences[:_MOST_ABSENCES]
        ],
        "groups": None if protection is None else sum(bool(one["survivors"]) for one in protection["groups"]),
        "aborts": 0 if protection is None else len(protection["aborts"]),
        "epsilon": None if privacy is None else privacy["epsilon"],
        "train": None if line["train"] is None else line["train"]["metrics"],
        "validation": None if line["validation"] is None else line["validation"]["metrics"],
        "quarantined": line["quarantined"][:_MOST_ABSENCES],
        "seconds": line["seconds"],
    }
