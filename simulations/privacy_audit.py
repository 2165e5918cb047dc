"""The audit of a plan's differential privacy: a self-test of its mechanism, and canaries in a run of it."""

import hashlib
import math
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np

from wardround.client.data.site_data import Rows
from wardround.decoding import PlanError
from wardround.errors import LocalError
from wardround.orders import SiteId, derive_seed
from wardround.plan import Plan
from wardround.plan_privacy import Mechanism, PrivateStatistics
from wardround.plan_sections import PYTHON_SOURCES
from wardround.simulations.privacy_audit_clients import ClientsUnderTest, canary_federation
from wardround.strategies.privacy.accounting import epsilon_of
from wardround.strategies.privacy.claim import Claim, claims_of
from wardround.strategies.privacy.one_run_audit import CHANCE, LARGEST_DELTA, OneRun, coin_flips, measure
from wardround.strategies.privacy.secure_random import SecureRandom
from wardround.strategies.privacy.self_test import FALSE_ALARM, Check, self_test
from wardround.strategies.privacy.terms import Terms, site_terms

__all__ = ["CANARIES", "MOST_CANARIES", "PrivacyAudit", "audit_privacy"]

CANARIES, MOST_CANARIES = 1000, 5000
_ROWS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivacyAudit:
    """What was tested, and what came of it. `claimed` is what the tested run claims at the canaries' delta.

    `tested` says in words whose mechanism it was; `cannot_see` what a pass does not mean, in sentences.
    """

    plan: Plan
    claim: Claim
    tested: str
    checks: tuple[Check, ...]
    one_run: OneRun
    claimed: float
    cannot_see: tuple[str, ...]
    seed: int
    created: str
    seconds: float

    @property
    def contradicted(self) -> bool:
        """Whether more epsilon was measured than is claimed."""
        return not self.one_run.epsilon <= self.claimed

    @property
    def passed(self) -> bool:
        return not self.contradicted and all(check.passed for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        """Everything, as dicts, lists, texts and finite numbers."""
        one = self.one_run
        return {
            "plan": self.plan.name,
            "digest": self.plan.digest,
            "created": self.created,
            "passed": self.passed,
            "claim": self.claim.to_json(),
            "tested": self.tested,
            "one_run": {
                "passed": not self.contradicted,
                "measured_epsilon": one.epsilon,
                "claimed_epsilon": self.claimed,
                "delta": one.delta,
                "confidence": 1 - CHANCE,
                "largest_epsilon_that_can_be_shown": one.most,
                "canaries": one.canaries,
                "included": one.included,
                "guesses": one.guesses,
                "correct": one.correct,
            },
            "self_test": {"false_alarm": FALSE_ALARM, "checks": [_check_json(check) for check in self.checks]},
            "cannot_see": list(self.cannot_see),
            "seed": self.seed,
            "seconds": round(self.seconds, 3),
        }


def _check_json(check: Check) -> dict[str, Any]:
    return {
        "name": check.name,
        "passed": check.passed,
        "measured": check.measured if math.isfinite(check.measured) else None,
        "low": check.low,
        "high": check.high,
        "sees": check.sees,
        "cannot_see": check.blind,
    }


def audit_privacy(
    plan: Plan, *, data: Any = None, units: int | None = None, canaries: int = CANARIES, seed: int | None = None
) -> PrivacyAudit:
    """Test the mechanism of a plan with privacy on made-up data; no patient's row is trained on, and none is charged.

    The plan's data are read for the number of rows or patients at its smallest site, unless `units` tells it; `data` as
    for `simulate`. `seed` is for made-up rows and for who is a canary; noise and samples are secret as ever. Raises
    PlanError for a plan without privacy or with a claim that cannot be met, LocalError where `units` is needed.
    """
    if not plan.privacy.on:
        no_claim = "; without privacy there is no claim to test"
        raise PlanError("privacy.unit", '"row", "patient" or "client"', plan.privacy.unit.value, no_claim)
    if plan.privacy.mechanism is Mechanism.SKELLAM:
        expected = "another mechanism, since noise that the clients of a sum add together is not tested here"
        raise PlanError("privacy.mechanism", expected, plan.privacy.mechanism.value)
    if not 2 <= canaries <= MOST_CANARIES:
        raise LocalError(f"expected 2 to {MOST_CANARIES} canaries, got {canaries}")
    started = time.perf_counter()
    seed = secrets.randbits(32) if seed is None else seed
    coins = SecureRandom(hashlib.sha256(f"canaries {seed}".encode()).digest())
    included = coin_flips(coins, canaries)
    made_up = np.random.Generator(np.random.Philox(key=derive_seed(seed, "made-up rows")))
    if plan.privacy.per_client:
        federation = canary_federation(plan, canaries)
        (claim,), terms = claims_of(plan), federation.terms
        checks = self_test(ClientsUnderTest(plan, made_up).probe())
        scores = federation.scores(included)
        tested = f"the server's mechanism, with canaries among {terms.population} clients, {terms.drawn:g} in a round"
        if terms.population != (own := claim.population):
            tested += f" (the plan has {own}; noise, clip, sampling rate and rounds are its own)"
    else:
        from wardround.client.trainer.bundle import load_task
        from wardround.simulations.executors.flat_loop import one_thread
        from wardround.simulations.privacy_audit_rows import RowsUnderTest

        plan, number = _smallest_site(plan, data, units)
        (claim,), terms = claims_of(plan, {SiteId(""): number}), site_terms(plan, number)
        under = RowsUnderTest(plan, load_task(plan), terms, _made_up(plan, made_up))
        with one_thread():
            checks, scores = self_test(under.probe()), under.scores(included)
        tested = f"the training of a site with {number} {plan.privacy.unit.value}s, {terms.drawn:g} in a step"
    delta = min(terms.delta, LARGEST_DELTA)
    claimed = epsilon_of(replace(terms, once=()).events(terms.rounds), delta).epsilon
    one_run = measure(included, scores, delta)
    return PrivacyAudit(
        plan=plan,
        claim=claim,
        tested=tested,
        checks=checks,
        one_run=one_run,
        claimed=claimed,
        cannot_see=tuple(_cannot_see(plan, terms, claimed, one_run)),
        seed=seed,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=time.perf_counter() - started,
    )


def _smallest_site(plan: Plan, data: Any, units: int | None) -> tuple[Plan, int]:
    """The plan with its inputs, and how many units the site with the fewest trains on: there epsilon is largest."""
    if units is not None:
        return plan, units
    unit = plan.privacy.unit.value
    if plan.data.source in PYTHON_SOURCES and data is None:
        raise LocalError(f"expected --units N, the {unit}s that a site trains on, since the plan's data are not here")
    from wardround.client.trainer.private_sample import Units
    from wardround.simulations.federation import build_federation, with_inputs

    sites = [site for site in build_federation(plan, data) if site.site not in plan.cohort.without]
    plan = with_inputs(plan, sites)
    return plan, min(len(Units.of(plan, site)) for site in sites)


def _made_up(plan: Plan, random: np.random.Generator) -> Rows:
    """A few random rows of the form that the plan's model takes."""
    data, target = plan.data, plan.data.target
    width = data.num_inputs or plan.task.options.get("inputs")
    if data.image is not None:
        x = random.random((_ROWS, *data.image.shape))
    elif isinstance(width, int) and width > 0:
        x = random.standard_normal((_ROWS, width))
    else:
        raise PlanError("task.options.inputs", "the number of inputs, since the plan has neither columns nor image")
    if target is not None and target.classes:
        return Rows(x.astype(np.float32), random.integers(0, len(target.classes), _ROWS))
    return Rows(x.astype(np.float32), random.random(_ROWS).astype(np.float32))


def _cannot_see(plan: Plan, terms: Terms, claimed: float, one: OneRun) -> Iterator[str]:
    privacy = plan.privacy
    yield (
        "A pass never widens a claim. The claim rests on the proof and on the code; this only looks for signs that the "
        "code does something else."
    )
    blind = (
        " What is claimed here lies above that, so canaries cannot contradict it; the self-test still can."
        if claimed >= one.most
        else ""
    )
    yield (
        f"Canaries are blind above epsilon {one.most:.2f}: with {one.canaries} of them, and {100 * (1 - CHANCE):g} % "
        f"confidence, no more can be shown even if every guess is right.{blind}"
    )
    yield (
        "Canaries find gross errors, such as a tenth of the noise or no clip. Noise that is a few per cent short is "
        "for the self-test, which tells how much it would see; less than that nobody sees here."
    )
    yield (
        "Real rows: everything here is made up, so nothing was charged. An audit with canaries among real patients is "
        "a training of its own, to be charged to the site's ledger like any other."
    )
    if privacy.per_client:
        yield (
            "What a server does that runs other code, keeps the updates, or shows somebody a sum before the noise: the "
            "server is trusted. Sites' own clips are not tested; the claim does not need them."
        )
    else:
        yield (
            "What a hospital runs that is not this code. The plan's model was tried on a few made-up rows; the "
            "canaries' model is linear, has nothing but canaries to learn, and is trained by plain SGD, so that it "
            "gives away as much as the mechanism allows."
        )
    if privacy.statistics is PrivateStatistics.DP:
        yield "The noisy sums that standardise the columns: they are released once, before training, and not tested."
    yield (
        "What leaves beside the mechanism: anything sent in clear, times and sizes of messages, files on disks, and "
        "whether ledgers are kept."
    )
    if 0 < terms.rate < 1:
        yield (
            "Somebody who learns which units were drawn: the claim is not against them, so the canaries' scores do not "
            "use it."
        )
