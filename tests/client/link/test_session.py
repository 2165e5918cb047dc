"""The agent's machine against a server that does not keep to the protocol."""

import mmap
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.link.linked_machines import counted
from wardround.client.link.session import Called, Session
from wardround.errors import LocalError, RemoteError
from wardround.link import link_pb2 as pb
from wardround.link.limits import Limits
from wardround.link.messages import Call, Fault, Notice, Reply
from wardround.link.payload_digest import PayloadDigest
from wardround.link.wire import Chunk, Message

SMALL = Limits(chunk_bytes=1 << 15, window_bytes=1 << 16, most_calls=2, most_notices=2, most_call_bytes=1 << 18)
KEY = bytes(16)


def new_session() -> Session:
    return Session(SMALL, lambda run, size: memoryview(bytearray(size)), counted())


def heading(id: int = 9, size: int = 1 << 17, **fields: object) -> pb.Call:
    return pb.Call(**{"id": id, "run": "r", "kind": "train", "key": KEY, "model_bytes": size, **fields})  # type: ignore[arg-type]


def receiving() -> Session:
    session = new_session()
    session.attach([])
    assert session.receive(heading()) == []
    assert session.next() == pb.Grant(direction=pb.TO_SITE, id=9, until=1 << 16)
    return session


@pytest.mark.parametrize(
    "message",
    [
        pb.Hello(versions=[1]),
        pb.Welcome(version=1),
        pb.Reply(id=9, key=KEY),
        heading(size=1 << 16),
        heading(kind="evaluate"),
        heading(id=4, run=""),
        heading(id=4, kind=""),
        heading(id=4, key=b""),
        heading(id=4, size=5, payload=b"four"),
        heading(id=4, signature=bytes(65)),
        Chunk(pb.TO_SITE, 9, 1, memoryview(b"x")),
        Chunk(pb.TO_SERVER, 9, 0, memoryview(b"x")),
        Chunk(pb.TO_SITE, 8, 0, memoryview(b"x")),
        pb.End(direction=pb.TO_SITE, id=9),
        pb.Grant(direction=pb.TO_SERVER, id=9),
        pb.Grant(direction=pb.TO_SITE, id=9),
        pb.Notice(id=1, kind="", body=b""),
    ],
    ids=str,
)
def test_what_the_protocol_does_not_allow_ends_the_stream(message: Message) -> None:
    session = receiving()
    with pytest.raises(RemoteError):
        session.receive(message)
    session.attach([9])  # the call that was open is received after all
    session.receive(heading())
    for offset in range(0, 1 << 17, 1 << 15):
        session.receive(Chunk(pb.TO_SITE, 9, offset, memoryview(bytes(1 << 15))))


def test_more_calls_than_agreed_are_refused() -> None:
    session = new_session()
    for id in (1, 2):
        session.receive(heading(id=id, size=10, payload=bytes(10)))
    with pytest.raises(RemoteError, match="at most 2 open calls"):
        session.receive(heading(id=3, size=10, payload=bytes(10)))


def test_calls_that_are_too_large_together_take_no_memory() -> None:
    allocated: list[int] = []

    def allocate(run: str, size: int) -> memoryview:
        allocated.append(size)
        return memoryview(bytearray(size))

    session = Session(SMALL, allocate, counted())
    session.attach([])
    session.receive(heading(id=1, size=1 << 17))
    session.receive(heading(id=2, size=(1 << 17) + 1))
    assert allocated == [1 << 17]
    session.next()
    refusal = session.next()
    assert isinstance(refusal, pb.Reply) and (refusal.id, refusal.fault) == (2, Fault.NOT_READY)  # later, it may fit


def test_an_order_with_the_statistics_of_many_columns_is_received() -> None:
    session = Session(Limits(), lambda run, size: memoryview(bytearray(size)), counted())
    session.attach([])
    assert session.receive(heading(size=0, order_bytes=4 << 20, spec_bytes=1 << 16)) == []
    assert isinstance(session.next(), pb.Grant)


@pytest.mark.parametrize(
    "sizes",
    [
        {"order_bytes": (4 << 20) + 1},
        {"spec_bytes": (1 << 16) + 1},
        {"protocol_bytes": 1 << 26, "order_bytes": 1},
        {"protocol_bytes": (1 << 64) - 1},
        {"model_bytes": (1 << 32) + 1},
    ],
    ids=str,
)
def test_a_call_that_is_too_large_by_itself_is_refused(sizes: dict[str, int]) -> None:
    session = Session(Limits(), lambda run, size: pytest.fail("no memory is due"), counted())
    session.attach([])
    assert session.receive(heading(**{"size": 0, **sizes})) == []
    refusal = session.next()
    assert isinstance(refusal, pb.Reply) and refusal.fault == Fault.REFUSED


