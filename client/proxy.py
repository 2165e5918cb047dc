"""The proxy that the environment names for a host: `HTTPS_PROXY` and `NO_PROXY`, in capitals or not, as elsewhere."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from urllib.parse import quote, unquote, urlsplit

from wardround.errors import LocalError

__all__ = ["Proxy", "proxy_for"]

_DEFAULT_PORT = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxy:
    """An HTTP proxy that takes CONNECT; `login` is USER:PASSWORD, where it needs one."""

    host: str
    port: int
    login: str | None = field(default=None, repr=False)

    @property
    def authorization(self) -> str | None:
        """The value of Proxy-Authorization."""
        return None if self.login is None else f"Basic {base64.b64encode(self.login.encode()).decode()}"

    @property
    def url(self) -> str:
        """As gRPC takes it: `http://[USER:PASSWORD@]HOST:PORT`, with what is special in a login escaped."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        if self.login is None:
            return f"http://{host}:{self.port}"
        user, _, password = self.login.partition(":")
        return f"http://{quote(user, safe='')}:{quote(password, safe='')}@{host}:{self.port}"


def proxy_for(host: str, port: int, environment: Mapping[str, str]) -> Proxy | None:
    """The proxy for connections to `host` and `port`; None to connect directly.

    Small letters win where both are set, also to nothing. A proxy without a port is at 80. `no_proxy` lists, with
    commas or spaces: `*`, addresses, networks (10.0.0.0/8), and names, which stand for all below them; one with a port
    stands for that port alone. Raises LocalError for what is no HTTP proxy: an error that names the variable, not its
    value, which may hold a password.
    """
    name, text = _first(environment, "https_proxy", "HTTPS_PROXY")
    exceptions = _first(environment, "no_proxy", "NO_PROXY")[1].lower().replace(",", " ").split()
    if not text or any(_covers(one, host.lower().rstrip("."), port) for one in exceptions):
        return None
    found = _read(text)
    if found is None:
        raise LocalError(f"{name}: expected http://HOST:PORT or http://USER:PASSWORD@HOST:PORT, got something else")
    return found


def _first(environment: Mapping[str, str], *names: str) -> tuple[str, str]:
    return next(((name, environment[name].strip()) for name in names if name in environment), (names[-1], ""))


def _read(text: str) -> Proxy | None:
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        port = _DEFAULT_PORT if parts.port is None else parts.port
    except ValueError:  # brackets that do not fit, or no port
        return None
    if (
        parts.scheme != "http"
        or not parts.hostname
        or not port
        or parts.path.strip("/")
        or parts.query
        or parts.fragment
    ):
        return None
    login = None if parts.username is None else f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return Proxy(host=parts.hostname, port=port, login=login)


def _covers(pattern: str, host: str, port: int) -> bool:
    if pattern == "*":
        return True
    where, separator, number = pattern.rpartition(":")
    if separator and number.isdecimal() and (":" not in where or where.endswith("]")):
        if int(number) != port:
            return False
        pattern = where
    name = pattern.removeprefix("*").strip(".[]")
    if not name:
        return False
    try:
        address = ip_address(host)
    except ValueError:
        return host == name or host.endswith(f".{name}")
    try:
        return address in ip_network(name, strict=False)
    except ValueError:  # a part of an address is no name above it
        return False
