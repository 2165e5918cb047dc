"""How accurate models are at epsilon 1, 3 and 8, beside Flower's mechanisms at the same claim.

`python benchmarks/private_accuracy.py --out FILE --page docs/private-accuracy.md` runs what is missing in FILE (a line
of JSON per run) and writes the page; some minutes on two cores. Settings were chosen on other seeds (101 to 104).
Flower's are its own functions for clip, deviation and noise, and its own accountant, on the same local training.
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np
from kept_runs import Cell, Found, measure
from ours_privacy import flowers_multiplier

from wardround.orders import EvalJob, FitJob, Order, OrderKind, Split, derive_seed, digest
from wardround.plan import Plan
from wardround.plan_source import find_plan
from wardround.simulations.federation import build_federation
from wardround.simulations.participants import gather_task
from wardround.simulations.simulate import simulate
from wardround.strategies.privacy.terms import client_terms
from wardround.vector import F32

DELTA = 1e-5
EPSILONS = ("1", "3", "8")
SEEDS = tuple(range(11, 31))
QUIET = ("simulation.baselines=false", "simulation.bootstrap=0", "simulation.workers=1")
_LINEAR_DIGITS = ("task.model=linear", "task.options=", "training.momentum=0")
_CLIENTS = ("privacy.unit=client", f"privacy.delta={DELTA}", "cohort.weighting=uniform", "privacy.public_sizes=false")
_ROWS = ("privacy.unit=row", f"privacy.delta={DELTA}", "privacy.sampling=full", "privacy.public_sizes=true")
_PLAIN = ("privacy=", "training.steps=", "training.epochs=2")


@dataclass(frozen=True)
class Setting:
    """A data set under one kind of privacy: the shipped plan, what is set in it, and what "off" is."""

    plan: str
    rows: tuple[str, ...]
    clients: tuple[str, ...]
    off: tuple[str, ...]


SETTINGS = {
    "breast-cancer": Setting(
        plan="breast-cancer-private",
        rows=(*_ROWS, "rounds=10", "training.lr=2.0", "privacy.clip_norm=0.5"),
        clients=(*_PLAIN[1:], "privacy.sampling=", *_CLIENTS, "rounds=3", "privacy.clip_norm=0.3"),
        off=(*_PLAIN, "rounds=30", "training.lr=0.1"),
    ),
    "digits": Setting(
        plan="digits",
        rows=(*_LINEAR_DIGITS, "training.epochs=", "training.steps=1", *_ROWS, "rounds=15", "training.lr=4.0",
              "privacy.clip_norm=0.5"),
        clients=(*_LINEAR_DIGITS, *_CLIENTS, "training.lr=0.1", "rounds=8", "privacy.clip_norm=0.3"),
        off=(*_LINEAR_DIGITS, "training.lr=0.1"),
    ),
}  # fmt: skip
KINDS = ("rows", "clients", "flower-clients", "flower-local", "off")
TOLD = {
    "rows": "ours, a row (add-remove)",
    "clients": "ours, a client (zero-out)",
    "flower-clients": "Flower's server-side fixed clipping, a client",
    "flower-local": "Flower's LocalDpMod, a client, against the server too",
    "off": "no privacy",
}


def accuracy(cell: Cell) -> dict[str, float]:
    """The released model's metrics on all test rows."""
    name, kind, epsilon, seed = cell
    setting = SETTINGS[name]
    base = find_plan(setting.plan)
    if kind == "off":
        return _simulated(base.override([*QUIET, *setting.off, f"seed={seed}"]))
    if kind == "rows":
        return _simulated(base.override([*QUIET, *setting.rows, f"privacy.epsilon={epsilon}", f"seed={seed}"]))
    plan = base.override([*QUIET, *setting.clients, f"privacy.epsilon={epsilon}", f"seed={seed}"])
    return _simulated(plan) if kind == "clients" else _flowers(plan, kind)


def _simulated(plan: Plan) -> dict[str, float]:
    found = simulate(plan).comparison
    assert found is not None
    return {metric: one.value for metric, one in found.overall["federated"].items() if one.value is not None}


