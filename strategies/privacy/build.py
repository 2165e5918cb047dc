"""The mechanism of a plan that hides its clients, and its account."""

from collections.abc import Sequence

from wardround.decoding import PlanError
from wardround.plan import Plan
from wardround.plan_privacy import Mechanism, UnitClipping
from wardround.state_store import StateStore
from wardround.strategies.privacy.adaptive_clip import AdaptiveClip, plan_count_noise
from wardround.strategies.privacy.banded_noise import BandedNoise
from wardround.strategies.privacy.central import CentralPrivacy
from wardround.strategies.privacy.noise_source import FreshNoise, NoiseSource
from wardround.strategies.privacy.private_mean import PrivateMean
from wardround.strategies.privacy.secure_random import SecureRandom
from wardround.strategies.privacy.terms import Terms, client_terms

__all__ = ["build_central", "private_mean"]


def build_central(plan: Plan, tensors: Sequence[int], store: StateStore) -> CentralPrivacy:
    """The server's side of `plan`; `tensors` are the sizes of the model's tensors, `store` is the server's own.

    Raises PlanError for a claim that cannot be met.
    """
    terms, random = client_terms(plan, sum(tensors)), SecureRandom()
    if plan.privacy.mechanism is Mechanism.SKELLAM:
        return CentralPrivacy(plan, terms, None, store, random)
    banded = None
    if plan.privacy.bands is not None:
        banded = BandedNoise(rounds=plan.rounds, bands=plan.privacy.bands, store=store)
    rule = private_mean(plan, terms, tensors, banded or FreshNoise(random))
    return CentralPrivacy(plan, terms, rule, store, random, banded)


def private_mean(plan: Plan, terms: Terms, tensors: Sequence[int], noise: NoiseSource) -> PrivateMean:
    """The rule of a plan that hides its clients. Raises PlanError for options that do not fit."""
    privacy = plan.privacy
    adaptive = None
    if privacy.clipping is UnitClipping.ADAPTIVE:
        count_noise = privacy.count_noise or plan_count_noise(terms.noise_multiplier)
        adaptive = AdaptiveClip(target_quantile=privacy.target_quantile, lr=privacy.clip_lr, count_noise=count_noise)
        try:
            adaptive.check(terms.noise_multiplier, plan.cohort_size)
        except ValueError as error:
            raise PlanError(
                "privacy.clipping", f"a count of clients that its noise leaves readable ({error})"
            ) from None
    try:
        return PrivateMean(
            clip_norm=privacy.clip_norm,
            noise_std=terms.noise_std,
            denominator=float(plan.cohort_size),
            noise=noise,
            layers=tuple(tensors) if privacy.clipping is UnitClipping.PER_LAYER else None,
            adaptive=adaptive,
        )
    except ValueError as error:
        raise PlanError("privacy.noise_multiplier", f"a mechanism that works ({error})") from None
