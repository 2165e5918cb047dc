"""A federation of small hospitals under secure aggregation that takes a fraction of a second a round."""

from typing import Any

import numpy as np
import pytest

from tests.simulations.attacked_federation import plan, pool
from wardround.orders import SiteId
from wardround.plan import Plan
from wardround.simulations.result import Result
from wardround.simulations.simulate import simulate
from wardround.strategies.privacy.secure_random import U64, SecureRandom

__all__ = ["MASKED", "masked_plan", "names", "round_the_same", "run"]

MASKED = (
    'protection.mode="masking"',
    "protection.colluding=0",
    "clipping.clip_norm=1.0",
    "cohort.weighting=uniform",
)
PLAIN_MEAN = ("robust.rule=off", "robust.num_byzantine=0")


def names(count: int) -> tuple[SiteId, ...]:
    """Of the sites that rows are dealt out to."""
    return tuple(SiteId(f"site-{number:0{max(2, len(str(count)))}}") for number in range(1, count + 1))


def masked_plan(*settings: str, sites: int = 6, robust: bool = False, **options: Any) -> Plan:
    """By default one group of six, whose updates are averaged, and nobody drops out."""
    rule = () if robust else PLAIN_MEAN
    return plan(*rule, f"simulation.sites={sites}", *MASKED, *settings, **options)


def run(chosen: Plan, **options: Any) -> Result:
    """A simulation of sites with 40 rows each, without a report."""
    return simulate(chosen, **{"data": pool(40 * chosen.simulation.sites), "report": False, **options})


def round_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on every update is rounded by the same draws."""

    def zeros(random: SecureRandom, count: int) -> U64:
        return np.zeros(count, dtype=np.uint64)

    monkeypatch.setattr(SecureRandom, "words", zeros)