def _flowers(private: Plan, kind: str) -> dict[str, float]:
    """FedAvg of the plan's local training, with Flower's clip and noise."""
    plan = private.override(["privacy="])
    participants = gather_task(plan, build_federation(plan))
    trainers, model = participants.trainers, participants.initial.copy()
    combine = _combine(private, kind, len(trainers))
    for number in range(1, plan.rounds + 1):
        order = _order(plan, OrderKind.FIT, number, model)
        updates = []
        for site, trainer in trainers.items():
            job = FitJob(order=order, site=site, seed=derive_seed(plan.seed, "fit", site, number, 0))
            updates.append(trainer.fit(job, model).update.copy())
        model = model + combine(updates)
    order = _order(plan, OrderKind.EVALUATE, plan.rounds, model)
    tallies = [trainer.evaluate(EvalJob(order=order, site=site), model) for site, trainer in trainers.items()]
    return sum(tallies[1:], start=tallies[0]).metrics()


def _order(plan: Plan, kind: OrderKind, number: int, model: F32) -> Order:
    named = digest(model.tobytes())
    return Order(
        run_id="flower", plan_digest=plan.digest, kind=kind, round=number, split=Split.TEST, model_digest=named
    )


def _combine(plan: Plan, kind: str, clients: int) -> Callable[[list[F32]], F32]:
    from flwr.supercore.differential_privacy import add_gaussian_noise_inplace, compute_clip_model_update, compute_stdv

    clip, epsilon = plan.privacy.clip_norm, plan.privacy.epsilon
    assert epsilon is not None

    def clipped(update: F32) -> F32:
        arrays, zero = [update.astype(np.float64)], [np.zeros(update.size)]
        compute_clip_model_update(arrays, zero, clip)
        return arrays[0].astype(np.float32)

    if kind == "flower-clients":
        std = compute_stdv(flowers_multiplier(clients, DELTA, plan.rounds, epsilon), clip, clients)
        on_each = 0.0
    else:  # noise of the same claim on every update; our closed form for all rounds together, which is in its favour
        std, on_each = 0.0, client_terms(plan).noise_multiplier * clip

    def combine(updates: list[F32]) -> F32:
        sent = [clipped(update) for update in updates]
        if on_each:
            for one in sent:
                add_gaussian_noise_inplace([one], on_each)
        mean = np.mean(sent, axis=0)
        if std:
            add_gaussian_noise_inplace([mean], std)
        return mean.astype(np.float32)

    return combine


def cells() -> Iterator[Cell]:
    for name in SETTINGS:
        for kind in KINDS:
            for epsilon in ("off",) if kind == "off" else EPSILONS:
                for seed in SEEDS:
                    yield name, kind, epsilon, seed


def page(found: Found) -> Iterator[str]:
    """The page, Markdown."""
    yield "# Accuracy under privacy\n"
    yield (
        "Written by `python benchmarks/private_accuracy.py --out FILE --page docs/private-accuracy.md`. Accuracy on "
        f"all test rows: mean (lowest to highest) of {len(SEEDS)} seeds, {SEEDS[0]} to {SEEDS[-1]}. A seed decides who "
        "holds which rows and the first model; noise and samples follow from no seed. Every epsilon is at delta 1e-5, "
        "under full participation; unit and neighbouring relation stand in each row. Settings were chosen on other "
        "seeds, a choice that no claim here covers.\n"
    )
    yield (
        "What hides a *row* hides it from everybody outside its hospital; what hides a *client* hides the whole "
        "hospital from those who get the model, while the server is trusted to add the noise (Flower's `LocalDpMod` "
        "trusts no server, and pays for it). Models: logistic regression on breast cancer (31 parameters), a linear "
        "classifier on digits (650 parameters). Models that hide rows are tested on other test rows than the others, "
        "since their split is drawn by lot.\n"
    )
    for name, setting in SETTINGS.items():
        plan = find_plan(setting.plan)
        yield f"## {name}: {plan.simulation.sites} sites\n"
        yield "| mechanism and unit | epsilon 1 | epsilon 3 | epsilon 8 |"
        yield "|---|---|---|---|"
        for kind in KINDS[:-1]:
            shown = (_shown(found, name, kind, epsilon) for epsilon in EPSILONS)
            yield f"| {TOLD[kind]} | {' | '.join(shown)} |"
        yield f"\nWithout privacy: {_shown(found, name, 'off', 'off')}.\n"


def _shown(found: Found, name: str, kind: str, epsilon: str) -> str:
    values = [found[name, kind, epsilon, str(seed)]["accuracy"] for seed in SEEDS]
    return f"{fmean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="file of results; what is there is not run again")
    parser.add_argument("--page", type=Path, help="write the tables here, not to standard output")
    arguments = parser.parse_args()
    text = "\n".join(page(measure(arguments.out, cells(), accuracy)))
    if arguments.page:
        arguments.page.write_text(text, encoding="utf-8")
    else:
        print(text)


if __name__ == "__main__":
    main()
