from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import pytest
from flwr.app import Message

from tests.federation_of_points import Points, PointTrainer, point_plan, points
from wardround import _flower
from wardround.client.app import client_app
from wardround.client.guard.guard import SiteGuard
from wardround.errors import LocalError
from wardround.orders import EvalJob, FitJob, LocalResult, Order, OrderKind, SiteId, digest
from wardround.simulations.attacks.adversary import Adversary
from wardround.simulations.attacks.attack import Attack, Crafted, Knowledge
from wardround.simulations.attacks.rogue_guard import RogueGuard
from wardround.simulations.grid import LocalGrid, LocalNode
from wardround.simulations.prefetched_trainer import PrefetchedTrainer
from wardround.state_store import MemoryStore
from wardround.strategies.rules.mean import Mean
from wardround.vector import F32


class SharedRow:
    """An executor of blocks of three whose rows are overwritten by the next block."""

    block_size = 3

    def __init__(self, federation: Points) -> None:
        self.trainers = {f"site-{i}": trainer for i, trainer in enumerate(federation.trainers)}
        self.rows = np.zeros((3, 3), dtype=np.float32)
        self.blocks: list[list[SiteId]] = []

    def fit(self, jobs: Iterable[FitJob], model: F32) -> Iterator[LocalResult]:
        jobs = list(jobs)
        self.blocks.append([job.site for job in jobs])
        results = [self.trainers[job.site].fit(job, model) for job in jobs]
        for row, result in zip(self.rows, results, strict=False):
            row[:] = result.update
            yield LocalResult(update=row, num_examples=result.num_examples, tally=result.tally)
        assert len(jobs) <= self.block_size


def with_executor(federation: Points) -> SharedRow:
    executor = SharedRow(federation)
    federation.grid = LocalGrid(federation.plan, list(federation.grid._nodes.values()), executor)
    return executor


def test_blocks_give_the_same_model_as_one_by_one() -> None:
    plan = point_plan(sites=8, rounds=4)
    alone, blocks = points(plan), points(plan)
    executor = with_executor(blocks)
    assert alone.run().model.tobytes() == blocks.run().model.tobytes()
    assert [len(block) for block in executor.blocks] == [3, 3, 2] * 4
    assert alone.grid.delivered == blocks.grid.delivered


def test_each_training_is_computed_once() -> None:
    federation = points(point_plan(sites=8, rounds=4))
    with_executor(federation)
    federation.run()
    assert [len(trainer.jobs) for trainer in federation.trainers] == [4] * 8


def test_guards_run_on_prefetched_results() -> None:
    federation = points(point_plan("cohort.min_replies=3", rounds=1))
    federation.trainers[1].broken = "nan"
    with_executor(federation)
    assert np.isfinite(federation.run().model).all()
    assert [absence.site for absence in federation.recorder.records[0].absences] == ["site-1"]


def test_replies_are_made_only_when_asked_for() -> None:
    federation = points(point_plan(sites=9))
    executor = with_executor(federation)
    model = np.zeros(3, dtype="<f4").tobytes()
    order = Order(
        run_id="r", plan_digest=federation.plan.digest, kind=OrderKind.FIT, round=1, model_digest=digest(model)
    )
    content = _flower.pack_order(order.encode(), model)
    replies = iter(
        federation.grid.send_and_receive(Message(content, node, "train") for node in federation.grid.get_node_ids())
    )
    for _ in range(4):
        assert not next(replies).has_error()
    assert len(executor.blocks) == 2  # the third block of nine clients is not computed yet


def test_pushed_messages_are_pulled_once() -> None:
    federation = points(point_plan())
    messages = [Message(_flower.pack_order(b""), node, _flower.HELLO) for node in federation.grid.get_node_ids()]
    ids = list(federation.grid.push_messages(messages))
    assert len(set(ids)) == 4
    names = [_flower.read_hello(reply) for reply in federation.grid.pull_messages(ids[:3])]
    assert names == ["site-0", "site-1", "site-2"]
    assert len(list(federation.grid.pull_messages(ids))) == 1


def test_a_message_to_nobody_is_refused() -> None:
    grid = points(point_plan()).grid
    with pytest.raises(LocalError, match="expected a node of this federation, got 7"):
        list(grid.send_and_receive([Message(_flower.pack_order(b""), 7, _flower.HELLO)]))


def test_a_held_result_is_for_its_own_job_only() -> None:
    trainer = PointTrainer(np.ones(1, dtype=np.float32))
    prefetched = PrefetchedTrainer(trainer)
    order = Order(run_id="r", plan_digest="d", kind=OrderKind.FIT, round=1)
    job, other = (FitJob(order=order, site=SiteId("s"), seed=seed) for seed in (1, 2))
    held = trainer.fit(job, np.zeros(1, dtype=np.float32))
    prefetched.hold(job, held)
    assert prefetched.fit(other, np.zeros(1, dtype=np.float32)) is not held
    assert prefetched.fit(job, np.zeros(1, dtype=np.float32)) is not held  # the held one is gone by now
    prefetched.hold(job, held)
    assert prefetched.fit(job, np.zeros(1, dtype=np.float32)) is held
    assert prefetched.evaluate(EvalJob(order=order, site=SiteId("s")), np.zeros(1, dtype=np.float32)).n == 10


