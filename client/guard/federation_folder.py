"""A federation on one machine, to try secure aggregation: what its parties do by themselves, done for all of them."""

import os
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from wardround.client.guard.enrolment_folder import EnrolmentFolder
from wardround.clock import utc_now
from wardround.errors import LocalError
from wardround.identity import issue_certificate, issue_revocations, make_authority
from wardround.plan import Plan
from wardround.strategies.secagg.identity_folder import IdentityFolder

__all__ = ["make_federation"]

_VALID_FOR = timedelta(days=365)
_EARLIER = timedelta(hours=1)
"""Clocks differ."""


def make_federation(
    path: str | Path, names: Sequence[str], plan: Plan, *, now: Callable[[], datetime] = utc_now
) -> tuple[IdentityFolder, list[EnrolmentFolder]]:
    """The server's folder and those of sites with these names, in `path`: enrolled, pinned and with the plan approved.

    Whoever makes all keys knows them all, so that this hides nothing from anybody: hospitals make their own key each,
    and compare fingerprints by telephone. Raises LocalError where `path` exists.
    """
    path = Path(path)
    if path.exists():
        raise LocalError(f"{path}: expected a new folder; keys are never overwritten")
    path.mkdir(parents=True, mode=0o700)
    start, end = now() - _EARLIER, now() + _VALID_FOR
    root = IdentityFolder.make(path / "authority", "authority")
    authority = make_authority(root.signing_key, "authority", not_before=start, not_after=end, random=os.urandom)
    revocations = issue_revocations(authority, root.signing_key, serials=(), number=1, now=start, valid_for=_VALID_FOR)
    root.trust(authority, revocations)
    server = IdentityFolder.make(path / "server", "server")
    server.trust(authority, revocations)
    server.approve(plan)
    sites = [EnrolmentFolder.make(path / name, name, now=now) for name in names]
    for site in sites:
        public = site.folder.signing_key.public
        certificate = issue_certificate(
            authority,
            root.signing_key,
            name=site.site,
            public=public,
            not_before=start,
            not_after=end,
            random=os.urandom,
        )
        site.join(
            authority=authority,
            revocations=revocations,
            certificate=certificate,
            server=server.signing_key.public,
        )
        site.approve(plan)
        for other in sites:
            if other is not site:
                site.accept(other.site, other.folder.fingerprint, by="wardround secagg enrol")
    return server, sites
