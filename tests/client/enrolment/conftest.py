"""A federation whose server answers over HTTPS on this machine."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.client.enrolment.https_server import Routes, server_tls, serving
from tests.client.enrolment.site import Site
from tests.server.pki.federation import Clock, Federation
from wardround.server.pki.enrolment import ServerAddress


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A site that may join; TLS looks at the true clock, so the federation is of today."""
    federation = Federation(tmp_path / "server", Clock(datetime.now(UTC)))
    routes = Routes.of(federation)
    with serving(routes, lambda: server_tls(federation)) as port:
        federation.address = ServerAddress.at("localhost", https_port=port, grpc_port=8444)
        federation.enrolment = federation.again()
        yield Site(federation, routes, tmp_path / "state" / "client")
    federation.close()
