"""byzfl's aggregators on the vectors of ``updates.py``, with numpy or, for what the gates say so, with torch.

In byzfl's favour: one array of all vectors, which it does not have to copy together, on one thread like everyone, and
no evidence or checks, which it does not have. Only its aggregators are imported.
"""

import importlib.metadata
import sys
import types
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

# The package's own __init__ imports torchvision, seaborn and matplotlib for parts that are not measured.
package = types.ModuleType("byzfl")
package.__path__ = [str(importlib.metadata.distribution("byzfl").locate_file("byzfl"))]
sys.modules["byzfl"] = package

import torch  # noqa: E402
from byzfl.aggregators import aggregators, preaggregators  # noqa: E402
from updates import CLIPPING_RADIUS, CLIPPING_STEPS, arguments, num_byzantine, time_cases  # noqa: E402

NUMPY = ("median", "trimmed_mean", "geometric_median", "centered_clipping", "centered_clipping_once")
TORCH = ("krum", "multi_krum", "nnm_trimmed_mean")


def step(case, n):
    f = num_byzantine(case, n)
    if case == "nnm_trimmed_mean":
        mix, rule = preaggregators.NNM(f), aggregators.TrMean(f)
        return lambda rows: rule(mix(rows))
    if case.startswith("centered_clipping"):  # its memory is not carried from call to call
        steps = 1 if case.endswith("once") else CLIPPING_STEPS
        return lambda rows: aggregators.CenteredClipping(L=steps, tau=CLIPPING_RADIUS)(rows)
    make = {
        "median": aggregators.Median,
        "trimmed_mean": lambda: aggregators.TrMean(f),
        "krum": lambda: aggregators.Krum(f),
        "multi_krum": lambda: aggregators.MultiKrum(f),
        "geometric_median": aggregators.GeometricMedian,
    }[case]
    return make()


if __name__ == "__main__":
    torch.set_num_threads(1)
    args = arguments(NUMPY + TORCH)
    library = "torch" if set(args.cases) <= set(TORCH) else "numpy"
    if not set(args.cases) <= set(TORCH if library == "torch" else NUMPY):
        raise SystemExit("byzfl: expected cases of one library")
    prepare = torch.from_numpy if library == "torch" else (lambda rows: rows)
    time_cases(f"byzfl-{library}", args, prepare, {case: step(case, args.n) for case in args.cases})
