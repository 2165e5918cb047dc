"""A federation of five small hospitals that takes a fraction of a second, and observers that stop it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wardround.orders import SiteId
from wardround.plan import Plan, parse_plan
from wardround.simulations.attacks.adversary import attackers_of
from wardround.simulations.result import Result
from wardround.simulations.simulate import simulate
from wardround.strategies.records import RoundRecord, RunState
from wardround.vector import F32, I64

__all__ = [
    "IMPATIENT",
    "SITES",
    "Stop",
    "StopAfter",
    "attackers",
    "cut_and_continued",
    "hospitals",
    "plan",
    "pool",
    "run",
]

SITES = tuple(SiteId(f"ward {number}") for number in range(5))
IMPATIENT = (
    "robust.quarantine.enabled=true",
    "robust.quarantine.decay=0.5",
    "robust.quarantine.flag_rate=0.01",
    "robust.quarantine.false_positive=0.5",
)
"""Quarantine after two suspicious rounds in a row."""


def pool(rows: int = 200) -> tuple[F32, I64]:
    """Rows to be dealt out."""
    random = np.random.Generator(np.random.Philox(key=6))
    x = random.normal(size=(rows, 4)).astype(np.float32)
    return x, (x @ np.array([1, -1, 2, 0]) + 0.3 * random.normal(size=rows) > 0).astype(np.int64)


def hospitals(sites: Sequence[str] = SITES, rows: int = 40) -> dict[str, tuple[F32, I64]]:
    """Two classes that a line separates well; each hospital sees another part of the line."""
    random = np.random.Generator(np.random.Philox(key=5))
    given: dict[str, tuple[F32, I64]] = {}
    for number, site in enumerate(sites):
        x = random.normal(size=(rows, 4)).astype(np.float32) + np.float32(0.2 * number)
        given[site] = x, (x @ np.array([1, -1, 2, 0]) + 0.3 * random.normal(size=rows) > 0).astype(np.int64)
    return given


def plan(*settings: str, attack: str = "", **tables: Any) -> Plan:
    """A plan for `hospitals` with one tolerated attacker, one of whom attacks when `attack` is named."""
    table: dict[str, Any] = {
        "name": "attacked",
        "rounds": 4,
        "task": {"name": "tabular-classifier", "model": "logistic"},
        "data": {"source": "arrays", "target": {"name": "ill", "classes": ["no", "yes"]}},
        "training": {"batch_size": 16, "lr": 0.2},
        "evaluation": {"every": 0},
        "robust": {"rule": "trimmed_mean", "num_byzantine": 1},
        "simulation": {"sites": 5, "executor": "flat", "workers": 1, "bootstrap": 0, "baselines": False},
    }
    if attack:
        table["simulation"]["attack"] = {"name": attack, "attackers": 1}
    return parse_plan({**table, **tables}).override(settings)


def attackers(chosen: Plan, sites: Sequence[SiteId] = SITES) -> tuple[SiteId, ...]:
    return attackers_of(chosen, sites)


def run(chosen: Plan, **options: Any) -> Result:
    """A simulation of `hospitals` without a report."""
    return simulate(chosen, **{"data": hospitals(), "report": False, **options})


class Stop(Exception):
    pass


class StopAfter:
    """Ends a run after a round."""

    def __init__(self, last: int) -> None:
        self.last = last

    def round_done(self, record: RoundRecord, state: RunState) -> None:
        if record.round == self.last:
            raise Stop


def cut_and_continued(chosen: Plan, folder: Path, *, after: int, **options: Any) -> Result:
    """The same run, stopped after a round and continued from its run directory."""
    try:
        run(chosen, out=folder, observer=StopAfter(after), **options)
    except Stop:
        return run(chosen, out=folder, resume=True, **options)
    raise AssertionError(f"expected a run of more than {after} rounds")
