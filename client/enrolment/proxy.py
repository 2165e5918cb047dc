"""The proxy that the environment names for a host, as other programs read it."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from urllib.parse import unquote, urlsplit

from wardround.errors import LocalError

__all__ = ["Proxy", "proxy_for"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxy:
    """An HTTP proxy that takes CONNECT; `authorization` is the value of Proxy-Authorization, where one is needed."""

    host: str
    port: int
    authorization: str | None = field(default=None, repr=False)


def proxy_for(host: str, environment: Mapping[str, str]) -> Proxy | None:
    """What `https_proxy` or `HTTPS_PROXY` says, unless `no_proxy` or `NO_PROXY` has the host. LocalError for nonsense.

    `no_proxy` is a list with commas: `*`, addresses, networks (10.0.0.0/8), and names, which stand for all below them.
    """
    text = environment.get("https_proxy") or environment.get("HTTPS_PROXY")
    exceptions = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    if not text or any(_covers(one.strip().lower(), host.lower()) for one in exceptions.split(",")):
        return None
    parts = urlsplit(text if "://" in text else f"http://{text}")
    try:
        port = parts.port
    except ValueError:
        port = 0
    if parts.scheme != "http" or not parts.hostname or port == 0:
        raise LocalError("HTTPS_PROXY: expected http://HOST:PORT, with USER:PASSWORD@ before HOST where the proxy asks")
    authorization = None
    if parts.username is not None:
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        authorization = f"Basic {base64.b64encode(login.encode()).decode()}"
    return Proxy(host=parts.hostname, port=port or 80, authorization=authorization)


def _covers(pattern: str, host: str) -> bool:
    if pattern == "*":
        return True
    name = pattern.removeprefix("*").lstrip(".")
    if not name:
        return False
    try:
        address = ip_address(host)
    except ValueError:
        return host == name or host.endswith(f".{name}")
    try:
        return address in ip_network(name.strip("[]"), strict=False)
    except ValueError:
        return False
