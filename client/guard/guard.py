"""The guard of a site: what is asked is checked before any data is read, what is sent is bounded before it leaves."""

import math
from typing import Protocol

import numpy as np

from wardround.errors import LocalError
from wardround.frames import Frame, encode_frame
from wardround.orders import EvalJob, FitJob, LocalResult, Order, OrderKind, SiteId, derive_seed
from wardround.plan import Plan
from wardround.plan_sections import Weighting
from wardround.state_store import StateStore
from wardround.tally import Tally
from wardround.vector import F32, squared_norm

__all__ = ["Guard", "SiteGuard", "clip_update", "fit_job", "release_weight"]

_NO_VECTOR: F32 = np.empty(0, dtype=np.float32)
_ATTEMPTS = 1 << 16


class Guard(Protocol):
    """The only holder of a site's keys and ledger. Neither torch nor flwr is loaded beside it."""

    @property
    def site(self) -> SiteId: ...

    def admit(self, order: Order) -> FitJob | EvalJob:
        """The job that the order asks for. Raises LocalError when the site does not allow it."""
        ...

    def release(self, order: Order, result: LocalResult | Tally) -> bytes:
        """The frame to send. Raises LocalError when the result must not leave."""
        ...

    def answer(self, frame: bytes) -> bytes:
        """The answer to a message of the protection protocol. Raises LocalError where there is none."""
        ...


def fit_job(plan: Plan, order: Order, site: SiteId) -> FitJob:
    """The training job of `site` under `order`, with the seed that the plan gives to this site and round."""
    return FitJob(order=order, site=site, seed=derive_seed(plan.seed, "fit", site, order.round, order.attempt))


def release_weight(plan: Plan, num_examples: int) -> int:
    """An update's weight by the plan: its examples, capped examples, or one."""
    if plan.weighting is Weighting.UNIFORM:
        return 1
    if plan.cohort.weight_cap is not None:
        return min(num_examples, plan.cohort.weight_cap)
    return num_examples


def clip_update(update: F32, clip_norm: float | None) -> F32:
    """`update` scaled down to L2 norm `clip_norm` when it is longer; finite or refused.

    Raises ValueError for a non-finite update: a NaN passes a comparison of norms.
    """
    if not np.isfinite(update).all():
        bad = int(np.count_nonzero(~np.isfinite(update)))
        raise ValueError(f"expected a finite update, got {bad} non-finite values of {update.size}")
    if clip_norm is None:
        return update
    norm = math.sqrt(squared_norm(update))
    if norm <= clip_norm:
        return update
    return update * np.float32(clip_norm / norm)


class SiteGuard:
    """The guard of one site under one approved plan."""

    __slots__ = ("_digest", "_plan", "_store", "site")

    def __init__(self, plan: Plan, site: SiteId, store: StateStore, *, plan_digest: str | None = None) -> None:
        self.site = site
        self._plan = plan
        self._digest = plan_digest or plan.digest
        self._store = store

    def admit(self, order: Order) -> FitJob | EvalJob:
        """The job for an order of the approved plan; a training round is admitted once, and only forwards."""
        if order.plan_digest != self._digest:
            raise LocalError(
                f"{self.site}: plan digest differs from the approved one: needs a new approval "
                f"(approved {self._digest[:12]}, asked for {order.plan_digest[:12]})"
            )
        if order.kind is not OrderKind.FIT:
            return EvalJob(order=order, site=self.site)
        if order.attempt >= _ATTEMPTS:
            raise LocalError(f"{self.site}: expected an attempt below {_ATTEMPTS}, got {order.attempt}")
        self._store.advance(f"{order.run_id}/round", order.round * _ATTEMPTS + order.attempt)
        return fit_job(self._plan, order, self.site)

    def release(self, order: Order, result: LocalResult | Tally) -> bytes:
        """The frame of a result: an update is checked, clipped and weighed, a tally is sent as it is."""
        if isinstance(result, Tally):
            vector, weight, tally = _NO_VECTOR, result.n, result
        else:
            try:
                vector = clip_update(result.update, self._plan.clipping.clip_norm)
            except ValueError as error:
                raise LocalError(f"{self.site}, round {order.round}: {error}; nothing was sent") from None
            weight, tally = release_weight(self._plan, result.num_examples), result.tally
        frame = Frame(
            round=order.round, attempt=order.attempt, site=self.site, weight=weight, vector=vector, tally=tally
        )
        return encode_frame(frame)

    def answer(self, frame: bytes) -> bytes:
        """Without protection there is no protocol to take part in."""
        raise LocalError(f"{self.site}: expected no protocol message, since the plan has no protection")
