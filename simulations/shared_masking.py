"""Secure aggregation of more sites than one committee holds, where each checking all others' hellos would take n².

Keys, masks, shares, signatures and the machines of rounds are real. What is left out is the epoch: one process makes
everybody's keys and hands out what a checked roster would lead to.
"""

import os
from collections.abc import Mapping
from datetime import UTC, datetime

from wardround.client.guard.member import Member
from wardround.errors import LocalError
from wardround.orders import OrderKind, SiteId
from wardround.plan import Plan
from wardround.simulations.identities import Identities
from wardround.strategies.secagg.cohort import Cohort
from wardround.strategies.secagg.exchange import Exchange
from wardround.strategies.secagg.masking import Masking
from wardround.strategies.secagg.messages import Group, GroupTable, encode
from wardround.strategies.secagg.parameters import Tables
from wardround.strategies.secagg.shared_agreement import shared_agreements
from wardround.tally import TallySpec

__all__ = ["SharedMasking"]


class SharedMasking(Masking):
    """`Masking` whose epochs are agreed on in one place for all `members`; `table`: the groups of a continued run."""

    def __init__(
        self,
        plan: Plan,
        identities: Identities,
        members: Mapping[SiteId, Member],
        *,
        specs: Mapping[OrderKind, TallySpec],
        table: GroupTable | None = None,
    ) -> None:
        super().__init__(plan, identities.federation, identities.server, specs=specs)
        self._identities, self._members, self._table = identities, members, table

    def begin_epoch(self, exchange: Exchange) -> Cohort:
        """A cohort of all who are asked; each of them has its keys, and joins it."""
        ours = self._identities.federation
        names = sorted(exchange.nodes, key=str.encode)
        if len(names) < ours.parameters.min_roster:
            raise LocalError(f"expected at least {ours.parameters.min_roster} sites, got {len(names)}")
        cohort, agreements = shared_agreements(
            ours.parameters,
            ours.run,
            self.next_epoch(),
            names,
            [self._identities.members[name].signing_key.public for name in names],
            os.urandom,
            datetime.now(UTC),
            self._table,
        )
        if self._table is None and ours.parameters.tables is Tables.ONCE:
            groups = tuple(Group(names=tuple(cohort.names[one] for one in group)) for group in cohort.groups)
            self._table = GroupTable(run=ours.run, groups=groups)
            ours.store.put(f"secagg-server/{ours.run}/table", encode(self._table))
        for committee in cohort.committees:
            for member, agreement in agreements(committee).items():
                self._members[SiteId(cohort.names[member])].join(agreement)
        return cohort
