"""What is examined: a site's folder, or before it has joined the way to a server alone."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from wardround.client.agent.site_folder import SiteFolder
from wardround.client.link.target import split_target
from wardround.errors import LocalError
from wardround.invitation import canonical_url, host_and_port

__all__ = ["Address", "Situation", "address_of", "link_beside"]

Address = tuple[str, int]
"""Host and port."""
_HTTPS, _LINK = 443, 8444


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """`path` is the site's folder, `folder` the same where a site has joined and this user may use it.

    `server` is where people and `join` call, `link` where the agent does; None where that is not known. `authority` is
    the certificate (DER) of the federation's TLS authority, as it was pinned when the site joined. `python` is that of
    jobs.
    """

    path: Path
    folder: SiteFolder | None
    server: Address | None
    link: Address | None
    authority: bytes | None
    python: str
    environment: Mapping[str, str]
    now: Callable[[], datetime]
    timeout_s: float = 10.0
    """For each connection."""


def address_of(url: str) -> Address:
    """Host and port of a server's URL. Raises LocalError for anything else, without repeating it: it may be an
    invitation."""
    if "#" in url:
        raise LocalError("server: expected https://HOST:PORT alone, got something with #; leave out what begins there")
    try:
        return host_and_port(canonical_url(url))
    except ValueError as error:
        raise LocalError(f"server: {error}") from None


def link_beside(server: Address, link: str | None) -> Address:
    """Where agents attach: `link` (HOST:PORT) where it is given, else the usual port of the same host.

    Behind a proxy on 443 both have one port.
    """
    if link is not None:
        return split_target(link)
    host, port = server
    return host, port if port == _HTTPS else _LINK
