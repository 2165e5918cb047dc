"""One HTTPS request, through the environment's proxy, with an answer of bounded size; standard library alone."""

import http.client
import json
import queue
import socket
import ssl
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wardround.client.enrolment.exit_codes import JoinError, JoinExit
from wardround.client.proxy import Proxy
from wardround.plain_text import plain_text

__all__ = ["HttpsAnswer", "request", "trusting", "unverified"]

_MOST_BYTES = 2 << 20
_REFUSED_BY_PROXY = "Tunnel connection failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpsAnswer:
    """`body` is what the JSON object says; `certificate` (DER) is that of the other end of the connection."""

    status: int
    body: Mapping[str, Any]
    certificate: bytes


def unverified() -> ssl.SSLContext:
    """For what is no secret and is checked by its digest: any certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def trusting(authority: bytes) -> ssl.SSLContext:
    """TLS 1.3 with a server whose certificate is of this authority (DER) alone, and of the host that is asked."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.load_verify_locations(cadata=authority)
    return context


def request(
    host: str,
    port: int,
    path: str,
    *,
    context: ssl.SSLContext,
    proxy: Proxy | None,
    body: Mapping[str, Any] | None = None,
    timeout_s: float = 30.0,
) -> HttpsAnswer:
    """The answer to a GET, or with a `body` to a POST, within `timeout_s`, whatever the other end does.

    Raises JoinError (UNREACHABLE, PROXY, ANSWER), and ssl.SSLError for a handshake that fails.
    """
    found: queue.SimpleQueue[HttpsAnswer | Exception] = queue.SimpleQueue()

    def ask() -> None:
        try:
            found.put(_request(host, port, path, context, proxy, body, timeout_s))
        except Exception as error:
            found.put(error)

    # a socket has a time for each wait only, and who sends a byte now and then is waited for at each of them
    threading.Thread(target=ask, name="https", daemon=True).start()
    try:
        answer = found.get(timeout=timeout_s)
    except queue.Empty:
        raise _late(f"{host}:{port}", proxy, timeout_s) from None
    if isinstance(answer, Exception):
        raise answer
    return answer


def _late(where: str, proxy: Proxy | None, timeout_s: float) -> JoinError:
    return JoinError(
        JoinExit.UNREACHABLE,
        f"{where}: no answer within {timeout_s:g} s{_via(proxy)}; ask whether a firewall drops it",
    )


def _via(proxy: Proxy | None) -> str:
    return "" if proxy is None else f" through the proxy {proxy.host}:{proxy.port}"


def _request(
    host: str,
    port: int,
    path: str,
    context: ssl.SSLContext,
    proxy: Proxy | None,
    body: Mapping[str, Any] | None,
    timeout_s: float,
) -> HttpsAnswer:
    where, via = f"{host}:{port}", _via(proxy)
    if proxy is None:
        connection = http.client.HTTPSConnection(host, port, timeout=timeout_s, context=context)
    else:
        connection = http.client.HTTPSConnection(proxy.host, proxy.port, timeout=timeout_s, context=context)
        headers = {} if proxy.authorization is None else {"Proxy-Authorization": proxy.authorization}
        connection.set_tunnel(host, port, headers)
    try:
        _connect(connection, where, proxy)
        certificate = connection.sock.getpeercert(True) or b""
        data = None if body is None else json.dumps(body).encode()
        connection.request(
            "GET" if data is None else "POST",
            path,
            body=data,
            headers={"Accept": "application/json", "Content-Type": "application/json", "Connection": "close"},
        )
        with connection.getresponse() as answer:
            parts = bytearray()
            while part := answer.read1(1 << 16):
                parts += part
                if len(parts) > _MOST_BYTES:
                    raise JoinError(JoinExit.ANSWER, f"{where}: expected an answer of at most {_MOST_BYTES} bytes")
            return HttpsAnswer(status=answer.status, body=_object(parts, where, answer.status), certificate=certificate)
    except ssl.SSLError:
        raise
    except TimeoutError:
        raise _late(where, proxy, timeout_s) from None
    except http.client.HTTPException as error:
        raise JoinError(
            JoinExit.ANSWER, f"{where}: expected an answer of a wardround server, got {type(error).__name__}{via}"
        ) from None
    except OSError as error:
        raise JoinError(
            JoinExit.UNREACHABLE, f"{where}: the connection broke{via} ({_reason(error)}); try again"
        ) from None
    finally:
        connection.close()


def _connect(connection: http.client.HTTPSConnection, where: str, proxy: Proxy | None) -> None:
    try:
        connection.connect()
    except (ssl.SSLError, TimeoutError, http.client.HTTPException):
        raise
    except OSError as error:
        if proxy is None:
            raise JoinError(
                JoinExit.UNREACHABLE,
                f"{where}: cannot be reached ({_reason(error)}); a firewall must let this machine call it, or set "
                "HTTPS_PROXY",
            ) from None
        reason = plain_text(str(error))
        if reason.startswith(_REFUSED_BY_PROXY):
            hint = "; put its login into HTTPS_PROXY" if " 407" in reason else f"; have it allow CONNECT to {where}"
            text = f"the proxy {proxy.host}:{proxy.port} refuses ({reason.removeprefix(_REFUSED_BY_PROXY).strip(': ')})"
            raise JoinError(JoinExit.PROXY, text + hint) from None
        raise JoinError(
            JoinExit.PROXY,
            f"the proxy {proxy.host}:{proxy.port}: cannot be reached ({_reason(error)}); see HTTPS_PROXY",
        ) from None


def _object(data: bytes | bytearray, where: str, status: int) -> dict[str, Any]:
    try:
        found = json.loads(bytes(data))
        if not isinstance(found, dict):
            raise ValueError("no object")
    except (ValueError, RecursionError):
        raise JoinError(
            JoinExit.ANSWER,
            f"{where}: expected the answer of a wardround server, got something else (HTTP {status}); check the "
            "address, and whether something stands between",
        ) from None
    return found


def _reason(error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return "its name is not known"
    return plain_text(error.strerror or type(error).__name__)
