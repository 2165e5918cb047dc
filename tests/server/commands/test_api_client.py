"""The coordinator's client: what it keeps of a download, and what it says when the server is not there."""

import hashlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.api.serving import Serving, serving
from wardround.errors import LocalError, RemoteError
from wardround.server.commands.api_client import ApiClient, UnreachableError

HEALTH = b'{"status":"ok"}'


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with serving(tmp_path_factory.mktemp("server")) as found:
        yield found


def test_a_download_is_there_whole_or_not_at_all(server: Serving, tmp_path: Path) -> None:
    client, out, digest = server.client(), tmp_path / "out", hashlib.sha256(HEALTH).hexdigest()
    for wrong in ({"sha256": "0" * 64}, {"sha256": digest, "size": 3}, {"size": len(HEALTH) + 1}):
        with pytest.raises(RemoteError, match="nothing was kept"):
            client.download("/health", out, **wrong)
        assert not list(tmp_path.iterdir())
    client.download("/health", out, sha256=digest, size=len(HEALTH))
    assert out.read_bytes() == HEALTH
    assert out.stat().st_mode & 0o777 == 0o600
    with pytest.raises(LocalError, match="is there already"):
        client.download("/health", out)


def test_a_refusal_has_the_servers_words(server: Serving) -> None:
    with pytest.raises(LocalError, match=r"^expected a session; log in: wardround login$"):
        server.client("").ask("GET", "/runs")
    with pytest.raises(LocalError, match=r"^there is no run 7; "):
        server.client().ask("GET", "/runs/7")
    with pytest.raises(LocalError, match="Extra inputs are not permitted"):
        server.client().ask("POST", "/invitations", {"site": "A", "x": 1})


def test_a_server_that_is_not_there_is_said_in_a_line(server: Serving) -> None:
    with socket.create_server(("127.0.0.1", 0)) as one:
        port = one.getsockname()[1]
    with pytest.raises(UnreachableError, match="nothing listens there"):
        ApiClient(f"https://localhost:{port}", server.authority).ask("GET", "/health")
    with pytest.raises(LocalError, match="expected the certificate of the server's authority"):
        ApiClient("https://localhost:1", "no certificate")


def test_a_port_that_speaks_something_else_is_no_server(server: Serving) -> None:
    """A listener without TLS that closes at once."""
    with socket.create_server(("127.0.0.1", 0)) as one:
        thread = threading.Thread(target=lambda: one.accept()[0].close())
        thread.start()
        with pytest.raises(LocalError, match="the connection failed"):
            ApiClient(f"https://localhost:{one.getsockname()[1]}", server.authority).ask("GET", "/health")
        thread.join()
