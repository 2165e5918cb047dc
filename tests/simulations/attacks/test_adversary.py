"""The attackers of a simulation as one mind: who they are, what they know and claim, until when they wait."""

from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.simulations.attacked_federation import SITES, attackers, plan, run
from wardround.decoding import PlanError
from wardround.orders import LocalResult, Order, OrderKind, SiteId
from wardround.plan import Plan
from wardround.simulations.attacks.adversary import Adversary, attackers_of, load_attack
from wardround.simulations.attacks.attack import Attack, Crafted, Knowledge
from wardround.simulations.attacks.sign_flip import SignFlip
from wardround.strategies.rules.build import build_rule
from wardround.strategies.rules.rule import RoundContext
from wardround.tally import Tally
from wardround.vector import F32


@dataclass
class Listening(Attack):
    """Sends what it is told to; keeps what it learned."""

    updates: F32 | None = None
    heard: list[Knowledge] = field(default_factory=list)

    summary: ClassVar[str] = "for tests"
    source: ClassVar[str] = "none"

    def craft(self, knowledge: Knowledge) -> Crafted:
        self.heard.append(knowledge)
        updates = knowledge.own if self.updates is None else self.updates
        return Crafted(updates=updates, memory={"rounds": np.array([knowledge.round])})


def order(number: int = 1) -> Order:
    return Order(run_id="r", plan_digest="p", kind=OrderKind.FIT, round=number)


def result(*values: float, examples: int = 10) -> LocalResult:
    return LocalResult(
        update=np.array(values, dtype=np.float32), num_examples=examples, tally=Tally.of_means(examples, {"loss": 1.0})
    )


def adversary(attack: Attack, chosen: Plan | None = None) -> Adversary:
    chosen = chosen or plan(attack="sign_flip")
    return Adversary(attack=attack, plan=chosen, sites=SITES[:2], rule=build_rule(chosen.robust))


ZERO = np.zeros(2, dtype=np.float32)


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.integers(3, 30), st.data())
def test_attackers_are_drawn_by_the_seed_alone_in_the_order_of_the_sites(
    seed: int, count: int, data: st.DataObject
) -> None:
    number = data.draw(st.integers(1, count - 1))
    sites = [SiteId(f"s{index}") for index in range(count)]
    chosen = plan(f"seed={seed}", f"simulation.sites={count}", attack="sign_flip")
    chosen = chosen.override([f"simulation.attack.attackers={number}"])
    found = attackers_of(chosen, sites)
    assert len(set(found)) == number and list(found) == [site for site in sites if site in found]
    other = chosen.override(["training.lr=0.01", "simulation.attack.name=ipm", "rounds=9"])
    assert attackers_of(other, sites) == found


def test_every_site_may_be_drawn() -> None:
    drawn = {attackers(plan(f"seed={seed}", attack="sign_flip")) for seed in range(60)}
    assert drawn == {(site,) for site in SITES}


def test_nobody_attacks_unless_the_plan_says_so() -> None:
    assert load_attack(plan()) is None
    assert load_attack(plan(attack="sign_flip")) == SignFlip()


