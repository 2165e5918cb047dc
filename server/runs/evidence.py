"""What a run noted about its sites, from its metrics.jsonl."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from wardround.errors import LocalError
from wardround.server.runs.run_directory import read_lines
from wardround.server.runs.run_info import read_info

__all__ = ["evidence_of_site", "evidence_of_sites", "evidence_table"]

_SHORT = {"contributions": "sent", "quarantined in rounds": "quarantine"}
"""Headings for a terminal of 80 columns."""


def evidence_of_sites(run: Path) -> list[dict[str, Any]]:
    """A row for each site: how often it contributed and with which verdicts, its suspicion, and its quarantine."""
    lines = _lines(run)
    rows = []
    for site in sorted({site for line in lines for site in line["cohort"]}):
        own = list(_of(lines, site))
        verdicts = Counter(one["verdict"] for _, one in own)
        quarantined = [line["round"] for line in lines if site in line.get("quarantined", ())]
        rows.append(
            {
                "site": site,
                "contributions": len(own),
                "refused": verdicts["refused"],
                "rejected": verdicts["rejected"],
                "down-weighted": verdicts["down-weighted"],
                "flagged": sum(bool(one.get("flags")) for _, one in own),
                "suspicion": lines[-1].get("reputation", {}).get(site, 0.0),
                "quarantined in rounds": f"{quarantined[0]} to {quarantined[-1]}" if quarantined else "",
            }
        )
    return rows


def evidence_of_site(run: Path, site: str) -> list[dict[str, Any]]:
    """A row for each contribution of `site`."""
    own = list(_of(_lines(run), site))
    if not own:
        raise LocalError(f"{run}: expected a site of this run with noted contributions, got {site!r}")
    keys = ("verdict", "weight", "norm", "cosine", "score", "flags", "reason")
    return [{"round": number, **{key: one.get(key) for key in keys}} for number, one in own]


def evidence_table(rows: Sequence[dict[str, Any]]) -> Table:
    """The rows for the terminal."""
    shown = Table(box=None, padding=(0, 1, 0, 0))
    for name in rows[0] if rows else ():
        shown.add_column(
            _SHORT.get(name, name), justify="left" if isinstance(rows[0][name], str) else "right", overflow="fold"
        )
    for row in rows:
        shown.add_row(*(Text(_shown(value)) for value in row.values()))  # a name may look like markup
    return shown


def _lines(run: Path) -> list[dict[str, Any]]:
    read_info(run)
    lines = read_lines(run)
    if not lines:
        raise LocalError(f"{run}: expected a run with finished rounds")
    return lines


def _of(lines: Sequence[dict[str, Any]], site: str) -> Iterator[tuple[int, dict[str, Any]]]:
    return ((line["round"], one) for line in lines for one in line["evidence"] if site in one["members"])


def _shown(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3g}"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
