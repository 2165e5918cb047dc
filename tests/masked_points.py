"""A federation of points behind the real machines of secure aggregation, whose messages a test may change."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import numpy as np
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from tests.federation_of_points import PointTrainer, point_plan
from tests.grid_of_apps import GridOfApps
from wardround import _flower
from wardround.client.app import client_app
from wardround.client.guard.guard import SiteGuard
from wardround.client.guard.member import Member
from wardround.contribution import Contribution
from wardround.orders import Order, OrderKind, SiteId, Split, digest
from wardround.plan import Plan
from wardround.simulations.identities import Identities, make_identities
from wardround.state_store import MemoryStore
from wardround.strategies.privacy.secure_random import SecureRandom
from wardround.strategies.secagg.masking import Masking
from wardround.strategies.secagg.sealed_state import SealedState
from wardround.tally import MeansSpec, TallySpec
from wardround.vector import F32

START = datetime(2026, 1, 5, 12, tzinfo=UTC)
LOSS = MeansSpec(names=("loss",))
SPECS: dict[OrderKind, TallySpec] = {
    OrderKind.FIT: LOSS,
    OrderKind.EVALUATE: LOSS,
    OrderKind.STATISTICS: MeansSpec(),
}

Tamper = Callable[[Message], Message | None]
"""What a site gets instead of a message; None: nothing, and the server no answer."""


def masked_plan(*settings: str, sites: int = 5) -> Plan:
    """By default five sites, of which two may drop out and none colludes."""
    masked = ("protection.mode=masking", "protection.colluding=0", "protection.dropout=0.4")
    return point_plan(*masked, "cohort.weighting=uniform", "clipping.clip_norm=2.0", *settings, sites=sites)


@dataclass
class MaskedPoints:
    """Sites 100, 101, … of a grid; `tamper` sees every message to a site."""

    plan: Plan = field(default_factory=masked_plan)
    tamper: Tamper = lambda message: message
    now: datetime = START

    def __post_init__(self) -> None:
        count = self.plan.simulation.sites
        self.sites = [SiteId(f"site-{i}") for i in range(count)]
        self.identities: Identities = make_identities(self.plan, self.sites, run="run", now=START)
        self.memberships = {  # with stores that keep everything, as a hospital's does
            site: replace(one, state=SealedState(MemoryStore(), bytes(32), os.urandom))
            for site, one in self.identities.members.items()
        }
        rows = np.random.Generator(np.random.Philox(key=2)).normal(size=(count, 4)).astype(np.float32) / 4
        self.trainers = [PointTrainer(row, num_examples=10 + i) for i, row in enumerate(rows)]
        self.members = {site: self.member(site) for site in self.sites}
        self.stores = {site: MemoryStore() for site in self.sites}
        self.apps = {site: self.app(site) for site in self.sites}
        self.grid = GridOfApps(self._deliver, count, {})
        self.server = self.masking()

    def member(self, site: SiteId) -> Member:
        """As it is after a restart: from its store; its draws are those of a fixed seed."""
        seed = site.encode().ljust(32, b".")
        return Member(self.plan, self.memberships[site], now=lambda: self.now, random=SecureRandom(seed))

    def app(self, site: SiteId) -> ClientApp:
        guard = SiteGuard(self.plan, site, self.stores[site], member=self.members[site])
        return client_app(self.trainers[self.sites.index(site)], guard)

    def restart(self, site: SiteId) -> None:
        self.members[site] = self.member(site)
        self.apps[site] = self.app(site)

    def masking(self) -> Masking:
        ours = self.identities
        return Masking(self.plan, ours.federation, ours.server, specs=SPECS, now=lambda: self.now)

    def nodes(self, *without: int) -> dict[SiteId, int]:
        return {site: 100 + i for i, site in enumerate(self.sites) if i not in without}

    def order(self, round_: int = 1, model: F32 | None = None, kind: OrderKind = OrderKind.FIT) -> tuple[Order, bytes]:
        data = (np.zeros(4, dtype=np.float32) if model is None else model).tobytes()
        split = Split.TRAIN if kind is OrderKind.FIT else Split.VALIDATION
        order = Order(
            run_id="run",
            plan_digest=self.plan.digest,
            kind=kind,
            round=round_,
            split=split,
            model_digest=digest(data),
        )
        return order, data

    def collect(self, round_: int = 1, *without: int, kind: OrderKind = OrderKind.FIT) -> list[Contribution]:
        order, data = self.order(round_, np.full(4, round_ / 8, dtype=np.float32), kind)
        self.server.open(self.grid, self.nodes(*without))
        return list(self.server.collect(self.grid, order, data))

    def why(self) -> dict[SiteId, str]:
        return {absence.site: absence.reason for absence in self.server.absences}

    def later(self, **time: float) -> None:
        self.now += timedelta(**time)

    def _deliver(self, message: Message, context: Context) -> Message:
        given = self.tamper(message)
        if given is None:
            return _flower.gone_reply(message, "no answer")
        site = self.sites[message.metadata.dst_node_id - 100]
        return self.apps[site](given, context)


def silent(*stages: tuple[int, int]) -> Tamper:
    """Site i does not answer from the n-th message of a round on: 1 the order, 2 the offer, 3 the request."""
    seen: dict[tuple[int, str], int] = {}

    def tamper(message: Message) -> Message | None:
        node, group = message.metadata.dst_node_id - 100, message.metadata.group_id
        if group == "epoch":
            return message
        seen[node, group] = seen.get((node, group), 0) + 1
        return None if any(node == site and seen[node, group] >= stage for site, stage in stages) else message

    return tamper


def with_content(message: Message, content: RecordDict) -> Message:
    """The message with another content."""
    message.content = content
    return message


def means(contributions: list[Contribution]) -> Iterator[F32]:
    for contribution in contributions:
        yield np.concatenate(list(contribution.vector.chunks()))
