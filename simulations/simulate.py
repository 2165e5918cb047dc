"""A whole federation on this machine: data dealt out, rounds run, the result judged and written down."""

import gc
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

from numpy.typing import NDArray

from wardround.client.app import client_app
from wardround.client.guard.guard import Budget, Guard, SiteGuard
from wardround.errors import LocalError
from wardround.orders import SiteId, Split
from wardround.plan import Plan, PlanError
from wardround.plan_privacy import Disclosure, PrivateStatistics
from wardround.plan_robust import AUTO
from wardround.plan_source import find_plan
from wardround.server.report.page import render
from wardround.server.report.run import ReportedRun
from wardround.server.runs.agreed_statistics import agreed
from wardround.server.runs.caveat import caveat
from wardround.server.runs.checkpoint import SiteArrays
from wardround.server.runs.model_card import model_card, software_versions
from wardround.server.runs.record_line import record_table
from wardround.server.runs.run_directory import RunDirectory, check_free
from wardround.server.runs.site_profiles import Heterogeneity
from wardround.simulations.accounts import Accounts, open_accounts
from wardround.simulations.attacks.adversary import ATTACKERS, Adversary
from wardround.simulations.attacks.gather import gather_adversary
from wardround.simulations.attacks.rogue_guard import RogueGuard
from wardround.simulations.baselines import TrainedModel, train_baselines
from wardround.simulations.executors.calibration import EngineChoice, calibrate, make_executor
from wardround.simulations.executors.executor import Executor
from wardround.simulations.executors.flat_loop import TrainerOf
from wardround.simulations.federation import build_federation, server_rows, with_inputs
from wardround.simulations.grid import LocalGrid, LocalNode
from wardround.simulations.heterogeneity import describe_sites
from wardround.simulations.judgement import judge
from wardround.simulations.participants import Participants, data_digest, gather_app, gather_task
from wardround.simulations.prefetched_trainer import PrefetchedTrainer
from wardround.simulations.redteam.auto import resolve_auto
from wardround.simulations.redteam.results_folder import write_table
from wardround.simulations.result import Result
from wardround.simulations.server_root import SERVER, ServerRoot
from wardround.simulations.simulated_protection import SimulatedProtection, simulated_protection
from wardround.state_store import MemoryStore
from wardround.strategies.composition import check
from wardround.strategies.federated import FederatedStrategy
from wardround.strategies.records import Observer, RoundRecord, RunState
from wardround.strategies.rules.build import build_rule
from wardround.strategies.rules.rule import Rule
from wardround.task import Task

__all__ = ["local_grid", "settled_engine", "simulate"]

_PROTECTION = "protection"
_DRAWN_AFRESH = "rounding and masks are drawn afresh, so a run that is continued or repeated has other bits"


