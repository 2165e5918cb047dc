"""The folder of a site: everything that its agent and its administrator's commands keep.

    site.json                  name, the server's URL, where its agents attach, its public signing key
    tls-identity.pem           private key and certificate chain of the link, see `client/enrolment`
    tls-authority.pem          the certificate of the server's TLS authority
    signing-key                see `wardround.signing_key`; made here, and never sent
    state-key                  32 bytes under which what is kept of a run is sealed
    identity.der               the certificate of the signing key
    identity-authority.der     the certificate of the authority behind it
    revocations.der            its newest revocation list
    policy.toml                what its administrator allows at all, see `client/guard/policy.py`
    policy.noted               the same as the audit log has it: how a change by hand is noticed
    pins/                      the members' keys that were accepted, a `FileStore`
    data/NAME.json             a registered data set
    ledgers/POPULATION.ledger  what may be spent on the people in one or more data sets, and what was
    withdrawn/                 keyed hashes of the patients who have withdrawn, the key, and which files are theirs
    audit/                     the audit log, and the newest head of the server's, see docs/audit.md
    plans/RUN/                 what was offered, and what was decided; the keys of its sealed model (archive.json)
    runs/RUN/                  what is kept of a run that goes on: never restore it from a copy, see docs/client.md
    jobs/                      working folders of jobs
    changed                    touched by commands, so that the agent looks
    lock                       held by the agent
    data.lock plans.lock policy.lock withdrawn.lock  held while what they are named after is changed

Files are for their owner only to read. Whoever can read the folder is this site.
"""

import fcntl
import json
import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from wardround.durable_file import replace_file, sync_folder
from wardround.errors import LocalError
from wardround.plain_text import plain_text
from wardround.signing_key import SigningKey, check_public_key, fingerprint_of

if TYPE_CHECKING:
    from wardround.identity import Authority

__all__ = ["SiteFacts", "SiteFolder", "default_folder"]

_MOST_BYTES = 1 << 22
_STATE_KEY_BYTES = 32
_BETWEEN_TRIES_S = 0.05
_FOLDERS = ("pins", "data", "ledgers", "plans", "runs", "jobs")


def default_folder(environment: Mapping[str, str]) -> Path:
    """$WARDROUND_CLIENT_STATE, else wardround/client in $XDG_STATE_HOME or, where that is not set, ~/.local/state."""
    if named := environment.get("WARDROUND_CLIENT_STATE"):
        return Path(named)
    state = environment.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local" / "state") / "wardround" / "client"


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteFacts:
    """What is no secret: `target` is host:port of the link, `server` the server's public signing key, hex."""

    name: str
    url: str
    target: str
    server: str

    def __post_init__(self) -> None:
        if not 0 < len(self.name.encode()) <= 255 or plain_text(self.name, 255) != self.name:
            raise ValueError("expected a site's name of 1 to 255 printable bytes")
        check_public_key(bytes.fromhex(self.server))

    def encode(self) -> bytes:
        return json.dumps({"version": 1, **asdict(self)}, ensure_ascii=False).encode()

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """The inverse of `encode`. Raises ValueError for anything else."""
        table = json.loads(data)
        if not isinstance(table, dict) or table.pop("version", None) != 1:
            raise ValueError("expected version 1")
        if table.keys() != {"name", "url", "target", "server"} or not all(isinstance(v, str) for v in table.values()):
            raise ValueError("expected name, url, target and server")
        return cls(**table)


