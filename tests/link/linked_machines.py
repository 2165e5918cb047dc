"""The server's and the agent's machines joined without a network: every frame is encoded and decoded on its way."""

from collections.abc import Callable

from wardround.client.link import session
from wardround.client.link.session import Session
from wardround.link.limits import Limits
from wardround.link.messages import Call, Notice, Reply
from wardround.link.wire import Message, decode, encode
from wardround.server.link import attachment
from wardround.server.link.attachment import Attachment, Failed, Replied

__all__ = ["Machines", "counted"]


def counted(start: int = 1) -> Callable[[int], bytes]:
    """A source of "random" bytes in which no two draws are the same."""
    drawn = start

    def draw(size: int) -> bytes:
        nonlocal drawn
        drawn += 1
        return drawn.to_bytes(size, "little")

    return draw


class Machines:
    """One site. `answer` is what its agent replies; what happened is noted in lists."""

    def __init__(self, answer: Callable[[Call], Reply], limits: Limits, server: Limits | None = None) -> None:
        self.limits, self.answer = limits, answer
        self.server = Attachment(server or limits, counted(1 << 16))
        self.agent = self.new_agent()
        self.called: list[Call] = []
        self.replies: dict[int, Reply] = {}
        self.failures: dict[int, str] = {}
        self.told: list[int] = []
        self.at_server: list[Notice] = []
        self.at_agent: list[Notice] = []
        self.chunks = 0
        self.allocated = 0

    def new_agent(self) -> Session:
        """An agent that was started again knows nothing."""
        return Session(self.limits, lambda run, size: memoryview(bytearray(size)), counted())

    def ask(self, id: int, call: Call, most_bytes: int = 1 << 30) -> None:
        def allocate(size: int) -> memoryview:
            assert size <= most_bytes
            self.allocated += size
            return memoryview(bytearray(size))

        self.server.ask(id, call, allocate, most_bytes)

    def attach(self) -> None:
        """A new stream: what was on its way on the old one is lost."""
        self.server.attach()
        self.agent.attach(self.server.calls)

    def run(self, steps: int | None = None) -> None:
        """Move frames in turn, until nothing is left to be sent or so many have moved."""
        moved = 0
        while moved != steps:
            down = self.server.next()
            if down is not None:
                self.to_agent(decode(encode(down)))
                moved += 1
                if moved == steps:
                    return
            up = self.agent.next()
            if up is not None:
                self.to_server(decode(encode(up)))
                moved += 1
            if down is None and up is None:
                return

    def to_agent(self, message: Message) -> None:
        for event in self.agent.receive(message):
            if isinstance(event, session.Called):
                self.called.append(event.call)
                self.agent.answer(event.call.id, self.answer(event.call))
            else:
                self.at_agent.append(event.notice)
                self.agent.noted(event.id)

    def to_server(self, message: Message) -> None:
        for event in self.server.receive(message):
            if isinstance(event, Replied):
                assert event.id not in self.replies
                self.replies[event.id] = event.reply
            elif isinstance(event, Failed):
                self.failures[event.id] = str(event.error)
            elif isinstance(event, attachment.Noticed):
                self.at_server.append(event.notice)
                self.server.noted(event.id)
            else:
                self.told.append(event.id)
