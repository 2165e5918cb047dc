"""What ``privacy.py`` times of ours, each part in a process of its own: ``python benchmarks/ours_privacy.py PART``.

Prints one line of JSON. CPU seconds are the process's, all threads of it.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from wardround.plan_privacy import Relation
from wardround.strategies.privacy.accounting import calibrate_noise, epsilon_of
from wardround.strategies.privacy.events import Event, FixedSizeGaussian, Gaussian, PoissonGaussian
from wardround.strategies.privacy.gaussian_dp import epsilon_of_mu, mu_of
from wardround.strategies.privacy.secure_random import SecureRandom

Figures: TypeAlias = dict[str, Any]

ADD_REMOVE, REPLACE_ONE = Relation.ADD_REMOVE, Relation.REPLACE_ONE
REFERENCES: dict[str, tuple[Event, float, float]] = {  # name: event, delta, epsilon
    "Poisson q=0.01 sigma=4 T=1e4": (
        PoissonGaussian(noise_std=4.0, sensitivity=1.0, relation=ADD_REMOVE, rate=0.01, count=10_000),
        1e-5,
        0.9470,
    ),
    "Poisson q=250/60000 sigma=1.1 T=14400": (
        PoissonGaussian(noise_std=1.1, sensitivity=1.0, relation=ADD_REMOVE, rate=250 / 60_000, count=14_400),
        1e-5,
        2.3496,
    ),
    "Poisson q=0.05 sigma=1 T=200": (
        PoissonGaussian(noise_std=1.0, sensitivity=1.0, relation=ADD_REMOVE, rate=0.05, count=200),
        1e-5,
        4.766,
    ),
    "full sigma=5 T=50": (Gaussian(noise_std=5.0, sensitivity=1.0, relation=ADD_REMOVE, count=50), 1e-5, 6.573),
    "full sigma=5 T=50 replace-one": (
        Gaussian(noise_std=5.0, sensitivity=2.0, relation=REPLACE_ONE, count=50),
        1e-5,
        15.456,
    ),
    "fixed size 10 of 20 sigma=5 T=50": (
        FixedSizeGaussian(noise_std=5.0, sensitivity=2.0, drawn=10, population=20, count=50),
        1e-3,
        12.07,
    ),
}
CLOSED = tuple(name for name, (event, _, _) in REFERENCES.items() if isinstance(event, Gaussian))
SETTINGS = (  # clients, delta, rounds, epsilon; full participation
    (280, 1e-3, 50, 1.0),
    (280, 1e-5, 50, 1.0),
    (1000, 1e-6, 100, 1.0),
    (100, 1e-6, 20, 3.0),
    (100, 1e-6, 50, 8.0),
)
SIZES = (100_000, 1_000_000, 10_000_000)
NUMPY = "np.random.normal"


def timed(step: Callable[[], object]) -> tuple[float, float, Any]:
    """CPU seconds, wall seconds and the result."""
    began = time.process_time(), time.perf_counter()
    result = step()
    return time.process_time() - began[0], time.perf_counter() - began[1], result


def accounting() -> Figures:
    """Each reference epsilon, asked for the first time; nothing of it is in a cache."""
    imported, _, _ = timed(_import_pld)
    queries = {}
    for name, (event, delta, reference) in REFERENCES.items():
        cpu, wall, bound = timed(lambda event=event, delta=delta: epsilon_of([event], delta))  # type: ignore[misc]
        queries[name] = {
            "cpu_s": cpu,
            "wall_s": wall,
            "epsilon": bound.epsilon,
            "reference": reference,
            "accountant": bound.accountant,
        }
    closed = {}
    for name in CLOSED:
        event, delta, _ = REFERENCES[name]
        costs = [timed(lambda event=event, delta=delta: epsilon_of_mu(mu_of([event]), delta))[0] for _ in range(200)]  # type: ignore[misc]
        closed[name] = {"cpu_s": statistics.median(costs), "cpu_s_most": max(costs)}
    return {"import_cpu_s": imported, "queries": queries, "closed": closed}


def _import_pld() -> None:
    try:
        import dp_accounting.pld  # noqa: F401
    except ImportError:
        print("dp-accounting is not installed: PLD takes no part", file=sys.stderr)


def noise() -> Figures:
    """Normals of the secure generator and of numpy's, turn by turn: the fastest of five calls each."""
    random = SecureRandom()
    steps: dict[str, Callable[[int], object]] = {
        NUMPY: lambda n: np.random.normal(0.0, 1.0, n),
        "normal": random.normal,
        "grid_normal": random.grid_normal,
    }
    found: dict[str, dict[str, float]] = {name: {} for name in steps}
    for size in SIZES:
        costs: dict[str, list[float]] = {name: [] for name in steps}
        for step in steps.values():
            step(1000)
        for _ in range(5):
            for name, step in steps.items():
                costs[name].append(timed(lambda step=step, size=size: step(size))[0])  # type: ignore[misc]
        for name, each in costs.items():
            found[name][str(size)] = min(each)
    return {"cpu_s": found}


