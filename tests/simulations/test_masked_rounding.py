"""Honest groups are never refused for what their own rounding adds to the length of their mean."""

import numpy as np
import pytest

from tests.federation_of_points import PointTrainer, Recorder, point_plan
from wardround.client.app import client_app
from wardround.client.guard.guard import SiteGuard
from wardround.orders import OrderKind, SiteId
from wardround.simulations.accounted_sums import AccountedSums, in_clear
from wardround.simulations.grid import LocalGrid, LocalNode
from wardround.simulations.prefetched_trainer import PrefetchedTrainer
from wardround.state_store import MemoryStore
from wardround.strategies.federated import FederatedStrategy
from wardround.strategies.records import RunState
from wardround.strategies.rules.build import build_rule
from wardround.tally import MeansSpec

SIZE = 100_000


@pytest.mark.parametrize("rule", [(), ("protection.groups=3", "robust.rule=median", "robust.num_byzantine=1")])
def test_a_mean_at_the_clip_counts_however_few_bits_its_values_have(rule: tuple[str, ...]) -> None:
    plan = point_plan(
        "protection.mode=masking", "protection.value_bits=8", "simulation.cryptography=accounting",
        "cohort.weighting=uniform", "clipping.clip_norm=1", "data.standardize=none", "evaluation.every=0", *rule,
        sites=9, rounds=1,
    )  # fmt: skip
    sites, nodes, recorder = tuple(SiteId(f"site-{i}") for i in range(9)), [], Recorder()
    for i, site in enumerate(sites):
        trainer = PrefetchedTrainer(PointTrainer(np.ones(SIZE, dtype=np.float32)))  # all move alike, beyond the clip
        guard = SiteGuard(in_clear(plan), site, MemoryStore(), plan_digest=plan.digest)
        nodes.append(LocalNode(site=site, app=client_app(trainer, guard), trainer=trainer, partition=i))
    strategy = FederatedStrategy(
        plan,
        run_id="run",
        protection=AccountedSums(plan, sites, {OrderKind.FIT: MeansSpec(names=("loss",))}),
        rule=build_rule(plan.robust),
        num_parameters=SIZE,
        observers=[recorder],
    )
    strategy.run(LocalGrid(plan, nodes), RunState(round=0, model=np.zeros(SIZE, dtype=np.float32)))
    (record,) = recorder.records
    assert [line.reason for line in record.report.lines] == [""] * plan.contributions
    assert not record.void and 1.0001 < (record.report.lines[0].norm or 0) < 2, "rounding alone makes it longer"
