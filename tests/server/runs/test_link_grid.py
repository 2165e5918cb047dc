"""The grid of a run: what it sends over the channel, and what it makes of what comes back."""

import hashlib
import math
import os
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from flwr.app import Message

from wardround import _flower
from wardround.errors import RemoteError
from wardround.link.limits import ciphertext_bytes
from wardround.link.messages import Fault
from wardround.link.signing_inputs import call_bytes, call_digest, reply_bytes
from wardround.local_channel import Channel, Shared
from wardround.orders import SiteId
from wardround.server.runs.link_grid import DEFAULT_DEADLINE_S, Interrupted, LinkGrid
from wardround.server.runs.worker_messages import CallMessage, ReplyMessage
from wardround.signing_key import SigningKey, check_signature
from wardround.strategies.roster import find_sites

SITES = [SiteId("Hospital B"), SiteId("Hospital A"), SiteId("Hôpital C")]
Answer = Callable[[CallMessage, bytes], tuple[ReplyMessage, bytes] | None]
"""A site's reply to a call and its digest, unsigned; None: nothing."""


class Server:
    """The other end: it answers calls by `answer`, and keeps what came."""

    def __init__(self, answer: Answer) -> None:
        self.key = SigningKey.make(os.urandom)
        self.keys = {site: SigningKey.make(os.urandom) for site in SITES}
        ours, theirs = Channel.pair()
        self.channel, worker = ours, Channel(theirs)
        public = {site: key.public for site, key in self.keys.items()}
        self.now = 0.0
        self.grid = LinkGrid(worker, "the run", public, self.key, size=10, clock=lambda: self.now)
        self.answer = answer
        self.calls: list[CallMessage] = []
        self.models: dict[int, bytes] = {}
        self.others: list[dict[str, Any]] = []
        self.cancelled = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                header, shared = self.channel.receive()
            except (EOFError, OSError):
                return
            if header["type"] != "call":
                self.others.append(header)
                if header["type"] == "cancel":
                    self.cancelled.set()
                continue
            call = CallMessage.from_header(header)
            protocol = bytes(shared.pop().view()) if call.large else call.protocol
            if shared and call.model is not None:
                self.models[call.model] = bytes(shared[0].view())
            model = None if call.model is None else hashlib.sha256(self.models[call.model]).digest()
            fields = ("the run", call.kind, call.order, protocol, call.spec, model)
            check_signature(self.key.public, call.signature, call_bytes(*fields), "the server")
            self.calls.append(call)
            if (given := self.answer(call, call_digest(*fields))) is not None:
                self.send(*given)

    def send(self, reply: ReplyMessage, frame: bytes) -> None:
        self.grid.take(reply.to_header(), [Shared.of(frame)] if frame else [])

    def signed(
        self, call: CallMessage, digest: bytes, frame: bytes, fault: Fault = Fault.NONE, reason: str = ""
    ) -> tuple[ReplyMessage, bytes]:
        signature = self.keys[call.site].sign(reply_bytes(digest, fault, hashlib.sha256(frame).digest()))
        return ReplyMessage(id=call.id, fault=fault, reason=reason, signature=signature), frame


def orders(server: Server, kind: str = "train", model: bytes = b"\0" * 40, protocol: bytes = b"") -> Iterator[Message]:
    content = _flower.pack_order(b"the order", model, protocol, b"spec")
    return _flower.requests(content, list(server.grid.get_node_ids()), kind, "1")


def site_of(server: Server, message: Message) -> SiteId:
    return server.grid._sites[message.metadata.src_node_id]


def honest(server: Server) -> Answer:
    return lambda call, digest: server.signed(call, digest, b"frame of " + call.site.encode())


def made(answer: Callable[[Server], Answer]) -> Server:
    server = Server(lambda call, digest: None)
    server.answer = answer(server)
    return server


def test_nodes_are_the_sites_by_name_and_hello_is_answered_here() -> None:
    server = made(honest)
    assert list(find_sites(server.grid, 3)) == ["Hospital A", "Hospital B", "Hôpital C"]
    assert not server.calls


def test_every_site_gets_a_signed_call_and_the_model_is_shared_once() -> None:
    server = made(honest)
    model = os.urandom(40)
    replies = list(server.grid.send_and_receive(orders(server, model=model)))
    assert [bytes(_flower.read_frame(one)) for one in replies] == [b"frame of " + s.encode() for s in sorted(SITES)]
    assert [call.site for call in server.calls] == sorted(SITES)
    assert {(call.order, call.kind) for call in server.calls} == {(b"the order", "train")}
    assert list(server.models.values()) == [model]
    list(server.grid.send_and_receive(orders(server, "evaluate", model)))
    assert len(server.models) == 1 and not server.others
    list(server.grid.send_and_receive(orders(server, "evaluate", bytes(40))))
    assert [header["type"] for header in server.others] == ["forget"]
    assert all(call.timeout_s == pytest.approx(DEFAULT_DEADLINE_S, abs=60) for call in server.calls)


