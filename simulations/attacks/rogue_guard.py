"""The guard of an attacker: what its owner wants to send, it sends."""

from wardround.client.guard.guard import SiteGuard, release_weight
from wardround.errors import WardroundError
from wardround.frames import MAX_WEIGHT, Frame, encode_frame
from wardround.orders import EvalJob, FitJob, LocalResult, Order, SiteId
from wardround.plan import Plan
from wardround.tally import Tally

__all__ = ["RogueGuard"]


class RogueGuard:
    """Takes part in the protocol as a site's guard does, but neither checks nor clips an update that is a lie."""

    __slots__ = ("_guard", "_plan")

    def __init__(self, plan: Plan, guard: SiteGuard) -> None:
        self._plan, self._guard = plan, guard

    @property
    def site(self) -> SiteId:
        return self._guard.site

    def admit(self, order: Order) -> FitJob | EvalJob:
        return self._guard.admit(order)

    def release(self, order: Order, result: LocalResult | Tally) -> bytes:
        """The frame of a result as it is: non-finite, too long, with whatever number of examples."""
        if isinstance(result, Tally) or order.round < self._plan.simulation.attack.from_round:
            return self._guard.release(order, result)
        frame = Frame(
            round=order.round,
            attempt=order.attempt,
            site=self.site,
            weight=min(release_weight(self._plan, result.num_examples), MAX_WEIGHT),
            vector=result.update,
            tally=result.tally,
        )
        return encode_frame(frame)

    def failure(self, error: WardroundError) -> WardroundError:
        return self._guard.failure(error)

    def answer(self, frame: bytes) -> bytes:
        return self._guard.answer(frame)
