"""No protection: the server sees every update. Each site is a contribution of its own."""

from collections.abc import Iterator, Mapping, Sequence

from flwr.serverapp import Grid

from wardround import _flower
from wardround.contribution import Contribution
from wardround.errors import RemoteError
from wardround.frames import Frame, decode_frame
from wardround.orders import Order, OrderKind, SiteId
from wardround.plain_text import plain_text
from wardround.plan import Plan
from wardround.plan_sections import Weighting
from wardround.strategies.protection import MESSAGE_TYPES
from wardround.strategies.records import Absence
from wardround.vector import MemoryVector

__all__ = ["Plain"]

_MOST_EXAMPLES = 1 << 32


class Plain:
    """Sends an order to each member of the cohort and checks each reply before anything is made of it."""

    record = None

    def __init__(self, plan: Plan) -> None:
        cohort = plan.cohort
        self._plan = plan
        self._weighs = plan.weighting is not Weighting.UNIFORM
        self._max_weight = cohort.weight_cap or _MOST_EXAMPLES
        self._cohort: Mapping[SiteId, int] = {}
        self._absences: dict[SiteId, Absence] = {}

    @property
    def absences(self) -> Sequence[Absence]:
        return tuple(self._absences.values())

    def open(self, grid: Grid, cohort: Mapping[SiteId, int]) -> None:
        """Nothing to agree on: remember who is asked."""
        self._cohort = dict(cohort)

    def collect(self, grid: Grid, order: Order, model: bytes | None = None) -> Iterator[Contribution]:
        """A contribution for each member that answers well; the others become absences."""
        self._absences = {site: Absence(site=site, reason="no reply by the deadline") for site in self._cohort}
        site_of = {node: site for site, node in self._cohort.items()}
        content = _flower.pack_order(order.encode(), model)
        requests = _flower.requests(content, self._cohort.values(), MESSAGE_TYPES[order.kind], str(order.round))
        for message in grid.send_and_receive(requests, timeout=self._plan.cohort.deadline_s):
            site = site_of.get(message.metadata.src_node_id)
            if site is None or site not in self._absences:
                continue
            if message.has_error():
                reason = plain_text(message.error.reason or "") or f"error {message.error.code}"
                self._absences[site] = Absence(
                    site=site, reason=reason, failed=not _flower.is_gone(message), spent=_flower.is_spent(message)
                )
                continue
            try:
                frame = decode_frame(_flower.read_frame(message))
                self._check(frame, order, site)
            except RemoteError as error:
                self._absences[site] = Absence(site=site, reason=plain_text(f"rejected: {error}"), failed=True)
                continue
            del self._absences[site]
            weight = frame.weight if self._weighs else 1  # what a site claims is not asked for
            yield Contribution(members=(site,), weight=weight, vector=MemoryVector(frame.vector), tally=frame.tally)

    def _check(self, frame: Frame, order: Order, site: SiteId) -> None:
        """A frame must be this site's answer to this order; what its vector holds is for the rule to judge."""
        if frame.site != site or (frame.round, frame.attempt) != (order.round, order.attempt):
            raise RemoteError(
                f"frame: expected {site}, round {order.round}.{order.attempt}, "
                f"got {frame.site!r}, round {frame.round}.{frame.attempt}"
            )
        if order.kind is OrderKind.STATISTICS:
            return
        if fault := frame.tally.fault():
            raise RemoteError(f"frame: its tally: {fault}")
        if order.kind is OrderKind.EVALUATE:
            if frame.vector.size:
                raise RemoteError(f"frame: expected no vector, got {frame.vector.size} values")
        elif self._weighs and not 0 < frame.weight <= self._max_weight:
            raise RemoteError(f"frame: expected a weight from 1 to {self._max_weight}, got {frame.weight}")
