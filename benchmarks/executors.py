"""CPU seconds that local training alone takes for a cohort: our executors beside a plain torch loop.

All parties take turns in one process on one thread, so that a busy machine slows them alike. Rows, models and
hyper-parameters are the workload's. Usage: python benchmarks/executors.py [--model mlp] [--repeat 20] [--json]
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence

import torch
from measure import tree_cpu_s
from peers.models import build
from torch.nn import functional
from workload import WORKLOADS, Workload, client_data, initial_parameters

from wardround.client.data.site_data import Rows, SiteData
from wardround.client.trainer.bundle import load_task
from wardround.client.trainer.flat_model import layout_of
from wardround.client.trainer.torch_trainer import TorchTrainer
from wardround.orders import FitJob, Order, OrderKind, SiteId
from wardround.plan import Plan, parse_plan
from wardround.simulations.executors.blocks import Blocks
from wardround.simulations.executors.executor import Executor
from wardround.simulations.executors.flat_loop import FlatLoop
from wardround.vector import F32

MODELS = ("logistic", "mlp", "cnn")


def plan_of(workload: Workload) -> Plan:
    """The workload as a plan for arrays."""
    task: dict[str, object] = {"name": "tabular-classifier", "model": workload.name, "options": {"inputs": 30}}
    data: dict[str, object] = {"source": "arrays"}
    if workload.name == "cnn":
        task = {"name": "image-classifier", "options": {"norm": False, "padding": 0, "pools": 1}}
        data["image"] = {"shape": list(workload.input_shape)}
    classes = [str(label) for label in range(workload.classes)]
    training = {"lr": workload.learning_rate, "batch_size": workload.batch_size}
    return parse_plan(
        {
            "name": "executors",
            "rounds": 1,
            "task": task,
            "data": {**data, "target": {"name": "y", "classes": classes}},
            "training": training,
            "simulation": {"sites": workload.cohort},
        }
    )


def plain_loop(workload: Workload, sites: Sequence[SiteData]) -> Callable[[], None]:
    """What anyone would write: torch.optim, cross-entropy, shuffled batches."""
    start = initial_parameters(workload)
    model = build(workload.name, start)
    optimizer = torch.optim.SGD(model.parameters(), lr=workload.learning_rate)
    state = {name: torch.from_numpy(values) for name, values in start.items()}

    def train() -> None:
        for site in sites:
            model.load_state_dict(state)
            order = torch.randperm(len(site.train))
            x, y = torch.from_numpy(site.train.x)[order], torch.from_numpy(site.train.y)[order]
            for rows, labels in zip(x.split(workload.batch_size), y.split(workload.batch_size), strict=True):
                optimizer.zero_grad()
                functional.cross_entropy(model(rows), labels).backward()
                optimizer.step()

    return train


def ours(executor: Executor, jobs: Sequence[FitJob], model: F32) -> Callable[[], None]:
    def train() -> None:
        for _ in executor.fit(jobs, model):
            pass

    return train


def parties_of(workload: Workload) -> dict[str, Callable[[], None]]:
    plan = plan_of(workload)
    task = load_task(plan)
    sites = []
    for place, (x, y) in enumerate(zip(*client_data(workload), strict=True)):
        rows = Rows(x, y)
        none = rows.take(y[:0])
        sites.append(SiteData(site=SiteId(f"site-{place}"), train=rows, validation=none, test=none))
    sites = sites[: workload.cohort]
    trainer_of = {site.site: TorchTrainer(task, plan, site) for site in sites}.__getitem__
    layout = layout_of(task, plan)
    model = layout.flatten(
        dict(zip([t.name for t in layout.tensors], initial_parameters(workload).values(), strict=True))
    )
    order = Order(run_id="bench", plan_digest=plan.digest, kind=OrderKind.FIT, round=1)
    jobs = [FitJob(order=order, site=site.site, seed=place) for place, site in enumerate(sites)]
    parties = {
        "plain torch": plain_loop(workload, sites),
        "FlatLoop": ours(FlatLoop(task, plan, trainer_of), jobs, model),
        "FlatLoop, 2 workers": ours(FlatLoop(task, plan, trainer_of, workers=2, block_size=10), jobs, model),
    }
    if workload.name != "cnn":
        parties["Blocks"] = ours(Blocks(task, plan, trainer_of, block_size=workload.cohort), jobs, model)
    return parties


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--model", choices=MODELS, action="append")
    parser.add_argument("--repeat", type=int, default=10)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    for name in args.model or MODELS:
        parties = parties_of(WORKLOADS[name])
        best = {party: [float("inf"), float("inf")] for party in parties}
        for _ in range(args.repeat + 1):  # the first time counts too: the best is taken
            for party, train in parties.items():
                cpu, wall = tree_cpu_s(), time.perf_counter()
                train()
                spent = (tree_cpu_s() - cpu, time.perf_counter() - wall)
                best[party] = [min(pair) for pair in zip(best[party], spent, strict=True)]
        for party, (cpu, wall) in best.items():
            line = {"model": name, "party": party, "cpu_s": cpu, "wall_s": wall}
            text = f"{name} {party}: {cpu:.4f} CPU s, {wall:.4f} wall s for a cohort of {WORKLOADS[name].cohort}"
            print(json.dumps(line) if args.json else text, flush=True)


if __name__ == "__main__":
    main()
