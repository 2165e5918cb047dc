"""The state folder of the server: what lies where, who may read it, and who works on it.

state.json              name, host, ports, and where the database is; its presence makes the folder a state folder
keyring                 every secret, sealed (keyring.py)
tls-authority.der       certificate of the authority for connections
identity-authority.der  certificate of the authority for names and signing keys
signing.der             certificate of the key that the server signs with; made again where it is missing
audit/                  the audit log (wardround.audit)
server.db               the database, unless it is a PostgreSQL
runs/RUN/               the run directories        models/  sealed models
lock                    held by the server while it runs
"""

import fcntl
import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from wardround.durable_file import TEMPORARY, remove_leftovers, replace_file, sync_folder
from wardround.errors import LocalError
from wardround.plain_text import plain_text
from wardround.server.state.database import checked_url, sqlite_url
from wardround.server.state.keyring import Keyring, open_keyring

__all__ = [
    "DATABASE_FILE",
    "FILES",
    "SIGNING_FILE",
    "STATE_FILE",
    "StateFolder",
    "StateSettings",
    "decode_settings",
    "default_state",
    "encode_settings",
]

_FORMAT = 1
STATE_FILE = "state.json"
_KEYRING, _LOCK = "keyring", "lock"
_TLS, _IDENTITY = "tls-authority.der", "identity-authority.der"
SIGNING_FILE = "signing.der"
_RUNS, _MODELS, _AUDIT = "runs", "models", "audit"
DATABASE_FILE = "server.db"
FILES = (STATE_FILE, _KEYRING, _TLS, _IDENTITY)
"""The files that are written once, when the folder is made."""
_DATABASE_FILES = (DATABASE_FILE, f"{DATABASE_FILE}-wal", f"{DATABASE_FILE}-shm")
_MOST_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class StateSettings:
    """What state.json says. `host` is what sites and people call the server; `database` is absent for SQLite here.

    `public_port` is the one port of a proxy in front of both, where there is one.
    """

    name: str
    host: str
    bind: str = "0.0.0.0"  # noqa: S104 (hospitals call from elsewhere)
    https_port: int = 8443
    grpc_port: int = 8444
    public_port: int | None = None
    database: str | None = None

    def __post_init__(self) -> None:
        for text in (self.name, self.host, self.bind):
            if not isinstance(text, str) or not text or plain_text(text) != text:
                raise ValueError("expected a name, a host and an address of 1 to 200 printable letters")
        public = () if self.public_port is None else (self.public_port,)
        for port in (self.https_port, self.grpc_port, *public):
            if not isinstance(port, int) or isinstance(port, bool) or not 0 <= port <= 65535:
                raise ValueError(f"expected a port of 0 to 65535, got {port!r}")
        if self.database is not None:
            checked_url(self.database)


