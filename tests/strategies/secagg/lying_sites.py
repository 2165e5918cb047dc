"""Sites of `MaskedPoints` that answer as they like."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from flwr.app import Context, Message

from tests.masked_points import MaskedPoints
from wardround import _flower
from wardround.contribution import Contribution
from wardround.orders import OrderKind, SiteId
from wardround.plan import Plan
from wardround.strategies.secagg.messages import Masked, RoundStart, decode, encode
from wardround.strategies.secagg.signing_inputs import header_input
from wardround.strategies.secagg.wire import Record

__all__ = ["Liars", "Lie", "bad_bundles", "bad_commitments", "lying_weight"]

Lie = Callable[[Message, Message], Message]
"""A reply instead of the honest one, from the request and that."""


class Liars(MaskedPoints):
    """Site `liar` answers by `lie`."""

    def __init__(self, plan: Plan, liar: int, lie: Lie | None = None) -> None:
        super().__init__(plan)
        self.liar = SiteId(f"site-{liar}")
        self.lie: Lie = lie or (lambda message, reply: reply)

    def _deliver(self, message: Message, context: Context) -> Message:
        reply = super()._deliver(message, context)
        if self.sites[message.metadata.dst_node_id - 100] != self.liar or reply.has_error():
            return reply
        return self.lie(message, reply)

    def collect_over_one_model(self, round_: int, kind: OrderKind = OrderKind.FIT) -> list[Contribution]:
        order, data = self.order(round_, np.full(4, 0.125, dtype=np.float32), kind)
        self.server.open(self.grid, self.nodes())
        return list(self.server.collect(self.grid, order, data))

    def signed(self, message: Message, masked: Masked, **changes: Any) -> Message:
        """M1 with changed bundles, lane or header, signed anew by the liar."""
        start = decode(_flower.read_protocol(message))
        assert isinstance(start, RoundStart)
        sealed = changes.pop("sealed", masked.sealed)
        scalars = changes.pop("scalars", bytes(masked.scalars))
        header = replace(
            masked.header,
            scalars=hashlib.sha256(scalars).digest(),
            ciphertexts=tuple(hashlib.sha256(one).digest() for one in sealed),
            **changes,
        )
        key = self.memberships[self.liar].signing_key
        signature = key.sign(header_input(start.descriptor, header))
        vector = bytes(masked.vector)
        return _flower.reply(
            message, encode(Masked(header=header, signature=signature, vector=vector, scalars=scalars, sealed=sealed))
        )


def of_reply(reply: Message) -> Record | None:
    frame = _flower.read_frame(reply)
    return decode(frame) if frame else None


def bad_bundles(points: Liars) -> Lie:
    """Bundles that do not open."""

    def lie(message: Message, reply: Message) -> Message:
        masked = of_reply(reply)
        if not isinstance(masked, Masked):
            return reply
        return points.signed(message, masked, sealed=tuple(bytes(len(one)) for one in masked.sealed))

    return lie


def bad_commitments(points: Liars) -> Lie:
    """A commitment to another own seed than the one that is dealt."""

    def lie(message: Message, reply: Message) -> Message:
        masked = of_reply(reply)
        if not isinstance(masked, Masked):
            return reply
        return points.signed(message, masked, commitments=(bytes(32), *masked.header.commitments[1:]))

    return lie


def lying_weight(points: Liars) -> Lie:
    """A weight a million above its own."""

    def lie(message: Message, reply: Message) -> Message:
        masked = of_reply(reply)
        if not isinstance(masked, Masked):
            return reply
        lane = np.frombuffer(masked.scalars, dtype="<u8").copy()
        lane[0] += np.uint64(10**6)
        return points.signed(message, masked, scalars=lane.tobytes())

    return lie
