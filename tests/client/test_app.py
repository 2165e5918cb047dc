"""A site as a ClientApp: what it answers to good and bad messages."""

from typing import Any

import numpy as np
import pytest
from flwr.app import Context, Message, RecordDict

from tests.federation_of_points import PointTrainer, point_plan
from wardround import _flower
from wardround.client.app import client_app
from wardround.client.guard.guard import SiteGuard
from wardround.frames import decode_frame
from wardround.orders import Order, OrderKind, SiteId, Split, digest
from wardround.plan import Plan
from wardround.plan_source import find_plan
from wardround.state_store import MemoryStore

PLAN = point_plan()
MODEL = np.zeros(2, dtype="<f4").tobytes()
CONTEXT = Context(run_id=1, node_id=5, node_config={}, state=RecordDict(), run_config={})


@pytest.fixture(autouse=True)
def identity() -> None:
    _flower.set_identity(run_id=1, node_id=1)


def ask(
    kind: OrderKind,
    message_type: str,
    *,
    model: bytes | None = MODEL,
    claimed: bytes = MODEL,
    plan: Plan = PLAN,
    **asked: Any,
) -> Message:
    trainer = PointTrainer(np.array([2.0, 4.0], dtype=np.float32))
    app = client_app(trainer, SiteGuard(plan, SiteId("north"), MemoryStore()))
    about = {"run_id": "run", "plan_digest": plan.digest, "round": 1, "model_digest": digest(claimed), **asked}
    order = Order(kind=kind, **about)
    return app(Message(_flower.pack_order(order.encode(), model), 5, message_type), CONTEXT)


def test_train_sends_the_update() -> None:
    frame = decode_frame(_flower.read_frame(ask(OrderKind.FIT, "train")))
    np.testing.assert_array_equal(frame.vector, [1, 2])
    assert frame.site == "north" and frame.weight == 10


def test_evaluate_and_statistics_send_counts_and_no_vector() -> None:
    for reply in (
        ask(OrderKind.EVALUATE, "evaluate", split=Split.TEST),
        ask(OrderKind.STATISTICS, _flower.STATISTICS, round=0, plan=find_plan("breast-cancer")),
    ):
        frame = decode_frame(_flower.read_frame(reply))
        assert frame.vector.size == 0 and frame.tally.n == 10


def test_hello_says_the_name() -> None:
    trainer = PointTrainer(np.zeros(2, dtype=np.float32))
    app = client_app(trainer, SiteGuard(PLAN, SiteId("north"), MemoryStore()))
    assert _flower.read_hello(app(Message(_flower.pack_order(b""), 5, _flower.HELLO), CONTEXT)) == "north"


def test_a_model_that_is_not_the_orders_is_refused() -> None:
    reply = ask(OrderKind.FIT, "train", claimed=np.ones(2, dtype="<f4").tobytes())
    assert reply.has_error() and "SHA-256 is in the order" in str(reply.error.reason)


@pytest.mark.parametrize("model", [None, b"", b"123"])
def test_a_missing_or_torn_model_is_refused(model: bytes | None) -> None:
    assert ask(OrderKind.FIT, "train", model=model).has_error()


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b'{"v":2}', b'{"v":1,"run_id":5}', b"\xff", b"[" * 5000])
def test_a_malformed_order_is_refused(data: bytes) -> None:
    trainer = PointTrainer(np.zeros(2, dtype=np.float32))
    app = client_app(trainer, SiteGuard(PLAN, SiteId("north"), MemoryStore()))
    reply = app(Message(_flower.pack_order(data, MODEL), 5, "train"), CONTEXT)
    assert reply.has_error() and reply.error.reason and "order" in reply.error.reason
    assert trainer.jobs == []


def test_a_message_without_an_order_is_refused() -> None:
    trainer = PointTrainer(np.zeros(2, dtype=np.float32))
    app = client_app(trainer, SiteGuard(PLAN, SiteId("north"), MemoryStore()))
    reply = app(Message(RecordDict(), 5, "train"), CONTEXT)
    assert reply.has_error() and "expected an order" in str(reply.error.reason)
