"""Hub and agents over real TLS: who may attach, what a break, a stop or a revocation does."""

import asyncio
import os
import socket
import ssl
import threading
from collections.abc import Callable, Coroutine
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.link.certificates import Authority, Issued
from tests.link.loopback import LIMITS, Agent, Register, Wire, memory, running_hub
from wardround.clock import utc_now
from wardround.errors import LocalError, RemoteError
from wardround.link import link_pb2 as pb
from wardround.link.errors import Farewell, RefusedError
from wardround.link.handshake import hello
from wardround.link.messages import Call, Fault, Notice, Reply
from wardround.link.tls import client_credentials
from wardround.link.wire import METHOD, SERVICE, Message, decode, encode
from wardround.orders import SiteId
from wardround.server.link.hub import Hub
from wardround.server.runs.telling import Telling

SITE = SiteId("Hospital A")


class World:
    """An authority, its register, and one site's certificate."""

    def __init__(self) -> None:
        self.authority, self.register = Authority(), Register()
        self.issued = self.enrol(SITE)

    def enrol(self, name: str) -> Issued:
        issued = self.authority.site(name)
        self.register.add(name, issued)
        return issued

    def agent(self, port: int, *arguments: Any, issued: Issued | None = None, **options: Any) -> Agent:
        return Agent(self.authority, issued or self.issued, port, *arguments, **options)

    def play(self, scene: Callable[[Hub, int], Coroutine[Any, Any, None]], **options: Any) -> None:
        async def run() -> None:
            async with running_hub(self.authority, self.register, **options) as (hub, port):
                await scene(hub, port)

        asyncio.run(run())


@pytest.fixture
def world() -> World:
    return World()


async def ask(hub: Hub, call: Call, site: SiteId = SITE, timeout_s: float | None = 60, most: int = 1 << 28) -> Reply:
    return await hub.call(site, call, timeout_s=timeout_s, allocate=memory, most_bytes=most)


class Raw:
    """A client that speaks frames, in any order it likes."""

    def __init__(self, world: World, port: int, issued: Issued | None = None) -> None:
        tls = world.authority.client_tls(issued or world.issued)
        self.channel = grpc.secure_channel(f"localhost:{port}", client_credentials(tls))
        method: Any = self.channel.stream_stream(f"/{SERVICE}/{METHOD}")
        self._out: list[bytes] = []
        self._ready, self._over = threading.Condition(), False
        self._stream = method(self._frames())

    def send(self, *frames: bytes | Message) -> None:
        with self._ready:
            self._out += [one if isinstance(one, bytes) else encode(one) for one in frames]
            self._ready.notify()

    def read(self) -> Message:
        return decode(next(self._stream))

    def farewell(self) -> pb.Farewell:
        while not isinstance(found := self.read(), pb.Farewell):
            pass
        return found

    def close(self) -> None:
        with self._ready:
            self._over = True
            self._ready.notify()
        self._stream.cancel()
        self.channel.close()

    def _frames(self) -> Any:
        while True:
            with self._ready:
                while not self._out and not self._over:
                    self._ready.wait()
                if self._over:
                    return
                frame = self._out.pop(0)
            yield frame


async def with_raw(world: World, port: int, act: Callable[[Raw], Any], issued: Issued | None = None) -> Any:
    raw = Raw(world, port, issued)
    try:
        return await asyncio.to_thread(act, raw)
    finally:
        raw.close()


# -- what works ----------------------------------------------------------------------------------


def test_a_call_its_reply_and_notices_in_both_directions(world: World) -> None:
    kept: asyncio.Queue[tuple[SiteId, Notice]] = asyncio.Queue()
    presence: list[tuple[SiteId, bool]] = []

    async def keep(site: SiteId, notice: Notice) -> None:
        await kept.put((site, notice))

    async def scene(hub: Hub, port: int) -> None:
        model, update = os.urandom(3_000_001), os.urandom(5_000_003)

        def answer(call: Call) -> Reply:
            assert call.model is not None and bytes(call.model) == model
            return Reply(frame=memoryview(update), signature=b"s" * 64)

        with world.agent(port, answer) as agent:
            agent.connection.notify(Notice(kind="approval", body=b'{"a":1}'))
            await hub.notify(SITE, Notice(kind="offer", body=b"{}" * 1000))
            assert agent.notices.get(timeout=10).kind == "offer"
            assert await kept.get() == (SITE, Notice(kind="approval", body=b'{"a":1}'))
            assert hub.present() == {SITE}
            call = Call(run="r", kind="train", order=b"order", model=memoryview(model), signature=b"x" * 64)
            reply = await ask(hub, call)
            assert bytes(reply.frame) == update and reply.fault is Fault.NONE
        await asyncio.to_thread(agent.ended)

    world.play(scene, on_notice=keep, on_presence=lambda site, there: presence.append((site, there)))
    assert presence == [(SITE, True), (SITE, False)]


