"""What a look at one thing gave."""

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Finding", "Level", "fine", "problem", "skipped", "warning"]


class Level(StrEnum):
    OK = "ok"
    SKIPPED = "skipped"
    """Was not looked at; the text says why."""
    WARNING = "warning"
    PROBLEM = "problem"
    """The site does not work, or not safely."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line: `check` is what was looked at; `fix` what to do, where there is something to do."""

    check: str
    level: Level
    text: str
    fix: str | None = None

    def line(self) -> str:
        """As a person reads it."""
        return f"{self.level:<8} {self.check:<12} {self.text}" + (f"; {self.fix}" if self.fix else "")

    def table(self) -> dict[str, str | None]:
        """As JSON has it."""
        return {"check": self.check, "level": str(self.level), "text": self.text, "fix": self.fix}


def fine(check: str, text: str) -> Finding:
    return Finding(check=check, level=Level.OK, text=text)


def skipped(check: str, text: str) -> Finding:
    return Finding(check=check, level=Level.SKIPPED, text=text)


def warning(check: str, text: str, fix: str) -> Finding:
    return Finding(check=check, level=Level.WARNING, text=text, fix=fix)


def problem(check: str, text: str, fix: str) -> Finding:
    return Finding(check=check, level=Level.PROBLEM, text=text, fix=fix)
