"""Which HTTP proxy leads to the server: `HTTPS_PROXY` and `NO_PROXY`, in capitals or not, as elsewhere."""

import ipaddress
from collections.abc import Mapping

from wardround.errors import LocalError

__all__ = ["proxy_for", "split_target"]


def split_target(target: str) -> tuple[str, int]:
    """Host and port of `host:port` or `[address]:port`. Raises LocalError for anything else."""
    host, separator, port = target.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not separator or not bare or (":" in bare and bare is host) or not port.isdecimal() or not 0 < int(port) < 65536:
        raise LocalError(f"server: expected an address like fl.example.org:8444, got {target!r}")
    return bare, int(port)


def proxy_for(target: str, environment: Mapping[str, str]) -> str | None:
    """The proxy, `http://[user:password@]host:port`, for this target; None to connect directly.

    Small letters win where both are set. Raises LocalError for what is no HTTP proxy: an error that names the variable,
    not its value, which may hold a password.
    """
    host, port = split_target(target)
    name, value = _first(environment, "https_proxy", "HTTPS_PROXY")
    if not value or _is_excepted(host, port, _first(environment, "no_proxy", "NO_PROXY")[1]):
        return None
    scheme, separator, rest = value.partition("://")
    if not separator:
        scheme, rest = "http", value
    rest = rest.rstrip("/")
    try:
        split_target(rest.rpartition("@")[2])
    except LocalError:
        rest = ""
    if scheme.lower() != "http" or not rest:
        raise LocalError(f"{name}: expected http://HOST:PORT or http://USER:PASSWORD@HOST:PORT, got something else")
    return f"http://{rest}"


def _first(environment: Mapping[str, str], *names: str) -> tuple[str, str]:
    return next(((name, environment[name].strip()) for name in names if name in environment), (names[-1], ""))


def _is_excepted(host: str, port: int, exceptions: str) -> bool:
    name = host.lower().rstrip(".")
    for entry in exceptions.lower().replace(",", " ").split():
        if entry == "*" or entry == f"{name}:{port}":
            return True
        if "/" in entry:
            if _is_within(name, entry):
                return True
            continue
        suffix = entry.removeprefix("*").strip(".[]")
        if suffix and (name == suffix or name.endswith("." + suffix)):
            return True
    return False


def _is_within(host: str, network: str) -> bool:
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False