def test_how_long_a_site_is_away_counts_from_its_last_stream_or_the_start(world: World) -> None:
    async def scene(hub: Hub, port: int) -> None:
        before = hub.away_s(SITE)
        with world.agent(port):
            await hub.notify(SITE, Notice(kind="offer", body=b""))
            assert hub.away_s(SITE) == 0 < hub.away_s(SiteId("another"))
        while hub.present():
            await asyncio.sleep(0.01)
        after, never_there = hub.away_s(SITE), hub.away_s(SiteId("another"))
        assert 0 <= after < never_there and 0 <= before < never_there

    world.play(scene)


def test_a_reply_goes_into_the_buffer_that_was_allocated_for_it(world: World) -> None:
    buffers: list[bytearray] = []

    def allocate(size: int) -> memoryview:
        buffers.append(bytearray(size))
        return memoryview(buffers[-1])

    async def scene(hub: Hub, port: int) -> None:
        update = os.urandom(2_000_000)
        with world.agent(port, lambda call: Reply(frame=memoryview(update))):
            reply = await hub.call(
                SITE, Call(run="r", kind="train"), timeout_s=60, allocate=allocate, most_bytes=1 << 22
            )
        assert reply.frame.obj is buffers[0] and buffers == [update]

    world.play(scene)


def test_runs_are_served_at_the_same_time_and_the_calls_of_one_in_turn(world: World) -> None:
    both, order = threading.Barrier(2, timeout=30), list[bytes]()

    def answer(call: Call) -> Reply:
        if call.order == b"meet":
            both.wait()  # reached only if the two runs are served in parallel
        else:
            order.append(call.order)
        return Reply(reason=call.run)

    async def scene(hub: Hub, port: int) -> None:
        with world.agent(port, answer):
            meeting = [ask(hub, Call(run=run, kind="train", order=b"meet")) for run in ("a", "b")]
            assert [reply.reason for reply in await asyncio.gather(*meeting)] == ["a", "b"]
            await asyncio.gather(*(ask(hub, Call(run="a", kind="train", order=bytes([n]))) for n in range(20)))
        assert order == [bytes([n]) for n in range(20)]

    world.play(scene)


def test_a_transfer_that_is_cut_again_and_again_is_resumed_not_repeated(world: World) -> None:
    size = 24 << 20

    async def scene(hub: Hub, port: int) -> None:
        update = os.urandom(size)
        with (
            Wire(port, cut_after=10 << 20) as wire,
            world.agent(wire.port, lambda _: Reply(frame=memoryview(update))) as agent,
        ):
            reply = await ask(hub, Call(run="r", kind="train"))
            assert bytes(reply.frame) == update
            assert agent.calls.qsize() == 1
            assert wire.cuts >= 2
            # what was on its way when the wire was cut is sent again, and no more than that
            assert wire.up < size + (wire.cuts + 1) * (LIMITS.window_bytes + (2 << 20))

    world.play(scene)


def test_offers_that_are_withdrawn_leave_room_for_what_a_site_that_is_away_has_to_know(world: World) -> None:
    async def scene(hub: Hub, port: int) -> None:
        telling = Telling()
        for number in range(LIMITS.most_notices + 10):
            telling.begin(("offer", str(number), SITE), hub.notify(SITE, Notice(kind="offer", body=b"{}")))
            await asyncio.sleep(0)
            telling.withdraw("offer", str(number))
            await asyncio.sleep(0)
        ending = asyncio.create_task(hub.notify(SITE, Notice(kind="ended", body=b"{}")))
        with world.agent(port) as agent:
            await asyncio.wait_for(ending, 60)
            assert [notice.kind for notice in agent.notices.queue] == ["ended"]
        await telling.close()

    world.play(scene)


