"""How a site answers an order, whatever brings it: a Flower message, or the agent's link."""

import hashlib

import numpy as np

from wardround.client.guard.guard import Guard
from wardround.client.trainer.trainer import Trainer
from wardround.errors import RemoteError, WardroundError
from wardround.orders import EvalJob, FitJob, LocalResult, Order, OrderKind, digest
from wardround.tally import Tally
from wardround.vector import F32

__all__ = ["answer_order", "model_vector"]


def model_vector(model: bytes | memoryview | None, order: Order) -> F32:
    """The model that came with an order, little-endian float32, as a read-only view of shape (d,).

    Raises RemoteError when it is not the one that the order names.
    """
    if model and len(model) % 4 == 0:
        # the digest of bytes is remembered: in a simulation a whole cohort shares them
        found = digest(model) if isinstance(model, bytes) else hashlib.sha256(model).hexdigest()
        if found == order.model_digest:
            vector = np.frombuffer(model, dtype="<f4")
            vector.flags.writeable = False
            return vector
    raise RemoteError("model: expected the bytes whose SHA-256 is in the order")


def answer_order(
    guard: Guard, trainer: Trainer, order_bytes: bytes, protocol: bytes, spec: bytes, model: bytes | memoryview | None
) -> bytes:
    """What the site sends for an order; under secure aggregation `protocol` is the round's start.

    Raises WardroundError, with a text that the server may be told, where the site sends nothing.
    """
    order = Order.decode(order_bytes)
    sent = guard.begin(order, protocol, spec)
    if sent is not None:
        return sent
    # before the order is admitted: what is charged for a model that is not there is lost
    vector = None if order.kind is OrderKind.STATISTICS else model_vector(model, order)
    return guard.release(order, _work(guard, trainer, guard.admit(order), vector), spec)


def _work(guard: Guard, trainer: Trainer, job: FitJob | EvalJob, vector: F32 | None) -> LocalResult | Tally:
    try:
        if vector is None:
            return trainer.statistics()
        return trainer.fit(job, vector) if isinstance(job, FitJob) else trainer.evaluate(job, vector)
    except WardroundError as error:
        raise guard.failure(error) from error
