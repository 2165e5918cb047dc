"""A Flower Grid inside one process: every site's ClientApp is called, its training computed in blocks."""

import functools
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from wardround import _flower
from wardround.client.guard.guard import fit_job
from wardround.errors import LocalError, WardroundError
from wardround.frames import decode_frame
from wardround.orders import LocalResult, Order, SiteId
from wardround.plan import Plan
from wardround.simulations.attacks.adversary import Adversary
from wardround.simulations.executors.executor import Executor
from wardround.simulations.faults import Faults
from wardround.simulations.prefetched_trainer import PrefetchedTrainer
from wardround.strategies.blocking_grid import BlockingGrid
from wardround.strategies.privacy.unit_clip import clip_update
from wardround.vector import F32

__all__ = ["LocalGrid", "LocalNode"]

Prefetch = Callable[[list[Message]], Iterator[None]]

_RUN_ID = 1
_SERVER_NODE = 1
_FIRST_NODE = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalNode:
    """A site of the simulation: its ClientApp, and the trainer behind it that takes prefetched results."""

    site: SiteId
    app: ClientApp
    trainer: PrefetchedTrainer
    partition: int


class LocalGrid(BlockingGrid):
    """Delivers messages by calling ClientApps, lazily: a reply is made when it is asked for.

    Training requests are taken a block at a time. The executor computes the block, then each ClientApp runs, its
    guard included, and finds its result prefetched. At most one block of updates exists at any moment.

    A site that drops out of a training round gets none of the round's messages; it is there for the evaluation.
    """

    def __init__(
        self,
        plan: Plan,
        nodes: Sequence[LocalNode],
        executor: Executor | None = None,
        adversary: Adversary | None = None,
    ) -> None:
        super().__init__(_RUN_ID)
        _flower.set_identity(run_id=_RUN_ID, node_id=_SERVER_NODE)
        self._plan, self._executor, self._faults, self._adversary = plan, executor, Faults(plan), adversary
        self._nodes = {_FIRST_NODE + node.partition: node for node in nodes}
        self._contexts = {
            node_id: Context(
                run_id=_RUN_ID,
                node_id=node_id,
                node_config={"partition-id": node.partition, "num-partitions": len(nodes)},
                state=RecordDict(),
                run_config={},
            )
            for node_id, node in self._nodes.items()
        }
        self.delivered: Counter[tuple[SiteId, str]] = Counter()
        """How many messages of each type reached each site."""
        self._clock_s = 0.0
        self._lost: tuple[str, set[SiteId]] = "", set()
        """The training round at work, and who is gone until it is over."""

    def clock(self) -> float:
        """Seconds on the simulated clock: the time that rounds waited for slow sites."""
        return self._clock_s

    # -- Flower's Grid ----------------------------------------------------------------------------

    def get_node_ids(self) -> Iterable[int]:
        """Every node; all are there before the first round."""
        return list(self._nodes)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterator[Message]:
        """Replies in the order of the messages, made one by one as they are asked for."""
        messages = iter(messages)
        waited_s = 0.0
        for (is_train, _), group in itertools.groupby(messages, key=_kind):
            answered = functools.partial(self._answered, timeout=timeout)
            for reply, delay_s in self._train(group, timeout) if is_train else map(answered, group):
                waited_s = max(waited_s, delay_s)
                yield reply
        self._clock_s += waited_s

    # -- delivery ---------------------------------------------------------------------------------

    def _deliver(self, message: Message) -> Message:
        metadata = message.metadata
        node_id = metadata.dst_node_id
        node = self._nodes.get(node_id)
        if node is None:
            raise LocalError(f"expected a node of this federation, got {node_id}")
        self.delivered[node.site, metadata.message_type] += 1
        return node.app(message, self._contexts[node_id])

    def _answered(self, message: Message, timeout: float | None) -> tuple[Message, float]:
        """The reply to anything but a training request, with its simulated delay."""
        metadata, (round_, lost) = message.metadata, self._lost
        if metadata.message_type != _flower.PROTOCOL:
            self._lost = "", set()
        elif metadata.group_id == round_ and self._nodes[metadata.dst_node_id].site in lost:
            return _flower.gone_reply(message, "dropped out (simulated)"), timeout or 0.0
        return self._deliver(message), 0.0

    def _train(self, messages: Iterator[Message], timeout: float | None) -> Iterator[tuple[Message, float]]:
        """Replies to training requests of one content, each with its simulated delay: honest sites, then attackers."""
        if self._adversary is None:
            yield from self._in_blocks(messages, timeout, self._prefetch)
            return
        asked = list(messages)
        order = Order.decode(_flower.read_order(asked[0]))
        liars = self._adversary.begin(order)
        by_role: dict[bool, list[Message]] = {True: [], False: []}
        for message in asked:
            by_role[self._nodes[message.metadata.dst_node_id].site in liars].append(message)
        honest: list[F32] = []
        for reply, delay_s in self._in_blocks(iter(by_role[False]), timeout, self._prefetch):
            if self._adversary.attack.knows_others and not reply.has_error():
                honest.append(self._sent(order, reply))
            yield reply, delay_s
        if by_role[True]:
            crafted = functools.partial(self._craft, order, self._adversary, honest)
            yield from self._in_blocks(iter(by_role[True]), timeout, crafted, whole=True)

    def _sent(self, order: Order, reply: Message) -> F32:
        """What an honest site sent, noise and rounding of a masked update aside."""
        if not self._plan.protection.on:
            return decode_frame(_flower.read_frame(reply)).vector
        result = self._nodes[reply.metadata.src_node_id].trainer.last
        if result is None:
            raise LocalError("expected a result that was computed before it was masked")
        privacy = self._plan.privacy
        clip = order.clip_norm or (privacy.clip_norm if privacy.per_client else self._plan.clipping.clip_norm)
        if privacy.per_client and not np.isfinite(result.update).all():  # as its guard does
            return np.zeros_like(result.update)
        return clip_update(result.update, clip).copy()

    def _in_blocks(
        self, messages: Iterator[Message], timeout: float | None, prefetch: Prefetch, *, whole: bool = False
    ) -> Iterator[tuple[Message, float]]:
        size = None if whole else self._executor.block_size if self._executor else 1
        while block := list(itertools.islice(messages, size)):
            yield from self._train_block(block, timeout, prefetch)

    def _craft(self, order: Order, adversary: Adversary, honest: list[F32], block: list[Message]) -> Iterator[None]:
        """Hold what each attacker sends at its node; all are made together, once all have trained."""
        own: list[LocalResult] = []
        model = np.frombuffer(_flower.read_model(block[0]), dtype="<f4") if block else np.empty(0, np.float32)
        nodes = [self._nodes[message.metadata.dst_node_id] for message in block]
        jobs = [fit_job(self._plan, order, node.site) for node in nodes]
        size = self._executor.block_size if self._executor else 1
        for at in range(0, len(block), size):
            for _, node, job in zip(self._prefetch(block[at : at + size]), nodes[at:], jobs[at:], strict=False):
                result = node.trainer.fit(job, model)
                own.append(replace(result, update=result.update.copy()))
        for node, job, result in zip(
            nodes, jobs, adversary.craft(order, own, honest, model) if own else (), strict=True
        ):
            node.trainer.hold(job, result)
            yield

    def _train_block(
        self, block: list[Message], timeout: float | None, prefetch: Prefetch
    ) -> Iterator[tuple[Message, float]]:
        """Replies of a block, each with its simulated delay; a lost site's work is not computed."""
        if not self._faults.possible:
            for message, _ in zip(block, prefetch(block), strict=True):
                yield self._deliver(message), 0.0
            return
        order, round_ = Order.decode(_flower.read_order(block[0])), block[0].metadata.group_id
        sites = [self._nodes[message.metadata.dst_node_id].site for message in block]
        fates = [self._faults.fate(site, order.round) for site in sites]
        lost = [fate.gone or (timeout is not None and fate.delay_s > timeout) for fate in fates]
        if self._lost[0] != round_:
            self._lost = round_, set()
        self._lost[1].update(
            site for site, fate, is_lost in zip(sites, fates, lost, strict=True) if is_lost or fate.leaves
        )
        prefetched = prefetch([message for message, is_lost in zip(block, lost, strict=True) if not is_lost])
        for message, fate, is_lost in zip(block, fates, lost, strict=True):
            if not is_lost:
                next(prefetched)
                yield self._deliver(message), fate.delay_s
            elif fate.gone:
                yield _flower.gone_reply(message, "dropped out (simulated)"), timeout or 0.0
            else:
                reason = f"late by {fate.delay_s - (timeout or 0):.0f} s (simulated)"
                yield _flower.gone_reply(message, reason), timeout or 0.0

    def _prefetch(self, block: list[Message]) -> Iterator[None]:
        """Hold each message's result at its node, one at a step, while the executor may compute those behind it.

        The messages carry one order and one model. A result is valid until the next block begins.
        """
        watched = self._plan.protection.on and self._adversary is not None and self._adversary.attack.knows_others
        if not block or (self._executor is None and not watched):
            yield from itertools.repeat(None, len(block))
            return
        order = Order.decode(_flower.read_order(block[0]))
        nodes = [self._nodes[message.metadata.dst_node_id] for message in block]
        jobs = [fit_job(self._plan, order, node.site) for node in nodes]
        model = np.frombuffer(_flower.read_model(block[0]), dtype="<f4")
        results = (
            (node.trainer.fit(job, model) for node, job in zip(nodes, jobs, strict=True))
            if self._executor is None
            else self._executor.fit(jobs, model)
        )
        for node, job in zip(nodes, jobs, strict=True):
            try:
                node.trainer.hold(job, next(results))
            except WardroundError as error:
                raise LocalError(f"round {order.round}: {error}") from error
            yield


def _kind(message: Message) -> tuple[bool, int]:
    """Messages that can be answered as a block: trainings with the same content."""
    is_train = message.metadata.message_type == "train"
    return is_train, id(message.content) if is_train else 0
