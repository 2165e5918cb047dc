"""The site's policy for one run: asked when it is approved, before its data are read, and before every order."""

import logging
import os
from datetime import datetime
from typing import TYPE_CHECKING

from wardround.client.agent.data_registry import DataSet
from wardround.client.agent.member_pins import MemberPins
from wardround.client.agent.plan_store import StoredOffer
from wardround.client.agent.policy_file import PolicyFile
from wardround.client.agent.site_folder import SiteFolder
from wardround.client.guard.policy import SitePolicy
from wardround.client.guard.policy_check import DataFacts, RunFacts, check_order, violations
from wardround.client.guard.violation import NotNowError, PolicyError
from wardround.decoding import PlanError
from wardround.errors import LocalError
from wardround.orders import OrderKind, SiteId
from wardround.plan import Plan

if TYPE_CHECKING:
    from wardround.strategies.privacy.claim import Claim

__all__ = ["RunPolicy", "claim_on", "data_facts", "run_facts"]

_log = logging.getLogger("wardround")


def run_facts(folder: SiteFolder, offer: StoredOffer) -> RunFacts:
    """What the offer says of the other members, and which of their keys are accepted."""
    members = {one.name: one.fingerprint for one in offer.sites if one.name != folder.name}
    return RunFacts(members=members, pinned=MemberPins(folder).pinned())


def data_facts(
    policy: SitePolicy, data: DataSet, plan: Plan, offer: StoredOffer, *, units: int | None, rows: int | None
) -> DataFacts:
    """What `policy` asks of the data; `units` and `rows` are those that the job found, once it has read them."""
    return DataFacts(
        name=data.name,
        rows=data.rows if rows is None else min(rows, data.rows),
        has_schema=data.schema is not None,
        claim=claim_on(plan, offer.size, units) if policy.limits_claim(data.name) else None,
    )


def claim_on(plan: Plan, size: int, units: int | None) -> "Claim | None":
    """What the plan claims at this site; None without privacy, and while that depends on `units` and they are unknown.

    `size`: parameters of the model. Raises PlanError for a claim that cannot be met with these data.
    """
    from wardround.strategies.privacy.claim import claims_of

    here = {SiteId(""): units} if units is not None and plan.privacy.per_example else None
    try:
        found = claims_of(plan, here, num_parameters=size)
    except PlanError:
        raise
    except LocalError:  # epsilon depends on how many units there are
        return None
    return found[0] if found else None


class RunPolicy:
    """The policy of the site of `folder` for a run as it was offered.

    What was checked is not checked again until the policy or the accepted keys change.
    """

    __slots__ = ("_file", "_fits", "_folder")

    def __init__(self, folder: SiteFolder) -> None:
        self._folder, self._file = folder, PolicyFile(folder)
        self._fits: tuple[object, ...] | None = None

    @property
    def changed(self) -> bool:
        """Whether there is anything to check since `check` found nothing wrong."""
        return self._fits != self._stamp()

    def check(
        self, plan: Plan, offer: StoredOffer, data: DataSet, *, units: int | None = None, rows: int | None = None
    ) -> None:
        """Raise PolicyError, which lists every rule, where the run is not allowed on these data."""
        stamp, policy = self._stamp(), self._read()
        self._fits = None
        known = data_facts(policy, data, plan, offer, units=units, rows=rows)
        if found := violations(policy, plan, run_facts(self._folder, offer), known):
            raise PolicyError(found)
        self._fits = stamp

    def check_order(self, plan: Plan, kind: OrderKind) -> None:
        """Raise PolicyError for an order that is never allowed."""
        check_order(self._read(), plan, kind)

    def check_hours(self, now: datetime) -> None:
        """Raise NotNowError outside the site's hours."""
        policy = self._read()
        if not policy.open_at(now):
            windows = ", ".join(policy.hours)
            raise NotNowError(f"the site's policy: hours (this site works {windows}, {policy.time_zone}); ask later")

    def _read(self) -> SitePolicy:
        try:
            return self._file.read()
        except LocalError as error:
            _log.error("%s; nothing is done until that is mended", error)
            raise NotNowError("the site's policy cannot be read; ask later") from None

    def _stamp(self) -> tuple[object, ...]:
        try:
            pins = os.stat(self._folder.path / "pins").st_mtime_ns
        except OSError:
            pins = 0
        return (*self._file.stamp(), pins)
