"""The folder of a party of secure aggregation: its keys, whose authority it trusts, the plan it approved, its state.

    identity          JSON: the party's name and, at a site, the server's public key, hex
    signing-key       see `wardround.signing_key`; made here, and never sent
    state-key         32 bytes under which a site's secrets in `state` are sealed
    authority.der     the certificate of the run's authority
    revocations.der   its revocation list
    certificate.der   a site's own certificate
    plan.toml         the approved plan
    state             a `FileStore`

All are for their owner only to read. Whoever can read the folder is this party: keep it where patients' data is kept,
and out of copies that are restored, since an old `state` would let a mask be used twice.
"""

import json
import os
import stat
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, Self, TypeVar

from wardround.durable_file import replace_file, sync_folder
from wardround.errors import LocalError, RemoteError
from wardround.identity import Authority, Revocations, site_name
from wardround.plan import Plan, load_plan
from wardround.plan_protection import ProtectionMode
from wardround.signing_key import SigningKey, check_public_key, fingerprint_of
from wardround.state_store import StateStore
from wardround.strategies.secagg.plan_terms import parameters_of
from wardround.strategies.secagg.server_epoch import Federation

__all__ = ["IdentityFolder"]

_STATE_KEY_BYTES = 32
_MOST_BYTES = 1 << 20
_NEWEST = "identity/revocations"
_Found = TypeVar("_Found")


class IdentityFolder:
    """The party whose folder is `path`. Raises LocalError for what is missing, unreadable, or open to others."""

    __slots__ = ("_about", "path")

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        data = self.read("identity")
        try:
            about: dict[str, Any] = json.loads(data)
            if about["version"] != 1:
                raise ValueError(f"version {about['version']}")
            site_name(about["name"])
            if "server" in about:
                check_public_key(bytes.fromhex(about["server"]))
        except (ValueError, KeyError, TypeError) as error:
            raise LocalError(f"{self.path / 'identity'}: expected a party's name ({error}); restore it") from None
        self._about = about

    @classmethod
    def make(cls, path: str | Path, name: str, random: Callable[[int], bytes] = os.urandom) -> Self:
        """A new folder with new keys. Raises LocalError where there is one already."""
        path, name = Path(path), site_name(name)
        try:
            path.mkdir(mode=0o700)
            sync_folder(path.parent)
            SigningKey.make(random).store(path / "signing-key", None, random)
            replace_file(path / "state-key", random(_STATE_KEY_BYTES), mode=0o600)
            about = json.dumps({"version": 1, "name": name})
            replace_file(path / "identity", about.encode(), mode=0o600)
        except FileExistsError:
            raise LocalError(f"{path}: expected a new folder; keys are never overwritten") from None
        except OSError as error:
            raise LocalError(f"{path}: cannot be written ({error.strerror})") from None
        return cls(path)

    @property
    def name(self) -> str:
        return str(self._about["name"])

    @property
    def signing_key(self) -> SigningKey:
        return SigningKey.load(self.path / "signing-key", None)

    @property
    def fingerprint(self) -> str:
        """What the administrators of the others compare with what they were told, and pin."""
        return fingerprint_of(self.signing_key.public)

    @property
    def state_key(self) -> bytes:
        return self.read("state-key")

    @property
    def server(self) -> bytes:
        """The server's public key, which a site accepts."""
        if "server" not in self._about:
            raise LocalError(f"{self.path}: expected a site that has joined a federation; join one")
        return bytes.fromhex(self._about["server"])

    @property
    def authority(self) -> Authority:
        return _checked(self.path / "authority.der", Authority, self.read("authority.der"))

    @property
    def plan(self) -> Plan:
        """The approved plan; another one is refused until it is approved, too."""
        self.read("plan.toml")  # refused where others may write it
        return load_plan(self.path / "plan.toml")

    def trust(self, authority: bytes, revocations: bytes, server: bytes | None = None) -> None:
        """Take these for the run's authority, its revocation list and, at a site, the server's public key."""
        self.write("authority.der", authority)
        self.write("revocations.der", revocations)
        if server is not None:
            check_public_key(server)
            about = {**self._about, "server": server.hex()}
            self.write("identity", json.dumps(about).encode())
            self._about = about

    def approve(self, plan: Plan) -> None:
        """Take part in this plan from now on, and in no other. Raises LocalError for one without secure aggregation."""
        if plan.protection.mode is not ProtectionMode.MASKING:
            raise LocalError(
                f'{self.name}: expected a plan with protection.mode = "masking", as a Flower app can have it, got '
                f"{plan.name!r}"
            )
        self.write("plan.toml", plan.to_toml().encode())

    def revocations(self, store: StateStore, now: datetime) -> Revocations:
        """The revocation list; one that is older than what `store` has seen is refused."""
        seen = store.get(_NEWEST)
        newest = 0 if seen is None else int(seen)
        path, authority = self.path / "revocations.der", self.authority
        found = _checked(path, lambda der: authority.revocations(der, now, newest=newest), self.read(path.name))
        if found.number > newest:
            store.put(_NEWEST, str(found.number).encode())
        return found

    def federation(self, store: StateStore, now: datetime) -> Federation:
        """What the server is run with. A run is a plan: its rounds, epochs and groups are counted over restarts."""
        plan = self.plan
        return Federation(
            run=plan.digest,
            plan=bytes.fromhex(plan.digest),
            parameters=parameters_of(plan),
            authority=self.authority,
            revocations=self.revocations(store, now),
            store=store,
            random=os.urandom,
        )

    def read(self, name: str) -> bytes:
        """A file of the folder, which nobody else may read or write."""
        path = self.path / name
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            with os.fdopen(descriptor, "rb") as file:
                found = os.fstat(descriptor)
                if not stat.S_ISREG(found.st_mode) or found.st_mode & 0o077:
                    raise LocalError(f"{path}: expected a file that others may neither read nor write; chmod 600 it")
                return file.read(_MOST_BYTES)
        except OSError as error:
            raise LocalError(f"{path}: cannot be read ({error.strerror}); see docs/secagg-flower.md") from None

    def write(self, name: str, data: bytes) -> None:
        """Replace a file of the folder, durably."""
        path = self.path / name
        try:
            replace_file(path, data, mode=0o600)
        except OSError as error:
            raise LocalError(f"{path}: cannot be written ({error.strerror}); it is as it was") from None


def _checked(path: Path, parse: Callable[[bytes], _Found], data: bytes) -> _Found:
    """What a file of this party's own holds: a fault in it is this party's to mend."""
    try:
        return parse(data)
    except RemoteError as error:
        raise LocalError(f"{path}: {error}") from None