class SiteFolder:
    """The site whose folder is `path`. Raises LocalError for what is missing, unreadable, or open to others."""

    __slots__ = ("facts", "path")

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not (self.path / "site.json").exists():
            raise LocalError(f"{self.path}: expected a site that has joined; run: wardround client join 'URL#TOKEN'")
        try:
            self.facts = SiteFacts.decode(self.read("site.json"))
        except (ValueError, RecursionError) as error:
            raise LocalError(f"{self.path / 'site.json'}: expected what join wrote ({error}); restore it") from None
        if self.path.stat().st_mode & 0o022:  # they could take away the policy and who has withdrawn, or hold a lock
            raise LocalError(f"{self.path}: expected a folder that others may not write to; chmod 700 it")
        for name in _FOLDERS:
            self.folder(name)

    # -- who this is ----------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        return self.facts.name

    @property
    def server(self) -> bytes:
        """The server's public signing key, which every order must be signed by."""
        return bytes.fromhex(self.facts.server)

    @property
    def signing_key(self) -> SigningKey:
        return SigningKey.load(self.path / "signing-key", None)

    @property
    def fingerprint(self) -> str:
        """What the administrators of the others compare with what they were told, and pin."""
        return fingerprint_of(self.signing_key.public)

    @property
    def state_key(self) -> bytes:
        key = self.read("state-key")
        if len(key) != _STATE_KEY_BYTES:
            raise LocalError(f"{self.path / 'state-key'}: expected {_STATE_KEY_BYTES} bytes; restore it from a copy")
        return key

    @property
    def authority(self) -> "Authority":
        """Who says which signing key is whose."""
        from wardround.identity import Authority

        return Authority(self.read("identity-authority.der"))

    # -- files ----------------------------------------------------------------------------------------

    def read(self, name: str) -> bytes:
        """A file of the folder, which nobody else may read or write."""
        path = self.path / name
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            with os.fdopen(descriptor, "rb") as file:
                found = os.fstat(descriptor)
                if not stat.S_ISREG(found.st_mode) or found.st_mode & 0o077:
                    raise LocalError(f"{path}: expected a file that others may neither read nor write; chmod 600 it")
                data = file.read(_MOST_BYTES + 1)
        except OSError as error:
            raise LocalError(f"{path}: cannot be read ({error.strerror})") from None
        if len(data) > _MOST_BYTES:
            raise LocalError(f"{path}: expected at most {_MOST_BYTES} bytes")
        return data

    def write(self, name: str, data: bytes) -> None:
        """Replace a file of the folder, durably."""
        path = self.path / name
        try:
            replace_file(path, data, mode=0o600)
        except OSError as error:
            raise LocalError(f"{path}: cannot be written ({error.strerror}); it is as it was") from None

    def folder(self, *parts: str) -> Path:
        """A folder in it, made where it is missing, for its owner only."""
        path = self.path
        for part in parts:
            path = path / part
            try:
                path.mkdir(mode=0o700)
                sync_folder(path.parent)
            except FileExistsError:
                pass
            except OSError as error:
                raise LocalError(f"{path}: cannot be made ({error.strerror})") from None
        return path

    # -- two processes --------------------------------------------------------------------------------

    def touch(self) -> None:
        """Tell the agent that something was changed; it looks within a second."""
        self.write("changed", b"")

    def changes(self) -> tuple[int, int]:
        """Another value after each `touch`."""
        try:
            found = os.stat(self.path / "changed")
        except OSError:
            return 0, 0
        return found.st_ino, found.st_mtime_ns

    @contextmanager
    def lock(self, tries: int = 1) -> Iterator[None]:
        """Held by the agent. Raises LocalError while another process holds it; a look at it is over at the next try."""
        descriptor = self._open_lock()
        try:
            while not _locked(descriptor, fcntl.LOCK_EX):
                tries -= 1
                if tries <= 0:
                    raise LocalError(f"{self.path}: an agent runs here already; stop it first")
                time.sleep(_BETWEEN_TRIES_S)
            yield
        finally:
            os.close(descriptor)

    @contextmanager
    def alone(self, name: str) -> Iterator[None]:
        """Held through a change of several steps, in the file `name`: whoever comes second waits."""
        descriptor = self._open_lock(name)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def agent_runs(self) -> bool:
        """Whether an agent holds the lock now."""
        descriptor = self._open_lock()
        try:
            return not _locked(descriptor, fcntl.LOCK_SH)
        finally:
            os.close(descriptor)

    def _open_lock(self, name: str = "lock") -> int:
        path = self.path / name
        try:
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise LocalError(f"{path}: cannot be opened ({error.strerror})") from None

    @classmethod
    def make(
        cls,
        path: str | Path,
        facts: SiteFacts,
        files: Mapping[str, bytes],
        key: SigningKey,
        random: Callable[[int], bytes],
    ) -> Self:
        """A new folder with these files, `state-key` and `signing-key`; site.json comes last, so that it is whole."""
        path = Path(path)
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            for name, data in files.items():
                replace_file(path / name, data, mode=0o600)
            key.store(path / "signing-key", None, random)
            replace_file(path / "state-key", random(_STATE_KEY_BYTES), mode=0o600)
            replace_file(path / "site.json", facts.encode(), mode=0o600)
        except OSError as error:
            raise LocalError(f"{path}: cannot be written ({error.strerror})") from None
        return cls(path)


def _locked(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
