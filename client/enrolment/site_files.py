"""The files of a site's folder that joining and renewing write; `client/agent/site_folder.py` says what all are.

    tls-identity.pem   the key of connections and its certificate, in one file: after a kill they still fit
    tls-next.pem       a key that is not certified yet, so that the same is asked for again
    joining.json       which federation was asked, until there is site.json

Files are for their owner only to read.
"""

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from wardround.client.enrolment.exit_codes import JoinError, JoinExit
from wardround.durable_file import TEMPORARY, remove_leftovers, replace_file, sync_folder
from wardround.errors import LocalError
from wardround.signing_key import SigningKey
from wardround.tls_identity import TlsKey, der_of, pem_of

__all__ = ["SiteFiles", "TlsFiles"]

_SITE, _JOINING, _LOCK = "site.json", "joining.json", "lock"
_TLS, _NEXT, _AUTHORITY = "tls-identity.pem", "tls-next.pem", "tls-authority.pem"
_SIGNING, _STATE_KEY = "signing-key", "state-key"
_IDENTITY, _IDENTITY_AUTHORITY, _REVOCATIONS = "identity.der", "identity-authority.der", "revocations.der"
_JOINED_ALL = (_TLS, _NEXT, _AUTHORITY, _SIGNING, _STATE_KEY, _IDENTITY, _IDENTITY_AUTHORITY, _REVOCATIONS)
_STATE_KEY_BYTES = 32
_MOST_BYTES = 1 << 21


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """What a connection takes, PEM: the key, its certificate, and the authority whose server is believed."""

    key: bytes = field(repr=False)
    certificate: bytes
    authority: bytes


class SiteFiles:
    """The folder at `path`. Raises LocalError for what is missing, damaged, or open to others."""

    __slots__ = ("path",)

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    # -- before it has joined -------------------------------------------------------------------------

    @contextmanager
    def joining(self, federation: bytes) -> Iterator[None]:
        """Hold the folder, made where it is missing, to join the federation of this authority (SHA-256), for `with`.

        Raises JoinError for one that has joined, is in use, has other files in it, or was begun for another federation.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = self.path.lstat()
            if found.st_uid != os.geteuid() or found.st_mode & 0o077:
                raise JoinError(
                    JoinExit.FOLDER,
                    f"{self.path}: expected a folder of this user's alone; chmod 700 it, or name another",
                )
            descriptor = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise JoinError(JoinExit.FOLDER, f"{self.path}: cannot be written ({error.strerror})") from None
        try:
            _lock(descriptor, self.path)
            self._begin(federation)
            yield
        finally:
            os.close(descriptor)

    def _begin(self, federation: bytes) -> None:
        if (self.path / _SITE).exists():
            raise JoinError(
                JoinExit.FOLDER, f"{self.path}: has joined a federation already; name another folder with --state"
            )
        remove_leftovers(self.path)
        begun = (self.path / _JOINING).exists()
        allowed = {_LOCK, _JOINING, "data", "ledgers", *(_JOINED_ALL if begun else ())}  # of a site that had left
        strangers = sorted({name for name in os.listdir(self.path) if not name.startswith(TEMPORARY)} - allowed)
        if strangers:
            raise JoinError(
                JoinExit.FOLDER, f"{self.path}: expected a new or empty folder, got one with {strangers[0]!r}"
            )
        text = json.dumps({"version": 1, "authority": federation.hex()}).encode()
        if begun and self.read(_JOINING) != text:
            raise JoinError(
                JoinExit.FOLDER,
                f"{self.path}: joining another federation was begun here; go on with that invitation, or name another "
                "folder with --state",
            )
        if not begun:
            self.write(_JOINING, text)
            sync_folder(self.path.parent)

    def keys(self, random: Callable[[int], bytes]) -> tuple[SigningKey, TlsKey]:
        """The keys of the site, made where they are missing; durable before anybody hears of them."""
        if not (self.path / _STATE_KEY).exists():
            self.write(_STATE_KEY, random(_STATE_KEY_BYTES))
        if not (self.path / _SIGNING).exists():
            SigningKey.make(random).store(self.path / _SIGNING, None, random)
        return SigningKey.load(self.path / _SIGNING, None), self.next_key()

    def finish(
        self,
        *,
        site: bytes,
        key: TlsKey,
        certificate: bytes,
        authority: bytes,
        identity: bytes,
        identity_authority: bytes,
        revocations: bytes,
    ) -> None:
        """Write what a join gave, all DER but `site`, which is site.json and comes last: with it, all is there."""
        self.write(_AUTHORITY, pem_of(authority))
        self.write(_IDENTITY_AUTHORITY, identity_authority)
        self.write(_REVOCATIONS, revocations)
        self.write(_IDENTITY, identity)
        self.write(_TLS, key.pem + pem_of(certificate))
        self.write(_SITE, site)
        self.remove(_NEXT)
        self.remove(_JOINING)

    # -- when it has ----------------------------------------------------------------------------------

    def tls(self) -> TlsFiles:
        """What a connection takes, as it is now."""
        data = self.read(_TLS)
        try:
            return TlsFiles(
                key=TlsKey.read(data).pem, certificate=pem_of(der_of(data)), authority=self.read(_AUTHORITY)
            )
        except LocalError as error:
            raise LocalError(f"{self.path / _TLS}: {error}; restore it from a copy") from None

    def next_key(self) -> TlsKey:
        """The key that a certificate is asked for: the same until there is one."""
        path = self.path / _NEXT
        if path.exists():
            try:
                return TlsKey.read(self.read(_NEXT))
            except LocalError as error:
                raise LocalError(f"{path}: {error}; delete it, and try again") from None
        made = TlsKey.make()
        self.write(_NEXT, made.pem)
        return made

    def drop_next_key(self) -> None:
        """Another key is made next time."""
        self.remove(_NEXT)

    def replace_certificates(self, key: TlsKey, certificate: bytes, identity: bytes) -> None:
        """Go by these certificates (DER) from now on. A kill leaves the old ones or the new ones of each kind."""
        self.write(_IDENTITY, identity)
        self.write(_TLS, key.pem + pem_of(certificate))  # after it, nothing is asked for again
        self.remove(_NEXT)

    # -- files ----------------------------------------------------------------------------------------

    def read(self, name: str) -> bytes:
        path = self.path / name
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            with os.fdopen(descriptor, "rb") as file:
                if os.fstat(descriptor).st_mode & 0o077:
                    raise LocalError(f"{path}: others may read or write it; chmod 600 it, and think of it as known")
                return file.read(_MOST_BYTES)
        except OSError as error:
            raise LocalError(f"{path}: cannot be read ({error.strerror})") from None

    def write(self, name: str, data: bytes) -> None:
        path = self.path / name
        try:
            path.with_name(TEMPORARY + name).unlink(missing_ok=True)  # its permissions may be another's choice
            replace_file(path, data, mode=0o600)
        except OSError as error:
            raise LocalError(f"{path}: cannot be written ({error.strerror}); it is as it was") from None

    def remove(self, name: str) -> None:
        try:
            (self.path / name).unlink(missing_ok=True)
            sync_folder(self.path)
        except OSError as error:
            raise LocalError(f"{self.path / name}: cannot be deleted ({error.strerror})") from None


def _lock(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise JoinError(JoinExit.FOLDER, f"{folder}: another process works in it; wait for it or stop it") from None
    except OSError as error:
        raise JoinError(
            JoinExit.FOLDER, f"{folder}: cannot be locked ({error.strerror}); use a file system with locks"
        ) from None
