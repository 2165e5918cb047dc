"""How an order is bound to a masked round, and how its counts travel in the scalar lane."""

import hashlib

import numpy as np

from wardround.orders import Order, OrderKind
from wardround.plan import Plan
from wardround.strategies.secagg.encoding import decode_lane, encode_lane
from wardround.strategies.secagg.keystream import U64
from wardround.tally import MeansSpec, Tally, TallySpec

__all__ = ["lane_of", "lane_size", "model_digest", "order_digest", "projected", "read_lane", "rotation_seed"]


def order_digest(order: Order, spec: bytes) -> bytes:
    """What a round's descriptor names as its order: SHA-256 of all that is asked, the model's digest included."""
    asked = order.encode()
    return hashlib.sha256(b"wardround order 1\0" + len(asked).to_bytes(4, "big") + asked + spec).digest()


def model_digest(order: Order) -> bytes:
    """What it names as its model: SHA-256 of what is done, on which rows, and of the model's digest.

    Of nothing else, so that an order that comes again, in other words or in a later round, is one over the same model.
    """
    split = order.split.value if order.kind is OrderKind.EVALUATE else ""
    model = "" if order.kind is OrderKind.STATISTICS else order.model_digest
    text = f"wardround model 1\0{order.kind.value}\0{split}\0{model}"
    return hashlib.sha256(text.encode()).digest()


def rotation_seed(order: Order) -> bytes:
    """The public seed of the round's rotation, which accuracy alone depends on; 32 bytes."""
    text = f"wardround rotation 1\x00{order.plan_digest}\x00{order.round}"
    return hashlib.sha256(text.encode()).digest()


def is_empty(plan: Plan, kind: OrderKind) -> bool:
    """Whether nothing is counted: where clients are hidden, a count would be outside the noise."""
    return kind is OrderKind.FIT and plan.privacy.per_client


def lane_size(plan: Plan, kind: OrderKind, spec: TallySpec) -> int:
    """The words of a lane: the weight, and the tally's counts."""
    return 0 if is_empty(plan, kind) else 1 + spec.size


def lane_of(plan: Plan, kind: OrderKind, weight: int, tally: Tally, members: int) -> U64:
    """The lane of a member. Raises ValueError for counts whose sum over so many `members` would not fit."""
    if is_empty(plan, kind):
        return encode_lane((), members)
    return encode_lane(np.concatenate(([weight], tally.counts)), members)


def read_lane(total: U64, spec: TallySpec) -> tuple[int, Tally]:
    """The weights and the counts of a group, added up; shape (1 + spec.size,)."""
    sums = decode_lane(total)
    return int(sums[0]), Tally(spec, sums[1:])


def projected(tally: Tally, spec: TallySpec) -> Tally:
    """`tally` as the kind of tally that a server adds up; of named means, those that are asked for.

    Raises ValueError where it is of another kind.
    """
    own = tally.spec
    if own == spec:
        return tally
    if isinstance(own, MeansSpec) and isinstance(spec, MeansSpec) and set(spec.names) <= set(own.names):
        return Tally(spec, tally.counts[[0, *(1 + own.names.index(name) for name in spec.names)]])
    raise ValueError(f"expected a tally of {spec}, which the server adds up, got one of {own}")