def test_a_site_that_is_away_is_waited_for_and_missed_at_the_deadline(world: World) -> None:
    async def scene(hub: Hub, port: int) -> None:
        with pytest.raises(TimeoutError):
            await ask(hub, Call(run="r", kind="train"), timeout_s=0.05)
        waiting = asyncio.create_task(ask(hub, Call(run="r", kind="train")))
        telling = asyncio.create_task(hub.notify(SITE, Notice(kind="ended", body=b"{}")))
        with world.agent(port) as agent:
            assert (await waiting).reason == "train"
            await telling
            assert agent.calls.qsize() == 1  # the one that was given up is not asked for

    world.play(scene)


def test_the_agent_outlives_a_restart_of_the_server(world: World) -> None:
    tls = world.authority.server_tls()

    async def ignore(site: SiteId, notice: Notice) -> None: ...

    async def run() -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        entered, go_on = threading.Event(), threading.Event()

        def answer(call: Call) -> Reply:
            if call.order == b"first":
                entered.set()
                go_on.wait(60)
            return Reply(reason=call.order.decode())

        first = Hub(world.register, on_notice=ignore, limits=LIMITS)
        await first.start("127.0.0.1", port, lambda: tls)
        with world.agent(port, answer) as agent:
            lost = asyncio.create_task(ask(first, Call(run="r", kind="train", order=b"first")))
            await asyncio.to_thread(entered.wait, 60)
            await first.stop(0)
            with pytest.raises(LocalError, match="the server stops"):
                await lost
            second = Hub(world.register, on_notice=ignore, limits=LIMITS)
            await second.start("127.0.0.1", port, lambda: tls)
            go_on.set()
            assert (await ask(second, Call(run="r", kind="train", order=b"second"))).reason == "second"
            assert "stops" in agent.until(False)
        await second.stop(0)

    asyncio.run(run())


def test_a_renewed_server_certificate_is_used_without_a_restart(world: World, tmp_path: Path) -> None:
    async def run() -> None:
        served = [world.authority.server_tls()]

        async def ignore(site: SiteId, notice: Notice) -> None: ...

        hub = Hub(world.register, on_notice=ignore, limits=LIMITS)
        port = await hub.start("127.0.0.1", 0, lambda: served[-1])
        first = await asyncio.to_thread(served_certificate, world, port, tmp_path)
        served.append(world.authority.server_tls())
        second = await asyncio.to_thread(served_certificate, world, port, tmp_path)
        await hub.stop(0)
        assert [first, second] == [ssl.PEM_cert_to_DER_cert(one.certificate_chain.decode()) for one in served]

    asyncio.run(run())


def served_certificate(world: World, port: int, folder: Path) -> bytes:
    with connected(world, port, folder) as tls:
        return tls.getpeercert(binary_form=True) or b""


