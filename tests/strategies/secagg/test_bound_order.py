"""A server that has all sites but one train with a rate of 0: their sum is that one's update, unless orders are bound.

Source: Pasquini, Francati and Ateniese 2022, "Eluding Secure Aggregation in Federated Learning via Model Inconsistency"
(arXiv 2111.07380), whose models let gradients vanish; here a field of the order does it, under one and the same model.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from flwr.app import Message

from tests.federation_of_points import PointTrainer
from tests.masked_points import MaskedPoints, masked_plan, means, with_content
from wardround import _flower
from wardround.client.guard import member
from wardround.orders import Order
from wardround.strategies.secagg.plan_terms import encoding_of
from wardround.vector import F32

VICTIM = 2
LAST = 3
"""The plan's last round, in which its schedule comes to a rate of nearly 0."""


def told(points: MaskedPoints) -> F32 | None:
    """The sum of all sites' updates in round 1, of which the server lets all but one be of the last round."""
    for trainer in points.trainers:
        trainer.lie = scheduled(points, trainer)

    def tamper(message: Message) -> Message:
        if message.metadata.message_type != "train" or message.metadata.dst_node_id == 100 + VICTIM:
            return message
        late = replace(Order.decode(_flower.read_order(message)), round=LAST).encode()
        model, start, spec = _flower.read_model(message), _flower.read_protocol(message), _flower.read_spec(message)
        return with_content(message, _flower.pack_order(late, model, start, spec))

    points.tamper = tamper
    found = points.collect()
    return next(means(found)) * np.float32(len(found[0].members)) if found else None


def scheduled(points: MaskedPoints, trainer: PointTrainer) -> Callable[[F32], F32]:
    def steps(update: F32) -> F32:
        rate = points.plan.training.lr_at(trainer.jobs[-1].order.round, points.plan.rounds)
        return update * np.float32(rate)

    return steps


class Equal(bytes):
    """A digest that is equal to every other."""

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = bytes.__hash__


def test_sites_do_not_train_by_other_rounds_in_one_sum_but_where_the_order_is_not_compared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan = masked_plan("training.schedule=cosine", "training.schedule_factor=1e-30", "training.lr=0.5")
    points = MaskedPoints(plan)
    assert told(points) is None
    others = {site: reason for site, reason in points.why().items() if site != points.sites[VICTIM]}
    assert len(others) == 4
    assert all("expected a round whose descriptor names this order" in reason for reason in others.values())

    monkeypatch.setattr(member, "order_digest", lambda order, spec: Equal())
    points = MaskedPoints(plan)
    secret = (points.trainers[VICTIM].point - np.float32(1 / 8)) / 2 * np.float32(0.5)
    bound = 5 * encoding_of(plan, 4, seed=bytes(32)).error_bound(1.0, float(np.abs(secret).max()))
    found = told(points)
    assert found is not None
    assert np.abs(found - secret).max() <= bound < np.abs(secret).min() / 100