@pytest.mark.parametrize(
    ("attack", "setting", "message"),
    [
        ("ipm", "epsilo=1.0", r"simulation\.attack\.options\.epsilo: expected a known option; did you mean 'epsilon'"),
        ("ipm", "epsilon=-1.0", r"simulation\.attack\.options: expected options that fit \(expected .*-1"),
        ("sign_flip", "scale=2.0", r"simulation\.attack\.options\.scale: expected a known option"),
        ("scaling_backdoor", "target=7", r"simulation\.attack\.options: expected options that fit \(expected target <"),
    ],
)
def test_options_that_do_not_fit_are_refused_by_their_path(attack: str, setting: str, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        run(plan(f"simulation.attack.options.{setting}", attack=attack))


def test_attackers_lie_from_their_round_on() -> None:
    waiting = adversary(SignFlip(), plan("simulation.attack.from_round=3", attack="sign_flip"))
    assert [waiting.begin(order(number)) for number in (1, 2)] == [frozenset(), frozenset()] and not waiting.striking
    assert waiting.begin(order(3)) == frozenset(SITES[:2]) and waiting.striking


def test_they_know_their_own_updates_and_the_others() -> None:
    attack = Listening()
    mind = adversary(attack)
    model = np.array([5.0, 6.0], dtype=np.float32)
    honest = [np.array([7.0, 8.0], dtype=np.float32)] * 3
    mind.craft(order(2), [result(1, 2), result(3, 4)], honest, model)
    mind.craft(order(3), [result(1, 2)], [], model)
    first, second = attack.heard
    np.testing.assert_array_equal(first.own, [[1, 2], [3, 4]])
    np.testing.assert_array_equal(first.honest, [[7, 8]] * 3)
    np.testing.assert_array_equal(first.model, model)
    assert (first.round, first.num_byzantine, dict(first.memory)) == (2, 1, {})
    assert second.own.shape == (1, 2) and second.honest.shape == (0, 2) and second.memory["rounds"][0] == 2
    assert first.seed != second.seed


def test_what_they_send_keeps_their_tallies_and_claims_what_the_plan_says() -> None:
    sent = np.array([[9, 9], [8, 8]], dtype=np.float32)
    own = [result(1, 2, examples=10), result(3, 4, examples=20)]
    honest_claims = adversary(Listening(updates=sent)).craft(order(), own, [], ZERO)
    assert [one.num_examples for one in honest_claims] == [10, 20]
    claiming = plan("simulation.attack.claim=1000000000000", attack="sign_flip")
    crafted = adversary(Listening(updates=sent), claiming).craft(order(), own, [], ZERO)
    assert [one.num_examples for one in crafted] == [10**12] * 2
    np.testing.assert_array_equal([one.update for one in crafted], sent)
    assert [one.tally for one in crafted] == [one.tally for one in own]


def test_updates_of_another_shape_are_a_bug_of_the_attack() -> None:
    with pytest.raises(ValueError, match=r"attack: expected updates of shape \(1, 2\), got \(2, 2\)"):
        adversary(Listening(updates=np.zeros((2, 2), dtype=np.float32))).craft(order(), [result(1, 2)], [], ZERO)


def test_they_may_ask_what_the_servers_rule_would_make_of_rows() -> None:
    attack = Listening()
    mind = adversary(attack)
    mind.craft(order(), [result(1, 2)], [], ZERO)
    rows = np.array([[0, 9], [1, 1], [2, 5], [100, -100], [3, 3]], dtype=np.float32)
    before = rows.copy()
    vector = attack.heard[0].aggregate(rows)
    assert vector is not None
    np.testing.assert_allclose(vector, np.sort(rows, axis=0)[1:-1].mean(axis=0), rtol=1e-6)
    np.testing.assert_array_equal(rows, before)
    assert attack.heard[0].aggregate(rows[:2]) is None  # too few for a trimmed mean of f = 1
    mind.context = lambda: RoundContext(size=3)  # a round of a model of another size
    assert attack.heard[0].aggregate(rows) is None


# -- in a whole run -----------------------------------------------------------------------------------


@pytest.mark.parametrize("attack", ["scaled_sign_flip", "label_flip", "mimic", "scaling_backdoor"])
def test_until_the_attack_begins_nothing_differs_by_a_bit(attack: str) -> None:
    common = ("rounds=2", "clipping.clip_norm=0.05")
    honest = run(plan(*common))
    waiting = run(plan(*common, "simulation.attack.from_round=3", attack=attack))
    assert waiting.model.tobytes() == honest.model.tobytes()
    lines = [{key: value for key, value in line.items() if "seconds" not in key} for line in waiting.rounds]
    assert lines == [{key: value for key, value in line.items() if "seconds" not in key} for line in honest.rounds]


def test_an_attack_in_the_last_round_changes_that_round_only() -> None:
    honest, attacked = (run(plan("rounds=3", **more)) for more in ({}, {"attack": "scaled_sign_flip"}))
    late = run(plan("rounds=3", "simulation.attack.from_round=3", attack="scaled_sign_flip"))
    norms = [[line["update_norm"] for line in found.rounds] for found in (honest, attacked, late)]
    assert norms[2][:2] == norms[0][:2] and norms[2][2] != norms[0][2] and norms[1][0] != norms[0][0]


@pytest.mark.parametrize("rule", ["trimmed_mean", "median"])
def test_nan_is_refused_and_the_honest_rows_alone_make_the_model(rule: str) -> None:
    chosen = plan(f"robust.rule={rule}", attack="nan")
    (liar,) = attackers(chosen)
    attacked = run(chosen)
    without = plan(f"robust.rule={rule}", f'cohort.without=["{liar}"]', "simulation.sites=5")
    assert attacked.model.tobytes() == run(without).model.tobytes()
    assert np.isfinite(attacked.model).all() and not any(line["void"] for line in attacked.rounds)
    for line in attacked.rounds:
        (refused,) = [one for one in line["evidence"] if one["verdict"] == "refused"]
        assert refused["members"] == [liar] and refused["norm"] is None and "finite" in refused["reason"]


def test_one_nan_in_a_plain_mean_voids_the_round_unless_fewer_replies_are_enough() -> None:
    off = {"robust": {"rule": "off"}}
    with pytest.raises(Exception, match=r"5 rounds in a row were void; last: 4 usable updates of 5, and 5 are needed"):
        run(plan("rounds=9", attack="nan", **off))
    enough = run(plan("cohort.min_replies=4", attack="nan", **off))
    assert np.isfinite(enough.model).all() and not any(line["void"] for line in enough.rounds)


def test_a_claim_buys_weight_from_the_plain_mean_only() -> None:
    claim = "simulation.attack.claim=4000000000"
    off = {"robust": {"rule": "off"}}
    attacked, claimed = (run(plan(*more, attack="sign_flip", **off)) for more in ((), (claim,)))
    (liar,) = attackers(plan(attack="sign_flip"))
    shares = [
        {one["members"][0]: one["weight"] for one in found.rounds[0]["evidence"]} for found in (attacked, claimed)
    ]
    assert shares[1][liar] / sum(shares[1].values()) > 0.999999 > 0.5 > shares[0][liar] / sum(shares[0].values())
    assert attacked.model.tobytes() != claimed.model.tobytes()
    robust = [run(plan(*more, attack="sign_flip")).model.tobytes() for more in ((), (claim,))]
    assert robust[0] == robust[1]


@pytest.mark.parametrize("attack", ["mimic", "label_flip", "free_rider"])
def test_both_executors_give_the_same_attacked_run(attack: str) -> None:
    common = ("rounds=3", "training.lr=0.05", "simulation.attack.from_round=2")
    flat = run(plan(*common, attack=attack))
    for more in ("simulation.executor=blocks", "simulation.workers=2"):
        other = run(plan(*common, more, attack=attack))
        np.testing.assert_allclose(other.model, flat.model, atol=1e-5)
    honest = run(plan(*common))
    assert np.abs(honest.model - flat.model).max() > 1e-4


def test_attackers_that_drop_out_do_not_attack() -> None:
    off = {"robust": {"rule": "off"}}
    common = ("simulation.dropout=0.5", "cohort.min_replies=1", "rounds=8")
    chosen = plan(*common, attack="nan", **off).override(["simulation.attack.attackers=2"])
    liars = set(attackers(chosen))
    found = run(chosen)
    gone = [{absence["site"] for absence in line["absences"]} & liars for line in found.rounds]
    assert {len(part) for part in gone} >= {0, 1}
    for line, part in zip(found.rounds, gone, strict=True):
        refused = {one["members"][0] for one in line["evidence"] if one["verdict"] == "refused"}
        assert refused == (liars & set(line["cohort"])) - part


def test_the_adversary_does_not_change_the_results_it_was_given() -> None:
    own = [result(1, 2)]
    before = replace(own[0], update=own[0].update.copy())
    adversary(SignFlip()).craft(order(), own, [], ZERO)
    np.testing.assert_array_equal(own[0].update, before.update)
