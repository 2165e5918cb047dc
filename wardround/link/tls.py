"""The keys and certificates of the two ends of a link, and how gRPC is told to use them: TLS 1.3, both ends certified.

gRPC for Python has no setting for the version of TLS. Its ciphers can be chosen, but only those of TLS 1.2: it is given
one for RSA keys, which no party has (all keys are P-256), so that a handshake in TLS 1.2 finds no cipher. It reads the
choice from the environment, once, when it is loaded, hence the order in here: a process that loads gRPC before this
module has TLS 1.2. Therefore the server also asks each stream which version it has (`hub`), and refuses another.
"""

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

_CIPHERS_OF_TLS_1_2 = "ECDHE-RSA-AES256-GCM-SHA384"
os.environ["GRPC_SSL_CIPHER_SUITES"] = _CIPHERS_OF_TLS_1_2

import grpc  # noqa: E402

__all__ = ["ClientTls", "ServerTls", "client_credentials", "server_credentials"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerTls:
    """The server's certificate and key, and the authority that issues its sites' certificates. All PEM."""

    certificate_chain: bytes
    private_key: bytes = field(repr=False)
    authority: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientTls:
    """A site's certificate and key, and the authority that issued the server's certificate. All PEM."""

    certificate_chain: bytes
    private_key: bytes = field(repr=False)
    authority: bytes


def client_credentials(tls: ClientTls) -> grpc.ChannelCredentials:
    """For one channel: only this authority is believed."""
    return grpc.ssl_channel_credentials(tls.authority, tls.private_key, tls.certificate_chain)


def server_credentials(tls: Callable[[], ServerTls]) -> grpc.ServerCredentials:
    """A peer without a certificate of the authority is refused; `tls` is asked at each handshake, by any thread."""
    lock = threading.Lock()
    latest = tls()

    def renewed() -> grpc.ServerCertificateConfiguration | None:
        nonlocal latest
        with lock:
            found = tls()
            if found == latest:
                return None
            latest = found
            return _configuration(found)

    # None says "as before", which the type stubs do not know
    fetch = cast(Callable[[], grpc.ServerCertificateConfiguration], renewed)
    return grpc.dynamic_ssl_server_credentials(_configuration(latest), fetch, require_client_authentication=True)


def _configuration(tls: ServerTls) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(tls.private_key, tls.certificate_chain)], tls.authority)
