"""A red-team grid: every rule against every attack on several seeds, on all cores."""

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from itertools import islice, product
from multiprocessing import get_context
from typing import Any

from wardround.errors import LocalError
from wardround.plan import Plan
from wardround.plan_robust import OFF
from wardround.plan_simulation import ExecutorChoice
from wardround.registry import load, names, nearest
from wardround.server.runs.caveat import caveat
from wardround.server.runs.metrics import Kind
from wardround.simulations.attacks.attack import GROUP
from wardround.simulations.redteam.candidates import CANDIDATES, Candidate, why_not
from wardround.simulations.redteam.cells import HONEST, Cell, CellResult, run_cell
from wardround.simulations.redteam.choice import choose

__all__ = ["Grid", "plan_grid", "run_grid", "table_of_results"]

_METRICS = {
    Kind.BINARY: ("accuracy", "auc", "sensitivity", "specificity", "brier"),
    Kind.MULTICLASS: ("accuracy", "auc"),
    Kind.REGRESSION: ("rmse", "mae", "r2"),
}
"""What a rule may be judged by; the first is the default."""
_LOWER = {"rmse", "mae", "brier"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """What is to be run, and what cannot be: label of a candidate → why."""

    plan: Plan
    attackers: int
    num_byzantine: int
    """What rules reckon with in a round, where `attackers` are of all sites."""
    candidates: tuple[Candidate, ...]
    left_out: dict[str, str]
    attacks: tuple[str, ...]
    seeds: tuple[int, ...]
    metric: str
    """What rules are judged by, on test rows."""

    @property
    def higher_is_better(self) -> bool:
        return self.metric not in _LOWER

    def cells(self) -> Iterator[Cell]:
        """Every cell; the seeds outermost, so that an early end leaves whole tables."""
        for seed, attack, candidate in product(self.seeds, self.attacks, self.candidates):
            yield Cell(candidate, attack, seed)


def plan_grid(
    plan: Plan,
    *,
    candidates: Sequence[Candidate] = CANDIDATES,
    attacks: Sequence[str] | None = None,
    attackers: int | None = None,
    seeds: Sequence[int] = (101, 102, 103),
    metric: str | None = None,
) -> Grid:
    """The grid for `plan`: by default every usable candidate and every attack.

    Rules reckon with `robust.num_byzantine` bad contributions of a round. Where a round draws a cohort, by default as
    many of all sites attack that a cohort holds so many of them on average.

    Rules are judged by accuracy, or by rmse where a number is predicted. AUC is no good judge: it does not see a
    model whose threshold was shifted until it calls everybody healthy.
    Raises LocalError for an unknown attack or metric, no attackers, or when no candidate is left.
    """
    if plan.task.flower_app is not None:
        raise LocalError("redteam: expected a plan with a task: a Flower app's data cannot be poisoned or judged here")
    if plan.data.test == 0:
        raise LocalError("redteam: expected test rows to judge models by (data.test above 0)")
    share = plan.cohort_size / plan.simulation.sites
    if attackers is None:
        attackers = round(plan.robust.num_byzantine / share) or plan.simulation.attack.attackers
    if not 0 < attackers < plan.simulation.sites:
        raise LocalError(
            f"redteam: expected 1 to {plan.simulation.sites - 1} attackers (--attackers or robust.num_byzantine), "
            f"got {attackers}"
        )
    known = names(GROUP)
    for name in attacks or ():
        if name not in (HONEST, *known):
            raise LocalError(f"redteam: no attack is called {name!r}{nearest(name, known)}")
    judges = _METRICS[Kind.of(plan.data.target)] if plan.data.target is not None else ("accuracy",)
    metric = metric or judges[0]
    if metric not in judges:
        raise LocalError(f"redteam: expected one of {', '.join(judges)} for this plan's target, got {metric!r}")
    candidates = tuple(dict.fromkeys(candidates))
    chosen = [name for name in dict.fromkeys(attacks or known) if name != HONEST]
    num_byzantine = plan.robust.num_byzantine or max(1, round(attackers * share))
    obstacles = {one.label: why_not(one, plan, num_byzantine) for one in candidates}
    usable = tuple(one for one in candidates if not obstacles[one.label])
    if not usable:
        label, why = next(iter(obstacles.items()))
        raise LocalError(f"redteam: expected a rule that can be used, but {label}: {why}")
    return Grid(
        plan=plan,
        attackers=attackers,
        num_byzantine=num_byzantine,
        candidates=usable,
        left_out={label: why for label, why in obstacles.items() if why},
        attacks=(HONEST, *(name for name in chosen if _applies(name, plan))),
        seeds=tuple(seeds),
        metric=metric,
    )


def _applies(attack: str, plan: Plan) -> bool:
    """A backdoor needs classes."""
    return not load(GROUP, attack).has_trigger or (plan.data.target is not None and bool(plan.data.target.classes))


_Data = Any
_data: _Data = None


def _start(data: _Data) -> None:
    """Once in each process: one thread for torch, and the data that Python gave."""
    global _data
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it at once, without a traceback of its own
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})

    import torch

    torch.set_num_threads(1)
    _data = data


