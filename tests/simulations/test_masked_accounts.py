"""A run whose clients' own noise is in the sums: what its server and its sites' ledgers say was spent."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from wardround.client.guard.ledger import Ledger
from wardround.plan import Plan, parse_plan
from wardround.plan_privacy import Relation
from wardround.simulations.accounts import LEDGERS
from wardround.simulations.simulate import simulate
from wardround.strategies.privacy.terms import client_terms

TABLE: dict[str, Any] = {
    "name": "noise of the clients",
    "rounds": 3,
    "task": {"name": "tabular-classifier", "model": "logistic"},
    "data": {
        "source": "breast-cancer",
        "target": {"name": "diagnosis", "classes": ["malignant", "benign"]},
        "columns": [{"name": "mean radius", "unit": "mm", "range": [5, 30]}],
    },
    "cohort": {"weighting": "uniform"},
    "evaluation": {"every": 0},
    "protection": {"mode": "masking", "groups": 2},
    "privacy": {"unit": "client", "epsilon": 8, "mechanism": "skellam"},
    "simulation": {"sites": 8, "cryptography": "accounting"},
}
SIZE = 4  # two classes of a weight and a bias


@pytest.fixture(scope="module")
def plan() -> Plan:
    return parse_plan(TABLE)


def test_every_round_of_sums_is_charged_at_the_server_and_at_each_site(plan: Plan, tmp_path: Path) -> None:
    result = simulate(plan, out=tmp_path / "run", report=False)
    terms = client_terms(plan, SIZE)
    assert terms.skellam is not None and len(result.model) == SIZE
    assert [line["privacy"]["epsilon"] for line in result.rounds] == [terms.told(count) for count in (1, 2, 3)]
    assert result.rounds[-1]["privacy"]["epsilon"] == terms.claim.epsilon <= 8
    assert result.rounds[-1]["privacy"]["noise_to_signal"] > 0
    folder = tmp_path / "run" / LEDGERS
    assert len(list(folder.iterdir())) == 8
    for path in folder.iterdir():
        (job,) = Ledger.open(path).account().jobs.values()
        (event,) = job.charge.per_round
        own = terms.skellam.event().times(2)  # of a patient of the client, whose whole update may turn around
        assert event == replace(own, relation=Relation.REPLACE_ONE)


def test_a_run_stops_when_its_epsilon_is_spent() -> None:
    wanted = parse_plan({**TABLE, "privacy": {**TABLE["privacy"], "epsilon": 4, "noise_multiplier": 2.0}})
    terms = client_terms(wanted, SIZE)
    assert 0 < terms.rounds < 3
    result = simulate(wanted, report=False)
    assert "the privacy budget is spent" in result.stopped
    assert result.rounds[-1]["privacy"]["epsilon"] <= 4
