"""What hospitals are not asked to run, each with its reason."""

import pytest

from tests.server.runs.test_supervisor import MASKED, small_plan
from wardround.errors import LocalError
from wardround.plan import PlanError
from wardround.server.runs.deployable import check_deployable, check_sites


@pytest.mark.parametrize("settings", [(), MASKED, ("simulation.partition.kind=dirichlet", "cohort.size=2")])
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


def test_the_number_of_sites_is_the_plans() -> None:
    check_sites(small_plan(), 3)
    with pytest.raises(LocalError, match="expected the 3 sites that the plan is for"):
        check_sites(small_plan(), 2)
