"""The guard of an attacker: what its owner wants to send, it sends."""

import numpy as np

from wardround.client.guard.guard import SiteGuard, release_weight
from wardround.client.guard.member import Member
from wardround.errors import WardroundError
from wardround.frames import MAX_WEIGHT, Frame, encode_frame
from wardround.orders import EvalJob, FitJob, LocalResult, Order, SiteId
from wardround.plan import Plan
from wardround.strategies.secagg.encoding import Encoding
from wardround.strategies.secagg.keystream import U32
from wardround.strategies.secagg.lane import rotation_seed
from wardround.strategies.secagg.plan_terms import encoding_of
from wardround.tally import Tally
from wardround.vector import F32

__all__ = ["RogueGuard", "words_of_lie"]


class RogueGuard:
    """Takes part in the protocol as a site's guard does, but neither checks nor clips an update that is a lie.

    `member` is the one of `guard`, under secure aggregation: a lie is then masked as it is, and its group's sum has it.
    """

    __slots__ = ("_guard", "_member", "_plan")

    def __init__(self, plan: Plan, guard: SiteGuard, member: Member | None = None) -> None:
        self._plan, self._guard, self._member = plan, guard, member

    @property
    def site(self) -> SiteId:
        return self._guard.site

    def begin(self, order: Order, start: bytes, spec: bytes) -> bytes | None:
        return self._guard.begin(order, start, spec)

    def admit(self, order: Order) -> FitJob | EvalJob:
        return self._guard.admit(order)

    def release(self, order: Order, result: LocalResult | Tally, spec: bytes = b"") -> bytes:
        """What to send of a result as it is: non-finite, too long, with whatever number of examples."""
        if isinstance(result, Tally) or order.round < self._plan.simulation.attack.from_round:
            return self._guard.release(order, result, spec)
        weight = min(release_weight(self._plan, result.num_examples), MAX_WEIGHT)
        if self._member is not None:
            encoding = encoding_of(self._plan, result.update.size, seed=rotation_seed(order))
            return self._member.mask(order, words_of_lie(encoding, result.update, weight), weight, result.tally, spec)
        frame = Frame(
            round=order.round,
            attempt=order.attempt,
            site=self.site,
            weight=weight,
            vector=result.update,
            tally=result.tally,
        )
        return encode_frame(frame)

    def failure(self, error: WardroundError) -> WardroundError:
        return self._guard.failure(error)

    def answer(self, frame: bytes) -> bytes:
        return self._guard.answer(frame)


def words_of_lie(encoding: Encoding, update: F32, weight: int) -> U32:
    """`update` as words, neither clipped nor clamped nor with noise; what is not finite becomes the largest value.

    What no word can hold wraps around, as it does in a sum.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        vector = update if encoding.rotation is None else encoding.rotation.apply(update)
        scaled = np.rint(vector.astype(np.float64) * (encoding.scale * weight))
    largest = float((1 << 31) - 1)
    finite = np.nan_to_num(scaled, nan=largest, posinf=largest, neginf=-largest)
    words: U32 = np.mod(finite, 2.0**32).astype(np.uint64).astype(np.uint32)
    return words
