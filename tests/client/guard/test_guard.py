import math
import subprocess
import sys
from dataclasses import replace
from typing import cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.federation_of_points import point_plan
from wardround.client.guard.guard import SiteGuard, fit_job, release_weight
from wardround.client.guard.member import Member
from wardround.errors import BudgetError, LocalError
from wardround.frames import decode_frame
from wardround.orders import LocalResult, Order, OrderKind, SiteId, Split
from wardround.plan import Plan
from wardround.plan_source import find_plan
from wardround.state_store import MemoryStore
from wardround.strategies.privacy.unit_clip import clip_update
from wardround.tally import MeansSpec, Tally, encode_spec

SITE = SiteId("site-0")
PLAN = point_plan("clipping.clip_norm=1.0")


def order(plan: Plan = PLAN, kind: OrderKind = OrderKind.FIT, number: int = 1, attempt: int = 0) -> Order:
    return Order(run_id="run", plan_digest=plan.digest, kind=kind, round=number, attempt=attempt)


def evaluation(plan: Plan = PLAN, number: int = 1, model: str = "", split: Split = Split.VALIDATION) -> Order:
    return replace(order(plan, OrderKind.EVALUATE, number), split=split, model_digest=model)


def guard(plan: Plan = PLAN) -> SiteGuard:
    return SiteGuard(plan, SITE, MemoryStore())


def result(*values: float, examples: int = 7) -> LocalResult:
    tally = Tally.of_means(examples, {"loss": 1.0})
    return LocalResult(update=np.array(values, dtype=np.float32), num_examples=examples, tally=tally)


def test_a_foreign_plan_is_refused() -> None:
    changed = point_plan("clipping.clip_norm=1.1")
    with pytest.raises(LocalError, match="plan digest differs from the approved one: needs a new approval"):
        guard().admit(order(changed))


def test_a_round_is_admitted_once_and_only_forwards() -> None:
    here = guard()
    assert here.admit(order(number=2)) == fit_job(PLAN, order(number=2), SITE)
    for again in (order(number=2), order(number=1)):
        with pytest.raises(LocalError, match="expected a value above"):
            here.admit(again)
    here.admit(order(number=3))


def test_seeds_differ_by_site_round_attempt_and_plan() -> None:
    jobs = [fit_job(PLAN, order(number=n, attempt=a), SiteId(s)) for n in (1, 2) for a in (0, 1) for s in "ab"]
    jobs.append(fit_job(point_plan("seed=1"), order(), SiteId("a")))
    assert len({job.seed for job in jobs}) == len(jobs)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_non_finite_update_never_leaves(bad: float) -> None:
    with pytest.raises(LocalError, match="site-0, round 1: expected a finite update, got 1 non-finite values of 3"):
        guard().release(order(), result(0.5, bad, 0.5))


def test_the_frame_carries_the_clipped_update() -> None:
    frame = decode_frame(guard().release(order(number=5, attempt=2), result(3.0, 4.0)))
    np.testing.assert_allclose(frame.vector, [0.6, 0.8], rtol=1e-6)
    assert (frame.site, frame.round, frame.attempt, frame.weight) == (SITE, 5, 2, 7)
    assert frame.tally.metrics() == {"loss": pytest.approx(1 / 7)}


def test_without_a_bound_the_update_is_sent_as_it_is() -> None:
    sent = decode_frame(guard(point_plan()).release(order(point_plan()), result(3.0, 4.0)))
    np.testing.assert_array_equal(sent.vector, np.array([3, 4], np.float32))


def test_there_is_no_protocol_without_protection() -> None:
    with pytest.raises(LocalError, match="no protection"):
        guard().answer(b"anything")


@given(
    st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=50),
    st.floats(2.0**-20, 2.0**20, width=32),
)
def test_clipping_bounds_the_norm_and_keeps_the_direction(values: list[float], bound: float) -> None:
    update = np.array(values, dtype=np.float32)
    clipped = clip_update(update, bound).astype(np.float64)
    norm = float(np.linalg.norm(update.astype(np.float64)))
    assert np.linalg.norm(clipped) <= bound * (1 + 1e-5)
    if norm <= bound * (1 - 1e-5):
        np.testing.assert_array_equal(clipped, update)
    elif norm > bound * (1 + 1e-5):
        np.testing.assert_allclose(
            clipped * norm, update.astype(np.float64) * bound, rtol=1e-4, atol=bound * norm * 1e-6
        )


@pytest.mark.parametrize(
    ("settings", "weight"),
    [
        ((), 100),
        (("cohort.weighting=uniform",), 1),
        (("cohort.weighting=capped", "cohort.weight_cap=30"), 30),
        (("cohort.weighting=capped", "cohort.weight_cap=300"), 100),
    ],
)
def test_weight(settings: tuple[str, ...], weight: int) -> None:
    assert release_weight(point_plan(*settings), 100) == weight


