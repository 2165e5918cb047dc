import numpy as np
import pytest

from tests.simulations.attacked_federation import SITES, plan
from wardround.client.guard.guard import SiteGuard
from wardround.errors import LocalError
from wardround.frames import MAX_WEIGHT, Frame, decode_frame
from wardround.orders import LocalResult, Order, OrderKind
from wardround.plan import Plan
from wardround.simulations.attacks.rogue_guard import RogueGuard
from wardround.state_store import MemoryStore
from wardround.tally import Tally

OFF = {"robust": {"rule": "off"}}


def guard(chosen: Plan) -> RogueGuard:
    return RogueGuard(chosen, SiteGuard(chosen, SITES[0], MemoryStore()))


def order(chosen: Plan, number: int = 1, kind: OrderKind = OrderKind.FIT) -> Order:
    return Order(run_id="r", plan_digest=chosen.digest, kind=kind, round=number)


def sent(chosen: Plan, values: list[float], *, examples: int = 10, number: int = 1) -> Frame:
    result = LocalResult(
        update=np.array(values, dtype=np.float32),
        num_examples=examples,
        tally=Tally.of_means(examples, {"loss": 1.0}),
    )
    return decode_frame(guard(chosen).release(order(chosen, number), result))


def test_a_lie_is_neither_checked_nor_clipped() -> None:
    chosen = plan("clipping.clip_norm=0.5", attack="nan")
    np.testing.assert_array_equal(
        sent(chosen, [np.nan, np.inf, 1e30]).vector, np.array([np.nan, np.inf, 1e30], np.float32)
    )
    frame = sent(chosen, [3, 4])
    assert (frame.site, frame.round, frame.attempt) == (SITES[0], 1, 0) and frame.tally.n == 10
    np.testing.assert_array_equal(frame.vector, [3, 4])


def test_before_the_attack_begins_it_is_an_honest_guard() -> None:
    chosen = plan("clipping.clip_norm=0.5", "simulation.attack.from_round=2", attack="nan")
    np.testing.assert_allclose(sent(chosen, [3, 4]).vector, [0.3, 0.4], rtol=1e-6)
    np.testing.assert_array_equal(sent(chosen, [3, 4], number=2).vector, [3, 4])
    with pytest.raises(LocalError, match="2 non-finite values of 2; nothing was sent"):
        sent(chosen, [np.nan, np.nan])


@pytest.mark.parametrize(("examples", "weight"), [(10, 10), (1 << 40, 1 << 40), (1 << 80, MAX_WEIGHT)])
def test_it_claims_as_many_examples_as_a_frame_can_say(examples: int, weight: int) -> None:
    chosen = plan(attack="sign_flip", **OFF)
    result = LocalResult(update=np.ones(2, dtype=np.float32), num_examples=examples, tally=Tally.of_means(10, {}))
    assert decode_frame(guard(chosen).release(order(chosen), result)).weight == weight


def test_a_uniform_weight_stays_one() -> None:
    assert sent(plan(attack="sign_flip"), [1, 2], examples=10**12).weight == 1


def test_it_answers_as_the_sites_guard_in_everything_else() -> None:
    chosen = plan(attack="sign_flip")
    rogue, honest = guard(chosen), SiteGuard(chosen, SITES[0], MemoryStore())
    assert rogue.site == SITES[0]
    evaluate = order(chosen, kind=OrderKind.EVALUATE)
    tally = Tally.of_means(4, {"loss": 2.0})
    assert rogue.release(evaluate, tally) == honest.release(evaluate, tally)
    assert rogue.admit(order(chosen)) == honest.admit(order(chosen))
    with pytest.raises(LocalError):
        rogue.admit(order(chosen))  # a round is admitted once
    with pytest.raises(LocalError, match="expected no protocol message"):
        rogue.answer(b"")