def connected(world: World, port: int, folder: Path) -> ssl.SSLSocket:
    """A bare connection with the site's certificate."""
    (folder / "site.pem").write_bytes(world.issued.pem + world.issued.key_pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_cert_chain(folder / "site.pem")
    context.load_verify_locations(cadata=world.authority.pem.decode())
    context.set_alpn_protocols(["h2"])
    return context.wrap_socket(socket.create_connection(("127.0.0.1", port), 20), server_hostname="localhost")


# -- who may attach ------------------------------------------------------------------------------


def test_a_stream_over_another_tls_than_1_3_is_refused(world: World) -> None:
    """The second line: the first is that there is no handshake (test_strangers)."""

    class Older:
        """What gRPC would say of such a stream; nothing here can open one."""

        farewell: pb.Farewell | None = None

        def auth_context(self) -> dict[str, list[bytes]]:
            return {"ssl_tls_version": [b"TLSv1.2"], "x509_pem_cert": [world.issued.pem]}

        def peer(self) -> str:
            return "ipv4:192.0.2.1:1"

        async def write(self, frame: bytes) -> None:
            found = decode(frame)
            assert isinstance(found, pb.Farewell)
            self.farewell = found

    async def scene(hub: Hub, port: int) -> None:
        older = Older()
        await hub._serve(None, older)  # type: ignore[arg-type]
        assert older.farewell is not None
        assert (older.farewell.reason, older.farewell.text) == (Farewell.REFUSED, "expected TLS 1.3, got TLSv1.2")

    world.play(scene)


@pytest.mark.parametrize("who", ["another authority", "expired"])
def test_a_certificate_that_the_authority_does_not_vouch_for_gets_no_stream(world: World, who: str) -> None:
    async def scene(hub: Hub, port: int) -> None:
        if who == "expired":
            issued = world.authority.site(SITE, valid=-timedelta(hours=1))
        else:
            issued = Authority().site(SITE)
        world.register.add(SITE, issued)  # the gate would let it in
        with world.agent(port, issued=issued) as agent:
            agent.until(False)
        assert hub.present() == frozenset() and agent.error is None

    world.play(scene)


def test_an_agent_believes_only_its_own_authority(world: World) -> None:
    async def scene(hub: Hub, port: int) -> None:
        other = Authority()
        agent = Agent(other, world.issued, port)
        with agent:
            agent.until(False)
        assert hub.present() == frozenset()

    world.play(scene)


def test_a_site_that_is_not_admitted_is_told_why_and_does_not_come_again(world: World) -> None:
    async def scene(hub: Hub, port: int) -> None:
        with world.agent(port, issued=world.authority.site("unknown")) as agent:
            await asyncio.to_thread(agent.ended)
        assert isinstance(agent.error, RefusedError) and agent.error.farewell is Farewell.REFUSED
        assert "revoked or not known" in str(agent.error)

    world.play(scene)


def test_a_revocation_is_in_effect_before_the_next_frame(world: World) -> None:
    """The site is attached and has work to do: nothing that it sends after the revocation is taken."""
    entered, go_on, away = threading.Event(), threading.Event(), asyncio.Event()

    def answer(call: Call) -> Reply:
        entered.set()
        go_on.wait(60)
        return Reply(reason="too late")

    async def scene(hub: Hub, port: int) -> None:
        with world.agent(port, answer) as agent:
            call = asyncio.create_task(ask(hub, Call(run="r", kind="train")))
            await asyncio.to_thread(entered.wait, 60)
            world.register.revoked.add(world.issued.der)
            go_on.set()
            with pytest.raises(RemoteError, match="revoked"):
                await call
            await asyncio.to_thread(agent.ended)
            assert isinstance(agent.error, RefusedError)
            await away.wait()
            assert hub.present() == frozenset()

    world.play(scene, on_presence=lambda site, there: None if there else away.set())


def test_nothing_is_sent_to_a_site_that_was_revoked(world: World) -> None:
    async def scene(hub: Hub, port: int) -> None:
        with world.agent(port) as agent:
            await asyncio.to_thread(agent.until, True)
            world.register.revoked.add(world.issued.der)
            with pytest.raises(RemoteError, match="revoked"):
                await ask(hub, Call(run="r", kind="train"))
            await asyncio.to_thread(agent.ended)
            assert agent.calls.empty()

    world.play(scene)


def test_the_gate_is_asked_for_every_frame(world: World) -> None:
    async def scene(hub: Hub, port: int) -> None:
        with world.agent(port, lambda _: Reply(frame=memoryview(bytes(8 << 20)))):
            await ask(hub, Call(run="r", kind="train"))
        assert world.register.asked >= 8 + 3  # chunks, and call, reply, end at least

    world.play(scene)


def test_a_site_that_is_dropped_is_gone_and_its_calls_fail(world: World) -> None:
    go_on = threading.Event()

    def answer(call: Call) -> Reply:
        go_on.wait(60)
        return Reply()

    async def scene(hub: Hub, port: int) -> None:
        with world.agent(port, answer) as agent:
            call = asyncio.create_task(ask(hub, Call(run="r", kind="train")))
            await asyncio.to_thread(agent.calls.get, True, 60)
            hub.drop(SITE, "it was revoked by the coordinator")
            with pytest.raises(RemoteError, match="revoked by the coordinator"):
                await call
            await asyncio.to_thread(agent.ended)
            go_on.set()
            assert "revoked by the coordinator" in str(agent.error)

    world.play(scene)


def test_the_newer_of_two_connections_of_a_site_wins_and_the_older_is_told(world: World) -> None:
    async def scene(hub: Hub, port: int) -> None:
        def attach(raw: Raw) -> None:
            raw.send(hello("test"))
            assert isinstance(raw.read(), pb.Welcome)

        older, newer = Raw(world, port), Raw(world, port)
        await asyncio.to_thread(attach, older)
        await asyncio.to_thread(attach, newer)
        farewell = await asyncio.to_thread(older.farewell)
        assert farewell.reason == Farewell.REPLACED
        assert hub.present() == {SITE}
        call = asyncio.create_task(ask(hub, Call(run="r", kind="train")))
        assert isinstance(await asyncio.to_thread(newer.read), pb.Call)
        call.cancel()
        older.close()
        newer.close()

    world.play(scene)


# -- peers that do not keep to the protocol ------------------------------------------------------


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        ([b"\xff\xff\xff"], Farewell.PROTOCOL),
        ([b""], Farewell.PROTOCOL),
        ([pb.Noted(id=1)], Farewell.PROTOCOL),
        ([pb.Hello(versions=[0])], Farewell.TOO_OLD),
        ([pb.Hello(versions=[7])], Farewell.TOO_NEW),
        ([pb.Hello(versions=[1]), b"\x00"], Farewell.PROTOCOL),
        ([pb.Hello(versions=[1]), pb.Hello(versions=[1])], Farewell.PROTOCOL),
        ([pb.Hello(versions=[1]), pb.Grant(direction=pb.TO_SITE, id=5)], Farewell.PROTOCOL),
    ],
    ids=["bytes", "nothing", "no hello", "old", "new", "bytes later", "hello again", "a grant for nothing"],
)
def test_a_site_is_told_why_its_stream_ends(world: World, frames: list[bytes | Message], reason: Farewell) -> None:
    def act(raw: Raw) -> pb.Farewell:
        raw.send(*frames)
        return raw.farewell()

    async def scene(hub: Hub, port: int) -> None:
        found = await with_raw(world, port, act)
        assert found.reason == reason and found.text
        with world.agent(port):  # it harmed nobody
            assert (await ask(hub, Call(run="r", kind="train"))).reason == "train"

    world.play(scene)