def test_headings_alone_take_no_memory_and_are_bounded_together() -> None:
    """What comes before the model has no size that a person has approved."""
    session = Session(Limits(), lambda run, size: pytest.fail("there is no model"), counted())
    session.attach([])
    before = resident_bytes()
    for id in range(1, 64):
        session.receive(pb.Call(id=id, run="r", kind="query.secagg", key=KEY, protocol_bytes=30 << 20))
    answers = [answer for answer in iter(session.next, None)]
    assert [type(one) for one in answers] == [pb.Grant] * 2 + [pb.Reply] * 61
    assert {one.fault for one in answers if isinstance(one, pb.Reply)} == {Fault.NOT_READY}
    assert resident_bytes() - before < 8 << 20
    session.receive(pb.Cancel(id=1))
    session.receive(pb.Call(id=64, run="r", kind="query.secagg", key=KEY, protocol_bytes=30 << 20))
    assert isinstance(session.next(), pb.Grant)


def test_where_there_is_no_memory_the_call_is_to_come_again() -> None:
    def none_left(*arguments: object, **options: object) -> memoryview:
        raise LocalError("expected memory, got none")

    session = Session(Limits(), none_left, counted())
    session.attach([])
    session.receive(heading())
    refusal = session.next()
    assert isinstance(refusal, pb.Reply) and refusal.fault == Fault.NOT_READY
    assert refusal.reason == "expected memory, got none"


def test_nor_is_a_call_lost_that_cannot_be_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(*arguments: object) -> Call:
        raise MemoryError

    session = receiving()
    monkeypatch.setattr("wardround.client.link.session.read_call", none_left)
    for offset in range(0, 1 << 17, 1 << 15):
        session.receive(Chunk(pb.TO_SITE, 9, offset, memoryview(bytes(1 << 15))))
    digest = PayloadDigest(KEY)
    digest.update(memoryview(bytes(1 << 17)))
    assert session.receive(pb.End(direction=pb.TO_SITE, id=9, digest=digest.digest())) == []
    *_, refusal = [answer for answer in iter(session.next, None)]
    assert isinstance(refusal, pb.Reply) and (refusal.id, refusal.fault) == (9, Fault.NOT_READY)


def test_a_message_of_the_protocol_may_be_as_large_as_an_approval_makes_it() -> None:
    limits = Limits(chunk_bytes=1 << 10, window_bytes=1 << 16, most_small_bytes=1 << 12, most_call_bytes=1 << 18)
    beside = {"sums": 1 << 16}

    def faults(*headings: pb.Call) -> list[int]:
        session = Session(
            limits,
            lambda run, size: memoryview(bytearray(size)),
            counted(),
            beside=lambda run: beside.get(run, 0),
        )
        session.attach([])
        for one in headings:
            assert session.receive(one) == []
        sent = list(iter(session.next, None))
        return [one.fault if isinstance(one, pb.Reply) else 0 for one in sent]

    def asked(id: int, run: str, size: int) -> pb.Call:
        return heading(id=id, run=run, kind="query.secagg", size=0, protocol_bytes=size)

    assert faults(asked(1, "sums", 1 << 16)) == [0]
    assert faults(asked(1, "sums", (1 << 16) + (1 << 12))) == [0]
    assert faults(asked(1, "sums", (1 << 16) + (1 << 12) + 1)) == [Fault.REFUSED]
    assert faults(asked(1, "masks", 1 << 16)) == [Fault.REFUSED]
    assert faults(asked(1, "masks", 1 << 12)) == [0]
    two = asked(1, "sums", 1 << 16), asked(2, "sums", 1 << 16)
    assert faults(*two) == [0, 0]
    assert faults(*two, asked(3, "masks", 1 << 12)) == [0, 0, 0]
    assert faults(*two, asked(3, "masks", 1 << 12), asked(4, "masks", 1)) == [0, 0, 0, Fault.NOT_READY]
    assert faults(*two, asked(3, "sums", 1 << 16), asked(4, "sums", 1 << 16)) == [0, 0, 0, 0]
    assert faults(*two, *(asked(id, "sums", 1 << 16) for id in (3, 4, 5))) == [0, 0, 0, 0, Fault.NOT_READY]


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE


