"""Messages of secure aggregation between the server and the sites of a Flower Grid: who answers, who is lost."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from wardround import _flower
from wardround.errors import RemoteError
from wardround.orders import SiteId
from wardround.plain_text import plain_text
from wardround.strategies.records import Absence
from wardround.strategies.secagg.messages import Refusal, decode, encode
from wardround.strategies.secagg.phases import Outgoing
from wardround.strategies.secagg.round_evidence import Evidence, Stage
from wardround.strategies.secagg.wire import Record

__all__ = ["Exchange"]

Take = Callable[[SiteId, Record], object]
"""What is done with a site's answer; raises RemoteError where it is not in order."""
_BEFORE_TAKEN = (Stage.EPOCH, Stage.UPDATE)
"""Who is lost in these has no update in the round, and its absence says why."""


class Exchange:
    """The messages of one order. `nodes`: site → node id; `absences`: those who are not in a result, and why."""

    def __init__(self, grid: Grid, nodes: Mapping[SiteId, int], timeout_s: float | None) -> None:
        self.nodes, self.evidence = nodes, Evidence()
        self.absences = {site: Absence(site=site, reason="no reply by the deadline") for site in nodes}
        self._grid, self._timeout_s = grid, timeout_s

    def send(
        self, stage: Stage, outgoing: Iterable[Outgoing], group: str, take: Take, *, answered: bool = True
    ) -> set[SiteId]:
        """Send messages of the protocol; the sites whose answers were taken.

        An empty reply is none where they are to be `answered`.
        """
        asked = [(SiteId(str(one.receiver)), one.message) for one in outgoing if one.receiver in self.nodes]
        size = 0

        def messages() -> Iterator[Message]:  # one encoded at a time: a large cohort's offers are large
            nonlocal size
            last, content, length = None, RecordDict(), 0
            for site, message in asked:
                if message is not last:
                    frame = encode(message)
                    last, content, length = message, _flower.pack_protocol(frame), len(frame)
                size += length
                yield from _flower.requests(content, [self.nodes[site]], _flower.PROTOCOL, group)

        return self._exchange(stage, [site for site, _ in asked], messages(), lambda: size, take, answered)

    def order(
        self, stage: Stage, sites: Sequence[SiteId], content: RecordDict, size: int, kind: str, group: str, take: Take
    ) -> set[SiteId]:
        """Send an order, whose `content` of `size` bytes is the same for all; the sites whose answers were taken."""
        messages = _flower.requests(content, [self.nodes[site] for site in sites], kind, group)
        return self._exchange(stage, sites, messages, lambda: size * len(sites), take, True)

    def clear(self, sites: Iterable[SiteId]) -> None:
        """They are in a result, whatever they failed to do later."""
        for site in sites:
            self.absences.pop(site, None)

    def excuse(self, sites: Iterable[SiteId], reason: str) -> None:
        """Say why sites whose updates were taken are in no result all the same: of none it is known that it failed."""
        for site in sites:
            if site in self.absences and self.evidence.lost.get(site) not in _BEFORE_TAKEN:
                self.absences[site] = Absence(site=site, reason=plain_text(reason))

    def _exchange(
        self,
        stage: Stage,
        sites: Sequence[SiteId],
        messages: Iterator[Message],
        size: Callable[[], int],
        take: Take,
        answered: bool,
    ) -> set[SiteId]:
        """A site's first answer in order counts; of others, as a grid may double or delay them, only the reason."""
        if not sites:
            return set()
        started, waiting, taken = time.perf_counter(), {self.nodes[site]: site for site in sites}, set[SiteId]()
        received, why = 0, dict[SiteId, Absence]()
        for reply in self._grid.send_and_receive(messages, timeout=self._timeout_s):
            node = reply.metadata.src_node_id
            if (site := waiting.get(node)) is None:
                continue
            if reply.has_error():
                reason = plain_text(reply.error.reason or "") or f"error {reply.error.code}"
                gone = _flower.is_gone(reply)
                why[site] = Absence(site=site, reason=reason, failed=not gone, spent=_flower.is_spent(reply))
                continue
            try:
                frame = _flower.read_frame(reply)
                received += len(frame)
                if frame or answered:
                    message = decode(frame)
                    if isinstance(message, Refusal):
                        raise RemoteError(f"it refused ({message.cause.name}): {message.reason}")
                    take(site, message)
                taken.add(waiting.pop(node))
            except RemoteError as error:
                why[site] = Absence(site=site, reason=plain_text(f"rejected: {error}"), failed=True)
        for site in waiting.values():
            self._lose(stage, why.get(site, Absence(site=site, reason="no reply by the deadline")))
        seconds = time.perf_counter() - started
        self.evidence.cost(stage, seconds=seconds, sent_bytes=size(), received_bytes=received)
        return taken

    def _lose(self, stage: Stage, absence: Absence) -> None:
        """A site that is lost after its update was taken may still be in the sum: an absence says why only before."""
        said = absence.reason if absence.failed else ""
        if self.evidence.lose(stage, absence.site, said) and stage in _BEFORE_TAKEN:
            self.absences[absence.site] = absence