def test_who_says_nothing_is_cut(world: World) -> None:
    async def scene(hub: Hub, port: int) -> None:
        found = await with_raw(world, port, lambda raw: raw.farewell())
        assert found.reason == Farewell.STALLED
        assert hub.present() == frozenset()

    world.play(scene, limits=replace(LIMITS, hello_s=0.3))


def test_a_transfer_that_stands_still_is_cut(world: World) -> None:
    def act(raw: Raw) -> pb.Farewell:
        raw.send(hello("slow"))
        call = raw.read()
        while not isinstance(call, pb.Call):
            call = raw.read()
        raw.send(pb.Reply(id=call.id, making=1, frame_bytes=1 << 20, key=bytes(16)))  # and then no chunk
        return raw.farewell()

    async def scene(hub: Hub, port: int) -> None:
        call = asyncio.create_task(ask(hub, Call(run="r", kind="train")))
        found = await with_raw(world, port, act)
        assert found.reason == Farewell.STALLED
        with world.agent(port):  # another agent of the site answers the same call
            assert (await call).reason == "train"

    world.play(scene, limits=replace(LIMITS, stall_s=0.4))


def test_a_reply_that_declares_more_than_allowed_takes_no_memory(world: World) -> None:
    allocated: list[int] = []

    def allocate(size: int) -> memoryview:
        allocated.append(size)
        return memory(size)

    async def scene(hub: Hub, port: int) -> None:
        with world.agent(port, lambda _: Reply(frame=memoryview(bytes(1 << 21)))):
            with pytest.raises(RemoteError, match="expected a frame of at most 1000 bytes"):
                await hub.call(SITE, Call(run="r", kind="train"), timeout_s=60, allocate=allocate, most_bytes=1000)
            assert allocated == []

    world.play(scene)


