"""A PostgreSQL of the tests' own: a new cluster in a temporary folder, on a port of its own, stopped at the end.

It is reached by password (SCRAM) over the loopback. Where PostgreSQL is not installed the tests that need it are
skipped, and the check of docs/acceptance.md counts that as a failure.
"""

import os
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import sqlalchemy as sa

__all__ = ["Cluster", "binaries", "running"]

_USER = "wardround"
_ADMINISTRATOR = "postgres"  # whom Debian's package makes; PostgreSQL refuses to run as root
_ATTEMPTS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """A running PostgreSQL."""

    port: int
    passfile: Path

    def url(self, database: str) -> str:
        """The URL of one of its databases, as `wardround.server.state.database.Database.open` takes it."""
        return f"postgresql+psycopg://{_USER}@127.0.0.1:{self.port}/{database}?passfile={self.passfile}"

    @contextmanager
    def database(self) -> Iterator[str]:
        """The URL of a new, empty database, which is dropped at the end."""
        name = f"test_{secrets.token_hex(6)}"
        engine = sa.create_engine(self.url("postgres"), isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
        with engine.connect() as connection:
            connection.execute(sa.text(f"CREATE DATABASE {name}"))
        try:
            yield self.url(name)
        finally:
            with engine.connect() as connection:
                connection.execute(sa.text(f"DROP DATABASE {name} WITH (FORCE)"))


def binaries() -> Path | None:
    """The folder with `initdb` and `pg_ctl`; None where PostgreSQL is not installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: path.parent.name.zfill(4))  # Debian's
    on_path = [Path(path).resolve().parent] if (path := shutil.which("initdb")) else []
    return next((folder for folder in [*reversed(found), *on_path] if _complete(folder)), None)


def _complete(folder: Path) -> bool:
    return all((folder / name).exists() for name in ("initdb", "pg_ctl", "postgres"))


@contextmanager
def running() -> Iterator[Cluster]:
    """A new cluster, for `with`. Skips the test where PostgreSQL is not installed."""
    folder = binaries()
    if folder is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    home = Path(tempfile.mkdtemp(prefix="wardround-postgresql-"))
    try:
        password = secrets.token_urlsafe()
        passfile = home / "passfile"
        _write_private(passfile, f"127.0.0.1:*:*:{_USER}:{password}\n")
        cluster = home / "cluster"
        cluster.mkdir(mode=0o700)
        word = cluster.with_name("password")
        _write_private(word, password)
        if os.geteuid() == 0:
            for path in (home, cluster, word):
                shutil.chown(path, _ADMINISTRATOR, _ADMINISTRATOR)
        _command(
            folder / "initdb", "-D", cluster / "data", "-U", _USER, "-A", "scram-sha-256", "--pwfile", word,
            "-E", "UTF8", "--locale", "C.UTF-8", "--no-sync",
        )  # fmt: skip
        word.unlink()
        port = _started(folder, cluster)
        try:
            yield Cluster(port=port, passfile=passfile)
        finally:
            _command(folder / "pg_ctl", "stop", "-w", "-m", "immediate", "-D", cluster / "data")
    finally:
        shutil.rmtree(home)


def _started(folder: Path, cluster: Path) -> int:
    """The port on which the cluster answers."""
    for attempt in range(_ATTEMPTS):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        options = f"-h 127.0.0.1 -p {port} -k '{cluster}' -c fsync=off -c max_connections=50"
        log = cluster / "log"
        try:
            _command(folder / "pg_ctl", "start", "-w", "-t", "60", "-D", cluster / "data", "-l", log, "-o", options)
        except subprocess.CalledProcessError:
            if attempt + 1 == _ATTEMPTS:
                raise AssertionError(log.read_text()) from None
        else:
            return port
    raise AssertionError("no attempt")


def _command(*words: str | Path) -> None:
    """Run a command of PostgreSQL, not as root."""
    user = _ADMINISTRATOR if os.geteuid() == 0 else None
    subprocess.run(
        list(map(str, words)),
        user=user,
        group=user,
        extra_groups=[] if user else None,
        cwd="/",
        check=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,  # not captured: the server that is started would keep a pipe open
        stderr=subprocess.DEVNULL,
        env={"PATH": os.environ.get("PATH", ""), "LC_ALL": "C"},
    )


def _write_private(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
