"""A server of its own process, for tests with real sockets: `python -m tests.server.api.serving FOLDER LIMITS`."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.server.api.worlds import World, make_world
from tests.server.state.state_folders import keyring
from wardround.clock import utc_now
from wardround.server.api.json_log import json_log
from wardround.server.api.listener import HttpsLimits, HttpsListener
from wardround.server.commands.api_client import ApiClient
from wardround.server.pki.enrolment import ServerAddress
from wardround.server.pki.server_certificate import ServerCertificate
from wardround.tls_identity import pem_of

__all__ = ["Serving", "serving"]


@dataclass
class Serving:
    """A server at 127.0.0.1:`port`; `authority` is PEM, `token` the owner's."""

    process: "subprocess.Popen[str]"
    port: int
    authority: str
    token: str
    log: Path

    def client(self, token: str | None = None) -> ApiClient:
        return ApiClient(f"https://localhost:{self.port}", self.authority, self.token if token is None else token)

    def memory_bytes(self) -> int:
        """Resident."""
        text = Path(f"/proc/{self.process.pid}/statm").read_text()
        return int(text.split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]


@contextmanager
def serving(folder: Path, **limits: Any) -> Iterator[Serving]:
    """A server with these `HttpsLimits`, until the end of `with`."""
    log = folder / "log"
    with log.open("w") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.server.api.serving", str(folder), json.dumps(limits)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=err,
            text=True,
        )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        said = process.stdout.readline()
        assert said, log.read_text()
        yield Serving(process=process, log=log, **json.loads(said))
    finally:
        process.stdin.close()  # it ends by itself
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
    assert process.returncode == 0, log.read_text()


async def _serve(world: World, limits: HttpsLimits) -> None:
    authority, key = world.services.enrolment.authority().authority, keyring().tls_authority
    certificate = ServerCertificate(authority, key, ("localhost",))
    listener = HttpsListener(world.app, certificate.current, limits=limits, log=json_log())
    port = await listener.start("127.0.0.1", 0)
    print(json.dumps({"port": port, "authority": pem_of(authority).decode(), "token": world.token}), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await listener.stop(grace_s=2.0)


def _main(folder: Path, limits: HttpsLimits) -> None:
    address = ServerAddress.at("localhost", https_port=8443, grpc_port=8444)
    world = make_world(folder, address=address, start=utc_now())
    world.start_run()
    asyncio.run(_serve(world, limits))
    world.database.close()


if __name__ == "__main__":
    _main(Path(sys.argv[1]), HttpsLimits(**json.loads(sys.argv[2])))
