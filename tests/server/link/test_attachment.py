"""The two ends' machines, without a network: calls over broken streams, and what a peer must not do."""

import hashlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.link.linked_machines import Machines, counted
from wardround.errors import LocalError, RemoteError
from wardround.link import link_pb2 as pb
from wardround.link.limits import Limits
from wardround.link.messages import Call, Fault, Notice, Reply
from wardround.link.wire import Chunk, Message
from wardround.server.link.attachment import Attachment, Event, Failed, Replied

SMALL = Limits(chunk_bytes=1 << 15, window_bytes=1 << 16, most_calls=3, most_notices=4)
KEY = bytes(16)


def bytes_of(size: int, seed: int = 0) -> bytes:
    return hashlib.shake_128(seed.to_bytes(4, "little")).digest(size)


def echo(call: Call) -> Reply:
    """What a site of these tests replies: all that it was sent."""
    frame = call.order + call.protocol + call.spec + (b"" if call.model is None else bytes(call.model))
    return Reply(reason=call.kind, frame=memoryview(frame), signature=b"s" * 64)


def call_of(size: int, seed: int = 0) -> Call:
    return Call(
        run="run",
        kind="train",
        order=b"order",
        protocol=bytes_of(size // 3, seed + 1),
        spec=b"{}",
        model=memoryview(bytes_of(size, seed)),
        signature=b"x" * 64,
    )


def is_echo(call: Call, reply: Reply) -> bool:
    return bytes(reply.frame) == bytes(echo(call).frame) and reply.reason == call.kind


@pytest.mark.parametrize("size", [0, 10, 1 << 15, 1 << 16, 1 << 18])
def test_a_call_is_answered(size: int) -> None:
    machines, call = Machines(echo, SMALL), call_of(size)
    machines.attach()
    machines.ask(9, call)
    machines.run()
    (got,) = machines.called
    assert replace(got, id=0, model=None) == replace(call, model=None)
    assert call.model is not None and got.model is not None and bytes(got.model) == bytes(call.model)
    assert is_echo(call, machines.replies[9])
    assert machines.server.calls == () and not machines.server.under_way


def test_a_call_without_a_model_is_not_one_with_an_empty_model() -> None:
    machines = Machines(echo, SMALL)
    machines.attach()
    machines.ask(1, Call(run="run", kind="query.secagg", protocol=b"m"))
    machines.ask(2, Call(run="run", kind="train", model=memoryview(b"")))
    machines.run()
    assert machines.called[0].model is None
    assert machines.called[1].model is not None and machines.called[1].model.nbytes == 0


def test_it_waits_for_a_site_that_is_away() -> None:
    machines, call = Machines(echo, SMALL), call_of(1 << 18)
    machines.ask(9, call)
    machines.attach()
    machines.run()
    assert is_echo(call, machines.replies[9])


@given(cuts=st.lists(st.integers(0, 12), max_size=8), sizes=st.lists(st.integers(0, 1 << 18), min_size=1, max_size=3))
def test_calls_are_done_once_and_answered_once_however_often_the_stream_breaks(
    cuts: list[int], sizes: list[int]
) -> None:
    machines = Machines(echo, SMALL)
    calls = {number: call_of(size, number) for number, size in enumerate(sizes, 1)}
    for id, call in calls.items():
        machines.ask(id, call)
    machines.agent.tell(Notice(kind="up", body=b"1"))
    machines.server.tell(77, Notice(kind="down", body=b"1"))
    for cut in cuts:
        machines.attach()
        machines.run(cut)
    machines.attach()
    machines.run()
    assert sorted(call.id for call in machines.called) == sorted(calls)
    assert all(is_echo(call, machines.replies[id]) for id, call in calls.items())
    assert [one.kind for one in machines.at_server] == ["up"]
    assert [one.kind for one in machines.at_agent] == ["down"]
    assert machines.told == [77]


def test_a_transfer_that_was_cut_goes_on_where_it_was_in_both_directions() -> None:
    machines, call = Machines(echo, SMALL), call_of(1 << 19)
    machines.ask(9, call)
    chunks, offsets = 0, []

    def watched(message: Message | None) -> Message | None:
        nonlocal chunks
        if isinstance(message, Chunk):
            chunks += 1
            offsets.append((message.direction, message.offset))
        return message

    sides = (machines.server, machines.agent)
    nexts = [side.next for side in sides]
    for _ in range(60):
        machines.attach()
        for _ in range(2):  # some frames, then the stream breaks
            if (down := watched(nexts[0]())) is not None:
                machines.to_agent(down)
            if (up := watched(nexts[1]())) is not None:
                machines.to_server(up)
        machines.run(0)
        if 9 in machines.replies:
            break
    assert is_echo(call, machines.replies[9])
    assert len(machines.called) == 1
    assert len(set(offsets)) == len(offsets)  # no chunk twice
    assert offsets == sorted(offsets)


def test_an_agent_that_was_started_again_is_asked_again() -> None:
    machines, call = Machines(echo, SMALL), call_of(1 << 18)
    machines.ask(9, call)
    machines.attach()
    while not machines.called:
        machines.run(1)
    machines.run(6)
    assert machines.server.receiving and 9 not in machines.replies  # some of the reply has come
    machines.agent = machines.new_agent()
    machines.answer = lambda call: Reply(frame=memoryview(b"n" * (1 << 18)))  # made again, and another
    machines.attach()
    machines.run()
    assert bytes(machines.replies[9].frame) == b"n" * (1 << 18)


def test_an_agent_forgets_what_the_server_does_not_wait_for() -> None:
    """Cancelled while the link was down, or asked by a server that was started again."""
    machines = Machines(echo, SMALL)
    machines.ask(9, call_of(1 << 18))
    machines.attach()
    machines.run(3)
    machines.server.cancel(9)
    machines.attach()
    for id in range(10, 13):  # all the calls that an agent takes
        machines.ask(id, call_of(10, id))
    machines.run()
    assert sorted(machines.replies) == [10, 11, 12]


def test_a_call_that_is_cancelled_on_its_way_harms_nothing() -> None:
    for steps in range(1, 40):
        machines = Machines(echo, SMALL)
        machines.attach()
        machines.ask(9, call_of(1 << 18))
        machines.run(steps)
        machines.server.cancel(9)
        machines.ask(10, call_of(1 << 17))
        machines.run()
        assert 10 in machines.replies


def test_a_reply_is_refused_before_memory_is_taken_where_it_is_too_large() -> None:
    machines = Machines(echo, SMALL)
    machines.attach()
    machines.ask(9, call_of(1 << 18), most_bytes=1 << 10)
    machines.ask(10, call_of(10))
    machines.run()
    assert "expected a frame of at most 1024 bytes" in machines.failures[9]
    assert machines.allocated < 1 << 10
    assert 10 in machines.replies


def test_a_site_that_has_no_room_says_so() -> None:
    machines = Machines(echo, replace(SMALL, most_call_bytes=1 << 16), SMALL)
    machines.attach()
    machines.ask(9, call_of(1 << 18))
    machines.run()
    assert machines.replies[9].fault is Fault.REFUSED and "at most" in machines.replies[9].reason
    assert not machines.called


def test_too_many_calls_and_notices_are_an_error_of_the_caller() -> None:
    machines = Machines(echo, SMALL)
    for id in range(SMALL.most_calls):
        machines.ask(id, call_of(1))
    with pytest.raises(LocalError, match="open calls"):
        machines.ask(99, call_of(1))
    for id in range(SMALL.most_notices):
        machines.server.tell(id, Notice(kind="k", body=b""))
        machines.agent.tell(Notice(kind="k", body=b""))
    with pytest.raises(LocalError, match="notices that wait"):
        machines.server.tell(99, Notice(kind="k", body=b""))
    with pytest.raises(LocalError, match="notices that wait"):
        machines.agent.tell(Notice(kind="k", body=b""))


def test_notices_arrive_in_order() -> None:
    machines = Machines(echo, SMALL)
    for number in range(4):
        machines.agent.tell(Notice(kind=str(number), body=b"{}"))
    for steps in (1, 2, 1, 3):
        machines.attach()
        machines.run(steps)
    machines.attach()
    machines.run()
    assert [one.kind for one in machines.at_server] == list("0123")


def test_a_notice_is_taken_back_unless_it_is_under_way() -> None:
    machines = Machines(echo, SMALL)
    for id in range(4):
        machines.server.tell(id, Notice(kind=str(id), body=b"{}"))
    machines.server.take_back(0)  # the first, to a site that is away
    machines.server.take_back(2)
    machines.server.take_back(99)
    assert machines.server.notices == (1, 3)
    machines.attach()
    machines.run(1)
    machines.server.take_back(1)  # the site has it
    assert machines.server.notices == (1, 3)
    machines.run()
    assert not machines.server.notices and machines.told == [1, 3]
    assert [one.kind for one in machines.at_agent] == ["1", "3"]


def test_a_notice_that_could_not_be_kept_comes_again() -> None:
    server = Attachment(SMALL, counted())
    server.attach()
    notice = pb.Notice(id=5, kind="k", body=b"{}")
    assert len(server.receive(notice)) == 1
    assert server.receive(notice) == []  # it is being kept
    server.unnoted(5)
    assert len(server.receive(notice)) == 1
    server.noted(5)
    assert server.receive(notice) == []
    assert server.next() == pb.Noted(id=5) == server.next()


# -- what a site must not do ---------------------------------------------------------------------


def open_reply(frame_bytes: int = 1 << 18) -> Attachment:
    """A server that has one call (9), whose reply it is receiving."""
    server = Attachment(SMALL, counted())
    server.attach()
    server.ask(9, Call(run="run", kind="train"), lambda size: memoryview(bytearray(size)), 1 << 20)
    assert server.receive(pb.Reply(id=9, making=1, frame_bytes=frame_bytes, key=KEY)) == []
    return server


@pytest.mark.parametrize(
    "message",
    [
        pb.Hello(versions=[1]),
        pb.Welcome(version=1),
        pb.Farewell(),
        pb.Call(id=1, run="r", kind="k", key=KEY),
        pb.Done(id=9),
        pb.Cancel(id=9),
        Chunk(pb.TO_SERVER, 9, 1 << 15, memoryview(bytes(10))),
        Chunk(pb.TO_SERVER, 9, 0, memoryview(bytes((1 << 16) + 1))),
        Chunk(pb.TO_SITE, 9, 0, memoryview(bytes(10))),
        Chunk(pb.TO_SERVER, 8, 0, memoryview(bytes(10))),
        pb.End(direction=pb.TO_SERVER, id=9, digest=bytes(16)),
        pb.End(direction=pb.TO_SERVER, id=8),
        pb.End(direction=pb.TO_SITE, id=9),
        pb.Reply(id=9, making=2, frame_bytes=5, key=KEY),
        pb.Grant(direction=pb.TO_SITE, id=9, until=10),
        pb.Grant(direction=pb.TO_SERVER, id=9, until=10),
        pb.Notice(id=1, kind="", body=b""),
        pb.Notice(id=1, kind="k" * 300, body=b""),
        pb.Notice(id=1, kind="k", body=bytes((1 << 20) + 1)),
    ],
    ids=str,
)
def test_what_the_protocol_does_not_allow_ends_the_stream_and_changes_nothing(message: Message) -> None:
    server = open_reply()
    with pytest.raises(RemoteError):
        server.receive(message)
    assert list(server.calls) == [9]
    server.attach()  # the site comes again, and its reply is taken
    assert server.receive(pb.Reply(id=9, making=3, frame_bytes=2, payload=b"ok", key=KEY))
    assert not server.calls


def test_a_second_notice_before_the_first_is_kept_is_refused() -> None:
    server = open_reply()
    server.receive(pb.Notice(id=1, kind="k", body=b"{}"))
    with pytest.raises(RemoteError, match="one notice at a time"):
        server.receive(pb.Notice(id=2, kind="k", body=b"{}"))


@pytest.mark.parametrize(
    "heading",
    [
        pb.Reply(id=9, fault=9, key=KEY),
        pb.Reply(id=9, key=KEY, reason="x" * 5000),
        pb.Reply(id=9, key=KEY, signature=bytes(65)),
        pb.Reply(id=9, key=b"short"),
        pb.Reply(id=9, key=KEY, frame_bytes=3, payload=b"four"),
        pb.Reply(id=9, key=KEY, frame_bytes=1 << 63),
    ],
    ids=str,
)
def test_a_reply_that_is_none_fails_its_call_only(heading: pb.Reply) -> None:
    server = Attachment(SMALL, counted())
    server.attach()
    server.ask(9, Call(run="run", kind="train"), lambda size: pytest.fail("no memory is due"), 1 << 20)
    (event,) = server.receive(heading)
    assert isinstance(event, Failed) and isinstance(event.error, RemoteError)
    assert server.calls == ()


def test_a_reply_to_no_call_is_acknowledged_and_dropped() -> None:
    server = Attachment(SMALL, counted())
    server.attach()
    assert server.receive(pb.Reply(id=4, frame_bytes=1 << 40, key=KEY)) == []
    assert server.next() == pb.Done(id=4)


def test_a_site_that_sends_and_does_not_read_is_cut_before_its_answers_fill_memory() -> None:
    server = Attachment(SMALL, counted())
    server.attach()
    with pytest.raises(RemoteError, match="a peer that reads"):
        for id in range(2000):
            server.receive(pb.Reply(id=id, key=KEY))


SITES_MESSAGES = st.one_of(
    st.builds(
        pb.Reply,
        id=st.integers(8, 11),
        making=st.integers(0, 2),
        fault=st.integers(0, 4),
        frame_bytes=st.sampled_from([0, 3, 1 << 15, 1 << 17, 1 << 62]),
        payload=st.sampled_from([b"", b"", b"abc"]),
        key=st.sampled_from([KEY, KEY, b""]),
    ),
    st.builds(
        Chunk,
        st.sampled_from([pb.TO_SERVER, pb.TO_SERVER, pb.TO_SITE, pb.UNKNOWN]),
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
    st.builds(pb.Noted, id=st.integers(0, 2)),
    st.builds(pb.Done, id=st.integers(8, 11)),
    st.just(pb.Hello(versions=[1])),
)


@given(st.lists(st.one_of(SITES_MESSAGES, st.sampled_from(["attach", "noted", "send", "cancel"])), max_size=30))
def test_any_sequence_of_messages_is_taken_or_refused_within_the_bounds(steps: list[Message | str]) -> None:
    """No other exception, one outcome for a call, and never more memory than was allowed for its reply."""
    server, allocated, outcomes = Attachment(SMALL, counted()), 0, list[int]()

    def allocate(size: int) -> memoryview:
        nonlocal allocated
        assert size <= 1 << 17
        allocated += 1
        return memoryview(bytearray(size))

    for id in (8, 9, 10):
        server.ask(id, call_of(1 << 17, id), allocate, 1 << 17)
    server.tell(1, Notice(kind="k", body=b"{}"))
    for step in steps:
        events: list[Event] = []
        if step == "attach":
            server.attach()
        elif step == "noted":
            server.noted(1)
        elif step == "cancel":
            server.cancel(10)
        elif step == "send":
            server.next()
        elif not isinstance(step, str):
            try:
                events = server.receive(step)
            except RemoteError:
                server.attach()
        outcomes += [event.id for event in events if isinstance(event, Replied | Failed)]
    assert len(set(outcomes)) == len(outcomes)
    assert allocated <= len(steps)
    sent = 0
    while server.next() is not None:
        sent += 1
        assert sent < 100 + len(steps)
