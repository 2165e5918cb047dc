"""A client of the server's HTTPS interface: TLS 1.3 to the one authority that the login names, and plain errors."""

import contextlib
import hashlib
import http.client
import json
import os
import socket
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from wardround.durable_file import TEMPORARY, sync_folder
from wardround.errors import LocalError, RemoteError
from wardround.plain_text import plain_text

__all__ = ["ApiClient", "UnreachableError", "fetch_authority"]

_TIMEOUT_S = 60.0
_MOST_JSON = 64 << 20
_MOST_PROBLEM = 64 << 10
_PIECE = 1 << 20


class UnreachableError(LocalError):
    """The server does not answer now."""


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


class ApiClient:
    """Speaks with the server at `url`, whose certificate has to be of `authority` (PEM). HTTPS_PROXY is honoured.

    What the server refuses is a LocalError with its words; what it answers beside the protocol a RemoteError.
    """

    def __init__(self, url: str, authority: str, token: str = "") -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        try:
            context.load_verify_locations(cadata=authority)
        except (ssl.SSLError, ValueError):
            raise LocalError("expected the certificate of the server's authority; log in again") from None
        self.url, self._token = url.rstrip("/"), token
        self._opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=context), _NoRedirects())

    def ask(self, method: str, path: str, body: Any = None, **query: Any) -> Any:
        """What the server answers, decoded; None for an answer without content. A `query` of None is left out."""
        data = None if body is None else json.dumps(body).encode()
        headers = {} if data is None else {"Content-Type": "application/json"}
        with self._answer(method, path, data, headers, query) as answer:
            return _decoded(_read(answer, _MOST_JSON))

    def upload(self, path: str, file: Path) -> Any:
        """PUT the content of `file`, piece by piece."""
        with file.open("rb") as source:
            size = os.fstat(source.fileno()).st_size
            headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
            with self._answer("PUT", path, source, headers, {}) as answer:
                return _decoded(_read(answer, _MOST_JSON))

    def download(
        self, path: str, out: Path, *, sha256: str | None = None, size: int | None = None, **query: Any
    ) -> None:
        """Write what the server answers to the new file `out`. RemoteError, and no file, for another size or digest."""
        if out.exists():
            raise LocalError(f"{out}: is there already; name another file with -o")
        temporary = out.with_name(TEMPORARY + out.name)
        try:
            with self._answer("GET", path, None, {}, query) as answer:
                descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
                with os.fdopen(descriptor, "wb") as file:
                    _copy(answer, file, sha256, size)
                    file.flush()
                    os.fsync(file.fileno())
            os.link(temporary, out)  # unlike a rename, replaces nothing
            sync_folder(out.parent)
        except FileExistsError:
            raise LocalError(f"{out}: is there already; name another file with -o") from None
        finally:
            temporary.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _answer(
        self, method: str, path: str, data: Any, headers: Mapping[str, str], query: Mapping[str, Any]
    ) -> Iterator[IO[bytes]]:
        wanted = {name: value for name, value in query.items() if value is not None}
        url = f"{self.url}/api/v1{path}" + (f"?{urllib.parse.urlencode(wanted)}" if wanted else "")
        request = urllib.request.Request(url, data=data, headers=dict(headers), method=method)  # noqa: S310 (https)
        request.add_header("Accept", "application/json, */*")
        if self._token:
            request.add_unredirected_header("Authorization", f"Bearer {self._token}")
        try:
            with self._opener.open(request, timeout=_TIMEOUT_S) as answer:
                yield answer
        except urllib.error.HTTPError as error:
            with error:
                raise LocalError(_problem(error)) from None
        except urllib.error.URLError as error:
            raise _failure(self.url, error.reason) from None
        except (ssl.SSLError, TimeoutError, ConnectionError, http.client.HTTPException) as error:
            raise _failure(self.url, error) from None


def fetch_authority(url: str) -> bytes:
    """The certificate (DER) that the server says its authority has. Nobody has checked it, and nothing secret is sent:
    compare its fingerprint before it is believed."""
    from base64 import b64decode

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=context), _NoRedirects())
    try:
        with opener.open(f"{url}/api/v1/authority", timeout=_TIMEOUT_S) as answer:
            found = _decoded(_read(answer, _MOST_PROBLEM))
        return b64decode(found["authority"], validate=True)
    except urllib.error.HTTPError as error:
        with error:
            raise LocalError(_problem(error)) from None
    except urllib.error.URLError as error:
        raise _failure(url, error.reason) from None
    except (ssl.SSLError, TimeoutError, ConnectionError, http.client.HTTPException) as error:
        raise _failure(url, error) from None
    except (ValueError, KeyError, TypeError):
        raise RemoteError(f"{url}: expected a wardround server, got something else") from None


def _copy(answer: IO[bytes], out: IO[bytes], sha256: str | None, size: int | None) -> None:
    digest, count = hashlib.sha256(), 0
    while piece := answer.read(_PIECE):
        count += len(piece)
        if size is not None and count > size:
            break
        digest.update(piece)
        out.write(piece)
    if (size is not None and count != size) or (sha256 is not None and digest.hexdigest() != sha256):
        raise RemoteError("expected the whole file that the server has on its list, got another; nothing was kept")


def _read(answer: IO[bytes], most: int) -> bytes:
    data = answer.read(most + 1)
    if len(data) > most:
        raise RemoteError(f"expected an answer of at most {most} bytes, got more")
    return data


def _decoded(data: bytes) -> Any:
    if not data:
        return None
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise RemoteError("expected JSON from the server, got something else; is it a wardround server?") from None


def _problem(error: urllib.error.HTTPError) -> str:
    try:
        text = str(json.loads(error.read(_MOST_PROBLEM))["error"])
    except (ValueError, KeyError, TypeError, OSError, http.client.HTTPException):
        text = f"the server answers with status {error.code}"
    return plain_text(text, 500)


def _failure(url: str, reason: object) -> LocalError:
    if isinstance(reason, ssl.SSLCertVerificationError):
        text = plain_text(reason.verify_message)
        return LocalError(f"{url}: is not the server of this login ({text}); if it was made anew, log in again")
    if isinstance(reason, socket.gaierror):
        return UnreachableError(f"{url}: there is no such host; check the name")
    if isinstance(reason, TimeoutError):
        return UnreachableError(f"{url}: does not answer; check that the server runs, and the firewall")
    if isinstance(reason, ConnectionRefusedError):
        return UnreachableError(f"{url}: nothing listens there; check that the server runs, and the port")
    return UnreachableError(f"{url}: the connection failed ({plain_text(str(reason))})")
