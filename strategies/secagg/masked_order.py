"""An order to a cohort under secure aggregation: one committee's round after another, and what comes of it."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from wardround import _flower
from wardround.contribution import Contribution
from wardround.errors import RemoteError
from wardround.orders import Order, OrderKind, SiteId
from wardround.plan import Plan
from wardround.signing_key import SigningKey
from wardround.strategies.composition import least_replies
from wardround.strategies.protection import MESSAGE_TYPES
from wardround.strategies.secagg.cohort import Cohort
from wardround.strategies.secagg.encoding import Encoding
from wardround.strategies.secagg.exchange import Exchange
from wardround.strategies.secagg.group_mean import group_mean
from wardround.strategies.secagg.lane import lane_size, model_digest, order_digest, rotation_seed
from wardround.strategies.secagg.messages import Descriptor, Task, encode
from wardround.strategies.secagg.phases import ServerRoundPhase
from wardround.strategies.secagg.plan_terms import encoding_of
from wardround.strategies.secagg.round_evidence import Stage
from wardround.strategies.secagg.round_setting import RoundMachine, RoundSetting
from wardround.strategies.secagg.server_epoch import Federation
from wardround.strategies.secagg.server_round import ServerRound
from wardround.strategies.secagg.wire import Record
from wardround.tally import TallySpec, encode_spec

__all__ = ["MaskedOrder"]

_LASTS = timedelta(hours=12)
"""Of a round whose plan sets no deadline."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskedOrder:
    """Round `number` of an epoch, in which `order` is answered. `bad_dealers` grows by those who are proven bad.

    `begin` makes the machine of a committee's round.
    """

    plan: Plan
    federation: Federation
    signing_key: SigningKey
    cohort: Cohort
    number: int
    order: Order
    model: bytes | None
    spec: TallySpec
    bad_dealers: set[SiteId]
    now: Callable[[], datetime]
    begin: Callable[[RoundSetting, Descriptor], RoundMachine] = ServerRound.begin

    def contributions(self, exchange: Exchange, committee: int) -> Iterator[Contribution]:
        """The sums of one committee's groups, as means of their survivors; none of a group that gives no sum."""
        machine = self.begin(self._setting(committee), self._descriptor())
        self._run(exchange, machine, committee)
        if machine.abort is not None:
            abort = machine.abort
            exchange.evidence.abort(abort.cause.name, abort.parties, abort.reason)
        self.bad_dealers.update(self._names(machine.bad_dealers))
        results = {result.group: result for result in machine.results}
        for group in self.cohort.groups_in(committee):
            members = self._names(self.cohort.groups[group])
            if group not in results:
                exchange.evidence.group(group, members, ())
                why = "its group gave no sum" if machine.abort is None else f"no sum: {machine.abort.reason}"
                exchange.excuse(members, why)
                continue
            found = results[group]
            survivors = self._names(found.members)
            try:
                contribution = group_mean(
                    self.plan, self.order.kind, self.spec, self._encoding, survivors, found.vector, found.scalars
                )
            except RemoteError as error:
                exchange.evidence.group(group, members, ())
                exchange.excuse(members, f"rejected: its group's counts: {error}")
                continue
            exchange.evidence.group(group, members, survivors)
            exchange.clear(survivors)
            yield contribution
        machine.end()

    def _run(self, exchange: Exchange, machine: RoundMachine, committee: int) -> None:
        """From the order to sums or an abort."""

        def take(site: SiteId, message: Record) -> object:
            return machine.receive(site, message, self.now())

        group = str(self.order.round)
        begun, spec, data = machine.outgoing(), encode_spec(self.spec), self.order.encode()
        frame, asked = encode(begun[0].message), {one.receiver for one in begun}
        content = _flower.pack_order(data, self.model, frame, spec)
        size = len(data) + len(frame) + len(spec) + len(self.model or b"")
        there = [name for name in self._names(self.cohort.holders(committee)) if name in exchange.nodes]
        holders = [name for name in there if name in asked]
        exchange.excuse([name for name in there if name not in asked], "takes no part in this epoch")
        exchange.order(Stage.UPDATE, holders, content, size, MESSAGE_TYPES[self.order.kind], group, take)
        machine.close()
        for phase, stage in (
            (ServerRoundPhase.SIGNATURES, Stage.SIGNATURE),
            (ServerRoundPhase.OPENINGS, Stage.OPENING),
        ):
            while machine.phase is phase:
                exchange.send(stage, machine.outgoing(), group, take)
                if machine.phase is phase:
                    machine.close()
        if machine.phase is ServerRoundPhase.DONE:
            told = [one for one in machine.outgoing() if one.receiver not in exchange.evidence.lost]
            exchange.send(Stage.OPENING, told, group, take, answered=False)

    def _setting(self, committee: int) -> RoundSetting:
        names = self.cohort.names
        return RoundSetting(
            cohort=self.cohort,
            committee=committee,
            size=0 if self._encoding is None else self._encoding.length,
            scalars=lane_size(self.plan, self.order.kind, self.spec),
            least_groups=self._least_groups,
            signing_key=self.signing_key,
            store=self.federation.store,
            excluded=frozenset(member for member, name in enumerate(names) if name in self.bad_dealers),
        )

    def _descriptor(self) -> Descriptor:
        seconds = self.plan.cohort.deadline_s
        lasts = _LASTS if seconds is None else timedelta(seconds=seconds)
        return Descriptor(
            run=self.cohort.run,
            epoch=self.cohort.epoch,
            round=self.number,
            task=Task.FIT if self.order.kind is OrderKind.FIT else Task.EVALUATE,
            model=model_digest(self.order),
            order=order_digest(self.order, encode_spec(self.spec)),
            roster=self.cohort.roster,
            group_table=self.cohort.group_table,
            deadline_ms=int((self.now() + lasts).timestamp() * 1000),
        )

    @property
    def _least_groups(self) -> int:
        """So many sums a training needs; of several committees none knows what the others have."""
        if self.order.kind is not OrderKind.FIT or len(self.cohort.committees) > 1:
            return 1
        return max(1, least_replies(self.plan))

    @property
    def _encoding(self) -> Encoding | None:
        """How the updates of this order are encoded; None where none is asked for."""
        if self.order.kind is not OrderKind.FIT:
            return None
        return encoding_of(self.plan, len(self.model or b"") // 4, seed=rotation_seed(self.order))

    def _names(self, members: Iterable[int]) -> tuple[SiteId, ...]:
        return tuple(SiteId(self.cohort.names[member]) for member in members)
