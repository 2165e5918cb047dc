"""A plan as the two apps that stock Flower runs; what `wardround export-flower` writes only calls this."""

import json
import os
from base64 import b64decode
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from numpy.typing import NDArray

from wardround import _flower
from wardround.client.app import client_app
from wardround.client.guard.guard import SiteGuard
from wardround.errors import LocalError
from wardround.orders import Split
from wardround.plan import Plan, PlanError, load_plan
from wardround.plan_simulation import Cryptography
from wardround.server.runs.run_directory import RunDirectory
from wardround.simulations.executors.calibration import EngineChoice
from wardround.simulations.federation import build_federation
from wardround.simulations.participants import Participants, StatefulTrainer, data_digest, gather_app, gather_task
from wardround.state_store import MemoryStore
from wardround.strategies.federated import FederatedStrategy
from wardround.strategies.plain import Plain
from wardround.strategies.records import RoundRecord, RunState
from wardround.strategies.rules.build import build_rule

__all__ = ["LEFT_OUT", "check_unprotected", "client_app_for", "server_app_for"]

LEFT_OUT = "left-out.json"
"""Files of the code bundle that Flower would not carry: path to Base64."""

_STATE = "wardround.site"
_ENGINE = EngineChoice(executor="flat", block_size=1, workers=1, reason="stock Flower calls one client after another")


def client_app_for(plan_path: Path) -> ClientApp:
    """The plan's sites as one ClientApp: the context's partition says which site it is for a message."""
    return _SitesApp(plan_path)


class _SitesApp(ClientApp):
    """Flower makes this anew for any message in any process.

    So sites are built once per process, and what one keeps between rounds travels in its context.
    """

    def __init__(self, plan_path: Path) -> None:
        super().__init__()
        self._plan_path = plan_path

    def __call__(self, message: Message, context: Context) -> Message:
        """The answer of the site that `context` names."""
        sites = _sites(self._plan_path)
        partition = int(context.node_config["partition-id"])
        if partition >= len(sites):
            error = LocalError(f"expected {len(sites)} supernodes, as the plan has sites; got partition {partition}")
            return _flower.error_reply(message, error)
        trainer, app = sites[partition]
        trainer.state = _kept(context.state)
        reply = app(message, context)
        if trainer.state:
            arrays = {name: Array(np.asarray(array)) for name, array in trainer.state.items()}
            context.state[_STATE] = ArrayRecord(arrays)
        return reply


def _kept(state: RecordDict) -> dict[str, NDArray[Any]] | None:
    record = state.array_records.get(_STATE)
    return None if record is None else {name: array.numpy() for name, array in record.items()}


@lru_cache(maxsize=1)
def _sites(plan_path: Path) -> tuple[tuple[StatefulTrainer, ClientApp], ...]:
    """Each partition's trainer, and the app that puts a guard before it."""
    plan = _load(plan_path)
    trainers = _participants(plan).trainers
    return tuple(
        (trainer, client_app(trainer, SiteGuard(plan, site, MemoryStore()))) for site, trainer in trainers.items()
    )


def _participants(plan: Plan) -> Participants:
    return gather_app(plan) if plan.task.flower_app else gather_task(plan, build_federation(plan))


def _load(plan_path: Path) -> Plan:
    """The plan, once the files that Flower did not carry are put back into its code bundle."""
    folder = plan_path.parent
    if (store := folder / LEFT_OUT).exists():
        for name, text in json.loads(store.read_text(encoding="utf-8")).items():
            if not (folder / name).exists():
                draft = folder / f".left-out-{os.getpid()}"  # outside the bundle, which other processes digest
                draft.write_bytes(b64decode(text))
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                draft.replace(folder / name)
    plan = load_plan(plan_path)
    if plan.privacy.on:
        expected = '"off", since no site\'s ledger is asked on stock Flower'
        raise PlanError("privacy.unit", expected, plan.privacy.unit.value)
    check_unprotected(plan)
    return plan


def check_unprotected(plan: Plan) -> None:
    """Raises PlanError for a plan with secure aggregation: no site's keys belong into an app that everybody is sent."""
    if plan.simulation.cryptography is Cryptography.ACCOUNTING:
        expected = '"real", since only wardround\'s own simulation adds updates up without hiding them'
        raise PlanError("simulation.cryptography", expected, plan.simulation.cryptography.value)
    if plan.protection.on:
        expected = (
            '"off", since each site keeps its own keys, which no exported app carries; `protect` and '
            "`MaskingStrategy` put secure aggregation into a Flower app"
        )
        raise PlanError("protection.mode", expected, plan.protection.mode.value)


def server_app_for(plan_path: Path) -> ServerApp:
    """The plan's round loop as a ServerApp.

    It makes a run directory in the run config's `out`, which `wardround report` finishes, and prints a line of JSON
    per round, and a last one with the figures on the test rows.
    """
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        plan, name = _load(plan_path), f"run-{context.run_id}"
        participants = _participants(plan)
        engine = {} if participants.task is None else asdict(_ENGINE)
        engine["data"] = data_digest(participants.data)
        with RunDirectory.create(Path(str(context.run_config["out"])) / name, plan, engine) as run:
            strategy = FederatedStrategy(
                plan,
                run_id=run.info.run_id,
                protection=Plain(plan),
                rule=build_rule(plan.robust),
                num_parameters=participants.layout.num_parameters,
                observers=[run, _Printer()],
            )
            state = strategy.run(grid, RunState(round=0, model=participants.initial))
            test = strategy.evaluate(grid, state, Split.TEST).total.metrics() if plan.data.test else {}
            released = strategy.released(state)
            at = state.round if released is state.model else state.best_round
            run.write_model(participants.layout, released, round=at, statistics=state.statistics)
            run.write_text("test-metrics.json", json.dumps(test, indent=2) + "\n")
        print(json.dumps({"run": str(run.path), "rounds": state.round, "test": test}), flush=True)

    return app


class _Printer:
    """Prints a line of JSON per round, for `flwr log`."""

    def round_done(self, record: RoundRecord, state: RunState) -> None:
        figures = {} if record.validation is None else record.validation.total.metrics()
        print(json.dumps({"round": record.round, "void": record.void, "validation": figures}), flush=True)