def simulate(
    plan: Plan | str | Path | None = None,
    *,
    task: Task | None = None,
    data: Any = None,
    out: str | Path | None = None,
    observer: Observer | None = None,
    resume: bool = False,
    report: bool = True,
    ledgers: str | Path | None = None,
    on_tuning: Callable[[int, int, str], None] = lambda done, total, last: None,
) -> Result:
    """Train a plan's federation on this machine and judge the model.

    `plan` is a Plan, a file or a shipped plan's name. `task` replaces the plan's task; `data` holds arrays for a plan
    with `data.source = "arrays"`: a pair (X, y), a torch Dataset, or a mapping from site names to either. `out` is a
    new folder for the run directory; without it nothing is written. `resume=True` continues the run in `out`, which
    has its own copy of the plan. `report=False` leaves out the baselines and report.html. `ledgers` is a folder with
    the sites' privacy ledgers, which other runs share; without it they belong to the run. `on_tuning` is told of the
    trial runs by which `robust.rule = "auto"` is resolved (see `resolve_auto`).

    Raises LocalError (PlanError for the plan) for whatever does not fit; a run directory keeps its finished rounds.
    """
    with ExitStack() as stack:
        directory: RunDirectory | None = None
        if resume:
            if out is None:
                raise LocalError("expected `out`, the folder of the run to resume")
            directory = stack.enter_context(RunDirectory.open(out))
            plan = directory.plan
        elif plan is None:
            raise LocalError("expected a plan, or the folder of a run to resume")
        elif not isinstance(plan, Plan):
            plan = find_plan(str(plan))
        tuned = None
        check(plan)
        if plan.robust.rule == AUTO:
            if task is not None:
                raise PlanError("robust.rule", 'a rule by name for a task given from Python, not "auto"', AUTO)
            if out is not None:
                check_free(Path(out))  # before the trials, which take long
            tuned = resolve_auto(plan, data, on_tuning)
            plan = tuned.plan
        check(plan)
        plan, participants = _gather(plan, task, data)
        rule = build_rule(plan.robust)
        ledgers = _ledgers(plan, ledgers, directory)
        attack = gather_adversary(plan, participants, rule)  # what does not fit is refused before a folder is made
        root = None
        if participants.task is not None and (rows := server_rows(plan, data)) is not None:
            root = ServerRoot(participants.task, plan, rows)
        digest = data_digest(participants.data)
        engine = _engine(plan, participants) if directory is None else _recorded_engine(directory, digest)
        if directory is None and out is not None:
            # a digest of rows tells whoever knows all but one of them the last; ledgers keep those of private plans
            table = {**({} if engine is None else asdict(engine)), "data": "" if plan.privacy.on else digest}
            if ledgers is not None:
                table["ledgers"] = str(ledgers)
            if plan.protection.on:
                said = (plan.protection.mode.value, _DRAWN_AFRESH, caveat(plan))
                table[_PROTECTION] = "; ".join(filter(None, said))
            directory = stack.enter_context(RunDirectory.create(out, plan, table))
            plan = directory.plan
            if tuned is not None:
                write_table(directory.path, tuned.table)
        accounts = stack.enter_context(open_accounts(plan, participants, directory, ledgers))
        stack.enter_context(_still_objects())
        run = _Run(plan, participants, engine, directory, rule, attack, root, accounts)
        return run.finish(observer, report=report)


def _ledgers(plan: Plan, given: str | Path | None, directory: RunDirectory | None) -> Path | None:
    """The folder of shared ledgers: the given one, or the one that a resumed run was begun with."""
    if directory is not None:
        kept = directory.info.engine.get("ledgers")
        if given is not None and (kept is None or Path(given).resolve() != Path(kept)):
            raise LocalError(f"{directory.path}: expected the ledgers of the run's start, {kept}, got {given}")
        given = kept
    return None if given is None else Path(given).resolve()


def _gather(plan: Plan, task: Task | None, data: Any) -> tuple[Plan, Participants]:
    if plan.task.flower_app is not None:
        if task is not None or data is not None:
            raise LocalError("a Flower app brings its own training and data: expected neither task nor data")
        return plan, gather_app(plan)
    sites = build_federation(plan, data)
    plan = with_inputs(plan, sites)
    return plan, gather_task(plan, sites, task)


def settled_engine(plan: Plan, data: Any = None) -> EngineChoice:
    """How a simulation of `plan`, which has a task, would be computed; found out by a short trial."""
    engine = _engine(*_gather(plan, None, data))
    if engine is None:
        raise LocalError("expected a plan with a task, since a Flower app computes its own training")
    return engine


def _trainer_of(participants: Participants) -> TrainerOf:
    return cast(TrainerOf, participants.trainers.__getitem__)  # those of a task are TorchTrainers


def _engine(plan: Plan, participants: Participants) -> EngineChoice | None:
    """How a task's trainings are computed; a Flower app computes its own."""
    if participants.task is None:
        return None
    sites = tuple(participants.trainers)
    return calibrate(participants.task, plan, _trainer_of(participants), sites, participants.initial)


