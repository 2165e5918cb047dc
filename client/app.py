"""A site as a Flower ClientApp: the guard decides, the trainer works, the guard releases."""

import numpy as np
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from wardround import _flower
from wardround.client.guard.guard import Guard
from wardround.client.trainer.trainer import Trainer
from wardround.errors import RemoteError, WardroundError
from wardround.orders import EvalJob, FitJob, LocalResult, Order, OrderKind, digest
from wardround.tally import Tally
from wardround.vector import F32

__all__ = ["client_app", "model_vector"]


def model_vector(message: Message, order: Order) -> F32:
    """The model in `message`, a read-only view of shape (d,).

    Raises RemoteError when it is not the one that the order names.
    """
    data = _flower.read_model(message)
    if len(data) % 4 or digest(data) != order.model_digest:
        raise RemoteError("model: expected the bytes whose SHA-256 is in the order")
    return np.frombuffer(data, dtype="<f4")


def client_app(trainer: Trainer, guard: Guard) -> ClientApp:
    """A ClientApp that answers hello, statistics, train, evaluate and messages of secure aggregation for one site."""
    app = ClientApp()

    def work(message: Message, order: Order, job: FitJob | EvalJob) -> LocalResult | Tally:
        model = None if order.kind is OrderKind.STATISTICS else model_vector(message, order)
        try:
            if model is None:
                return trainer.statistics()
            return trainer.fit(job, model) if isinstance(job, FitJob) else trainer.evaluate(job, model)
        except WardroundError as error:
            raise guard.failure(error) from error

    def answer(message: Message) -> Message:
        try:
            order, spec = Order.decode(_flower.read_order(message)), _flower.read_spec(message)
            sent = guard.begin(order, _flower.read_protocol(message), spec)
            if sent is None:
                sent = guard.release(order, work(message, order, guard.admit(order)), spec)
            return _flower.reply(message, sent)
        except WardroundError as error:
            return _flower.error_reply(message, error)

    @app.query("hello")
    def hello(message: Message, _: Context) -> Message:
        return _flower.hello_reply(message, guard.site)

    @app.query("statistics")
    def statistics(message: Message, _: Context) -> Message:
        return answer(message)

    @app.query("secagg")
    def secagg(message: Message, _: Context) -> Message:
        try:
            return _flower.reply(message, guard.answer(_flower.read_protocol(message)))
        except WardroundError as error:
            return _flower.error_reply(message, error)

    @app.train()
    def train(message: Message, _: Context) -> Message:
        return answer(message)

    @app.evaluate()
    def evaluate(message: Message, _: Context) -> Message:
        return answer(message)

    return app
