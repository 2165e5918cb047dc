"""A Flower Grid that calls one ClientApp as so many nodes, over Flower's own wire form of the records."""

from collections.abc import Callable, Iterable, Mapping

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from wardround import _flower

App = Callable[[Message, Context], Message]


class GridOfApps(Grid):
    """Nodes 100, 101, …, each with its partition; `sent` has the messages of every step."""

    def __init__(self, app: ClientApp | App, nodes: int, run_config: Mapping[str, bool | float | int | str]) -> None:
        _flower.set_identity(run_id=1, node_id=1)
        self._app, self._run = app, _flower.local_run(1)
        self.sent: list[list[Message]] = []
        self._contexts = {
            100 + index: Context(
                run_id=1,
                node_id=100 + index,
                node_config={"partition-id": index, "num-partitions": nodes},
                state=RecordDict(),
                run_config=dict(run_config),
            )
            for index in range(nodes)
        }

    def set_run(self, run: Run) -> None:
        self._run = run

    @property
    def run(self) -> Run:
        return self._run

    def get_node_ids(self) -> Iterable[int]:
        return list(self._contexts)

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        raise AssertionError("strategies use send_and_receive")

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        raise AssertionError("strategies use send_and_receive")

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        given = list(messages)
        self.sent.append(given)
        return [self._deliver(message) for message in given]

    def _deliver(self, message: Message) -> Message:
        message.content = _carried(message.content)
        reply = self._app(message, self._contexts[message.metadata.dst_node_id])
        if reply.has_content():
            reply.content = _carried(reply.content)
        return reply


def _carried(records: RecordDict) -> RecordDict:
    return _flower.decode_records(_flower.encode_records(records))
