"""The example's play: separate programs, from an empty disk to a model, with a hospital that drops out."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.federation.field import FOLDER, HOSPITALS, SERVER, Network, why_no_network

pytestmark = pytest.mark.slow
NO_NETWORK = why_no_network()
_TIMEOUT_S = 900

LISTEN = """
import socket, sys
with socket.create_server((sys.argv[1], 0)) as listener:
    print(listener.getsockname()[1], flush=True)
    for _ in range(int(sys.argv[2])):
        connection, peer = listener.accept()
        print(peer[0], flush=True)
        connection.close()
"""
CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), float(sys.argv[3])).close()"


@dataclass(frozen=True, slots=True, kw_only=True)
class Play:
    """A play, and how it ended."""

    folder: Path
    said: str
    code: int


@pytest.fixture(scope="module")
def plays(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Play]:
    """The play as everybody can play it, and, as root, the one with networks; both at the same time."""
    folder = tmp_path_factory.mktemp("plays")
    options = {"plain": [], **({} if NO_NETWORK else {"network": ["--network"]})}
    with ExitStack() as stack:
        started = {
            name: stack.enter_context(
                subprocess.Popen(
                    [sys.executable, str(FOLDER / "play.py"), str(folder / name), *chosen],
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
            )
            for name, chosen in options.items()
        }
        found = {}
        for name, process in started.items():
            said, _ = process.communicate(timeout=_TIMEOUT_S)
            found[name] = Play(folder=folder / name, said=said, code=process.returncode)
    return found


def check(play: Play) -> None:
    """It ended well, and left a model, a report, and a timeline that tells of the hospital that was away.

    The auditor found nothing.
    """
    from safetensors.numpy import load_file

    assert play.code == 0, play.said[-4000:]
    tensors = load_file(play.folder / "model.safetensors")
    assert tensors and all(abs(tensor).max() > 0 for tensor in tensors.values())
    assert "<html" in (play.folder / "report.html").read_text(encoding="utf-8")
    told = (play.folder / "timeline.txt").read_text(encoding="utf-8")
    assert "no reply by the deadline" in told and " void" in told
    assert "  finished\n" in told
    for hospital in HOSPITALS:
        assert f"{hospital} approved" in told and f"{hospital} co-signed its model" in told
    assert "breast-cancer-1.wardmodel: breast-cancer@1, whole and signed" in play.said
    assert play.said.count("    verified\n") == len(HOSPITALS) + 1


def test_the_play_ends_with_a_model_a_report_and_a_timeline(plays: dict[str, Play]) -> None:
    check(plays["plain"])


@pytest.mark.skipif(bool(NO_NETWORK), reason=NO_NETWORK or "-")
def test_the_play_with_a_network_for_each_party(plays: dict[str, Play]) -> None:
    check(plays["network"])
    assert "joined https://10.77.0.1:" in plays["network"].said


@pytest.fixture
def network() -> Iterator[Any]:
    with Network(SERVER, HOSPITALS) as network:
        yield network


def listening(network: Any, party: str, count: int, address: str) -> "subprocess.Popen[str]":
    command = network.command(party, [sys.executable, "-c", LISTEN, address, str(count)])
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def connects(network: Any, party: str, address: str, port: str, timeout_s: float) -> bool:
    command = network.command(party, [sys.executable, "-c", CONNECT, address, port, str(timeout_s)])
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(bool(NO_NETWORK), reason=NO_NETWORK or "-")
def test_hospitals_reach_the_server_from_addresses_of_their_own_and_nobody_reaches_them(network: Any) -> None:
    with listening(network, SERVER, len(HOSPITALS), network.address(SERVER)) as server:
        assert server.stdout is not None
        port = server.stdout.readline().strip()
        for hospital in HOSPITALS:
            assert connects(network, hospital, network.address(SERVER), port, 60)
            assert server.stdout.readline().strip() == network.address(hospital)

    hospital, other = HOSPITALS[:2]
    with listening(network, hospital, 1, "") as closed:
        assert closed.stdout is not None
        port = closed.stdout.readline().strip()
        for outside in (SERVER, other):
            assert not connects(network, outside, network.address(hospital), port, 2)
        assert connects(network, hospital, "127.0.0.1", port, 60)  # it does listen
        assert closed.stdout.readline().strip() == "127.0.0.1"  # and nobody else came before
