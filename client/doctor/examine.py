"""All that `wardround client doctor` looks at, in order."""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path

from wardround.client.doctor.advisories import check_advisories
from wardround.client.doctor.finding import Finding, problem
from wardround.client.doctor.machine import check_confinement, check_machine
from wardround.client.doctor.network import check_network
from wardround.client.doctor.site_state import (
    check_agent,
    check_disk,
    check_folder,
    check_ledgers,
    check_site,
    folder_of,
)
from wardround.client.doctor.situation import Address, Situation, address_of, link_beside
from wardround.client.doctor.versions import check_extras, check_job_python, check_versions
from wardround.client.link.target import split_target
from wardround.clock import utc_now
from wardround.errors import WardroundError
from wardround.tls_identity import der_of

__all__ = ["CHECKS", "examine"]

CHECKS: dict[str, Callable[[Situation], Iterable[Finding]]] = {
    "versions": check_versions,
    "extras": check_extras,
    "machine": check_machine,
    "folder": check_folder,
    "disk": check_disk,
    "site": check_site,
    "agent": check_agent,
    "ledger": check_ledgers,
    "network": check_network,
    "job python": check_job_python,
    "confinement": check_confinement,
    "advisories": check_advisories,
}


def examine(
    path: Path,
    environment: Mapping[str, str],
    *,
    server: str | None = None,
    link: str | None = None,
    job_python: Path | None = None,
    now: Callable[[], datetime] = utc_now,
    timeout_s: float = 10.0,
) -> Iterator[Finding]:
    """What there is to say of the site in `path`, as it is found; before it has joined, of the way to `server` (a URL).

    Raises LocalError for addresses that are none. What fails is a finding, and the next is looked at.
    """
    address = None if server is None else address_of(server)
    if link is not None:
        split_target(link)
    return _examined(path, environment, address, link, job_python, now, timeout_s)


def _examined(
    path: Path,
    environment: Mapping[str, str],
    server: Address | None,
    link: str | None,
    job_python: Path | None,
    now: Callable[[], datetime],
    timeout_s: float,
) -> Iterator[Finding]:
    folder, authority = None, None
    try:
        folder = folder_of(path)
        if folder is not None:
            authority = der_of(folder.read("tls-authority.pem"))
            link = link or (folder.facts.target if server is None else None)
            server = server or address_of(folder.facts.url)
        elif server is None:
            why = "join, or name a server with --server URL to look at the way there"
            yield problem("site", f"{path}: no site has joined here that this user may use", why)
    except (WardroundError, OSError) as error:
        yield problem("site", str(error), "restore it from a copy")
    situation = Situation(
        path=path,
        folder=folder,
        server=server,
        link=None if server is None else link_beside(server, link),
        authority=authority,
        python=sys.executable if job_python is None else str(job_python),
        environment=environment,
        now=now,
        timeout_s=timeout_s,
    )
    for name, check in CHECKS.items():
        try:
            yield from check(situation)
        except (WardroundError, OSError) as error:
            yield problem(name, str(error), "see docs/install.md")
