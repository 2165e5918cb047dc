"""One cell of a red-team grid: a whole simulation with one rule, one attack and one seed."""

from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from wardround.client.data.site_data import Rows
from wardround.errors import WardroundError
from wardround.orders import Split
from wardround.plan import Plan
from wardround.plan_sections import Select
from wardround.plan_simulation import Attack
from wardround.server.runs.comparison import Model
from wardround.simulations.attacks.adversary import load_attack
from wardround.simulations.federation import build_federation
from wardround.simulations.redteam.candidates import Candidate
from wardround.simulations.result import Result

__all__ = ["HONEST", "Cell", "CellResult", "cell_plan", "run_cell"]

HONEST = "none"


@dataclass(frozen=True, slots=True)
class Cell:
    """What is run: a candidate, an attack (or `none`) and a seed."""

    candidate: Candidate
    attack: str
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CellResult:
    """What came of a cell. `value` is the leading metric on all test rows; None when the run failed (`error`).

    `backdoor` is the share of test rows with the trigger in them that the model gives the attackers' label.
    """

    rule: str
    attack: str
    seed: int
    value: float | None
    metrics: dict[str, float] = field(default_factory=dict)
    backdoor: float | None = None
    void_rounds: int = 0
    error: str = ""

    def to_json(self) -> dict[str, Any]:
        """Dicts, lists and numbers."""
        return asdict(self)


def cell_plan(plan: Plan, cell: Cell, attackers: int, num_byzantine: int) -> Plan:
    """The plan of a cell: everybody's data and first model by the cell's seed, `attackers` of the sites lie."""
    attack = Attack()
    if cell.attack != HONEST:
        settings = plan.simulation.attack
        options = settings.options if settings.name == cell.attack else {}
        attack = Attack(name=cell.attack, attackers=attackers, from_round=settings.from_round, options=options)
    evaluation = plan.evaluation
    if evaluation.select is Select.LAST and evaluation.patience is None:
        evaluation = replace(evaluation, every=0)
    simulation = replace(plan.simulation, attack=attack, baselines=False, bootstrap=0, workers=1)
    return replace(
        cell.candidate.plan(plan, num_byzantine), seed=cell.seed, simulation=simulation, evaluation=evaluation
    )


def run_cell(plan: Plan, cell: Cell, attackers: int, num_byzantine: int, metric: str, data: Any = None) -> CellResult:
    """Run a cell of `plan`. A run that fails (a model that is not finite, no usable round) is a result too."""
    from wardround.simulations.simulate import simulate

    own = cell_plan(plan, cell, attackers, num_byzantine)
    found = {"rule": cell.candidate.label, "attack": cell.attack, "seed": cell.seed}
    try:
        result = simulate(own, data=data, report=False)
        metrics = dict(result.metrics) or _seen(own, result, data)
    except (WardroundError, ValueError) as error:
        return CellResult(**found, value=None, error=str(error))  # type: ignore[arg-type]
    return CellResult(
        **found,  # type: ignore[arg-type]
        value=metrics.get(metric),
        metrics=metrics,
        backdoor=_backdoor(own, result, data),
        void_rounds=sum(line["void"] for line in result.rounds),
    )


def _seen(plan: Plan, result: Result, data: Any) -> dict[str, float]:
    """The figures on all test rows, as the researcher sees them: under [privacy] no site sends its own."""
    from wardround.simulations.baselines import TrainedModel
    from wardround.simulations.judgement import judge

    if result.task is None:
        return {}
    trained = TrainedModel(model=result.model, statistics=result.statistics)
    judged = judge(plan, result.task, build_federation(plan, data), trained)
    return {} if judged is None else {name: one.value for name, one in judged.overall[Model.FEDERATED].items()}


def _backdoor(plan: Plan, result: Result, data: Any) -> float | None:
    """How often the trigger works on test rows of all sites; None where there is no trigger or no row for it."""
    from wardround.client.trainer.torch_trainer import predict

    attack = load_attack(plan)
    if attack is None or not attack.has_trigger or result.task is None:
        return None
    rows = [site.split(Split.TEST) for site in build_federation(plan, data)]
    pooled = Rows(np.concatenate([part.x for part in rows]), np.concatenate([part.y for part in rows]))
    triggered = attack.trigger(pooled, plan)
    if len(triggered) == 0:
        return None
    scores = predict(result.task, plan, result.model, triggered.x, result.statistics)
    return float((scores.argmax(axis=1) == triggered.y).mean())
