"""How many answers make sites that are away dispensable: never fewer than the round needs."""

import pytest

from tests.server.runs.test_supervisor import MASKED, small_plan
from wardround import _flower
from wardround.server.runs.enough import enough

EPOCH = "epoch"
"""Messages of secure aggregation with which keys are agreed on."""
BFV = (*MASKED, "protection.mode=bfv", "protection.dropout=0.0", "protection.min_survivors=2")
CENTRAL = (
    "privacy.unit=client",
    "privacy.noise_multiplier=1.0",
    "data.standardize=range",
    "cohort.weighting=uniform",
    "simulation.sites=5",
)


@pytest.mark.parametrize(
    ("settings", "kind", "asked", "expected"),
    [
        ((), "train", 3, 3),  # a plan that says nothing needs every site
        (("cohort.min_replies=2",), "train", 3, 2),
        (("cohort.min_replies=1",), "train", 3, 2),  # more than half: else an outage would look like a site
        (("cohort.min_replies=2",), "evaluate", 3, 2),
        (("cohort.min_replies=2",), _flower.STATISTICS, 3, 3),
        (CENTRAL, "train", 5, 3),  # a round counts there whoever is missing
        (MASKED, "train", 5, 3),
        (MASKED, EPOCH, 5, 5),  # keys are agreed on with all
        (MASKED, EPOCH, 3, 3),
        ((*MASKED, "protection.min_roster=4"), EPOCH, 5, 4),
        (MASKED, _flower.PROTOCOL, 5, 3),
        (MASKED, _flower.STATISTICS, 5, 5),
        (BFV, "train", 5, 3),  # two would be enough for a sum, but not to tell an outage from sites that are away
        ((*BFV, "protection.min_survivors=4"), "train", 5, 4),
        (BFV, EPOCH, 5, 5),
        ((*BFV, "protection.min_roster=3"), EPOCH, 5, 3),
        (BFV, _flower.PROTOCOL, 5, 3),
        (BFV, _flower.PROTOCOL, 2, 2),  # the two who open a sum
        (BFV, _flower.STATISTICS, 5, 5),
        ((), "train", 0, 1),
    ],
)
def test_enough(settings: tuple[str, ...], kind: str, asked: int, expected: int) -> None:
    kind, group = (_flower.PROTOCOL, "epoch") if kind == EPOCH else (kind, "1")
    assert enough(small_plan(*settings), kind, group, asked) == expected
