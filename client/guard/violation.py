"""What a site's policy refuses: in words for the site itself, and in those that the coordinator is told."""

from collections.abc import Sequence
from dataclasses import dataclass

from wardround.errors import LocalError

__all__ = ["NotNowError", "PolicyError", "Violation"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """A rule that a run breaks. `expected` is of the plan or the run and may be told to anybody; `got` stays here."""

    rule: str
    expected: str
    got: str = ""

    def told(self) -> str:
        """For the coordinator: nothing of the data, and nothing that the site alone knows."""
        return f"{self.rule} (expected {self.expected})"

    def words(self) -> str:
        """For the site itself."""
        return f"{self.rule}: expected {self.expected}{f', got {self.got}' * bool(self.got)}"


class PolicyError(LocalError):
    """The site's policy does not allow a run; `told` is what the server may know of it."""

    def __init__(self, violations: Sequence[Violation]) -> None:
        self.violations = tuple(violations)
        self.told = f"the site's policy: {'; '.join(one.told() for one in violations)}"
        super().__init__(f"the site's policy: {'; '.join(one.words() for one in violations)}")


class NotNowError(LocalError):
    """The site does this later."""
