"""A small deterministic run, killed where it is told: `tiny_run.py loop|simulate FOLDER KILL...`.

`loop` is a loop over a run directory in this file, `simulate` a real simulation of three sites. For each KILL a run
in FOLDER/KILL is started in a child, which kills itself (SIGKILL), and is then continued by a second child until it
ends. KILL is `none`, `byte-N` (after N bytes have been written, in the middle of a write) or `call-N` (before the
N-th call that changes the disk). Prints how many bytes and calls each first child came to, if it was not killed.
"""

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from wardround.contribution import Evidence, Report, Verdict
from wardround.orders import SiteId, Statistics
from wardround.plan import Plan, parse_plan
from wardround.server.runs.run_directory import RunDirectory
from wardround.strategies.records import Absence, EvaluationRecord, RoundRecord, RunState
from wardround.tally import Tally
from wardround.vector import Layout, TensorSpec

PLAN = """
name = "tiny"
rounds = 5
[task]
name = "tabular-classifier"
[data]
source = "arrays"
target = { name = "ill", classes = ["no", "yes"] }
[simulation]
sites = 2
"""
LAYOUT = Layout((TensorSpec(name="weight", shape=(30, 5)), TensorSpec(name="bias", shape=(7,))))
SITES = (SiteId("site-01"), SiteId("sité \n02"))


def initial() -> RunState:
    statistics = Statistics(mean=(0.1, 1e-300), std=(1.0, 3.3))
    return RunState(round=0, model=np.zeros(LAYOUT.size, dtype=np.float32), statistics=statistics)


def advance(state: RunState, moving: dict[SiteId, dict[str, Any]]) -> RunState:
    """The next state: every bit of it depends on the one before; `moving` changes too."""
    number = state.round + 1
    momentum = state.optimizer.get("momentum", np.ones(LAYOUT.size)) * 0.9 + np.cos(number + state.model)
    for arrays in moving.values():
        arrays["mean"] = np.float32(0.5) * arrays["mean"] + state.model[:3]
    model = (state.model + momentum / 3 + moving[SITES[0]]["mean"].sum()).astype(np.float32)
    after = replace(state, round=number, model=model, optimizer={"momentum": momentum})
    if number == 1:
        return replace(after, best_round=number, best_loss=1 / number, best_model=model, evaluations_without_gain=0)
    return replace(after, evaluations_without_gain=state.evaluations_without_gain + 1)


def record(state: RunState, seconds: float) -> RoundRecord:
    tally = Tally.of_means(10 * state.round, {"loss": 1 / state.round})
    line = Evidence(members=SITES[:1], weight=1.0, norm=0.1 * state.round, verdict=Verdict.ACCEPTED)
    return RoundRecord(
        round=state.round,
        cohort=SITES,
        absences=(Absence(site=SITES[1], reason="late"),),
        void=False,
        lr=0.1,
        update_norm=float(np.linalg.norm(state.model)),
        train=tally,
        validation=EvaluationRecord(total=tally, sites={SITES[0]: tally}),
        report=Report((line,)),
        seconds=seconds,
        cpu_seconds=seconds,
    )


def create(path: str | Path, plan: Plan, engine: Mapping[str, Any]) -> RunDirectory:
    """A run directory that is the same whenever it is made."""
    return _CREATE(path, plan, engine, run_id="0" * 32, created=datetime(2026, 1, 1, tzinfo=UTC))


_CREATE = RunDirectory.create


def run_loop(path: Path) -> None:
    """Start the loop in `path`, or continue it, to its end."""
    begun = (path / "run.json").exists()
    with RunDirectory.open(path) if begun else create(path, parse_plan(PLAN), {"executor": "flat"}) as directory:
        checkpoint = directory.latest()
        state = initial() if checkpoint is None else checkpoint.state
        moving: dict[SiteId, dict[str, Any]] = {site: {"mean": np.zeros(3, dtype=np.float32)} for site in SITES}
        if checkpoint is not None:
            moving = {site: dict(arrays) for site, arrays in checkpoint.sites.items()}
        directory.site_arrays = lambda: moving
        while state.round < directory.plan.rounds:
            started = time.perf_counter()
            state = advance(state, moving)
            directory.round_done(record(state, time.perf_counter() - started), state)
        directory.write_model(LAYOUT, state.model, round=state.round, statistics=state.statistics)
        directory.write_text("model-card.md", "# tiny\n")


