"""What a plan may not ask of a federation of hospitals, though a simulation of it can."""

from collections.abc import Callable

from wardround.errors import LocalError, MissingExtraError
from wardround.extras import require
from wardround.link.limits import Limits
from wardround.plan import MOST_LETTERS, Plan, PlanError
from wardround.plan_robust import AUTO
from wardround.plan_sections import ColumnType, Standardize
from wardround.plan_simulation import Cryptography
from wardround.strategies.composition import check
from wardround.strategies.secagg.parameters import MAX_COMMITTEE

__all__ = ["check_deployable", "check_sites"]

_LONGEST_NUMBER_BYTES = 25
"""Of a float in JSON, with its comma."""
_REST_OF_AN_ORDER_BYTES = 1 << 12
_MOST_COLUMNS = (Limits().most_order_bytes - _REST_OF_AN_ORDER_BYTES) // (2 * _LONGEST_NUMBER_BYTES)
"""Number columns whose means and deviations any order has room for."""


def _standardized(plan: Plan) -> int:
    """How many means are in each order."""
    if plan.data.standardize is not Standardize.FEDERATED:
        return 0
    return sum(column.type is ColumnType.NUMBER for column in plan.data.columns)


_REFUSED: tuple[tuple[str, Callable[[Plan], bool], str], ...] = (
    (
        "task.flower_app",
        lambda plan: plan.task.flower_app is not None,
        "a task, since a Flower app reads data that no site has registered",
    ),
    (
        "data.source",
        lambda plan: plan.data.source == "arrays",
        "a source of rows with columns or images, since every site brings a file of its own",
    ),
    (
        "data.columns",
        lambda plan: _standardized(plan) > _MOST_COLUMNS,
        f'at most {_MOST_COLUMNS} numbers with standardize = "federated", since each order has their means in it',
    ),
    (
        "data.columns",
        lambda plan: len(plan.to_toml()) > MOST_LETTERS,  # jobs and the run's folder have it so
        f"fewer or shorter ones: with every value spelled out, a plan of at most {MOST_LETTERS} letters",
    ),
    (
        "robust.rule",
        lambda plan: plan.robust.rule == AUTO,
        'a rule by name: "auto" is chosen by attacking a simulation; simulate the plan and write down what it chose',
    ),
    (
        "robust.root_examples",
        lambda plan: plan.robust.root_examples > 0,
        "0: the server of a federation has no rows, which fltrust needs; choose another rule",
    ),
    ("simulation.attack", lambda plan: plan.simulation.attack.attackers > 0, "none: hospitals are not told to attack"),
    ("simulation.dropout", lambda plan: plan.simulation.dropout > 0, "0: drop-outs are real here"),
    ("simulation.late_dropout", lambda plan: plan.simulation.late_dropout > 0, "0: drop-outs are real here"),
    ("simulation.stragglers", lambda plan: plan.simulation.stragglers.fraction > 0, "none: slow sites are real here"),
    (
        "simulation.cryptography",
        lambda plan: plan.simulation.cryptography is not Cryptography.REAL,
        '"real": bookkeeping without keys hides nothing',
    ),
    (
        "simulation.sites",
        lambda plan: plan.protection.on and plan.simulation.sites - len(plan.cohort.without) > MAX_COMMITTEE,
        f"at most {MAX_COMMITTEE} sites under secure aggregation: more are simulated only",
    ),
)


def check_deployable(plan: Plan) -> None:
    """Raise LocalError, with the reason, for a plan that hospitals, or this server, cannot run.

    PlanError where the plan is to be changed, else something is not installed here.
    """
    check(plan)
    for where, refused, expected in _REFUSED:
        if refused(plan):
            raise PlanError(where, f"for a run of hospitals, {expected}")
    if plan.protection.homomorphic:
        try:
            require("he")
        except MissingExtraError as error:
            raise LocalError(f"the server adds up ciphertexts under protection.mode = bfv; {error}") from None


def check_sites(plan: Plan, sites: int) -> None:
    """Raise LocalError unless a run of `plan` may have so many sites."""
    if plan.simulation.sites != sites:
        raise LocalError(
            f"expected the {plan.simulation.sites} sites that the plan is for (simulation.sites), got {sites}; name "
            "other sites, or change the plan"
        )
