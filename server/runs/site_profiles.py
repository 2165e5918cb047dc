"""What is told of how the data differ between sites: sizes, labels, inputs."""

from dataclasses import asdict, dataclass
from typing import Any

from wardround.orders import SiteId

__all__ = ["Heterogeneity", "SiteProfile"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteProfile:
    """One site, all splits together; `mean` and `std` are of each input in its own unit, in the order of `inputs`."""

    site: SiteId
    n: int
    train: int
    validation: int
    test: int
    label_counts: tuple[int, ...]
    label_distance: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    input_distance: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Heterogeneity:
    """All sites, what is counted and measured, and the pool that they are compared with.

    `labels` are classes, or quarters of the pooled values of a number to predict. `inputs` has one name, `intensity`,
    for images; `mean` and `std` are the pool's.
    """

    labels: tuple[str, ...]
    inputs: tuple[str, ...]
    label_counts: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    sites: tuple[SiteProfile, ...]

    def to_json(self) -> dict[str, Any]:
        """Dicts, lists and numbers."""
        return asdict(self)
