"""What every registered attack keeps to."""

import inspect

import numpy as np
import pytest

from tests.simulations.attacks.attackers import known, rng
from wardround.registry import load, names
from wardround.simulations.attacks.attack import GROUP, Attack
from wardround.simulations.attacks.nan import Nan

ATTACKS = names(GROUP)
SHAPES = [(1, 1, 1), (1, 3, 5), (2, 1, 4), (3, 8, 6)]  # attackers, honest ones, d


def attack_called(name: str) -> Attack:
    attack: Attack = load(GROUP, name)()
    return attack


def test_the_attacks_of_the_specification_are_registered() -> None:
    expected = (
        "sign_flip scaled_sign_flip ipm alie min_max min_sum mimic gaussian label_flip fang mpaf scaling_backdoor"
    )
    assert set(ATTACKS) >= {*expected.split(), "dba", "free_rider", "nan", "adaptive"}


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_says_what_it_does_and_where_it_is_from(name: str) -> None:
    attack = attack_called(name)
    assert len(attack.summary) > 10 and "\n" not in attack.summary
    assert any(character.isdigit() for character in attack.source)
    assert "Source:" in (inspect.getdoc(type(attack)) or "")


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize(("f", "h", "d"), SHAPES)
def test_an_attack_gives_every_attacker_a_finite_float32_vector(name: str, f: int, h: int, d: int) -> None:
    draws = rng(7)
    knowledge = known(draws.normal(size=(h, d)), draws.normal(size=(f, d)), model=draws.normal(size=d))
    crafted = attack_called(name).craft(knowledge).updates
    assert crafted.shape == (f, d) and crafted.dtype == np.float32
    assert np.isfinite(crafted).all() != isinstance(attack_called(name), Nan)


@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize(("f", "h", "d"), SHAPES)
def test_updates_of_zero_are_no_trouble(name: str, f: int, h: int, d: int) -> None:
    crafted = attack_called(name).craft(known(np.zeros((h, d)), f)).updates
    assert crafted.shape == (f, d)
    assert np.isfinite(crafted).all() != isinstance(attack_called(name), Nan)


@pytest.mark.parametrize("name", ATTACKS)
def test_without_attackers_nothing_is_sent(name: str) -> None:
    assert attack_called(name).craft(known(rng(1).normal(size=(4, 3)), 0)).updates.shape == (0, 3)


@pytest.mark.parametrize("name", ATTACKS)
def test_without_other_sites_attackers_go_by_their_own_updates(name: str) -> None:
    crafted = attack_called(name).craft(known(np.zeros((0, 4)), rng(2).normal(size=(3, 4)))).updates
    assert crafted.shape == (3, 4)


@pytest.mark.parametrize("name", ATTACKS)
def test_the_same_seed_gives_the_same_lies_in_two_rounds_and_nothing_known_is_changed(name: str) -> None:
    draws = rng(3)
    honest, own, model = draws.normal(size=(5, 4)), draws.normal(size=(2, 4)), draws.normal(size=4)
    sent = []
    for _ in range(2):
        first = attack_called(name).craft(known(honest, own, model=model, seed=5))
        kept = {key: array.copy() for key, array in first.memory.items()}
        second = attack_called(name).craft(known(honest, own, model=model + 1, seed=6, memory=first.memory))
        assert all(np.array_equal(first.memory[key], array) for key, array in kept.items())
        sent.append(np.concatenate((first.updates, second.updates)))
    np.testing.assert_array_equal(sent[0], sent[1])


@pytest.mark.parametrize("name", ATTACKS)
def test_what_is_sent_can_be_changed_without_changing_what_is_known(name: str) -> None:
    knowledge = known(rng(4).normal(size=(5, 4)), rng(5).normal(size=(2, 4)))
    attack = attack_called(name)
    if type(attack).craft is not Attack.craft:
        assert not np.shares_memory(attack.craft(knowledge).updates, knowledge.own)
        assert not np.shares_memory(attack.craft(knowledge).updates, knowledge.honest)


@pytest.mark.parametrize("name", [name for name in ATTACKS if name != "nan"])
def test_long_updates_do_not_overflow(name: str) -> None:
    knowledge = known(
        np.full((4, 3), 3e38), np.full((2, 3), 3e38), model=np.full(3, 3e38), aggregate=lambda rows: rows[0]
    )
    assert np.isfinite(attack_called(name).craft(knowledge).updates).all()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("scaled_sign_flip", {"scale": 0.0}, "expected scale > 0, got 0.0"),
        ("ipm", {"epsilon": -1}, "expected epsilon > 0, got -1"),
        ("alie", {"z": float("nan")}, "expected a finite z, got nan"),
        ("min_max", {"perturbation": 3}, r"expected perturbation 0 \(unit\), 1 \(std\) or 2 \(sign\), got 3"),
        ("min_sum", {"perturbation": -1}, "expected perturbation 0"),
        ("mimic", {"warmup": 0}, "expected warmup >= 1, got 0"),
        ("gaussian", {"scale": float("inf")}, "expected scale > 0, got inf"),
        ("fang", {"b": 1.0}, "expected b > 1, got 1.0"),
        ("mpaf", {"scale": 0}, "expected scale > 0, got 0"),
        ("free_rider", {"noise": -0.1}, "expected noise >= 0, got -0.1"),
        ("scaling_backdoor", {"share": 0.0}, "expected 0 < share <= 1, got 0.0"),
        ("scaling_backdoor", {"target": -1}, "expected target >= 0, got -1"),
        ("scaling_backdoor", {"scale": -1.0}, "expected scale > 0, got -1.0"),
        ("dba", {"size": 0}, "expected size >= 1, got 0"),
        ("dba", {"value": float("inf")}, "expected a finite value, got inf"),
        ("adaptive", {"evaluations": 0}, "expected evaluations >= 1, got 0"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused(name: str, options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(GROUP, name)(**options)
