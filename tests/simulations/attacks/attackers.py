"""What attackers know in a test, and the plans whose data they poison."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from wardround.plan import Plan, parse_plan
from wardround.simulations.attacks.attack import Knowledge
from wardround.vector import F32

__all__ = ["known", "plan_of", "rng"]


def rng(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(key=seed))


def _mean(rows: F32) -> F32 | None:
    found: F32 = rows.mean(axis=0)
    return found


def known(
    honest: ArrayLike,
    own: ArrayLike,
    *,
    model: ArrayLike | None = None,
    seed: int = 0,
    aggregate: Callable[[F32], F32 | None] = _mean,
    memory: Mapping[str, NDArray[Any]] | None = None,
) -> Knowledge:
    """Knowledge whose arrays cannot be written to. `own`: rows, or how many zero rows."""
    others = np.array(honest, dtype=np.float32)
    d = others.shape[1]
    mine = np.zeros((own, d), dtype=np.float32) if isinstance(own, int) else np.array(own, dtype=np.float32)
    base = np.zeros(d, dtype=np.float32) if model is None else np.array(model, dtype=np.float32)
    for array in (others, mine, base):
        array.setflags(write=False)
    return Knowledge(own=mine, honest=others, model=base, round=1, seed=seed, aggregate=aggregate, memory=memory or {})


def plan_of(data: Mapping[str, Any]) -> Plan:
    """A plan for three sites with this `data` section."""
    regression = "range" in data["target"]
    name = "image-classifier" if "image" in data else f"tabular-{'regressor' if regression else 'classifier'}"
    table = {"source": "arrays", **data}
    return parse_plan(
        {"name": "attacked", "rounds": 1, "task": {"name": name}, "data": table, "simulation": {"sites": 3}}
    )