@contextmanager
def _still_objects() -> Iterator[None]:
    """Keep the garbage collector from visiting the sites, which all live until the run is over."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _recorded_engine(directory: RunDirectory, digest: str) -> EngineChoice | None:
    table = dict(directory.info.engine)
    table.pop("ledgers", None)
    table.pop(_PROTECTION, None)
    if table.pop("data", None) not in (("",) if directory.plan.privacy.on else (digest,)):
        raise LocalError(f"{directory.path}: expected the data that the run was started with, got other rows")
    return EngineChoice(**table) if table else None


def local_grid(
    plan: Plan,
    participants: Participants,
    executor: Executor | None = None,
    adversary: Adversary | None = None,
    budgets: Mapping[SiteId, Budget] | None = None,
    protection: SimulatedProtection | None = None,
) -> LocalGrid:
    """Every site behind its guard, on one grid; attackers behind guards of their own."""
    digest, tensors, budgets = plan.digest, [tensor.size for tensor in participants.layout.tensors], budgets or {}
    guarded, members = (plan, {}) if protection is None else (protection.guarded, protection.members)
    nodes = []
    for partition, (site, trainer) in enumerate(participants.trainers.items()):
        prefetched, member = PrefetchedTrainer(trainer), members.get(site)
        honest = SiteGuard(
            guarded,
            site,
            MemoryStore(),
            plan_digest=digest,
            tensors=tensors,
            budget=budgets.get(site),
            member=member,
        )
        lies = adversary is not None and site in adversary.sites
        guard: Guard = RogueGuard(guarded, honest, member) if lies else honest
        nodes.append(LocalNode(site=site, app=client_app(prefetched, guard), trainer=prefetched, partition=partition))
    return LocalGrid(plan, nodes, executor, adversary)


class _Lines:
    """Keeps each round's record as a table."""

    def __init__(self, tables: list[dict[str, Any]]) -> None:
        self.tables = tables

    def round_done(self, record: RoundRecord, state: RunState) -> None:
        self.tables.append(record_table(record))


