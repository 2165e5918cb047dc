from collections.abc import Iterable, Iterator

import numpy as np
import pytest
from flwr.app import Message

from tests.federation_of_points import Points, PointTrainer, point_plan, points
from wardround import _flower
from wardround.errors import LocalError
from wardround.orders import EvalJob, FitJob, LocalResult, Order, OrderKind, SiteId, digest
from wardround.simulations.grid import LocalGrid
from wardround.simulations.prefetched_trainer import PrefetchedTrainer
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
