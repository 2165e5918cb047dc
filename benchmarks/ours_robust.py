"""Our rules on the vectors of ``updates.py``: ``Robust.aggregate``, with all checks, and evidence for every vector."""

from collections.abc import Callable

import numpy as np
from updates import CASES, CLIPPING_RADIUS, CLIPPING_STEPS, arguments, num_byzantine, time_cases

from wardround.strategies.rules.bulyan import Bulyan
from wardround.strategies.rules.centered_clipping import CenteredClipping
from wardround.strategies.rules.geometric_median import GeometricMedian
from wardround.strategies.rules.krum import Krum
from wardround.strategies.rules.median import Median
from wardround.strategies.rules.multi_krum import MultiKrum
from wardround.strategies.rules.preaggregators.nnm import Nnm
from wardround.strategies.rules.robust import Robust, chain
from wardround.strategies.rules.trimmed_mean import TrimmedMean
from wardround.vector import F32


def robust(case: str, n: int) -> Robust:
    """The rule of a case."""
    f = num_byzantine(case, n)
    if case == "nnm_trimmed_mean":
        return chain(Nnm(f), TrimmedMean(f))
    if case.startswith("centered_clipping"):
        steps = 1 if case.endswith("once") else CLIPPING_STEPS
        return Robust(CenteredClipping(f, radius=CLIPPING_RADIUS, iterations=steps))
    plain = {
        "median": Median,
        "trimmed_mean": TrimmedMean,
        "krum": Krum,
        "multi_krum": MultiKrum,
        "bulyan": Bulyan,
        "geometric_median": GeometricMedian,
    }
    return Robust(plain[case](f))


def step(case: str, n: int) -> Callable[[F32], F32]:
    rule = robust(case, n)

    def aggregate(rows: F32) -> F32:
        made = rule.aggregate(rows)
        if made.vector is None or len(made.report.lines) != n:
            raise SystemExit(f"{case}: {made.reason}")
        return np.asarray(made.vector)

    return aggregate


if __name__ == "__main__":
    args = arguments(CASES)
    time_cases("wardround", args, lambda rows: rows, {case: step(case, args.n) for case in args.cases})