def test_flowers_grid_is_implemented_whole() -> None:
    federation = points(point_plan())
    grid = federation.grid
    grid.set_run(_flower.local_run(5))
    assert grid.run.run_id == 5
    message = grid.create_message(_flower.pack_order(b"x"), "train", 1000, "3")
    assert message.metadata.group_id == "3" and message.metadata.dst_node_id == 1000
    assert [node.node_id for node in grid.get_nodes()] == [1000, 1001, 1002, 1003]


# -- attackers ----------------------------------------------------------------------------------------


@dataclass
class Sum(Attack):
    """Each attacker sends the sum of all that it knows."""

    heard: list[Knowledge] = field(default_factory=list)

    summary: ClassVar[str] = "for tests"
    source: ClassVar[str] = "none"
    knows_others: ClassVar[bool] = True

    def craft(self, knowledge: Knowledge) -> Crafted:
        self.heard.append(knowledge)
        vector = knowledge.honest.sum(axis=0) + knowledge.own.sum(axis=0)
        return Crafted(updates=np.tile(vector, (len(knowledge.own), 1)))


class Blind(Sum):
    knows_others: ClassVar[bool] = False


def with_attackers(federation: Points, attack: Attack, *places: int, blocks: bool = False) -> SharedRow | None:
    """The federation's grid anew, with attackers at these places."""
    plan = federation.plan
    sites = tuple(SiteId(f"site-{place}") for place in places)
    nodes = []
    for node in federation.grid._nodes.values():
        guard = SiteGuard(plan, node.site, MemoryStore())
        app = client_app(node.trainer, RogueGuard(plan, guard) if node.site in sites else guard)
        nodes.append(LocalNode(site=node.site, app=app, trainer=node.trainer, partition=node.partition))
    executor = SharedRow(federation) if blocks else None
    adversary = Adversary(attack=attack, plan=plan, sites=sites, rule=Mean())
    federation.grid = LocalGrid(plan, nodes, executor, adversary)
    return executor


@pytest.mark.parametrize("blocks", [False, True])
def test_attackers_answer_together_after_the_honest_whose_updates_they_know(blocks: bool) -> None:
    plan = point_plan("simulation.attack.name=ipm", "simulation.attack.attackers=5", sites=8, rounds=1)
    federation, attack = points(plan), Sum()
    executor = with_attackers(federation, attack, 0, 2, 3, 5, 6, blocks=blocks)
    state = federation.run()
    updates = np.array([trainer.point / np.float32(2) for trainer in federation.trainers])
    (knowledge,) = attack.heard
    np.testing.assert_array_equal(knowledge.honest, updates[[1, 4, 7]])
    np.testing.assert_array_equal(knowledge.own, updates[[0, 2, 3, 5, 6]])
    weights = np.array([trainer.num_examples for trainer in federation.trainers], dtype=np.float64)
    sent = updates.copy()
    sent[[0, 2, 3, 5, 6]] = updates.sum(axis=0)
    np.testing.assert_allclose(state.model, weights @ sent / weights.sum(), rtol=1e-5)
    assert [len(trainer.jobs) for trainer in federation.trainers] == [1] * 8
    if executor is not None:  # no more than a block of updates of the executor at a time
        names = [[site.removeprefix("site-") for site in block] for block in executor.blocks]
        assert names == [["1", "4", "7"], ["0", "2", "3"], ["5", "6"]]


def test_who_does_not_know_the_others_is_not_told() -> None:
    plan = point_plan("simulation.attack.name=ipm", "simulation.attack.attackers=1", rounds=1)
    federation, attack = points(plan), Blind()
    with_attackers(federation, attack, 2)
    federation.run()
    assert attack.heard[0].honest.shape == (0, 3) and attack.heard[0].own.shape == (1, 3)


def test_evaluations_are_answered_as_ever() -> None:
    plan = point_plan("simulation.attack.name=ipm", "simulation.attack.attackers=2", rounds=2)
    federation = points(plan)
    with_attackers(federation, Sum(), 1, 2)
    federation.run()
    for record in federation.recorder.records:
        assert record.validation is not None and len(record.validation.sites) == 4


def test_nobody_crafts_when_no_attacker_is_drawn() -> None:
    plan = point_plan("cohort.size=1", "simulation.attack.name=ipm", "simulation.attack.attackers=1", rounds=6)
    federation, attack = points(plan), Sum()
    with_attackers(federation, attack, 0)
    federation.run()
    drawn = [record.cohort == ("site-0",) for record in federation.recorder.records]
    assert len(attack.heard) == sum(drawn) and 0 < sum(drawn) < 6
    assert all(knowledge.honest.shape == (0, 3) for knowledge in attack.heard)


def test_attackers_that_are_lost_craft_nothing_and_the_honest_that_are_lost_are_not_known() -> None:
    settings = ("simulation.dropout=0.5", "cohort.min_replies=1", "simulation.attack.name=ipm")
    plan = point_plan(*settings, "simulation.attack.attackers=2", sites=6, rounds=12)
    federation, attack = points(plan), Sum()
    with_attackers(federation, attack, 0, 1, blocks=True)
    federation.run()
    found = []
    for record in federation.recorder.records:
        there = set(record.cohort) - {absence.site for absence in record.absences}
        liars = there & {"site-0", "site-1"}
        if liars:
            found.append((len(liars), len(there - liars)))
    assert [(len(one.own), len(one.honest)) for one in attack.heard] == found
    assert {own for own, _ in found} == {1, 2} and len(found) < 12
