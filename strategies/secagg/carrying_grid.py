"""A Flower Grid for the messages of secure aggregation, which adds an app's own records to the orders among them."""

from collections.abc import Iterable, Iterator

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from wardround import _flower

__all__ = ["CarryingGrid"]


class CarryingGrid(Grid):
    """`grid`, on which every order carries `content` in the place of a model."""

    def __init__(self, grid: Grid, content: RecordDict) -> None:
        self._grid, self._content = grid, content

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Flower's own, with the records added."""
        return self._grid.send_and_receive(self._loaded(messages), timeout=timeout)

    def _loaded(self, messages: Iterable[Message]) -> Iterator[Message]:
        for message in messages:
            if message.metadata.message_type != _flower.PROTOCOL:
                _flower.carry(message.content, self._content)
            yield message

    def set_run(self, run: Run) -> None:
        self._grid.set_run(run)

    @property
    def run(self) -> Run:
        return self._grid.run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        return self._grid.create_message(content, message_type, dst_node_id, group_id, ttl)

    def get_node_ids(self) -> Iterable[int]:
        return self._grid.get_node_ids()

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return self._grid.pull_messages(message_ids)