def test_a_frame_is_not_copied() -> None:
    server = made(lambda server: lambda call, digest: server.signed(call, digest, bytes(1 << 20)))
    [reply, *_] = server.grid.send_and_receive(orders(server))
    frame = _flower.read_frame(reply)
    assert isinstance(frame, memoryview) and frame.readonly and frame.nbytes == 1 << 20


def test_messages_of_the_protocol_go_out_as_they_are_however_large() -> None:
    server = made(honest)
    for size in (10, 1 << 20):
        content = _flower.pack_protocol(b"p" * size)
        messages = _flower.requests(content, list(server.grid.get_node_ids()), _flower.PROTOCOL, "1")
        assert len(list(server.grid.send_and_receive(messages))) == 3
    assert [call.large for call in server.calls] == [False] * 3 + [True] * 3
    assert all(call.model is None and not call.order for call in server.calls)


def test_updates_in_clear_are_given_in_the_order_of_the_sites_and_others_as_they_come() -> None:
    for kind, protocol, expected in (
        ("train", b"", sorted(SITES)),
        ("train", b"start", sorted(SITES, reverse=True)),
        ("evaluate", b"", sorted(SITES, reverse=True)),
    ):
        server = Server(lambda call, digest: None)
        waiting: list[tuple[ReplyMessage, bytes]] = []

        def last_first(call: CallMessage, digest: bytes, server: Server = server, waiting: Any = waiting) -> None:
            waiting.append(server.signed(call, digest, b"x"))
            if len(waiting) == 3:
                for one in reversed(waiting):
                    server.send(*one)

        server.answer = last_first
        replies = list(server.grid.send_and_receive(orders(server, kind, protocol=protocol)))
        assert [site_of(server, one) for one in replies] == expected


def test_who_does_not_answer_by_the_deadline_is_left_out_and_a_late_reply_is_dropped() -> None:
    server = Server(lambda call, digest: None)
    late: list[tuple[ReplyMessage, bytes]] = []

    def some(call: CallMessage, digest: bytes) -> tuple[ReplyMessage, bytes] | None:
        reply = server.signed(call, digest, b"x")
        if call.site == "Hospital B" and not late:
            late.append(reply)
            return None
        if call.site == "Hôpital C":
            server.send(*reply)
            server.now += 10  # the deadline is over as soon as C has answered
            return None
        return reply

    server.answer = some
    replies = list(server.grid.send_and_receive(orders(server), timeout=5))
    assert [site_of(server, one) for one in replies] == ["Hospital A", "Hôpital C"]
    assert server.cancelled.wait(10)
    [cancel] = [one for one in server.others if one["type"] == "cancel"]
    assert cancel["ids"] == [late[0][0].id]
    server.send(*late[0])
    again = list(server.grid.send_and_receive(orders(server, model=bytes(40))))
    assert len(again) == 3 and not any(one.has_error() for one in again)


def test_faults_are_errors_of_their_kind() -> None:
    faults = {"Hospital A": Fault.REFUSED, "Hospital B": Fault.SPENT, "Hôpital C": Fault.NOT_READY}
    server = Server(lambda call, digest: None)
    server.answer = lambda call, digest: server.signed(call, digest, b"", faults[call.site], "why")
    a, b, c = server.grid.send_and_receive(orders(server), timeout=0.9)
    assert [one.error.reason for one in (a, b, c)] == ["why"] * 3
    assert [_flower.is_spent(one) for one in (a, b, c)] == [False, True, False]
    assert [_flower.is_gone(one) for one in (a, b, c)] == [False, False, True]


def test_a_fault_cannot_be_forged_either() -> None:
    server = Server(lambda call, digest: None)
    server.answer = lambda call, digest: (ReplyMessage(id=call.id, fault=Fault.SPENT, reason="spent"), b"")
    replies = list(server.grid.send_and_receive(orders(server)))
    assert len(replies) == 3 and not any(map(_flower.is_spent, replies))
    assert all("valid signature" in (one.error.reason or "") for one in replies)


def test_an_unsigned_refusal_is_an_absence_with_its_reason() -> None:
    """A site that does not even receive a call cannot sign what it answers: it does not know the call."""
    server = Server(lambda call, digest: None)
    server.answer = lambda call, digest: (
        ReplyMessage(id=call.id, fault=Fault.REFUSED, reason="expected a model of 8 bytes\x1b[2J"),
        b"",
    )
    replies = list(server.grid.send_and_receive(orders(server)))
    assert [one.error.reason for one in replies] == ["refused, unsigned: expected a model of 8 bytes\ufffd[2J"] * 3
    assert not any(map(_flower.is_gone, replies))  # it is not away, and asking again helps nobody


def test_a_site_that_is_not_ready_is_asked_again_however_often() -> None:
    one: Any = SimpleNamespace(tries=2000, call=SimpleNamespace(id=7))
    later: list[tuple[float, int]] = []
    assert made(honest).grid._ask_later(one, math.inf, later)
    assert later == [(30.0, 7)]


def test_a_reply_without_a_call_behind_it_changes_nothing() -> None:
    server = made(honest)
    for number in (0, 1 << 60):
        server.send(ReplyMessage(id=number), b"x")
    assert len(list(server.grid.send_and_receive(orders(server)))) == 3