def test_of_a_call_that_is_not_wanted_nothing_is_received() -> None:
    asked: list[tuple[str, int, int]] = []

    def room(run: str, small_bytes: int, model_bytes: int) -> Reply | None:
        asked.append((run, small_bytes, model_bytes))
        return None if run == "known" else Reply(fault=Fault.NOT_READY, reason="who?")

    def allocate(run: str, size: int) -> memoryview:
        assert run == "known" or size == 10
        return memoryview(bytearray(size))

    session = Session(SMALL, allocate, counted(), room)
    session.attach([])
    assert session.receive(heading(id=1, run="unknown", order_bytes=1 << 16)) == []
    refusal = session.next()
    assert isinstance(refusal, pb.Reply) and (refusal.id, refusal.fault, refusal.reason) == (1, 3, "who?")
    assert session.next() is None  # no grant
    with pytest.raises(RemoteError):
        session.receive(Chunk(pb.TO_SITE, 1, 0, memoryview(b"x")))
    session.attach([1])
    assert session.receive(heading(id=1, run="unknown", order_bytes=1 << 16)) == []
    assert session.next() == refusal and session.next() is None
    session.receive(heading(id=2, run="known"))
    assert isinstance(session.next(), pb.Grant)
    session.receive(pb.Done(id=1))
    (event,) = session.receive(heading(id=3, run="unknown", size=10, payload=bytes(10)))  # it is here already
    assert isinstance(event, Called)
    assert asked == [("unknown", 1 << 16, 1 << 17), ("known", 0, 1 << 17)]


def test_memory_is_free_again_once_a_call_is_answered() -> None:
    session = new_session()
    for id in range(1, 6):
        (event,) = session.receive(heading(id=id, size=1 << 18, order_bytes=0, payload=bytes(1 << 18)))
        assert isinstance(event, Called)
        session.answer(id, Reply())
        session.receive(pb.Done(id=id))


def test_a_call_that_comes_again_while_it_is_done_is_not_done_again() -> None:
    session = new_session()
    call = heading(size=10, payload=bytes(10))
    assert len(session.receive(pb.Call.FromString(call.SerializeToString()))) == 1
    session.attach([9])
    assert session.receive(pb.Call.FromString(call.SerializeToString())) == []
    session.answer(9, Reply(reason="first"))
    session.attach([9])
    assert session.receive(pb.Call.FromString(call.SerializeToString())) == []
    reply = session.next()
    assert isinstance(reply, pb.Reply) and reply.reason == "first"


def test_the_reply_to_a_cancelled_call_is_dropped() -> None:
    session = new_session()
    session.receive(heading(size=10, payload=bytes(10)))
    session.receive(pb.Cancel(id=9))
    session.answer(9, Reply())
    assert session.next() is None


SERVERS_MESSAGES = st.one_of(
    st.builds(
        heading,
        id=st.integers(8, 11),
        size=st.sampled_from([0, 3, 1 << 15, 1 << 17, 1 << 62]),
        order_bytes=st.sampled_from([0, 0, 1 << 40]),
        payload=st.sampled_from([b"", b"", b"abc"]),
        key=st.sampled_from([KEY, KEY, b""]),
    ),
    st.builds(
        Chunk,
        st.sampled_from([pb.TO_SITE, pb.TO_SITE, pb.TO_SERVER, pb.UNKNOWN]),
        st.integers(8, 11),
        st.sampled_from([0, 1 << 15, 1 << 16, 1 << 60]),
        st.sampled_from([1, 3, 1 << 15]).map(lambda size: memoryview(bytes(size))),
    ),
    st.builds(pb.End, direction=st.sampled_from([1, 2]), id=st.integers(8, 11), digest=st.binary(max_size=16)),
    st.builds(
        pb.Grant,
        direction=st.sampled_from([1, 2]),
        id=st.integers(8, 11),
        offset=st.sampled_from([0, 1, 1 << 63]),
        until=st.sampled_from([0, 1, 1 << 15, 1 << 63]),
    ),
    st.builds(pb.Notice, id=st.integers(0, 2), kind=st.sampled_from(["", "k"]), body=st.binary(max_size=2)),
    st.builds(pb.Done, id=st.integers(8, 11)),
    st.builds(pb.Cancel, id=st.integers(8, 11)),
    st.just(pb.Welcome(version=1)),
)


@given(st.lists(st.one_of(SERVERS_MESSAGES, st.sampled_from(["attach", "answer", "send"])), max_size=30))
def test_any_sequence_of_messages_is_taken_or_refused_within_the_bounds(steps: list[Message | str]) -> None:
    held = 0

    def allocate(run: str, size: int) -> memoryview:
        nonlocal held
        held = max(held, size)
        return memoryview(bytearray(size))

    session, waiting = Session(SMALL, allocate, counted()), list[int]()
    session.tell(Notice(kind="k", body=b"{}"))
    for step in steps:
        if step == "attach":
            session.attach([8, 9])
        elif step == "send":
            session.next()
        elif step == "answer":
            if waiting:
                session.answer(waiting.pop(), Reply(frame=memoryview(bytes(1 << 17))))
        elif not isinstance(step, str):
            try:
                waiting += [event.call.id for event in session.receive(step) if isinstance(event, Called)]
            except RemoteError:
                session.attach([8, 9])
    assert held <= SMALL.most_call_bytes
