"""The workload through wardround, as a person runs it from Python: `simulate` with a plan and arrays.

Nothing is left out for speed: LocalGrid, every site's ClientApp and Guard, the round loop. Same arguments and same
JSON as the peers' programs. The task is the plan's own, but for the first model, which is everybody's.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from measure import Rounds, adopt_orphans, show
from torch import Tensor, nn
from workload import F32, I64, LOSS_ROUND, WORKLOADS, Workload, client_data, initial_parameters, probe

from wardround.client.trainer.bundle import load_task
from wardround.client.trainer.flat_model import FlatModel
from wardround.plan import Plan, parse_plan
from wardround.plan_sections import BatchNorm
from wardround.simulations.simulate import simulate
from wardround.strategies.records import RoundRecord, RunState
from wardround.tally import Tally, TallySpec
from wardround.task import Batch, Task

MLP: dict[str, object] = {
    "name": "tabular-classifier",
    "model": "mlp",
    "hidden": [64, 32],
    "options": {"inputs": 30},
}
MODELS: dict[str, dict[str, object]] = {
    "mlp": MLP,
    "many": MLP,
    "wide": {**MLP, "hidden": [256, 256]},
    "logistic": {"name": "tabular-classifier", "model": "logistic", "options": {"inputs": 30}},
    "cnn": {
        "name": "image-classifier",
        "model": "cnn",
        "options": {"norm": False, "kernel": 3, "padding": 0, "pools": 1, "width": 32, "dense": 128},
    },
}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="The workload through wardround.")
    parser.add_argument("--model", choices=sorted(WORKLOADS), required=True)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1, help="threads that train clients (simulation.workers)")
    parser.add_argument("--executor", choices=("auto", "flat", "blocks"), default="auto")
    parser.add_argument("--clients", type=int, help="size of the federation, if not the workload's")
    parser.add_argument("--cohort", type=int, help="clients a round, if not the workload's")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def plan_of(workload: Workload, args: argparse.Namespace) -> Plan:
    images = len(workload.input_shape) == 3
    return parse_plan(
        {
            "name": f"benchmark-{workload.name}",
            "seed": 1,
            "rounds": args.warmup + args.rounds,
            "task": MODELS[workload.name],
            "data": {
                "source": "arrays",
                "target": {"name": "class", "classes": [str(label) for label in range(workload.classes)]},
                **({"image": {"shape": list(workload.input_shape), "range": [0.0, 1.0]}} if images else {}),
                "validation": 0.0,
                "test": 0.0,
                "allow_single_class": True,
            },
            "cohort": {"size": workload.cohort},
            "training": {
                "optimizer": "sgd",
                "lr": workload.learning_rate,
                "batch_size": workload.batch_size,
                "epochs": 1,
            },
            "evaluation": {"every": 0},
            "simulation": {
                "sites": workload.clients,
                "executor": args.executor,
                "workers": args.workers,
                "baselines": False,
                "bootstrap": 0,
            },
        }
    )


class GivenStart:
    """The plan's task, whose first model is the workload's."""

    def __init__(self, plan: Plan, workload: Workload) -> None:
        self._task, self._workload = load_task(plan), workload

    @property
    def tally_spec(self) -> TallySpec:
        return self._task.tally_spec

    def model(self, seed: int) -> nn.Module:
        module = self._task.model(seed)
        with torch.no_grad():
            given = initial_parameters(self._workload).values()
            for parameter, value in zip(module.parameters(), given, strict=True):
                parameter.copy_(torch.from_numpy(value))
        return module

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        return self._task.loss(outputs, batch)

    def tally(self, outputs: Tensor, batch: Batch) -> Tally:
        return self._task.tally(outputs, batch)

    def predict(self, outputs: Tensor) -> Tensor:
        return self._task.predict(outputs)

    def output_names(self) -> Sequence[str]:
        return self._task.output_names()


class Boundaries:
    """Marks the end of each round, and keeps the model whose loss is compared."""

    def __init__(self, rounds: Rounds) -> None:
        self.rounds, self.model = rounds, np.empty(0, dtype=np.float32)

    def round_done(self, record: RoundRecord, state: RunState) -> None:
        self.rounds.boundary()
        absent = len(record.absences)
        if record.void or absent:
            raise SystemExit(f"wardround: {absent} of {len(record.cohort)} clients are missing in round {record.round}")
        if record.round == LOSS_ROUND:
            self.model = state.model.copy()


def loss_of(task: Task, model: F32, x: F32, y: I64) -> float:
    """Mean cross-entropy of a flat model."""
    flat = FlatModel(task.model(0), BatchNorm.AVERAGE)
    flat.load(model, None, training=False)
    total = 0.0
    with torch.no_grad():
        for start in range(0, len(x), 500):
            batch = Batch(torch.from_numpy(x[start : start + 500]), torch.from_numpy(y[start : start + 500]))
            total += float(task.loss(flat.module(batch.x), batch).sum())
    return total / len(x)


def main() -> None:
    args = parse()
    given = WORKLOADS[args.model]
    workload = replace(given, clients=args.clients or given.clients, cohort=args.cohort or given.cohort)
    adopt_orphans()
    plan = plan_of(workload, args)
    task = GivenStart(plan, workload)
    x, y = client_data(workload)
    rounds = Rounds()
    boundaries = Boundaries(rounds)
    rounds.boundary()  # what comes before round 1 counts as round 1, which warm-up leaves out
    sites = {f"site-{number:05}": (x[number], y[number]) for number in range(workload.clients)}
    simulate(plan, task=task, data=sites, observer=boundaries, report=False)
    loss = float("nan")
    if len(boundaries.model):
        loss = loss_of(task, boundaries.model, *probe(x, y))
    figures = rounds.report("wardround", args.model, args.warmup, workers=args.workers, cohort=workload.cohort)
    show({**figures, "loss": loss}, as_json=args.json)


if __name__ == "__main__":
    main()
