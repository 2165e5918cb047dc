"""The guard of a site: what is asked is checked before any data is read, what is sent is bounded before it leaves."""

import logging
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from wardround.asked import ATTEMPTS, asked_fault, evaluation_fault
from wardround.client.guard.member import Member
from wardround.errors import BudgetError, LocalError, WardroundError
from wardround.frames import Frame, encode_frame
from wardround.orders import EvalJob, FitJob, LocalResult, Order, OrderKind, SiteId, derive_seed
from wardround.plan import Plan
from wardround.plan_privacy import Disclosure, PrivateStatistics, UnitClipping
from wardround.plan_sections import Weighting
from wardround.standardization import statistics_fault
from wardround.state_store import StateStore
from wardround.strategies.privacy.participation import too_soon
from wardround.strategies.privacy.statistics_noise import statistics_noise_std
from wardround.strategies.privacy.unit_clip import clip_update
from wardround.tally import MeansSpec, Tally, decode_spec
from wardround.vector import F32

__all__ = ["Budget", "Guard", "SiteGuard", "fit_job", "release_weight"]

_NO_VECTOR: F32 = np.empty(0, dtype=np.float32)
_NOTHING_COUNTED = Tally.empty(MeansSpec())
_log = logging.getLogger("wardround")


class Guard(Protocol):
    """The only holder of a site's keys and ledger. Neither torch nor flwr is loaded beside it."""

    @property
    def site(self) -> SiteId: ...

    def begin(self, order: Order, start: bytes, spec: bytes) -> bytes | None:
        """Enter a round of the protection protocol (`start` is empty where there is none).

        What was sent in it already, byte for byte, else None. Raises WardroundError when the order is not to be
        answered under the plan's protection.
        """
        ...

    def admit(self, order: Order) -> FitJob | EvalJob:
        """The job that the order asks for. Raises LocalError when the site does not allow it."""
        ...

    def release(self, order: Order, result: LocalResult | Tally, spec: bytes = b"") -> bytes:
        """What to send. Raises LocalError when the result must not leave.

        Under secure aggregation that is a masked message, and `spec` the kind of tally that the server adds up.
        """
        ...

    def failure(self, error: WardroundError) -> WardroundError:
        """What the server is told of an error in the site's own work."""
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


class Budget(Protocol):
    """What a site may still spend on a run; its ledger behind it."""

    def begin(self, round: int, attempt: int) -> None:
        """Charge what the round will release, durably, before anything is trained.

        Raises BudgetError when the site's budget does not allow it.
        """
        ...


