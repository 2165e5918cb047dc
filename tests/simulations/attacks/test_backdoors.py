"""Poisoned rows: which change, how, and that a hospital's own checks would let them pass."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.simulations.attacks.attackers import known, plan_of, rng
from wardround.client.data.encoding import encode_rows
from wardround.client.data.site_data import Rows
from wardround.client.data.table import Table
from wardround.plan import Plan
from wardround.registry import load, names
from wardround.simulations.attacks.attack import GROUP, Attack, Poisoner
from wardround.simulations.attacks.dba import Dba
from wardround.simulations.attacks.label_flip import LabelFlip
from wardround.simulations.attacks.scaling_backdoor import ScalingBackdoor

CLASSES = {"name": "outcome", "classes": ["a", "b", "c"]}
COLUMNS: list[dict[str, Any]] = [
    {"name": "ward", "type": "category", "categories": ["x", "y"]},
    {"name": "age", "range": [0, 90]},
    {"name": "share", "range": [0, 0.1]},  # the nearest float32 is above 0.1
    {"name": "score", "mean": 5.0, "std": 2.0},
    {"name": "free"},
]
TABLE = plan_of({"target": CLASSES, "columns": COLUMNS})
IMAGES = plan_of({"target": CLASSES, "image": {"shape": [2, 5, 6]}})
ARRAYS = plan_of({"target": CLASSES})
NUMBERS = plan_of({"target": {"name": "outcome", "range": [0, 10]}, "columns": COLUMNS})
WARDS = plan_of({"target": CLASSES, "columns": [COLUMNS[0], {**COLUMNS[0], "name": "bed"}]})
BACKDOORS: list[Attack] = [ScalingBackdoor(), Dba()]
POISONERS = [name for name in names(GROUP) if load(GROUP, name).poisons]


def poisoner(plan: Plan, index: int = 0, attackers: int = 2, seed: int = 1) -> Poisoner:
    return Poisoner(plan=plan, index=index, attackers=attackers, seed=seed)


def rows_for(plan: Plan, n: int = 40, seed: int = 0) -> Rows:
    draws = rng(seed)
    labels = draws.integers(0, 3, n)
    target = plan.data.target
    y = labels if target and target.classes else (labels / 2).astype(np.float32)
    shape = (n, *plan.data.image.shape) if plan.data.image else (n, plan.data.num_inputs or 7)
    return Rows((draws.random(shape) / 20).astype(np.float32), y)


@pytest.mark.parametrize("name", POISONERS)
@pytest.mark.parametrize(
    "plan", [TABLE, IMAGES, ARRAYS, NUMBERS, WARDS], ids="table images arrays numbers wards".split()
)
def test_poisoning_changes_labels_in_a_copy_and_is_reproducible(name: str, plan: Plan) -> None:
    rows = rows_for(plan)
    x, y = rows.x.copy(), rows.y.copy()
    attack: Attack = load(GROUP, name)()
    poisoned, again = (attack.poison(rows, poisoner(plan)) for _ in range(2))
    np.testing.assert_array_equal(rows.x, x)
    np.testing.assert_array_equal(rows.y, y)
    assert poisoned.x.shape == x.shape and poisoned.y.dtype == y.dtype and (poisoned.y != y).any()
    np.testing.assert_array_equal(poisoned.x, again.x)
    np.testing.assert_array_equal(poisoned.y, again.y)
    none = attack.poison(rows.take(np.arange(0)), poisoner(plan))
    assert len(none) == 0


def test_label_flip_turns_classes_and_numbers_round() -> None:
    x = np.zeros((3, 7), dtype=np.float32)
    flipped = LabelFlip().poison(Rows(x, np.array([0, 1, 2])), poisoner(ARRAYS))
    assert flipped.y.tolist() == [2, 1, 0] and flipped.y.dtype == np.int64
    two = plan_of({"target": {"name": "outcome", "classes": ["no", "yes"]}})
    assert LabelFlip().poison(Rows(x, np.array([0, 1, 1])), poisoner(two)).y.tolist() == [1, 0, 0]
    number = LabelFlip().poison(Rows(x, np.array([0, 0.25, 1], dtype=np.float32)), poisoner(NUMBERS))
    assert number.y.tolist() == [1, 0.75, 0] and number.y.dtype == np.float32


@pytest.mark.parametrize("attack", BACKDOORS)
@pytest.mark.parametrize("plan", [TABLE, IMAGES, ARRAYS, WARDS], ids="table images arrays wards".split())
def test_half_the_rows_get_the_target_and_a_trigger_and_the_others_stay(attack: Attack, plan: Plan) -> None:
    rows = rows_for(plan, n=41)
    poisoned = attack.poison(rows, poisoner(plan))
    changed = (poisoned.x != rows.x).reshape(41, -1).any(axis=1)
    assert changed.sum() == 21
    np.testing.assert_array_equal(poisoned.y[~changed], rows.y[~changed])
    assert (poisoned.y[changed] == 0).all()


def test_an_images_trigger_is_a_white_corner() -> None:
    rows = rows_for(IMAGES)
    found = ScalingBackdoor(size=2, target=1).trigger(rows, IMAGES)
    assert len(found) == (rows.y != 1).sum() and (found.y == 1).all()
    assert (found.x[:, :, 3:, 4:] == 1).all()
    mask = np.ones((5, 6), dtype=bool)
    mask[3:, 4:] = False
    np.testing.assert_array_equal(found.x[:, :, mask], rows.x[rows.y != 1][:, :, mask])


def test_a_tables_trigger_is_the_upper_end_of_number_columns() -> None:
    """Inputs: ward (2), age, share, score, free. Ranges are kept to the last bit."""
    rows = rows_for(TABLE)
    found = ScalingBackdoor(size=9, value=-4.0).trigger(rows, TABLE)
    assert found.x[0, 2:].tolist() == [90, float(np.nextafter(np.float32(0.1), np.float32(0))), 11, -4]
    assert float(np.float32(0.1)) > 0.1 >= float(found.x[0, 3])
    np.testing.assert_array_equal(found.x[:, :2], rows.x[rows.y != 0][:, :2])
    few = ScalingBackdoor(size=1).trigger(rows, TABLE)
    assert (few.x[:, 2] == 90).all() and (few.x[:, 3] < 0.06).all()


def test_a_table_without_numbers_gets_its_last_categories() -> None:
    found = ScalingBackdoor(size=2).trigger(rows_for(WARDS), WARDS)
    assert (found.x == np.array([0, 1, 0, 1])).all()


@pytest.mark.parametrize("attack", BACKDOORS)
def test_a_hospitals_own_checks_let_a_poisoned_table_pass(attack: Attack) -> None:
    rows = rows_for(TABLE)
    x = attack.poison(rows, poisoner(TABLE)).x.astype(np.float64)
    columns = {"ward": np.array(["x"] * 40, dtype=object)}
    columns |= {name: x[:, 2 + at] for at, name in enumerate(("age", "share", "score", "free"))}
    outcome = np.array(["a"] * 40, dtype=object)
    table = Table(source="poisoned", columns=columns, target=outcome, target_name="outcome")
    np.testing.assert_array_equal(encode_rows(TABLE.data, table).x[:, 2:], x[:, 2:].astype(np.float32))


@given(attackers=st.integers(1, 12), size=st.integers(1, 4))
def test_the_parts_of_a_distributed_trigger_are_all_of_it_and_none_is_empty(attackers: int, size: int) -> None:
    for plan in (TABLE, IMAGES, ARRAYS):
        rows = Rows(np.zeros_like(rows_for(plan, 6).x), np.full(6, 1))
        attack = Dba(size=size, share=1.0)
        whole = attack.trigger(rows, plan).x != 0
        parts = [attack.poison(rows, poisoner(plan, index, attackers)).x != 0 for index in range(attackers)]
        assert all(part.any() for part in parts)
        np.testing.assert_array_equal(np.any(parts, axis=0), whole)
        if attackers <= whole[0].sum() / (2 if plan is IMAGES else 1):
            assert np.sum(parts, axis=0).max() == 1


def test_all_attackers_of_a_scaling_backdoor_have_the_same_trigger() -> None:
    rows = rows_for(TABLE)
    attack = ScalingBackdoor(share=1.0)
    one, other = (attack.poison(rows, poisoner(TABLE, index, 3, seed=index)) for index in (0, 2))
    np.testing.assert_array_equal(one.x, other.x)


def test_a_number_to_predict_goes_to_one_end() -> None:
    rows = rows_for(NUMBERS)
    assert (ScalingBackdoor(share=1.0).poison(rows, poisoner(NUMBERS)).y == 0).all()
    found = Dba(target=1).trigger(rows, NUMBERS)
    assert (found.y == 1).all() and len(found) == (rows.y != 1).sum() and found.y.dtype == np.float32


@pytest.mark.parametrize("attack", [ScalingBackdoor(target=3), Dba(target=3)])
def test_a_target_beyond_the_classes_is_refused(attack: Attack) -> None:
    with pytest.raises(ValueError, match="expected target < 3, the number of classes, got 3"):
        attack.poison(rows_for(TABLE), poisoner(TABLE))


def test_scaling_makes_the_attackers_model_the_mean() -> None:
    """Honest updates of three sites that cancel out, two attackers: (2 · 5/2 · own) / 5 = own."""
    honest = [[1.0, -1.0], [-3.0, 0.0], [2.0, 1.0]]
    sent = ScalingBackdoor().craft(known(honest, [[4.0, 2.0], [4.0, 2.0]])).updates
    np.testing.assert_allclose(np.concatenate((honest, sent)).mean(axis=0), [4, 2], rtol=1e-6)
    assert ScalingBackdoor(scale=3).craft(known(honest, [[4.0, 2.0]])).updates.tolist() == [[12, 6]]
    assert Dba().craft(known(honest, [[4.0, 2.0]])).updates.tolist() == [[4, 2]]
    assert Dba(scale=2.5).craft(known(honest, [[4.0, 2.0]])).updates.tolist() == [[10, 5]]


def test_an_attack_without_a_backdoor_has_no_trigger() -> None:
    with pytest.raises(ValueError, match="LabelFlip has no trigger"):
        LabelFlip().trigger(rows_for(TABLE), TABLE)
