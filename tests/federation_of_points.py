"""The smallest federation: every site holds one point, and local training moves the model half way towards it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from wardround.client.app import client_app
from wardround.client.guard.guard import Budget, SiteGuard
from wardround.errors import LocalError
from wardround.orders import EvalJob, FitJob, LocalResult, SiteId
from wardround.plan import Plan, parse_plan
from wardround.simulations.attacks.rogue_guard import RogueGuard
from wardround.simulations.grid import LocalGrid, LocalNode
from wardround.simulations.prefetched_trainer import PrefetchedTrainer
from wardround.state_store import MemoryStore, StateStore
from wardround.strategies.federated import FederatedStrategy, RootUpdate
from wardround.strategies.plain import Plain
from wardround.strategies.privacy.build import build_central
from wardround.strategies.records import RoundRecord, RunState
from wardround.strategies.rules.build import build_rule
from wardround.tally import Tally
from wardround.vector import F32


def point_plan(*settings: str, sites: int = 4, rounds: int = 3) -> Plan:
    plan = parse_plan(
        {
            "name": "points",
            "rounds": rounds,
            "task": {"name": "tabular-regressor"},
            "data": {"source": "arrays", "target": {"name": "y", "range": [0.0, 1.0]}},
            "simulation": {"sites": sites},
        }
    )
    return plan.override(settings)


@dataclass
class PointTrainer:
    point: F32
    num_examples: int = 10
    jobs: list[FitJob] = field(default_factory=list)
    broken: str = ""
    lie: Callable[[F32], F32] | None = None

    def fit(self, job: FitJob, model: F32) -> LocalResult:
        self.jobs.append(job)
        if self.broken == "fails":
            raise LocalError("out of order")
        update = (self.point - model) / np.float32(2)
        if self.lie is not None:
            update = self.lie(update)
        if self.broken == "nan":
            update[0] = np.nan
        loss = float(((self.point.astype(np.float64) - model) ** 2).sum())
        return LocalResult(
            update=update, num_examples=self.num_examples, tally=Tally.of_means(self.num_examples, {"loss": loss})
        )

    def evaluate(self, job: EvalJob, model: F32) -> Tally:
        if self.broken == "evaluate":
            raise LocalError("no rows to look at")
        loss = float(((self.point.astype(np.float64) - model) ** 2).sum())
        return Tally.of_means(self.num_examples, {"loss": loss * self.num_examples})

    def statistics(self) -> Tally:
        return Tally.of_means(self.num_examples, {})


@dataclass
class Recorder:
    records: list[RoundRecord] = field(default_factory=list)
    states: list[RunState] = field(default_factory=list)

    def round_done(self, record: RoundRecord, state: RunState) -> None:
        self.records.append(record)
        self.states.append(state)


@dataclass
class Points:
    """A federation of points, ready to run."""

    plan: Plan
    trainers: list[PointTrainer]
    recorder: Recorder = field(default_factory=Recorder)
    rogues: tuple[int, ...] = ()
    """Sites whose guard lets everything pass."""
    root: RootUpdate | None = None
    store: StateStore = field(default_factory=MemoryStore)
    """Of the server: what a plan with privacy keeps in spite of a crash."""
    budgets: Mapping[int, Budget] = field(default_factory=dict)

    def __post_init__(self) -> None:
        nodes: list[LocalNode] = []
        size = len(self.trainers[0].point)
        private = self.plan.privacy.per_client
        self.central = build_central(self.plan, (size,), self.store) if private else None
        for i, trainer in enumerate(self.trainers):
            site, prefetched = SiteId(f"site-{i}"), PrefetchedTrainer(trainer)
            honest = SiteGuard(self.plan, site, MemoryStore(), tensors=(size,), budget=self.budgets.get(i))
            app = client_app(prefetched, RogueGuard(self.plan, honest) if i in self.rogues else honest)
            nodes.append(LocalNode(site=site, app=app, trainer=prefetched, partition=i))
        self.grid = LocalGrid(self.plan, nodes)
        self.strategy = FederatedStrategy(
            self.plan,
            run_id="run",
            protection=Plain(self.plan),
            rule=(None if self.central is None else self.central.rule) or build_rule(self.plan.robust),
            num_parameters=size,
            observers=[self.recorder],
            clock=self.grid.clock,
            root=self.root,
            central=self.central,
            meter=None if self.central is None else self.central.record,
        )

    def run(self) -> RunState:
        size = len(self.trainers[0].point)
        return self.strategy.run(self.grid, RunState(round=0, model=np.zeros(size, dtype=np.float32)))


def points(plan: Plan, dimension: int = 3, *, lie: Callable[[F32], F32] | None = None, liars: int = 0) -> Points:
    """A federation of random points; the last `liars` sites send what `lie` makes of their update, unchecked."""
    rows = np.random.Generator(np.random.Philox(key=1)).normal(size=(plan.simulation.sites, dimension))
    trainers = [PointTrainer(row.astype(np.float32), num_examples=10 + i) for i, row in enumerate(rows)]
    rogues = tuple(range(len(trainers) - liars, len(trainers)))
    for i in rogues:
        trainers[i].lie = lie
    return Points(plan, trainers, rogues=rogues)