def test_a_message_beyond_the_limit_is_refused_by_the_transport(world: World) -> None:
    def act(raw: Raw) -> grpc.StatusCode:
        raw.send(hello("test"))
        raw.read()
        raw.send(bytes(LIMITS.most_frame_bytes + 1))
        try:
            while True:
                raw.read()
        except grpc.RpcError as error:
            assert isinstance(error, grpc.Call)
            return error.code()
        except StopIteration:
            return grpc.StatusCode.OK

    async def scene(hub: Hub, port: int) -> None:
        await with_raw(world, port, act)
        with world.agent(port):
            assert (await ask(hub, Call(run="r", kind="train"))).reason == "train"

    world.play(scene)


def test_a_notice_that_could_not_be_kept_comes_again_and_one_that_is_wrong_does_not(world: World) -> None:
    kept: list[str] = []
    failed = threading.Event()

    async def keep(site: SiteId, notice: Notice) -> None:
        if notice.kind == "nonsense":
            raise RemoteError("no such kind")
        if not failed.is_set():
            failed.set()
            raise OSError("no space left on device")
        kept.append(notice.kind)

    async def scene(hub: Hub, port: int) -> None:
        with world.agent(port) as agent:
            for kind in ("nonsense", "approval", "renew"):
                agent.connection.notify(Notice(kind=kind, body=b"{}"))
            while kept != ["approval", "renew"]:
                await asyncio.sleep(0.01)

    world.play(scene, on_notice=keep)


def test_a_notice_may_be_answered_with_a_notice_before_it_is_kept(world: World) -> None:
    answered = asyncio.Event()

    async def scene(hub: Hub, port: int) -> None:
        hubs.append(hub)
        with world.agent(port) as agent:
            agent.connection.notify(Notice(kind="renew", body=b"{}"))
            await answered.wait()
            assert agent.notices.get(timeout=10).kind == "certificate"

    hubs: list[Hub] = []

    async def keep(site: SiteId, notice: Notice) -> None:
        await hubs[0].notify(site, Notice(kind="certificate", body=b"{}"))
        answered.set()

    world.play(scene, on_notice=keep)


def test_an_agent_whose_handler_fails_answers_all_the_same(world: World, caplog: pytest.LogCaptureFixture) -> None:
    def answer(call: Call) -> Reply:
        if call.order == b"foreseen":
            raise LocalError("expected something, got something else")
        raise ZeroDivisionError("secret detail")

    async def scene(hub: Hub, port: int) -> None:
        with world.agent(port, answer):
            foreseen = await ask(hub, Call(run="r", kind="train", order=b"foreseen"))
            other = await ask(hub, Call(run="r", kind="train"))
        assert (foreseen.fault, other.fault) == (Fault.REFUSED, Fault.REFUSED)
        assert "expected something" in foreseen.reason and "secret" not in other.reason

    world.play(scene)


def test_a_clock_that_is_off_is_named(world: World) -> None:
    async def scene(hub: Hub, port: int) -> None:
        with world.agent(port) as agent:
            assert "set the clock right" in await asyncio.to_thread(agent.until, False)
        assert agent.error is None

    world.play(scene, clock=lambda: utc_now() - timedelta(minutes=6))


def test_connections_beyond_the_bound_are_closed_at_once(world: World) -> None:
    def closed(port: int) -> int:
        """How many of ten connections end before any of them has said a word, or waited for the handshake's end."""
        many = [socket.create_connection(("127.0.0.1", port), 20) for _ in range(10)]
        ended = set[int]()
        while len(ended) < 6:
            for number, one in enumerate(many):
                one.setblocking(False)
                try:
                    if not one.recv(1):
                        ended.add(number)
                except BlockingIOError:
                    continue
                except ConnectionResetError:
                    ended.add(number)
        for one in many:
            one.close()
        return len(ended)

    async def scene(hub: Hub, port: int) -> None:
        assert await asyncio.to_thread(closed, port) == 6

    world.play(scene, limits=replace(LIMITS, most_streams=4))


def test_an_address_that_is_taken_is_a_clear_error(world: World) -> None:
    async def scene(hub: Hub, port: int) -> None:
        with pytest.raises(LocalError, match="is a server running there"):
            async with running_hub(world.authority, world.register) as (second, _):
                await second.start("127.0.0.1", port, world.authority.server_tls)

    world.play(scene)
