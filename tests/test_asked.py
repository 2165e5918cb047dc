"""What is asked beyond the plan is refused, before anything is counted, charged or read."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.federation_of_points import point_plan
from tests.masked_points import MaskedPoints, masked_plan
from wardround.asked import asked_fault
from wardround.client.guard.guard import SiteGuard
from wardround.errors import LocalError
from wardround.orders import EvalJob, Order, OrderKind, SiteId, Split, Statistics, digest
from wardround.plan import Plan
from wardround.plan_source import find_plan
from wardround.state_store import MemoryStore
from wardround.strategies.secagg.flower_plan import flower_plan

SITE = SiteId("site-0")
PLAN = point_plan("evaluation.every=2", rounds=5)
NEVER = point_plan("evaluation.every=0", rounds=5)
WITHOUT_ROWS = point_plan("data.validation=0", rounds=5)
MASKED = masked_plan()
ROWS = point_plan("privacy.unit=row", "privacy.noise_multiplier=2", "privacy.public_sizes=true", rounds=5)
FLOWER = flower_plan(population=5, rounds=5, clip_norm=1.0, dropout=0.2)
FEDERATED = find_plan("breast-cancer")
FIT, STATISTICS = OrderKind.FIT, OrderKind.STATISTICS


def order(plan: Plan, kind: OrderKind, number: int, **fields: Any) -> Order:
    return Order(run_id="run", plan_digest=plan.digest, kind=kind, round=number, **fields)


def evaluation(plan: Plan, number: int, split: Split = Split.VALIDATION, **fields: Any) -> Order:
    return order(plan, OrderKind.EVALUATE, number, split=split, **fields)


@pytest.mark.parametrize(
    ("plan", "asked"),
    [
        (PLAN, order(PLAN, FIT, 1)),
        (PLAN, order(PLAN, FIT, 5)),
        (PLAN, evaluation(PLAN, 2)),
        (PLAN, evaluation(PLAN, 4)),
        (PLAN, evaluation(PLAN, 5)),  # the last round is always judged
        (PLAN, evaluation(PLAN, 3, Split.TEST)),  # of a run that stopped early
        (PLAN, evaluation(PLAN, 0, Split.TEST)),
        (NEVER, evaluation(NEVER, 5, Split.TEST)),
        (FLOWER, evaluation(FLOWER, 0)),
        (MASKED, order(MASKED, FIT, 3, attempt=15)),
        (ROWS, order(ROWS, FIT, 3, attempt=2)),
        (FEDERATED, order(FEDERATED, STATISTICS, 0)),
    ],
)
def test_what_an_honest_server_asks_is_no_fault(plan: Plan, asked: Order) -> None:
    assert asked_fault(plan, asked) == ""


@pytest.mark.parametrize(
    ("plan", "asked", "words"),
    [
        (PLAN, order(PLAN, FIT, 0), "expected a round of 1 to 5, got 0.0"),
        (PLAN, order(PLAN, FIT, 6), "expected a round of 1 to 5, got 6.0"),
        (PLAN, order(PLAN, FIT, 1 << 31), "expected a round of 1 to 5"),
        (PLAN, order(PLAN, FIT, 1, attempt=1), "expected an attempt below 1, got 1.1"),
        (MASKED, order(MASKED, FIT, 4), "expected a round of 1 to 3"),
        (MASKED, order(MASKED, FIT, 1, attempt=16), "expected an attempt below 16"),
        (ROWS, order(ROWS, FIT, 5, attempt=1), "expected a round of 1 to 5, got 5.1"),
        (PLAN, evaluation(PLAN, 2, Split.TRAIN), "expected an evaluation of rows that were held out"),
        (PLAN, evaluation(PLAN, 3), "expected no evaluation after round 3"),
        (PLAN, evaluation(PLAN, 0), "expected no evaluation after round 0"),
        (PLAN, evaluation(PLAN, 6), "after a round of at most 5.0, got 6.0"),
        (PLAN, evaluation(PLAN, 6, Split.TEST), "after a round of at most 5.0, got 6.0"),
        (PLAN, evaluation(PLAN, 2, attempt=1), "after a round of at most 5.0, got 2.1"),
        (NEVER, evaluation(NEVER, 5), "expected no evaluation after round 5"),
        (WITHOUT_ROWS, evaluation(WITHOUT_ROWS, 5), "expected no evaluation after round 5"),
        (PLAN, order(PLAN, STATISTICS, 0), "expected no request for statistics"),
        (FEDERATED, order(FEDERATED, STATISTICS, 1), "expected statistics before the first round"),
        (FEDERATED, order(FEDERATED, STATISTICS, 0, attempt=1), "expected statistics before the first round"),
    ],
)
def test_what_no_honest_server_asks_is_refused_and_leaves_no_trace(plan: Plan, asked: Order, words: str) -> None:
    assert words in asked_fault(plan, asked)
    if plan.protection.on:
        return
    store = Untouched()
    with pytest.raises(LocalError, match=f"site-0: .*{words}"):
        SiteGuard(plan, SITE, store).admit(asked)


class Untouched(MemoryStore):
    def put(self, key: str, value: bytes) -> None:
        raise AssertionError(key)

    def advance(self, key: str, to: int) -> None:
        raise AssertionError(key)


def admitted(here: SiteGuard, asked: Order) -> bool:
    try:
        return here.admit(asked) == EvalJob(order=asked, site=SITE)
    except LocalError:
        return False


OTHERS: list[Callable[[Order, int], Order]] = [
    lambda asked, number: replace(asked, model_digest=str(number)),
    lambda asked, number: replace(asked, statistics=Statistics(mean=(float(number),), std=(1.0,))),
    lambda asked, number: replace(asked, records_digest=str(number)),
]


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("split", [Split.VALIDATION, Split.TEST])
def test_one_evaluation_is_of_few_models_and_the_same_again_is_none_more(
    split: Split, other: Callable[[Order, int], Order]
) -> None:
    """Who standardises rows otherwise, or sends other records to an app, asks about another model in effect."""
    store, asked = MemoryStore(), evaluation(PLAN, 4, split)
    answers = [admitted(SiteGuard(PLAN, SITE, store), other(asked, number)) for number in range(50) for _ in range(2)]
    assert answers == [*32 * [True], *68 * [False]]
    assert admitted(SiteGuard(PLAN, SITE, store), other(asked, 15))  # the last one still is what it was


def test_each_evaluation_of_the_plan_has_its_own_models_and_none_comes_back() -> None:
    here, count = SiteGuard(PLAN, SITE, MemoryStore()), 0
    for number in (2, 4, 5):
        count += sum(admitted(here, evaluation(PLAN, number, model_digest=str(model))) for model in range(20))
        assert not admitted(here, evaluation(PLAN, number - 2, model_digest="another"))
    assert count == 3 * 16


def test_the_test_is_one_of_the_run_whatever_round_it_is_said_to_follow() -> None:
    here = SiteGuard(PLAN, SITE, MemoryStore())
    orders = [evaluation(PLAN, number % 6, Split.TEST, model_digest=str(number)) for number in range(18)]
    assert [admitted(here, asked) for asked in orders] == [*16 * [True], False, False]


def test_an_evaluation_too_many_is_not_charged() -> None:
    begun: list[tuple[int, int]] = []

    class Counting:
        def begin(self, round: int, attempt: int) -> None:
            begun.append((round, attempt))

    here = SiteGuard(PLAN, SITE, MemoryStore(), budget=Counting())
    for number in range(20):
        admitted(here, evaluation(PLAN, 2, model_digest=str(number)))
    assert len(begun) == 16


def test_under_masks_no_round_is_entered_for_what_is_beyond_the_plan() -> None:
    points = MaskedPoints()
    assert points.collect(1, kind=OrderKind.FIT)
    assert points.collect(3, kind=OrderKind.EVALUATE)
    for number, kind in ((4, OrderKind.FIT), (4, OrderKind.EVALUATE)):
        assert points.collect(number, kind=kind) == []
        assert all("expected" in reason for reason in points.why().values())


def test_under_masks_models_of_one_evaluation_come_to_an_end() -> None:
    points, sums = MaskedPoints(), 0
    for number in range(20):
        asked, model = points.order(1, kind=OrderKind.EVALUATE)
        data = bytes([number, *model[1:]])
        points.server.open(points.grid, points.nodes())
        sums += len(list(points.server.collect(points.grid, replace(asked, model_digest=digest(data)), data)))
    assert sums == 16
