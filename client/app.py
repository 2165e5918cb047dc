"""A site as a Flower ClientApp: the guard decides, the trainer works, the guard releases."""

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from wardround import _flower
from wardround.client.guard.answering import answer_order
from wardround.client.guard.guard import Guard
from wardround.client.trainer.trainer import Trainer
from wardround.errors import RemoteError, WardroundError

__all__ = ["client_app"]


def client_app(trainer: Trainer, guard: Guard) -> ClientApp:
    """A ClientApp that answers hello, statistics, train, evaluate and messages of secure aggregation for one site."""
    app = ClientApp()

    def answer(message: Message) -> Message:
        try:
            sent = answer_order(
                guard,
                trainer,
                _flower.read_order(message),
                _flower.read_protocol(message),
                _flower.read_spec(message),
                _model(message),
            )
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


def _model(message: Message) -> bytes | None:
    try:
        return _flower.read_model(message)
    except RemoteError:
        return None  # an order that needs one is refused by who reads it
