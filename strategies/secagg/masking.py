"""The server's side of secure aggregation over any Flower Grid: epochs, rounds, and sums of groups as contributions."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from flwr.serverapp import Grid

from wardround.clock import utc_now
from wardround.contribution import Contribution
from wardround.errors import LocalError
from wardround.identity import Revocations
from wardround.orders import Order, OrderKind, SiteId
from wardround.plan import Plan
from wardround.signing_key import SigningKey
from wardround.strategies.records import Absence
from wardround.strategies.secagg.client_round import ROUNDS
from wardround.strategies.secagg.cohort import Cohort
from wardround.strategies.secagg.exchange import Exchange
from wardround.strategies.secagg.masked_order import MaskedOrder
from wardround.strategies.secagg.messages import Descriptor, EpochStart
from wardround.strategies.secagg.parameters import Tables
from wardround.strategies.secagg.phases import Outgoing, RefusedError, ServerEpochPhase
from wardround.strategies.secagg.round_evidence import ProtectionRecord, Stage
from wardround.strategies.secagg.round_setting import RoundMachine, RoundSetting
from wardround.strategies.secagg.server_epoch import Federation, ServerEpoch
from wardround.strategies.secagg.server_round import ServerRound
from wardround.strategies.secagg.wire import Record
from wardround.tally import TallySpec

__all__ = ["Masking"]

_LASTS = timedelta(hours=12)
"""Of an epoch: half of what members allow, so that a round that begins in it ends in time."""
_ACCIDENTS, _MOST_ATTEMPTS = 2, 8
"""Epochs are tried one after another, each without those who kept the one before from being ready: one more than there
may be colluders and accidents, but no more draws than members take part in within a day."""
_FORGIVEN = 3
"""So many epochs a site may hold up before it is left out of all others: a plan's draws are counted."""


@dataclass(slots=True, kw_only=True)
class _Epoch:
    """An epoch that is ready, begun for the sites `asked`; `rounds` of it are used, `fits` of them for training."""

    cohort: Cohort
    asked: frozenset[SiteId]
    until: datetime
    rounds: int = 0
    fits: int = 0