SIMULATION = """
name = "three hospitals"
rounds = 4
[task]
code = "mine"
entry = "normed:Task"
[data]
source = "arrays"
target = { name = "ill", classes = ["no", "yes"] }
columns = [{ name = "a", range = [0, 1] }, { name = "b", range = [0, 1] }]
standardize = "federated"
[training]
lr = 0.05
optimizer = "adam"
batch_norm = "local"
[server_optimizer]
name = "fedadam"
lr = 0.1
[evaluation]
select = "best"
[simulation]
sites = 3
executor = "flat"
workers = 1
bootstrap = 20
"""
TASK = """
from torch import nn
from wardround.client.trainer.tasks.tabular import TabularClassifier

class Task(TabularClassifier):
    def model(self, seed):
        return nn.Sequential(super().model(seed), nn.BatchNorm1d(2))
"""


def run_simulation(path: Path) -> None:
    """Start a simulation in `path`, or continue it, to its end. Its sites keep their BatchNorm statistics."""
    from wardround.simulations.simulate import simulate

    bundle = path.parent / "mine"
    if not bundle.exists():
        bundle.mkdir()
        (bundle / "normed.py").write_text(TASK)
    generator = np.random.Generator(np.random.Philox(key=1))
    x = generator.random((240, 2))
    y = (x.sum(axis=1) + generator.normal(0, 0.3, 240) > 1).astype(np.int64)
    setattr(RunDirectory, "create", create)  # noqa: B010
    if (path / "run.json").exists():
        simulate(out=path, data=(x, y), resume=True)
    else:
        simulate(parse_plan(SIMULATION, folder=path.parent), out=path, data=(x, y))


RUNS = {"loop": run_loop, "simulate": run_simulation}


class Killer:
    """Counts what reaches the disk, and kills this process at one point of it."""

    def __init__(self, kind: str, at: int) -> None:
        self.bytes = self.calls = 0
        self._kind, self._at, self._write = kind, at, os.write
        setattr(os, "write", self._writing)  # noqa: B010
        for name in ("fsync", "replace", "unlink", "ftruncate", "mkdir"):
            setattr(os, name, self._counted(getattr(os, name)))

    def _writing(self, descriptor: int, data: memoryview) -> int:
        if self._kind == "byte" and self.bytes + len(data) > self._at:
            self._write(descriptor, data[: self._at - self.bytes])
            os.kill(os.getpid(), signal.SIGKILL)
        self.bytes += len(data)
        return self._write(descriptor, data)

    def _counted(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **options: Any) -> Any:
            if self._kind == "call" and self.calls == self._at:
                os.kill(os.getpid(), signal.SIGKILL)
            self.calls += 1
            return call(*arguments, **options)

        return counted


def in_child(work: Callable[[], None]) -> int:
    """Run `work` in a forked child; its exit code, negative for the signal that killed it."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        except Exception:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(run: Callable[[Path], None], folder: Path, kills: list[str]) -> None:
    if run is run_simulation:
        import_module("wardround.simulations.simulate")  # once, not in every child
    for kill in kills:
        path = folder / kill
        kind, _, at = kill.partition("-")

        def first(path: Path = path, kind: str = kind, at: str = at) -> None:
            killer = Killer(kind, int(at or 0))
            run(path)
            print(killer.bytes, killer.calls, flush=True)

        def second(path: Path = path) -> None:
            run(path)

        code = in_child(first)
        if code != (0 if kind == "none" else -signal.SIGKILL):
            sys.exit(f"{kill}: the run ended with {code}")
        if kind != "none" and (code := in_child(second)):
            sys.exit(f"{kill}: the continued run ended with {code}")


if __name__ == "__main__":
    main(RUNS[sys.argv[1]], Path(sys.argv[2]), sys.argv[3:])
