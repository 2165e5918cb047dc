"""What hospitals are not asked to run, each with its reason."""

import tomllib

import pytest

from tests.server.runs.test_supervisor import MASKED, small_plan
from wardround import extras
from wardround.errors import LocalError
from wardround.link.limits import Limits
from wardround.orders import Order, OrderKind, Split, Statistics
from wardround.plan import Plan, PlanError, parse_plan
from wardround.server.runs.deployable import check_deployable, check_sites

BFV = (*MASKED, "protection.mode=bfv")


@pytest.mark.parametrize("settings", [(), MASKED, BFV, ("simulation.partition.kind=dirichlet", "cohort.size=2")])
def test_plans_that_hospitals_run(settings: tuple[str, ...]) -> None:
    check_deployable(small_plan(*settings))


@pytest.mark.parametrize(
    ("settings", "key", "reason"),
    [
        (("data.source=arrays",), "data.source", "a file of its own"),
        (("robust.rule=auto", "robust.num_byzantine=1"), "robust.rule", "attacking a simulation"),
        (("robust.rule=fltrust", "robust.root_examples=20"), "robust.root_examples", "has no rows"),
        (
            ("simulation.attack.name=sign_flip", "simulation.attack.attackers=1"),
            "simulation.attack",
            "not told to attack",
        ),
        (("simulation.dropout=0.1", "cohort.min_replies=1"), "simulation.dropout", "real here"),
        ((*MASKED, "simulation.late_dropout=0.1"), "simulation.late_dropout", "real here"),
        (
            ("simulation.stragglers.fraction=0.1", "cohort.min_replies=1"),
            "simulation.stragglers",
            "slow sites are real here",
        ),
        ((*MASKED, "simulation.cryptography=accounting"), "simulation.cryptography", "hides nothing"),
        ((*MASKED, "simulation.sites=300", "protection.groups=3"), "simulation.sites", "at most 255"),
    ],
)
def test_plans_that_are_for_simulations_alone(settings: tuple[str, ...], key: str, reason: str) -> None:
    with pytest.raises(PlanError) as refused:
        check_deployable(small_plan(*settings))
    assert refused.value.path == key
    assert reason in str(refused.value) and "for a run of hospitals" in str(refused.value)


def test_a_server_without_tenseal_takes_no_plan_that_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == "tenseal" else object())
    check_deployable(small_plan(*MASKED))
    with pytest.raises(LocalError, match=r"the server adds up ciphertexts .*needs wardround\[he\]: pip install"):
        check_deployable(small_plan(*BFV))


def with_columns(count: int, standardize: str) -> Plan:
    columns = [{"name": f"c{number}", "range": [0.0, 1.0]} for number in range(count)]
    table = tomllib.loads(small_plan().to_toml())
    return parse_plan(table | {"data": table["data"] | {"columns": columns, "standardize": standardize}})


def test_columns_are_as_many_as_an_order_has_room_for() -> None:
    most = 83_804  # more than a plan has room for, on this computer and at the sites
    numbers = tuple(-1.2345678901234567e-300 for _ in range(most))
    order = Order(
        run_id="f" * 32,
        plan_digest="f" * 64,
        kind=OrderKind.EVALUATE,
        round=10**9,
        attempt=10**9,
        split=Split.VALIDATION,
        model_digest="f" * 64,
        statistics=Statistics(mean=numbers, std=tuple(-number for number in numbers)),
        clip_norm=1.2345678901234567e-300,
    )
    assert len(order.encode()) <= Limits().most_order_bytes
    check_deployable(with_columns(30_000, "federated"))
    with pytest.raises(PlanError, match=r"data\.columns: expected for a run of hospitals, fewer or shorter ones"):
        check_deployable(with_columns(most, "federated"))
    with pytest.raises(PlanError, match=r"data\.columns: expected for a run of hospitals, at most 83804 numbers"):
        check_deployable(with_columns(most + 1, "federated"))


def test_the_number_of_sites_is_the_plans() -> None:
    check_sites(small_plan(), 3)
    with pytest.raises(LocalError, match="expected the 3 sites that the plan is for"):
        check_sites(small_plan(), 2)
