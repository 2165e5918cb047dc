"""The server's own certificate, which exists while the server runs: made at its start, and again before it ends."""

import os
import threading
from collections.abc import Callable, Sequence
from datetime import datetime

from wardround.clock import utc_now
from wardround.link.tls import ServerTls
from wardround.server.pki.tls_authority import LIFETIME, issue_server
from wardround.tls_identity import TlsKey, pem_of

__all__ = ["ServerCertificate"]


class ServerCertificate:
    """Key and certificate of the server under `names`; neither is ever on a disk. Threads may share it.

    `authority` is the certificate of the TLS authority (DER), `key` its key (PKCS #8, DER).
    """

    __slots__ = ("_authority", "_current", "_key", "_lock", "_names", "_now", "_random", "_renew_at")

    def __init__(
        self,
        authority: bytes,
        key: bytes,
        names: Sequence[str],
        *,
        now: Callable[[], datetime] = utc_now,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._authority, self._key, self._names = authority, key, tuple(names)
        self._now, self._random = now, random
        self._lock = threading.Lock()
        self._current: ServerTls | None = None
        self._renew_at = now()

    def current(self) -> ServerTls:
        """What to serve with now. After two thirds of its time it is another, with a key of its own."""
        with self._lock:
            now = self._now()
            if self._current is None or now >= self._renew_at:
                made = TlsKey.make()
                certificate = issue_server(
                    self._authority, self._key, names=self._names, public=made.public, now=now, random=self._random
                )
                authority = pem_of(self._authority)
                self._current = ServerTls(
                    certificate_chain=pem_of(certificate), private_key=made.pem, authority=authority
                )
                self._renew_at = now + LIFETIME * 2 / 3
            return self._current

    def __reduce__(self) -> str:
        raise TypeError("a ServerCertificate is not copied or pickled")
