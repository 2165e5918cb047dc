"""The agent's connection: through a proxy, against servers that lie, and what it costs to have it."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.link import connect_proxy
from tests.link.certificates import Authority
from tests.link.loopback import LIMITS, Agent, Register, memory, running_hub
from wardround.client.link.connection import Connection
from wardround.errors import LocalError
from wardround.link.messages import Call, Notice, Reply
from wardround.orders import SiteId

SITE = SiteId("Hospital A")
PROXY_VARIABLES = ("https_proxy", "HTTPS_PROXY", "http_proxy", "grpc_proxy", "no_proxy", "NO_PROXY", "no_grpc_proxy")


class Proxy:
    """A proxy process, and what it says."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        assert process.stdout is not None
        self._process, self._lines = process, process.stdout
        self.port = int(self._lines.readline())

    def said(self) -> str:
        return self._lines.readline().strip()

    def end(self) -> str:
        """Stop it; what else it said."""
        self._process.terminate()
        rest = self._lines.read()
        self._process.wait()
        return rest


@contextmanager
def proxy_to(*arguments: str) -> Iterator[Proxy]:
    command = [sys.executable, str(Path(connect_proxy.__file__)), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Proxy(process)
        finally:
            process.kill()


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in PROXY_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy"])
@pytest.mark.parametrize("login", [None, "agent:p@ss w%rd"], ids=["open", "with a password"])
def test_the_link_goes_through_the_proxy(clean: pytest.MonkeyPatch, variable: str, login: str | None) -> None:
    authority, register = Authority(), Register()
    issued = authority.site(SITE)
    register.add(SITE, issued)
    update = bytes(range(256)) * 20_000

    async def run() -> None:
        async with running_hub(authority, register) as (hub, port):
            with proxy_to(f"localhost:{port}", *([] if login is None else [login])) as proxy:
                given = "" if login is None else "agent:p%40ss%20w%25rd@"
                clean.setenv(variable, f"http://{given}127.0.0.1:{proxy.port}")
                with Agent(authority, issued, port, lambda _: Reply(frame=memoryview(update))):
                    call = Call(run="r", kind="train")
                    reply = await hub.call(SITE, call, timeout_s=60, allocate=memory, most_bytes=1 << 24)
                    assert bytes(reply.frame) == update
                    assert await asyncio.to_thread(proxy.said) == f"granted CONNECT localhost:{port}"
                assert proxy.end() == ""  # one connection, one request

    asyncio.run(run())


def test_a_target_that_is_excepted_is_reached_without_the_proxy(clean: pytest.MonkeyPatch) -> None:
    authority, register = Authority(), Register()
    issued = authority.site(SITE)
    register.add(SITE, issued)

    async def run() -> None:
        async with running_hub(authority, register) as (_, port):
            with proxy_to("nowhere:1") as proxy:
                clean.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
                clean.setenv("NO_PROXY", "localhost")
                with Agent(authority, issued, port) as agent:
                    await asyncio.to_thread(agent.until, True)
                assert proxy.end() == ""

    asyncio.run(run())


def test_a_proxy_that_refuses_is_not_gone_around(clean: pytest.MonkeyPatch) -> None:
    authority, register = Authority(), Register()
    issued = authority.site(SITE)
    register.add(SITE, issued)

    async def run() -> None:
        async with running_hub(authority, register) as (hub, port):
            with proxy_to("elsewhere:1") as proxy:
                clean.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
                with Agent(authority, issued, port) as agent:
                    reason = await asyncio.to_thread(agent.until, False)
                    assert await asyncio.to_thread(proxy.said) == f"refused CONNECT localhost:{port}"
                assert "proxy" in reason.lower() or "403" in reason
                assert hub.present() == frozenset()

    asyncio.run(run())


def test_a_variable_that_is_wrong_is_named_and_not_shown(clean: pytest.MonkeyPatch) -> None:
    clean.setenv("HTTPS_PROXY", "socks5://user:SECRET@proxy:1080")
    authority = Authority()
    with Agent(authority, authority.site(SITE), 1) as agent:
        reason = agent.until(False)
    assert reason.startswith("HTTPS_PROXY: expected") and "SECRET" not in reason


def test_it_waits_longer_from_failure_to_failure_and_stops_when_told() -> None:
    authority = Authority()
    tls, stop, delays = authority.client_tls(authority.site(SITE)), threading.Event(), list[float]()

    def sleep(delay_s: float) -> None:
        delays.append(delay_s)
        if len(delays) == 5:
            stop.set()

    class Quiet:
        def call(self, call: Call) -> Reply:
            raise AssertionError

        def notice(self, notice: Notice) -> None:
            raise AssertionError

        def state(self, attached: bool, reason: str) -> None:
            assert not attached

    connection = Connection(
        "localhost:9", lambda: tls, Quiet(), software="test", limits=LIMITS, random=lambda: 0.0, sleep=sleep
    )
    connection.run(stop)
    assert delays == [0.005, 0.01, 0.02, 0.025, 0.025]


def test_an_address_that_is_none_is_refused_at_once() -> None:
    with pytest.raises(LocalError, match="expected an address"):
        Connection("localhost", lambda: pytest.fail("not asked"), object(), software="test")  # type: ignore[arg-type]


FOOTPRINT = """
import sys, threading
import wardround.client.link.connection
heavy = {"numpy", "flwr", "torch", "opacus", "structlog", "typer", "rich"} & set(sys.modules)
assert not heavy, heavy
for line in open("/proc/self/status"):
    if line.startswith("VmRSS"):
        print(line.split()[1])
"""


def test_the_connection_alone_loads_nothing_heavy() -> None:
    """The whole agent has 60 MB."""
    run = subprocess.run([sys.executable, "-c", FOOTPRINT], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) < 50_000


def test_a_call_that_the_server_has_taken_back_is_not_done() -> None:
    """It would be trained, and charged to the budget, for nobody; and a server could queue without end."""
    authority, register = Authority(), Register()
    issued = authority.site(SITE)
    register.add(SITE, issued)
    begun, go_on = threading.Event(), threading.Event()

    def answer(call: Call) -> Reply:
        begun.set()
        assert go_on.wait(60)
        return Reply()

    async def run() -> None:
        async with running_hub(authority, register) as (hub, port):
            with Agent(authority, issued, port, answer) as agent:
                try:
                    one, two, three = (Call(run="r", kind=kind) for kind in ("first", "second", "third"))
                    first = asyncio.create_task(hub.call(SITE, one, timeout_s=60, allocate=memory, most_bytes=1 << 20))
                    assert await asyncio.to_thread(begun.wait, 60)
                    with pytest.raises(TimeoutError):
                        await hub.call(SITE, two, timeout_s=0.01, allocate=memory, most_bytes=1 << 20)
                    await hub.notify(SITE, Notice(kind="k", body=b"{}"))  # what came before it was taken in
                finally:
                    go_on.set()
                await first
                await hub.call(SITE, three, timeout_s=60, allocate=memory, most_bytes=1 << 20)
                assert [agent.calls.get_nowait().kind for _ in range(agent.calls.qsize())] == ["first", "third"]

    asyncio.run(run())


@pytest.mark.parametrize("error", [LocalError("no space left"), OSError(28, "no space left")])
def test_a_notice_that_could_not_be_kept_comes_again(error: Exception) -> None:
    """And what comes after it waits: notices are taken in order."""

    def taken(agent: Agent) -> None:
        tries = 0

        def failing(notice: Notice) -> None:
            nonlocal tries
            tries += notice.kind == "first"
            if tries < 3:
                raise error
            agent.notices.put(notice)

        agent.notice = failing  # type: ignore[method-assign]

    assert notices_taken(taken) == ["first", "second"]


def test_a_notice_that_ends_in_a_bug_is_logged_and_done_with(caplog: pytest.LogCaptureFixture) -> None:
    """It would fail again as often as it comes; the agent lives, on the same link, and takes those after it."""

    def poisoned(agent: Agent) -> None:
        def failing(notice: Notice) -> None:
            agent.notices.put(notice)
            if notice.kind == "first":
                raise ZeroDivisionError("a bug")

        agent.notice = failing  # type: ignore[method-assign]

    assert notices_taken(poisoned, attached_once=True) == ["first", "second"]
    ours = [one.getMessage() for one in caplog.records if one.exc_info and one.name.startswith("wardround")]
    assert ours == ["link: the notice 'first' failed; this is a bug"]


def notices_taken(prepare: Callable[[Agent], None], *, attached_once: bool = False) -> list[str]:
    """What an agent whose handler was changed has taken of two notices, once the server knows that it has."""
    authority, register = Authority(), Register()
    issued = authority.site(SITE)
    register.add(SITE, issued)

    async def run() -> list[str]:
        async with running_hub(authority, register) as (hub, port):
            agent = Agent(authority, issued, port)
            prepare(agent)
            with agent:
                await hub.notify(SITE, Notice(kind="first", body=b"{}"))
                await hub.notify(SITE, Notice(kind="second", body=b"{}"))
                states = [agent.states.get_nowait()[0] for _ in range(agent.states.qsize())]
                assert (states == [True]) is attached_once
                return [agent.notices.get_nowait().kind for _ in range(agent.notices.qsize())]

    return asyncio.run(run())
