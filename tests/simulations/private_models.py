"""Runs with models for the tests of private inference: nothing is trained."""

from pathlib import Path

import numpy as np

from wardround.orders import Statistics
from wardround.plan import parse_plan
from wardround.server.runs.run_directory import RunDirectory
from wardround.vector import F32, Layout, TensorSpec

__all__ = ["LOGISTIC", "MLP", "ROWS", "STATISTICS", "make_run"]

LOGISTIC = """
name = "hearts"
rounds = 1
[task]
name = "tabular-classifier"
model = "logistic"
[data]
source = "csv"
path = "rows.csv"
standardize = "federated"
target = { name = "ill", classes = ["no", "perhaps", "yes"] }
columns = [
  { name = "pressure", unit = "mmHg", range = [30, 250] },
  { name = "smoker", type = "category", categories = ["never", "now"] },
]
"""
MLP = LOGISTIC.replace('"logistic"', '"mlp"\nhidden = [4]\noptions = { quadratic = true }')
STATISTICS = Statistics(mean=(120.0,), std=(20.0,))
ROWS = "age,smoker,pressure\n1,now,140\n2,never,100\n\n3,never,240.5\n"


def make_run(path: Path, text: str = LOGISTIC, *, seed: int = 0, widths: tuple[int, ...] | None = None) -> Path:
    """A run with a random model of `widths`, by default those of the plan `text`."""
    plan = parse_plan(text)
    hidden = plan.task.hidden if plan.task.model == "mlp" else ()
    outputs = len(plan.data.target.classes) if plan.data.target is not None else 1
    widths = widths or (plan.data.num_inputs, *hidden, max(1, outputs))
    names = [*(f"hidden{place}" for place in range(1, len(widths) - 1)), "output"]
    tensors = []
    for name, width, following in zip(names, widths[:-1], widths[1:], strict=True):
        tensors.append(TensorSpec(name=f"{name}.weight", shape=(following, width)))
        tensors.append(TensorSpec(name=f"{name}.bias", shape=(following,)))
    layout = Layout(tuple(tensors))
    model: F32 = np.random.default_rng(seed).normal(0, 0.5, layout.size).astype(np.float32)
    with RunDirectory.create(path, plan, {}) as run:
        run.write_model(layout, model, round=1, statistics=STATISTICS)
    return path
