"""A Flower Grid that sends and waits in one step; the rest of Flower's interface follows from that."""

import itertools
from collections.abc import Iterable, Iterator

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from wardround import _flower

__all__ = ["BlockingGrid"]


class BlockingGrid(Grid):
    """Its kinds have `get_node_ids` and `send_and_receive`."""

    def __init__(self, run_id: int) -> None:
        self._run = _flower.local_run(run_id)
        self._pushed = itertools.count(1)
        self._replies: dict[str, Message] = {}

    def set_run(self, run: Run) -> None:
        """Take Flower's description of the run."""
        self._run = run

    @property
    def run(self) -> Run:
        """Flower's description of the run."""
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """A message to a node."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send, wait, and keep the replies; the ids to pull them by."""
        ids: list[str] = []

        def numbered() -> Iterator[Message]:
            for message in messages:
                ids.append(f"pushed {next(self._pushed)}")
                _flower.set_message_id(message, ids[-1])
                yield message

        for reply in self.send_and_receive(numbered()):
            self._replies[reply.metadata.reply_to_message_id] = reply
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """The replies to pushed messages, each once."""
        return [self._replies.pop(number) for number in message_ids if number in self._replies]