def multiplier() -> Figures:
    """The noise multiplier that each setting needs, ours and by flwr's accountant, which calibrates nothing itself."""
    rows = []
    for clients, delta, rounds, epsilon in SETTINGS:

        def events(z: float, rounds: int = rounds) -> list[Event]:
            return [Gaussian(noise_std=z, sensitivity=1.0, relation=ADD_REMOVE, count=rounds)]

        ours = calibrate_noise(events, epsilon, delta)
        theirs = flowers_multiplier(clients, delta, rounds, epsilon)
        rows.append(
            {"clients": clients, "delta": delta, "rounds": rounds, "epsilon": epsilon, "ours": ours, "flwr": theirs}
        )
    return {"settings": rows}


def flowers_multiplier(clients: int, delta: float, rounds: int, epsilon: float) -> float:
    """The smallest, by bisection, for which flwr's RdpAccountant says at most `epsilon`."""
    from flwr.supercore.privacy_accounting import (
        GaussianPrivacyEvent,
        NeighboringRelation,
        PrivacyConfig,
        SamplingMethod,
    )
    from flwr.supercore.privacy_accounting.rdp_accountant import RdpAccountant

    def spent(z: float) -> float:
        relation, method = NeighboringRelation.ADD_OR_REMOVE_ONE, SamplingMethod.NO_AMPLIFICATION
        accountant = RdpAccountant(PrivacyConfig(delta, clients, relation, method))
        accountant.compose(GaussianPrivacyEvent(z, clients, clients), rounds)
        return float(accountant.get_epsilon(delta))

    low, high = 0.1, 1e4
    while high / low > 1 + 1e-6:
        middle = (low * high) ** 0.5
        low, high = (middle, high) if spent(middle) > epsilon else (low, middle)
    return high


MODELS: dict[str, dict[str, Any]] = {  # name: what of the plan is the model's; rows are drawn at random
    "MLP 784-1024-1024-10, 1.9M": {
        "task": {"name": "tabular-classifier", "model": "mlp", "hidden": [1024, 1024]},
        "data": {"columns": [{"name": f"x{column}"} for column in range(784)], "standardize": "none"},
        "shape": (784,),
        "batch": 128,
        "steps": 4,
    },
    "digits CNN": {
        "task": {"name": "image-classifier", "model": "cnn", "options": {"width": 16, "dense": 64}},
        "data": {"image": {"shape": [1, 8, 8], "range": [0, 16]}},
        "shape": (1, 8, 8),
        "batch": 64,
        "steps": 20,
    },
}
PLAIN, CHOSEN = "plain", "chosen"
ROWS = 2048
HOPELESS = 5.0  # times the chosen mode's cost: measured once, and not again


def training(repetitions: int = 5) -> Figures:
    """A step of DP-SGD in each mode and in the one that is chosen, beside a step of plain SGD; turn by turn.

    Whole steps as a site runs them: draw, gradients, clip, noise, optimiser. Poisson batches of the plain one's size
    on average. One torch thread.
    """
    import torch

    torch.set_num_threads(1)
    return {name: _training_of(settings, repetitions) for name, settings in MODELS.items()}


