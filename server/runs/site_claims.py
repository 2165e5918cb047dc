"""What the server can say about the privacy of a run whose sites hide their own rows or patients."""

import math
from collections.abc import Callable, Mapping

from wardround.orders import SiteId
from wardround.plan import Plan
from wardround.strategies.federated import PrivacyMeter
from wardround.strategies.privacy.terms import site_terms
from wardround.strategies.records import PrivacyRecord
from wardround.strategies.rules.rule import Memory
from wardround.vector import F32

__all__ = ["site_meter"]


def site_meter(plan: Plan, units: Mapping[SiteId, int | None], begun: Callable[[], int]) -> PrivacyMeter:
    """What each site has spent at most, if it has as many patients or rows as it said when it approved.

    `begun` gives the rounds that were begun, each of which a site may have been charged for. Where a site did not say
    how many it has, nothing bounds the largest epsilon of all, which is then infinite. The ledgers of the sites count
    exactly; this is for people at the server. Raises PlanError for a claim that cannot be met at a site.
    """
    terms = {site: site_terms(plan, count) for site, count in units.items() if count is not None}

    def record(update: F32 | None, memory: Memory) -> PrivacyRecord:
        spent = {site: one.told(min(begun(), one.rounds)) for site, one in terms.items()}
        complete = len(terms) == len(units)
        return PrivacyRecord(
            epsilon=max(spent.values()) if complete else math.inf,
            delta=max((one.delta for one in terms.values()), default=0.0),
            clip_norm=plan.privacy.clip_norm,
            sites=spent,
        )

    return record