class StateFolder:
    """An existing state folder. Make one with `make` or `open`."""

    __slots__ = ("path", "settings")

    def __init__(self, path: Path, settings: StateSettings) -> None:
        self.path, self.settings = path, settings

    @classmethod
    def make(
        cls,
        path: Path,
        settings: StateSettings,
        *,
        keyring: bytes,
        tls_authority: bytes,
        identity_authority: bytes,
        prepare: Callable[["StateFolder"], None] = lambda folder: None,
    ) -> "StateFolder":
        """A new state folder at `path`, whose parents are made; `keyring` is sealed, the authorities are certificates.

        `prepare` is called when all is there but state.json: it fills the database. Where it raises, or this process
        is killed, there is no state folder, and the next `make` begins anew. LocalError where `path` holds something
        else.
        """
        folder = cls(path, settings)
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            _check_private(path)
            with folder._locked("another process is making it"):
                folder._clear_interrupted()
                for name in (_RUNS, _MODELS):
                    (path / name).mkdir(mode=0o700)
                for name, data in ((_KEYRING, keyring), (_TLS, tls_authority), (_IDENTITY, identity_authority)):
                    replace_file(path / name, data, mode=0o600)
                prepare(folder)
                replace_file(path / STATE_FILE, encode_settings(settings), mode=0o600)
                sync_folder(path.parent)
        except OSError as error:
            raise LocalError(f"{path}: cannot be made ({error.strerror}); it is no state folder yet") from None
        return folder

    @classmethod
    def open(cls, path: Path) -> "StateFolder":
        """The state folder at `path`. LocalError where there is none, or others than its owner may read it."""
        try:
            _check_private(path)
            for name in FILES:
                _check_private(path / name)
            for name in (*_DATABASE_FILES, SIGNING_FILE, _AUDIT):
                if (path / name).exists():
                    _check_private(path / name)
            data = (path / STATE_FILE).read_bytes()
        except FileNotFoundError:
            raise LocalError(
                f"{path}: expected the state of a server, got none; make it: wardround server init"
            ) from None
        except OSError as error:
            raise LocalError(f"{path}: cannot be read ({error.strerror})") from None
        return cls(path, decode_settings(data, str(path / STATE_FILE)))

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder, for `with`. LocalError where another process does: one server works on it at a time."""
        with self._locked("a server is running on it; stop it first"):
            remove_leftovers(self.path)
            remove_leftovers(self.models)
            yield

    def keyring(self, secret: bytes) -> Keyring:
        """The keyring, opened. LocalError for another secret, or a damaged file."""
        return open_keyring(self._read(_KEYRING), secret)

    def tls_authority(self) -> bytes:
        """The certificate of the authority for connections, DER."""
        return self._read(_TLS)

    def identity_authority(self) -> bytes:
        """The certificate of the authority for names, DER."""
        return self._read(_IDENTITY)

    def signing_certificate(self) -> bytes | None:
        """The certificate of the key that the server signs with, DER; None where there is none yet."""
        return self._read(SIGNING_FILE) if (self.path / SIGNING_FILE).exists() else None

    @property
    def database_url(self) -> str:
        """The URL for `Database.open`."""
        return self.settings.database or sqlite_url(self.path / DATABASE_FILE)

    @property
    def runs(self) -> Path:
        """The folder of run directories."""
        return self.path / _RUNS

    @property
    def models(self) -> Path:
        """The folder of sealed models."""
        return self.path / _MODELS

    @property
    def audit(self) -> Path:
        """The folder of the audit log."""
        return self.path / _AUDIT

    def _read(self, name: str) -> bytes:
        try:
            with (self.path / name).open("rb") as file:
                return file.read(_MOST_BYTES)
        except OSError as error:
            raise LocalError(f"{self.path / name}: cannot be read ({error.strerror})") from None

    @contextmanager
    def _locked(self, why: str) -> Iterator[None]:
        path = self.path / _LOCK
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise LocalError(f"{path}: cannot be opened ({error.strerror})") from None
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise LocalError(f"{self.path}: {why}") from None
            except OSError as error:
                raise LocalError(
                    f"{self.path}: cannot be locked ({error.strerror}); use a file system with locks"
                ) from None
            yield
        finally:
            os.close(descriptor)

    def _clear_interrupted(self) -> None:
        """Take away what an interrupted `make` left; LocalError where there is anything else."""
        ours = {*FILES, *_DATABASE_FILES, _LOCK, _RUNS, _MODELS}
        names = {name for name in os.listdir(self.path) if not name.startswith(TEMPORARY)}
        if STATE_FILE in names:
            raise LocalError(f"{self.path}: is the state of a server already; use it, or name another folder")
        if strangers := sorted(names - ours):
            raise LocalError(f"{self.path}: expected a new or empty folder, got one with {strangers[0]!r}")
        for name in (_RUNS, _MODELS):
            if (self.path / name).exists():
                (self.path / name).rmdir()  # raises where it holds anything: `prepare` puts nothing there
        for name in (*FILES, *_DATABASE_FILES):
            (self.path / name).unlink(missing_ok=True)
        remove_leftovers(self.path)


def encode_settings(settings: StateSettings) -> bytes:
    """The bytes of state.json."""
    text = json.dumps({"format": _FORMAT, **asdict(settings)}, indent=2, ensure_ascii=False)
    return (text + "\n").encode()


def decode_settings(data: bytes, where: str) -> StateSettings:
    """What the bytes of a state.json say. LocalError naming `where` for anything else."""
    try:
        found: dict[str, Any] = json.loads(data)
        known = {one.name for one in fields(StateSettings)}
        if not isinstance(found, dict) or found.keys() != known | {"format"}:
            raise ValueError(f"expected the keys {', '.join(sorted(known))}")
        if found.pop("format") != _FORMAT:
            raise ValueError(f"expected format {_FORMAT}; a newer wardround has made it")
        return StateSettings(**found)
    except (ValueError, TypeError, LocalError) as error:
        raise LocalError(f"{where}: {plain_text(str(error))}") from None


def default_state() -> Path:
    """Where a server's state lies if nobody says otherwise: $WARDROUND_SERVER_STATE, else in the XDG state home."""
    if named := os.environ.get("WARDROUND_SERVER_STATE"):
        return Path(named)
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(home) / "wardround" / "server"


def _check_private(path: Path) -> None:
    """LocalError for a file or folder that is not this user's, or that others may read or write."""
    found = path.lstat()
    if stat.S_ISLNK(found.st_mode):
        raise LocalError(f"{path}: expected a file or folder, got a link")
    if found.st_uid != os.geteuid():
        raise LocalError(f"{path}: belongs to another user; run wardround as its owner")
    if found.st_mode & 0o077:
        right = "700" if stat.S_ISDIR(found.st_mode) else "600"
        raise LocalError(f"{path}: others may read or write it; chmod {right} it, and think of it as known to them")