class Masking:
    """A `Protection` by the protocol of `strategies/secagg`: each group's sum is a contribution of its survivors.

    `specs` says what is counted in answer to each kind of order, which the sites check. An epoch begins when one is
    needed: at first, when the cohort changes, after 100 rounds or half a day, and before each training where a plan
    draws groups for each round. Committees of more than 255 sites run their rounds one after another, so that the
    messages of one are in memory at a time. Where no epoch becomes ready there is no sum, and the record says why: a
    site that is away for a while ends no run. Who was proven a bad dealer, and who held epochs up, is kept in the
    federation's store, under `secagg-server/<run>/conduct`: a server that was started again does not forget it.
    """

    def __init__(
        self,
        plan: Plan,
        federation: Federation,
        signing_key: SigningKey,
        *,
        specs: Mapping[OrderKind, TallySpec],
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._plan, self._federation, self._signing_key = plan, federation, signing_key
        self._specs, self._now = specs, now
        self._nodes: dict[SiteId, int] = {}
        self._epoch: _Epoch | None = None
        self._absences: tuple[Absence, ...] = ()
        self._bad_dealers, self._held_up = self._conduct()
        self._unheard: list[Outgoing] = []
        self._last_epoch = 0
        self._record: ProtectionRecord | None = None

    @property
    def absences(self) -> Sequence[Absence]:
        return self._absences

    @property
    def record(self) -> ProtectionRecord | None:
        return self._record

    def open(self, grid: Grid, cohort: Mapping[SiteId, int]) -> None:
        """Remember who takes part; keys are agreed on when an order is sent."""
        self._nodes = dict(cohort)

    def collect(self, grid: Grid, order: Order, model: bytes | None = None) -> Iterator[Contribution]:
        """A contribution for each group that gives a sum; sites that are in none become absences."""
        exchange = Exchange(grid, self._nodes, self._plan.cohort.deadline_s)
        self._absences, self._record = (), None
        epoch = self._ready_epoch(exchange, order.kind)
        if epoch is None:
            exchange.excuse(self._nodes, "no epoch was ready")
            self._absences = tuple(exchange.absences.values())
            self._record = exchange.evidence.record(epoch=self._last_epoch, round=0)
            return
        number = epoch.rounds
        epoch.rounds += 1
        epoch.fits += order.kind is OrderKind.FIT
        work = MaskedOrder(
            plan=self._plan,
            federation=self._federation,
            signing_key=self._signing_key,
            cohort=epoch.cohort,
            number=number,
            order=order,
            model=model,
            spec=self._specs[order.kind],
            bad_dealers=self._bad_dealers,
            now=self._now,
            begin=self.machine_of(order, model),
        )
        known = len(self._bad_dealers)
        for committee in epoch.cohort.committees:
            yield from work.contributions(exchange, committee)
        if len(self._bad_dealers) > known:
            self._keep_conduct()
        self._absences = tuple(exchange.absences.values())
        self._record = exchange.evidence.record(epoch=epoch.cohort.epoch, round=number, scheme=self.scheme)

    def _ready_epoch(self, exchange: Exchange, kind: OrderKind) -> _Epoch | None:
        epoch, drawn_anew = self._epoch, self._federation.parameters.tables is Tables.EACH_ROUND
        self._make_heard(exchange)
        if (
            epoch is None
            or epoch.asked != frozenset(self._nodes)
            or epoch.rounds >= ROUNDS
            or self._now() >= epoch.until
            or (drawn_anew and kind is OrderKind.FIT and epoch.fits)
        ):
            self._epoch, until = None, self._now() + _LASTS
            if (cohort := self.begin_epoch(exchange)) is not None:
                self._epoch = _Epoch(cohort=cohort, asked=frozenset(self._nodes), until=until)
        return self._epoch

    @property
    def scheme(self) -> str:
        """What a round's record says of how updates were hidden; nothing where it is masks."""
        return ""

    def machine_of(self, order: Order, model: bytes | None) -> Callable[[RoundSetting, Descriptor], RoundMachine]:
        """What makes the machine of a committee's round."""
        return ServerRound.begin

    def end_epoch(self) -> None:
        """Have the next order begin another one."""
        self._epoch = None

    def begin_epoch(self, exchange: Exchange) -> Cohort | None:
        """The cohort of a new epoch, by the protocol. A simulation of very many sites makes it in another way."""
        silent = {site for site, times in self._held_up.items() if times >= _FORGIVEN}
        if len(self._nodes.keys() - silent) < self._federation.parameters.min_roster:
            silent = set()
        for _ in range(min(_MOST_ATTEMPTS, self._federation.parameters.colluding + 1 + _ACCIDENTS)):
            machine = ServerEpoch(self._federation, self.next_epoch())
            call = EpochStart(run=self._federation.run, epoch=machine.epoch)
            try:
                self._send(exchange, machine, [Outgoing(site, call) for site in self._nodes if site not in silent])
                shown = machine.close()
                signed = self._send(exchange, machine, shown)
                if machine.phase is ServerEpochPhase.SIGNATURES:
                    machine.close()
            except RefusedError as error:
                parties = [error.party] if error.party is not None else list(exchange.evidence.lost)[:1]
                exchange.evidence.abort(error.cause.name, parties, f"epoch {machine.epoch}: {error}")
                if machine.phase is ServerEpochPhase.HELLOS:
                    return None
                held_up = {SiteId(str(one.receiver)) for one in shown} - signed
                self._held_up.update(held_up)
                silent |= held_up
                self._keep_conduct()
                continue
            self._unheard = machine.outgoing()
            self._make_heard(exchange)
            return machine.cohort
        return None

    def _make_heard(self, exchange: Exchange) -> None:
        """Send what made the epoch ready to those who have not taken it yet.

        Where groups were drawn, a site that never gets it does not know its group, and is out for the run.
        """
        heard = exchange.send(Stage.EPOCH, self._unheard, Stage.EPOCH.value, lambda site, message: None, answered=False)
        self._unheard = [one for one in self._unheard if one.receiver not in heard]

    def _send(self, exchange: Exchange, machine: ServerEpoch, outgoing: Sequence[Outgoing]) -> set[SiteId]:
        """Who answered the messages of an epoch in order."""

        def take(site: SiteId, message: Record) -> object:
            return machine.receive(site, message, self._now())

        return exchange.send(Stage.EPOCH, outgoing, Stage.EPOCH.value, take)

    def renew(self, revocations: Revocations) -> None:
        """Hold members of the next epochs to this list."""
        self._federation = replace(self._federation, revocations=revocations)

    @property
    def _conduct_key(self) -> str:
        return f"secagg-server/{self._federation.run}/conduct"

    def _conduct(self) -> tuple[set[SiteId], Counter[SiteId]]:
        """Bad dealers, and how often each site held an epoch up, as the store knows them."""
        stored = self._federation.store.get(self._conduct_key)
        if stored is None:
            return set(), Counter()
        try:
            kept = json.loads(stored)
            held_up = {SiteId(site): int(times) for site, times in kept["held_up"].items()}
            return {SiteId(site) for site in kept["bad_dealers"]}, Counter(held_up)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise LocalError(f"{self._conduct_key}: expected what this server kept ({error}); restore it") from None

    def _keep_conduct(self) -> None:
        kept = {"bad_dealers": sorted(self._bad_dealers), "held_up": dict(sorted(self._held_up.items()))}
        self._federation.store.put(self._conduct_key, json.dumps(kept).encode())

    def next_epoch(self) -> int:
        """A number above all before, durably."""
        store, key = self._federation.store, f"secagg-server/{self._federation.run}/epoch"
        stored = store.get(key)
        number = 0 if stored is None else int(stored) + 1
        store.put(key, str(number).encode())
        self._last_epoch = number
        return number