def _training_of(settings: dict[str, Any], repetitions: int) -> Figures:
    import torch

    from wardround.client.trainer.batches import Batches
    from wardround.client.trainer.bundle import load_task
    from wardround.client.trainer.private_gradient import Mode
    from wardround.client.trainer.private_sample import Units
    from wardround.client.trainer.private_workspace import PrivateWorkspace
    from wardround.client.trainer.workspace import Workspace
    from wardround.plan import parse_plan
    from wardround.strategies.privacy.terms import site_terms
    from wardround.task import Batch

    target = {"name": "y", "classes": [str(digit) for digit in range(10)]}
    steps, batch = settings["steps"], settings["batch"]
    table = {
        "name": "benchmark",
        "rounds": 1,
        "task": settings["task"],
        "data": {"source": "digits", "target": target, **settings["data"]},
        "training": {"lr": 1e-3, "batch_size": batch, "steps": steps},
    }
    privacy = {"unit": "row", "noise_multiplier": 1.0, "public_sizes": True}
    plain, private = parse_plan(table), parse_plan({**table, "privacy": privacy})
    generator = np.random.default_rng(20260401)
    x = generator.standard_normal((ROWS, *settings["shape"]), dtype=np.float32)
    rows = Batch(torch.from_numpy(x), torch.from_numpy(generator.integers(10, size=ROWS)))

    task = load_task(private)
    here, there = Workspace(load_task(plain), plain), PrivateWorkspace(task, private)
    model, terms, random = here.model.array.copy(), site_terms(private, ROWS), SecureRandom()
    units, batches = Units(np.arange(ROWS), np.arange(ROWS + 1), 1), Batches.of(plain.training, ROWS)

    def private_steps(mode: Mode | None) -> Mode:
        done = there.train_privately(rows, None, units, terms, model, random=random, lr=1e-3, mode=mode)
        return done.mode

    chosen = private_steps(None)  # the trial is in here, outside of what is compared
    ways: dict[str, Callable[[], object]] = {
        PLAIN: lambda: here.train(rows, None, batches, model, seed=1, lr=1e-3),
        CHOSEN: lambda: private_steps(None),
    }
    ways |= {mode.value: lambda mode=mode: private_steps(mode) for mode in Mode}  # type: ignore[misc]
    costs: dict[str, list[float]] = {name: [] for name in ways}
    order = list(ways)
    for repetition in range(repetitions):
        turn = repetition % len(order)
        for name in (*order[turn:], *order[:turn]):
            if repetition == 0 or costs[name][0] <= HOPELESS * costs[CHOSEN][0]:
                costs[name].append(timed(ways[name])[0] / steps)
    return {
        "parameters": int(model.size),
        "batch": batch,
        "mode": chosen.value,
        "cpu_s_a_step": {name: statistics.median(each) for name, each in costs.items()},
        "ratios": {
            name: [one / base for one, base in zip(each, costs[PLAIN], strict=False)] for name, each in costs.items()
        },
    }


EXAMPLE_EPSILONS = (1.0, 3.0, 8.0, None)
RUNS = 40


def example() -> Figures:
    """Accuracy of ``examples/private-flower-app``, whose noise is fresh in each run; without privacy one run tells."""
    import contextlib
    import importlib
    import io
    import logging
    from pathlib import Path

    root = Path(__file__).resolve().parent.parent
    sys.path[:0] = [str(root), str(root / "examples" / "private-flower-app")]
    from flwr.app import Context, RecordDict

    from tests.grid_of_apps import GridOfApps

    client, server = (importlib.import_module(f"private_practices.{part}_app") for part in ("client", "server"))
    logging.getLogger("flwr").setLevel(logging.CRITICAL)
    found = {}
    for epsilon in EXAMPLE_EPSILONS:
        config: dict[str, bool | float | int | str] = {
            "num-server-rounds": 10,
            "num-practices": 100,
            "learning-rate": 0.3,
            "private": epsilon is not None,
            "epsilon": epsilon or 0.0,
        }
        accuracies = []
        for _ in range(RUNS if epsilon else 1):
            context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config=config)
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                server.main(GridOfApps(client.app, 100, config), context)
            accuracies.append(float(printed.getvalue().partition("accuracy ")[2].split()[0]))
        found[str(epsilon or "none")] = accuracies
    return {"accuracy": found}


PARTS: dict[str, Callable[[], Figures]] = {
    "accounting": accounting,
    "noise": noise,
    "multiplier": multiplier,
    "training": training,
    "example": example,
}


if __name__ == "__main__":
    print(json.dumps(PARTS[sys.argv[1]]()))
