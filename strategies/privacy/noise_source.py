"""Where the noise of a release comes from."""

from dataclasses import dataclass, field
from typing import Protocol

from wardround.strategies.privacy.secure_random import SecureRandom
from wardround.vector import I64

__all__ = ["FreshNoise", "NoiseSource"]


class NoiseSource(Protocol):
    """Gaussian noise of unit standard deviation, in steps of GRID."""

    def draw(self, size: int) -> I64:
        """The noise of one release, shape (size,). Every call is another release; the caller may overwrite it."""
        ...


@dataclass(frozen=True, slots=True)
class FreshNoise:
    """Independent noise for each release: the Gaussian mechanism."""

    random: SecureRandom = field(default_factory=SecureRandom)

    def draw(self, size: int) -> I64:
        return self.random.grid_normal(size)
