"""What a validation found: counts for each column and rule, and never a value or a row."""

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from wardround.errors import LocalError

__all__ = ["Fault", "Rule", "ValidationReport"]


class Rule(StrEnum):
    """What a cell or a row breaks; the value is how it is told."""

    FIELDS = "another number of values than the header has"
    MISSING = "no value"
    NUMBER = "no finite number"
    WHOLE = "no whole number"
    RANGE = "out of its range"
    CATEGORY = "not one of its categories"
    BOOLEAN = "neither true nor false"
    DATE = "no date in its format"
    TYPE = "values of another type"
    IMAGE = "no image file of a kind that can be read"
    SHAPE = "an image of another shape"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """So many rows break a rule; `column` is empty where the whole row does."""

    column: str
    rule: Rule
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationReport:
    """Counts of rows: `bad` break a rule, `dropped` lack a value whose absence drops a row, `kept` are left.

    `drops_bad`: that bad rows are dropped; else one refuses the data. `unlisted`: columns that are never read.
    """

    rows: int
    bad: int
    dropped: int
    kept: int
    min_rows: int
    drops_bad: bool
    unlisted: int
    faults: tuple[Fault, ...]

    @property
    def fits(self) -> bool:
        """The verdict: whether the data may be used."""
        return (self.bad == 0 or self.drops_bad) and self.kept >= self.min_rows

    def encode(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def decode(cls, table: dict[str, Any]) -> "ValidationReport":
        """The inverse of `encode`. Raises ValueError, TypeError or KeyError for anything else."""
        faults = tuple(Fault(**{**one, "rule": Rule(one["rule"])}) for one in table["faults"])
        return cls(**{**table, "faults": faults})

    def lines(self) -> list[str]:
        """The report for a person."""
        found = [f"{self.rows} rows, {self.bad} bad, {self.dropped} dropped for a missing value, {self.kept} kept"]
        found += [f"  {_said(fault)}" for fault in self.faults]
        if self.unlisted:
            found.append(f"{self.unlisted} columns are not in the schema and are never read")
        if self.bad and self.drops_bad:
            found.append("bad rows are dropped (on_bad_rows)")
        found.append("the data fit the schema" if self.fits else f"the data do not fit the schema: {self._why}")
        return found

    def check(self, where: str) -> None:
        """Raise LocalError, with the counts, unless the data fit."""
        if not self.fits:
            listed = "; ".join(_said(fault) for fault in self.faults[:8])
            more = f"; and {len(self.faults) - 8} more" if len(self.faults) > 8 else ""
            detail = f" ({listed}{more})" if listed else ""
            raise LocalError(f"{where}: the data do not fit their schema: {self._why}{detail}")

    @property
    def _why(self) -> str:
        if self.bad and not self.drops_bad:
            return f"expected no bad row, got {self.bad} of {self.rows}"
        return f"expected at least {self.min_rows} good rows (min_rows), got {self.kept}"


def _said(fault: Fault) -> str:
    where = f"column {fault.column!r}: " if fault.column else ""
    return f"{where}{fault.rule} in {fault.count} row{'s'[: fault.count != 1]}"
