"""A red-team grid as a table for the terminal."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from wardround.simulations.redteam.cells import HONEST, CellResult
from wardround.simulations.redteam.choice import mean_of

__all__ = ["grid_table"]


def grid_table(table: Mapping[str, Any]) -> Table:
    """One row per rule, from the best worst case to the worst: no attack, worst attack, its value."""
    cells = [CellResult(**cell) for cell in table["cells"]]
    worst_of = min if table["higher_is_better"] else max
    shown = Table(title=f"{table['metric']}: mean of {len(table['seeds'])} seeds", box=None, title_justify="left")
    for column, justify in (("rule", "left"), ("no attack", "right"), ("worst", "right"), ("under", "left")):
        shown.add_column(column, justify=justify)  # type: ignore[arg-type]
    rows = []
    for rule in dict.fromkeys(cell.rule for cell in cells):
        attacks = dict.fromkeys(cell.attack for cell in cells)
        means = {name: mean_of(c for c in cells if c.rule == rule and c.attack == name) for name in attacks}
        failed = [name for name, mean in means.items() if mean is None]
        known = {name: mean for name, mean in means.items() if mean is not None}
        worst = failed[0] if failed else worst_of(known, key=lambda name: known[name])
        rows.append((means[worst], (rule, _number(means.get(HONEST)), _number(means[worst]), worst)))
    sign = -1 if table["higher_is_better"] else 1
    for _, row in sorted(rows, key=lambda row: float("inf") if row[0] is None else sign * row[0]):
        shown.add_row(*row)
    return shown


def _number(value: float | None) -> str:
    return "failed" if value is None else f"{value:.4f}"