@contextmanager
def _starting() -> Iterator[None]:
    """Ctrl-C waits here, and in the processes that are begun here until `_start`."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(cell: Cell, *, grid: Grid, plan: Plan) -> CellResult:
    return run_cell(plan, cell, grid.attackers, grid.num_byzantine, grid.metric, _data)


def run_grid(
    grid: Grid,
    *,
    data: Any = None,
    done: Sequence[CellResult] = (),
    workers: int = 0,
    on_result: Callable[[CellResult], None] = lambda result: None,
) -> list[CellResult]:
    """The result of every cell in the grid's order; `on_result` is told of each new one as it comes.

    Those that are `done` are not run again. `workers` processes work (0: one per core); the results do not depend on
    their number.
    """
    found = {(one.rule, one.attack, one.seed): one for one in done}
    wanted = [(cell.candidate.label, cell.attack, cell.seed) for cell in grid.cells()]
    cells = [cell for cell, key in zip(grid.cells(), wanted, strict=True) if key not in found]
    if not cells:
        return [found[key] for key in wanted]
    plan = _with_engine(grid.plan, data)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    processes = min(workers or cores, len(cells))
    waiting = iter(cells)
    with ProcessPoolExecutor(processes, get_context("spawn"), _start, (data,)) as pool:
        try:
            work = partial(_work, grid=grid, plan=plan)
            with _starting():
                running = {pool.submit(work, cell) for cell in islice(waiting, 2 * processes)}
            while running:
                finished, running = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    result = future.result()
                    found[result.rule, result.attack, result.seed] = result
                    on_result(result)
                    running |= {pool.submit(work, cell) for cell in islice(waiting, 1)}
        except BrokenProcessPool:
            raise LocalError("a process was killed, for want of memory perhaps; try fewer workers") from None
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return [found[key] for key in wanted]


def _with_engine(plan: Plan, data: Any) -> Plan:
    """The plan with its executor settled once, by one trial, for all cells."""
    from wardround.simulations.simulate import settled_engine

    choice = settled_engine(plan, data)
    simulation = replace(
        plan.simulation, executor=ExecutorChoice(choice.executor), block_size=choice.block_size, workers=1
    )
    return replace(plan, simulation=simulation)


def table_of_results(grid: Grid, results: Sequence[CellResult], created: datetime | None = None) -> dict[str, Any]:
    """redteam.json: the grid, every result, the baseline (FedAvg, or else the mean, without an attack), the choice."""
    plain = next((name for name in (OFF, "mean") if any(one.rule == name for one in results)), "")
    baseline = {one.seed: one.value for one in results if (one.rule, one.attack) == (plain, HONEST)}
    values = [value for value in baseline.values() if value is not None]
    worst = min if grid.higher_is_better else max
    choice = choose(results, higher_is_better=grid.higher_is_better)
    rules = [{"name": one.label, "pre": list(one.pre), "rule": one.rule, "why_not": ""} for one in grid.candidates]
    rules += [{"name": label, "pre": [], "rule": label, "why_not": why} for label, why in grid.left_out.items()]
    attacks = [(name, load(GROUP, name)) for name in grid.attacks if name != HONEST]
    return {
        "plan": grid.plan.name,
        "digest": grid.plan.digest,
        "created": (created or datetime.now(UTC)).isoformat(timespec="seconds"),
        "metric": grid.metric,
        "higher_is_better": grid.higher_is_better,
        "sites": grid.plan.simulation.sites,
        "attackers": grid.attackers,
        "num_byzantine": grid.num_byzantine,
        "rounds": grid.plan.rounds,
        "note": caveat(grid.plan),
        "seeds": list(grid.seeds),
        "baseline": {
            "mean": sum(values) / len(values) if values else None,
            "worst": worst(values) if values else None,
            "seeds": {str(seed): value for seed, value in baseline.items()},
        },
        "rules": rules,
        "attacks": [{"name": HONEST, "summary": "everybody is honest", "backdoor": False}]
        + [{"name": name, "summary": cls.summary, "backdoor": cls.has_trigger} for name, cls in attacks],
        "cells": [one.to_json() for one in sorted(results, key=lambda one: (one.rule, one.attack, one.seed))],
        "choice": None if choice is None else asdict(choice),
    }
