"""Who is who in a simulated federation under secure aggregation: an authority, keys, certificates and pins of all.

The machines are those that hospitals run; only that one process makes every key is different.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from wardround.identity import Authority, Revocations, issue_certificate, make_authority
from wardround.orders import SiteId
from wardround.pins import ApprovedKeys
from wardround.plan import Plan
from wardround.signing_key import SigningKey, fingerprint_of
from wardround.state_store import MemoryStore
from wardround.strategies.secagg.membership import Membership
from wardround.strategies.secagg.messages import GroupTable, encode
from wardround.strategies.secagg.parameters import MAX_COMMITTEE
from wardround.strategies.secagg.plan_terms import parameters_of
from wardround.strategies.secagg.sealed_state import SealedState
from wardround.strategies.secagg.server_epoch import Federation

__all__ = ["Identities", "make_identities"]

_AUTHORITY = "simulated authority"
_VALID = timedelta(days=365)


@dataclass(frozen=True, slots=True, kw_only=True)
class Identities:
    """What the server of a run knows and signs with, and what each of its sites brings."""

    federation: Federation
    server: SigningKey
    members: Mapping[SiteId, Membership]


class _Volatile(MemoryStore):
    """Keeps no masked updates: they are for a restart, which a simulated site never has, and they are large."""

    __slots__ = ()

    def put(self, key: str, value: bytes) -> None:
        if "m1" not in key.split("/"):
            super().put(key, value)


def make_identities(
    plan: Plan,
    sites: Sequence[SiteId],
    *,
    run: str,
    now: datetime,
    table: GroupTable | None = None,
    epoch: int | None = None,
) -> Identities:
    """Fresh keys and certificates for `sites` and the server of `run`; each site accepts the keys of all.

    `table` is the group table of a run that is continued, `epoch` the number of its last epoch. More sites than one
    committee holds have no certificates: nobody checks them (see `shared_masking`).
    """
    valid = {"not_before": now - timedelta(days=1), "not_after": now + _VALID}
    authority_key, server = SigningKey.make(os.urandom), SigningKey.make(os.urandom)
    certificate = make_authority(authority_key, _AUTHORITY, **valid, random=os.urandom)
    authority = Authority(certificate)
    keys = {site: SigningKey.make(os.urandom) for site in sites}
    accepted = ApprovedKeys({site: fingerprint_of(key.public) for site, key in keys.items()})
    revocations = Revocations(number=1, serials=frozenset(), next_update=now + _VALID)
    parameters, digest = parameters_of(plan), bytes.fromhex(plan.digest)

    def certified(name: SiteId, key: SigningKey) -> bytes:
        if len(sites) > MAX_COMMITTEE:
            return b""
        return issue_certificate(certificate, authority_key, name=name, public=key.public, **valid, random=os.urandom)

    def store(at: str) -> MemoryStore:
        kept = _Volatile()
        if table is not None:
            kept.put(f"{at}/{run}/table", encode(table))
        return kept

    members = {
        site: Membership(
            run=run,
            plan=digest,
            parameters=parameters,
            name=site,
            signing_key=key,
            certificate=certified(site, key),
            authority=authority,
            revocations=revocations,
            accepted=accepted,
            server=server.public,
            state=SealedState(store("secagg"), os.urandom(32), os.urandom),
            random=os.urandom,
            noised=plan.privacy.on,
        )
        for site, key in keys.items()
    }
    servers = store("secagg-server")
    if epoch is not None:
        servers.put(f"secagg-server/{run}/epoch", str(epoch).encode())
    federation = Federation(
        run=run,
        plan=digest,
        parameters=parameters,
        authority=authority,
        revocations=revocations,
        store=servers,
        random=os.urandom,
    )
    return Identities(federation=federation, server=server, members=members)