class _Run:
    """One run, from its last finished round to its report."""

    def __init__(
        self,
        plan: Plan,
        participants: Participants,
        engine: EngineChoice | None,
        directory: RunDirectory | None,
        rule: Rule,
        attack: tuple[Adversary | None, TrainerOf],
        root: ServerRoot | None,
        accounts: Accounts,
    ) -> None:
        self._plan, self._participants, self._directory = plan, participants, directory
        self._rule, self._root, self._accounts = rule, root, accounts
        self._workers = 1 if engine is None else engine.workers
        self._adversary, trainer_of = attack
        executor = None
        if engine is not None and participants.task is not None:
            executor = make_executor(engine, participants.task, plan, trainer_of)
        self._run_id = "in memory" if directory is None else directory.info.run_id
        self._protection = simulated_protection(plan, participants, directory, self._run_id)
        self._grid = local_grid(plan, participants, executor, self._adversary, accounts.budgets, self._protection)
        self._resumed: tuple[int, ...] = ()

    def finish(self, observer: Observer | None, *, report: bool) -> Result:
        """Run the rounds that are missing, judge the model, write everything down."""
        plan, directory = self._plan, self._directory
        lines = _Lines([] if directory is None else directory.lines())
        central = self._accounts.central
        strategy = FederatedStrategy(
            plan,
            run_id=self._run_id,
            protection=self._protection.server,
            rule=(None if central is None else central.rule) or self._rule,
            num_parameters=self._participants.layout.num_parameters,
            observers=[item for item in (self._protection, directory, lines, observer) if item is not None],
            clock=self._grid.clock,
            root=self._root,
            central=central,
            meter=self._accounts.record if plan.privacy.on else None,
        )
        if self._adversary is not None:
            self._adversary.context = lambda: strategy.context
        state = strategy.run(self._grid, self._agreed(strategy, self._start()))
        silent = plan.privacy.on and plan.privacy.evaluation is Disclosure.OFF
        test = strategy.evaluate(self._grid, state, Split.TEST) if plan.data.test and not silent else None
        released = strategy.released(state)
        best = released is state.best_model
        result = Result(
            plan=plan,
            model=released,
            layout=self._participants.layout,
            statistics=state.statistics,
            round=state.best_round if best else state.round,
            stopped=state.stopped,
            rounds=lines.tables,
            metrics={} if test is None else test.total.metrics(),
            untested=() if test is None else tuple(f"{one.site}: {one.reason}" for one in test.absences),
            directory=None if directory is None else directory.path,
            task=self._participants.task,
        )
        return self._judged(result, report=report)

    def _start(self) -> RunState:
        checkpoint = None if self._directory is None else self._directory.latest()
        if self._directory is not None:
            self._directory.site_arrays = self._kept
        if checkpoint is None:
            return RunState(round=0, model=self._participants.initial)
        states = dict(checkpoint.sites)
        attackers, server = states.pop(ATTACKERS, None), states.pop(SERVER, None)
        if self._adversary is not None and attackers:
            self._adversary.memory = attackers
        if self._root is not None:
            self._root.trainer.state = dict(server) if server else None
        self._participants.restore(states)
        state = checkpoint.state
        self._resumed = (state.round + 1,)
        return state if self._directory is None else self._directory.audit.applied(state)

    def _agreed(self, strategy: FederatedStrategy, state: RunState) -> RunState:
        """The state with statistics that were paid for: they are released once, whatever happens to the first round."""
        if self._directory is None or self._plan.privacy.statistics is PrivateStatistics.OFF:
            return state
        return agreed(self._directory, strategy, self._grid, state)

    def _kept(self) -> SiteArrays:
        """What sites, attackers and the server's own training keep between rounds."""
        kept: dict[SiteId, Mapping[str, NDArray[Any]]] = dict(self._participants.states())
        if self._adversary is not None and self._adversary.memory:
            kept[ATTACKERS] = self._adversary.memory
        if self._root is not None and self._root.trainer.state:
            kept[SERVER] = self._root.trainer.state
        return kept

    def _judged(self, result: Result, *, report: bool) -> Result:
        """`result` beside its baselines, and everything that is written about it."""
        plan, task, data = self._plan, self._participants.task, self._participants.data
        if not report and self._directory is None:
            return result  # nothing more is asked for
        sites = describe_sites(plan, data) if data else None
        if report and task is not None:
            alone = None
            if plan.simulation.baselines:
                alone = train_baselines(plan, task, data, self._participants.initial, workers=self._workers)
            federated = TrainedModel(model=result.model, statistics=result.statistics)
            judged = judge(plan, task, data, federated, alone, self._participants.states())
            result = replace(result, comparison=judged and replace(judged, note=caveat(plan)))
        if report:
            run = ReportedRun(
                plan=plan,
                info=None if self._directory is None else self._directory.info,
                lines=result.rounds,
                comparison=result.comparison,
                differences=None if sites is None else sites.to_json(),
                released_round=result.round,
                stopped=result.stopped,
                resumed=self._resumed,
                versions=software_versions(),
                attackers=() if self._adversary is None else self._adversary.sites,
            )
            result = replace(result, report=render(run))
        if self._directory is not None:
            _write(self._directory, result, sites)
        return result


def _write(directory: RunDirectory, result: Result, sites: Heterogeneity | None) -> None:
    directory.write_model(result.layout, result.model, round=result.round, statistics=result.statistics)
    if result.comparison is not None:
        directory.write_text("results.json", result.comparison.to_json())
    card = model_card(
        result.plan,
        directory.info,
        result.rounds,
        released_round=result.round,
        stopped=result.stopped,
        comparison=result.comparison,
        sites=sites,
        untested=result.untested,
        versions=software_versions(),
    )
    directory.write_text("model-card.md", card)
    if result.report is not None:
        directory.write_text("report.html", result.report)