def test_whoever_waits_is_interrupted() -> None:
    server = Server(lambda call, digest: None)

    def interrupt(call: CallMessage, digest: bytes) -> None:
        server.grid.interrupt()

    server.answer = interrupt
    with pytest.raises(Interrupted):
        list(server.grid.send_and_receive(orders(server)))
    with pytest.raises(Interrupted):
        list(server.grid.send_and_receive(orders(server)))


def test_two_frames_or_none_where_one_is_due_are_malformed() -> None:
    server = made(honest)
    with pytest.raises(RemoteError, match="one frame"):
        server.grid.take(ReplyMessage(id=1).to_header(), [Shared.of(b"1"), Shared.of(b"2")])
    with pytest.raises(RemoteError):
        server.grid.take({"type": "reply", "id": "1"}, [])


# -- sites that are away --------------------------------------------------------------------------

A, B, C = map(SiteId, sorted(SITES))


def with_one_away(server: Server, enough: int) -> Server:
    """C does not answer, and the worker hears that it is away once A and B have."""
    server.grid.settle_for(lambda kind, group, asked: enough)

    def answer(call: CallMessage, digest: bytes) -> tuple[ReplyMessage, bytes] | None:
        if call.site == C:
            server.grid.note_away(frozenset({C}))
            return None
        return server.signed(call, digest, b"x")

    server.answer = answer
    return server


def test_who_is_away_is_not_waited_for_once_enough_have_answered() -> None:
    server = with_one_away(Server(lambda call, digest: None), enough=2)
    replies = list(server.grid.send_and_receive(orders(server)))
    assert {site_of(server, one): one.has_error() for one in replies} == {A: False, B: False, C: True}
    [gone] = [one for one in replies if one.has_error()]
    assert _flower.is_gone(gone) and gone.error.reason == "is away"
    assert server.cancelled.wait(10)


@pytest.mark.parametrize("away", [{C}, {B}, set[SiteId]()])
def test_who_is_needed_or_is_there_is_waited_for(away: set[SiteId]) -> None:
    server, late = Server(lambda call, digest: None), list[tuple[ReplyMessage, bytes]]()
    server.grid.settle_for(lambda kind, group, asked: 3 if away == {C} else 1)

    def answer(call: CallMessage, digest: bytes) -> tuple[ReplyMessage, bytes] | None:
        reply = server.signed(call, digest, b"x")
        if call.site == C:
            server.grid.note_away(frozenset(away))
            late.append(reply)
            threading.Timer(0.2, lambda: server.send(*late[0])).start()
            return None
        return reply

    server.answer = answer
    assert not any(one.has_error() for one in server.grid.send_and_receive(orders(server)))


def test_a_reply_that_failed_is_none_of_those_that_are_enough() -> None:
    server = with_one_away(Server(lambda call, digest: None), enough=2)
    honest_or_away = server.answer

    def answer(call: CallMessage, digest: bytes) -> tuple[ReplyMessage, bytes] | None:
        if call.site == B:
            server.now += 10  # by then the deadline is over
            return ReplyMessage(id=call.id), b"unsigned"
        return honest_or_away(call, digest)

    server.answer = answer
    replies = list(server.grid.send_and_receive(orders(server), timeout=5))
    assert sum(not one.has_error() for one in replies) == 1


def test_a_site_that_is_not_called_any_more_has_failed_and_is_not_just_late() -> None:
    server = Server(lambda call, digest: None)
    lost = {A: Fault.REFUSED, B: Fault.NONE, C: Fault.NONE}
    server.answer = lambda call, digest: (
        ReplyMessage(id=call.id, fault=lost[call.site], reason="why", lost=True),
        b"",
    )
    replies = {site_of(server, one): one for one in server.grid.send_and_receive(orders(server))}
    assert [_flower.is_gone(replies[site]) for site in (A, B, C)] == [False, True, True]


def test_a_reply_may_be_as_large_as_what_it_is_of() -> None:
    """Only under homomorphic aggregation may an answer to a message of the protocol be as large as a model."""
    server = made(honest)
    query = _flower.requests(_flower.pack_protocol(b"?"), [1000], _flower.PROTOCOL, "1")
    list(server.grid.send_and_receive([*orders(server)], timeout=5))
    list(server.grid.send_and_receive(query, timeout=5))
    plain = {call.kind: call.most_bytes for call in server.calls}
    assert plain["train"] > plain[_flower.PROTOCOL] == 1 << 26
    server.calls.clear()
    server.grid.take_ciphertexts()
    query = _flower.requests(_flower.pack_protocol(b"?"), [1000], _flower.PROTOCOL, "1")
    list(server.grid.send_and_receive([*orders(server), *orders(server, "evaluate")], timeout=5))
    list(server.grid.send_and_receive(query, timeout=5))
    most = {call.kind: call.most_bytes for call in server.calls}
    assert most["train"] == most[_flower.PROTOCOL] == (1 << 26) + ciphertext_bytes(40)
    assert most["evaluate"] == 1 << 26
