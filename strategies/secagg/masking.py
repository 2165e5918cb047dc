"""The server's side of secure aggregation over any Flower Grid: epochs, rounds, and sums of groups as contributions."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from flwr.serverapp import Grid

from wardround.contribution import Contribution
from wardround.errors import LocalError
from wardround.orders import Order, OrderKind, SiteId
from wardround.plan import Plan
from wardround.signing_key import SigningKey
from wardround.strategies.records import Absence
from wardround.strategies.secagg.client_round import ROUNDS
from wardround.strategies.secagg.cohort import Cohort
from wardround.strategies.secagg.exchange import Exchange
from wardround.strategies.secagg.masked_order import MaskedOrder
from wardround.strategies.secagg.messages import EpochStart
from wardround.strategies.secagg.parameters import Tables
from wardround.strategies.secagg.phases import Outgoing, RefusedError, ServerEpochPhase
from wardround.strategies.secagg.round_evidence import ProtectionRecord, Stage
from wardround.strategies.secagg.server_epoch import Federation, ServerEpoch
from wardround.strategies.secagg.wire import Record
from wardround.tally import TallySpec

__all__ = ["Masking"]

_LASTS = timedelta(hours=12)
"""Of an epoch: half of what members allow, so that a round that begins in it ends in time."""
_ATTEMPTS = 3
"""Epochs that are tried one after another, each without those who kept the one before from being ready."""


def utc_now() -> datetime:
    return datetime.now(UTC)


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
    messages of one are in memory at a time. Raises LocalError where no epoch becomes ready.
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
        self._bad_dealers: set[SiteId] = set()
        self._unheard: list[Outgoing] = []
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
        epoch = self._ready_epoch(exchange, order.kind)
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
        )
        for committee in epoch.cohort.committees:
            yield from work.contributions(exchange, committee)
        self._absences = tuple(exchange.absences.values())
        self._record = exchange.evidence.record(epoch=epoch.cohort.epoch, round=number)

    def _ready_epoch(self, exchange: Exchange, kind: OrderKind) -> _Epoch:
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
            asked = frozenset(self._nodes)
            self._epoch = epoch = _Epoch(cohort=self.begin_epoch(exchange), asked=asked, until=until)
        return epoch

    def begin_epoch(self, exchange: Exchange) -> Cohort:
        """The cohort of a new epoch, by the protocol. A simulation of very many sites makes it in another way."""
        silent: set[SiteId] = set()
        for _ in range(_ATTEMPTS):
            machine = ServerEpoch(self._federation, self.next_epoch())
            call = EpochStart(run=self._federation.run, epoch=machine.epoch)
            try:
                self._send(exchange, machine, [Outgoing(site, call) for site in self._nodes if site not in silent])
                shown = machine.close()
                signed = self._send(exchange, machine, shown)
                if machine.phase is ServerEpochPhase.SIGNATURES:
                    machine.close()
            except RefusedError as error:
                if machine.phase is ServerEpochPhase.HELLOS:
                    raise LocalError(f"epoch {machine.epoch}: {error}; {_first_reason(exchange)}") from None
                exchange.evidence.abort(error.cause.name, [] if error.party is None else [error.party], str(error))
                silent |= {SiteId(str(one.receiver)) for one in shown} - signed
                continue
            self._unheard = machine.outgoing()
            self._make_heard(exchange)
            return machine.cohort
        raise LocalError(f"expected one of {_ATTEMPTS} epochs to be ready, got none; {_first_reason(exchange)}")

    def _make_heard(self, exchange: Exchange) -> None:
        """Send what made the epoch ready to those who have not taken it yet.

        Where groups were drawn, a site that never gets it does not know its group, and is out for the run.
        """
        heard = exchange.send(Stage.EPOCH, self._unheard, "epoch", lambda site, message: None, answered=False)
        self._unheard = [one for one in self._unheard if one.receiver not in heard]

    def _send(self, exchange: Exchange, machine: ServerEpoch, outgoing: Sequence[Outgoing]) -> set[SiteId]:
        """Who answered the messages of an epoch in order."""

        def take(site: SiteId, message: Record) -> object:
            return machine.receive(site, message, self._now())

        return exchange.send(Stage.EPOCH, outgoing, "epoch", take)

    def next_epoch(self) -> int:
        """A number above all before, durably."""
        store, key = self._federation.store, f"secagg-server/{self._federation.run}/epoch"
        stored = store.get(key)
        number = 0 if stored is None else int(stored) + 1
        store.put(key, str(number).encode())
        return number


def _first_reason(exchange: Exchange) -> str:
    said = [f"{one.site}: {one.reason}" for one in exchange.absences.values() if one.failed]
    return said[0] if said else "no site said why"