class SiteGuard:
    """The guard of one site under one approved plan.

    `tensors` are the sizes of the model's tensors, for clipping per layer. `budget` is asked before any round that is
    charged; without one the guard counts itself what a plan with privacy releases. `member` is there exactly where the
    plan protects: nothing leaves then but what it has masked.
    """

    __slots__ = ("_budget", "_digest", "_member", "_plan", "_store", "_tensors", "site")

    def __init__(
        self,
        plan: Plan,
        site: SiteId,
        store: StateStore,
        *,
        plan_digest: str | None = None,
        tensors: Sequence[int] = (),
        budget: Budget | None = None,
        member: Member | None = None,
    ) -> None:
        if plan.protection.on != (member is not None):
            raise LocalError(f"{site}: expected a member of secure aggregation exactly where the plan has protection")
        self.site = site
        self._member = member
        self._plan = plan
        self._digest = plan_digest or plan.digest
        self._store = store
        self._tensors = tuple(tensors) if plan.privacy.clipping is UnitClipping.PER_LAYER else None
        self._budget = budget

    def begin(self, order: Order, start: bytes, spec: bytes) -> bytes | None:
        """Under secure aggregation no order is answered without a round that is bound to it."""
        self._check_order(order)
        if self._member is not None:
            self._check_protected(order, spec)
            return self._member.begin(order, start, spec)
        if start:
            raise LocalError(f"{self.site}: expected no round of secure aggregation, since the plan has no protection")
        return None

    def admit(self, order: Order) -> FitJob | EvalJob:
        """The job for an order of the approved plan; a training round is admitted once, and only forwards.

        An evaluation is admitted where the plan has one, for few models. Under privacy what is charged is charged here,
        before the job sees any data.
        """
        self._check_order(order)
        if self._plan.privacy.on:
            self._check_private(order)
        if order.kind is OrderKind.EVALUATE and (fault := evaluation_fault(self._store, self._plan, order)):
            raise LocalError(f"{self.site}: {fault}")
        if not self._plan.privacy.on:
            self._begin(order)
        elif order.kind is OrderKind.STATISTICS:
            self._store.advance(f"{order.run_id}/statistics", order.attempt)
            self._begin(order)
        if order.kind is not OrderKind.FIT:
            return EvalJob(order=order, site=self.site)
        self._check_separation(order)
        self._store.advance(f"{order.run_id}/round", order.round * ATTEMPTS + order.attempt)
        if self._plan.privacy.on:
            self._store.put(self._last, str(order.round + order.attempt).encode())
            self._begin(order)
        return fit_job(self._plan, order, self.site)

    def _check_protected(self, order: Order, spec: bytes) -> None:
        counted = decode_spec(spec)
        if order.kind is OrderKind.FIT and self._plan.privacy.on and counted != _NOTHING_COUNTED.spec:
            raise LocalError(f"{self.site}: expected a training of which nothing is counted, since rows are hidden")
        if self._plan.task.flower_app is not None:
            allowed = self._plan.protection.metrics
            if not isinstance(counted, MeansSpec) or not set(counted.names) <= set(allowed):
                raise LocalError(f"{self.site}: expected metrics of {list(allowed)} (protection.metrics), got others")

    def _check_order(self, order: Order) -> None:
        """Whether it is of the approved plan, which asks for it."""
        if order.plan_digest != self._digest:
            raise LocalError(
                f"{self.site}: plan digest differs from the approved one: needs a new approval "
                f"(approved {self._digest[:12]}, asked for {order.plan_digest[:12]})"
            )
        if fault := asked_fault(self._plan, order):
            raise LocalError(f"{self.site}: {fault}")

    def _begin(self, order: Order) -> None:
        if self._budget is not None:
            self._budget.begin(order.round, order.attempt)
        elif self._plan.privacy.on:
            self._count(order)

    def _count(self, order: Order) -> None:
        """Without a ledger: no more releases than the claim is for, whatever a server calls its runs and rounds."""
        privacy, key, most = self._plan.privacy, f"{self._digest}/begun", self._plan.rounds
        if order.kind is OrderKind.STATISTICS:
            key, most = f"{self._digest}/statistics", 1
        elif privacy.per_client:
            from wardround.strategies.privacy.terms import client_terms

            most = client_terms(self._plan).rounds
        elif privacy.epsilon is not None and privacy.noise_multiplier is not None:
            raise BudgetError(f"{self.site}: expected a ledger, since how many rounds epsilon allows depends on rows")
        begun = int(self._store.get(key) or 0)
        if begun >= most:
            raise BudgetError(f"{self.site}: all {most} releases of the claim have begun")
        self._store.put(key, str(begun + 1).encode())

    def _check_private(self, order: Order) -> None:
        """What is asked must be what the claim and its charges are about."""
        privacy = self._plan.privacy
        adaptive = privacy.clipping is UnitClipping.ADAPTIVE
        if order.kind is OrderKind.FIT and privacy.per_client and adaptive != (order.clip_norm is not None):
            # refused whatever comes of the rows: whether an update is finite must not show
            asked = f'expected a clip_norm in the order exactly with "adaptive", got {order.clip_norm}'
            raise LocalError(f"{self.site}: {asked}")
        if order.kind is OrderKind.EVALUATE and privacy.evaluation is Disclosure.OFF:
            raise LocalError(f'{self.site}: expected no evaluation, since privacy.evaluation = "off"')
        if order.kind is OrderKind.STATISTICS and privacy.statistics is not PrivateStatistics.DP:
            raise LocalError(f'{self.site}: expected no request for statistics, since privacy.statistics = "off"')

    @property
    def _last(self) -> str:
        """Where the index of the last release stands: of the plan, whatever name a server gives to its runs."""
        return f"{self._digest}/last"

    def _check_separation(self, order: Order) -> None:
        """Banded noise holds only if a client keeps away for some rounds: its own word, not the server's."""
        bands = self._plan.privacy.bands
        if bands is None:
            return
        stored = self._store.get(self._last)
        last, now = None if stored is None else int(stored), order.round + order.attempt
        if too_soon(last, now, bands):
            raise LocalError(
                f"{self.site}: expected its rounds at least {bands} apart (privacy.bands), got {now - (last or 0)}"
            )

    def release(self, order: Order, result: LocalResult | Tally, spec: bytes = b"") -> bytes:
        """The frame of a result, or its masked form: an update is checked, clipped and weighed, a tally is as it is.

        Under privacy no loss of training rows leaves, and the number of examples only where it is public.
        """
        try:
            if isinstance(result, Tally):
                self._check_counted(order, result)
                vector, weight, tally = _NO_VECTOR, result.n, result
            else:
                vector = self._clipped(order, result.update)
                weight = release_weight(self._plan, result.num_examples)
                tally = _NOTHING_COUNTED if self._plan.privacy.on else result.tally
            if self._member is not None:
                update = None if isinstance(result, Tally) else vector
                return self._member.protect(order, update, weight, tally, spec)
        except ValueError as error:
            fault = LocalError(f"{self.site}, round {order.round}: {error}; nothing was sent")
            raise (fault if self._member is None else self.failure(fault)) from None
        frame = Frame(
            round=order.round, attempt=order.attempt, site=self.site, weight=weight, vector=vector, tally=tally
        )
        return encode_frame(frame)

    def _check_counted(self, order: Order, tally: Tally) -> None:
        """Sums without noise are stopped here: at the server it is too late."""
        privacy = self._plan.privacy
        if order.kind is OrderKind.STATISTICS and privacy.on:
            noisy = statistics_noise_std(self._plan.data, privacy) > 0
            if fault := statistics_fault(self._plan.data, tally, noisy=noisy):
                raise LocalError(f"{self.site}: statistics: {fault}; nothing was sent")

    def _clipped(self, order: Order, update: F32) -> F32:
        if not self._plan.privacy.per_client:
            return clip_update(update, self._plan.clipping.clip_norm)
        if not np.isfinite(update).all():  # zero, as the server would count it: an error would tell of these rows
            return np.zeros_like(update)
        return clip_update(update, order.clip_norm or self._plan.privacy.clip_norm, self._tensors)

    def failure(self, error: WardroundError) -> WardroundError:
        """The error; under privacy or protection only that there was one: its text may tell of rows. The log has it."""
        if (not self._plan.privacy.on and self._member is None) or isinstance(error, BudgetError):
            return error
        _log.warning("%s", error)
        return LocalError(f"{self.site}: the job failed; the site's own log says why")

    def answer(self, frame: bytes) -> bytes:
        """The member's answer to a message of secure aggregation. Without protection there is none."""
        if self._member is not None:
            return self._member.answer(frame)
        raise LocalError(f"{self.site}: expected no protocol message, since the plan has no protection")