def test_the_guard_loads_neither_torch_nor_flwr() -> None:
    code = (
        "import sys, wardround.client.guard.guard; "
        "print([m for m in ('torch', 'flwr', 'opacus', 'plotly', 'pyarrow') if m in sys.modules])"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "[]"


ROWS = point_plan("privacy.unit=row", "privacy.noise_multiplier=2", "privacy.public_sizes=true", rounds=3)
BANDED = point_plan(
    "privacy.unit=client", "privacy.noise_multiplier=2", "cohort.weighting=uniform", "privacy.mechanism=banded-mf",
    "privacy.bands=2", "cohort.size=2", rounds=9,
)  # fmt: skip


class Counting:
    def __init__(self) -> None:
        self.begun: list[tuple[int, int]] = []

    def begin(self, round: int, attempt: int) -> None:
        self.begun.append((round, attempt))


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (order(ROWS, number=4), "expected a round of 1 to 3, got 4.0"),
        (order(ROWS, number=0), "expected a round of 1 to 3, got 0.0"),
        (order(ROWS, number=3, attempt=1), "expected a round of 1 to 3, got 3.1"),
        (evaluation(ROWS), "expected no evaluation"),
        (order(ROWS, OrderKind.STATISTICS, number=0), "expected no request for statistics"),
    ],
)
def test_an_order_that_the_claim_is_not_about_is_refused_and_not_charged(asked: Order, words: str) -> None:
    budget = Counting()
    with pytest.raises(LocalError, match=words):
        SiteGuard(ROWS, SITE, MemoryStore(), budget=budget).admit(asked)
    assert budget.begun == []


def test_banded_rounds_stay_apart_whatever_the_server_calls_its_runs() -> None:
    here = guard(BANDED)
    here.admit(order(BANDED, number=1))
    for name in ("run", "another"):
        with pytest.raises(LocalError, match="at least 2 apart"):
            here.admit(replace(order(BANDED, number=2), run_id=name))
    here.admit(replace(order(BANDED, number=3), run_id="another"))
    with pytest.raises(LocalError, match="at least 2 apart"):
        here.admit(order(BANDED, number=3, attempt=1))


def test_without_privacy_every_order_is_noted() -> None:
    plan, budget = find_plan("breast-cancer"), Counting()
    here = SiteGuard(plan, SITE, MemoryStore(), budget=budget)
    for asked in (order(plan, OrderKind.STATISTICS, number=0), order(plan), evaluation(plan)):
        here.admit(asked)
    assert budget.begun == [(0, 0), (1, 0), (1, 0)]


def test_a_failure_under_privacy_is_told_without_its_text(caplog: pytest.LogCaptureFixture) -> None:
    failed = LocalError("row 17 of patient Smith")
    assert guard().failure(failed) is failed
    assert "Smith" not in str(guard(ROWS).failure(failed)) and "Smith" in caplog.text
    spent = BudgetError("the budget is spent")
    assert guard(ROWS).failure(spent) is spent


def test_an_update_that_is_not_finite_is_zero_where_clients_are_hidden() -> None:
    frame = decode_frame(guard(BANDED).release(order(BANDED), result(math.nan, 1.0)))
    assert frame.vector.tolist() == [0.0, 0.0] and frame.tally.n == 0 and frame.weight == 1


@pytest.mark.parametrize("bad", [0.5, math.nan])
def test_a_clip_that_nobody_asked_for_is_refused_before_training_whatever_comes_of_it(bad: float) -> None:
    """After training a refusal would tell whether an update was finite, which the zero in its place hides."""
    asked, budget = replace(order(BANDED), clip_norm=0.5), Counting()
    here = SiteGuard(BANDED, SITE, MemoryStore(), budget=budget)
    with pytest.raises(LocalError, match='a clip_norm in the order exactly with "adaptive"'):
        here.admit(asked)
    assert budget.begun == []
    assert np.isfinite(decode_frame(here.release(asked, result(bad, 0.0))).vector).all()


def test_without_a_ledger_noisy_statistics_are_released_once_whatever_the_server_calls_them() -> None:
    settings = ("unit=row", "noise_multiplier=2", "public_sizes=true", "statistics=dp", "statistics_noise_multiplier=9")
    plan = find_plan("breast-cancer").override([f"privacy.{setting}" for setting in settings])
    asked, here = order(plan, OrderKind.STATISTICS, number=0), guard(plan)
    here.admit(asked)
    with pytest.raises(BudgetError, match="all 1 releases of the claim have begun"):
        here.admit(replace(asked, run_id="another"))


def test_without_a_ledger_no_rows_are_trained_on_where_their_number_says_when_to_stop() -> None:
    plan = ROWS.override(["privacy.epsilon=3"])
    with pytest.raises(BudgetError, match="expected a ledger"):
        guard(plan).admit(order(plan))


def test_under_privacy_no_count_of_training_rows_is_masked_and_nothing_is_charged_for_asking() -> None:
    plan = ROWS.override(["protection.mode=masking", "cohort.weighting=uniform", "clipping.clip_norm=1"])
    here = SiteGuard(plan, SITE, MemoryStore(), budget=Counting(), member=cast(Member, object()))
    with pytest.raises(LocalError, match="a training of which nothing is counted"):
        here.begin(order(plan), b"", encode_spec(MeansSpec(names=("loss",))))
