"""What [protection] comes to: parameters, and an encoding that members and server make alike."""

import math
from typing import Any

import numpy as np
import pytest

from tests.federation_of_points import point_plan
from wardround.plan import Plan, PlanError
from wardround.strategies.privacy.secure_random import SecureRandom
from wardround.strategies.privacy.terms import client_terms
from wardround.strategies.secagg.parameter_choice import choose
from wardround.strategies.secagg.parameters import Tables
from wardround.strategies.secagg.plan_terms import encoding_of, exact_terms, parameters_of

SEED = bytes(range(32))
MASKED = ("protection.mode=masking", "cohort.weighting=uniform", "clipping.clip_norm=0.5")
NOISED = (
    "protection.mode=masking",
    "cohort.weighting=uniform",
    "privacy.unit=client",
    "privacy.epsilon=8",
    "privacy.clip_norm=0.5",
    "privacy.mechanism=skellam",
)


def plan_of(*settings: str, sites: int = 20, **more: Any) -> Plan:
    return point_plan(*settings, sites=sites, **more)


def test_parameters_are_those_that_choose_gives_for_the_sites_that_are_left() -> None:
    plan = plan_of(*MASKED, "protection.groups=4", 'cohort.without=["site-01"]', "protection.dropout=0.2")
    assert parameters_of(plan) == choose(clients=19, colluding=1, dropout=0.2, groups=4)
    given = plan_of(*MASKED, "protection.min_roster=15", "protection.min_survivors=12", "protection.colluding=3")
    assert parameters_of(given) == choose(
        clients=20, colluding=3, dropout=0.0, groups=1, min_roster=15, min_survivors=12
    )


def test_groups_of_each_round_are_drawn_once_in_a_training_round() -> None:
    rows = ("privacy.unit=row", "privacy.noise_multiplier=2", "privacy.public_sizes=true")
    plan = plan_of(*MASKED, *rows, "protection.groups=4", "protection.tables=each-round", rounds=7)
    assert (parameters_of(plan).tables, parameters_of(plan).regrouped_rounds) == (Tables.EACH_ROUND, 7)


@pytest.mark.parametrize(
    ("settings", "path", "text"),
    [
        (("protection.groups=21",), "protection.groups", "expected 1 to 20"),
        (("protection.colluding=21",), "protection.colluding", "expected 0 to 20"),
        (("protection.min_roster=21",), "protection.min_roster", "expected 1 to 20"),
        (("protection.groups=10",), "protection.groups", "possible: groups = 5 (5 groups of 4; "),
        (("protection.colluding=19",), "protection.colluding", "possible: colluding = 18 ("),
        (("protection.min_survivors=1",), "protection.min_survivors", "possible: min_survivors = 3 ("),
        (("protection.dropout=0.6",), "protection.dropout", "possible: dropout = 0.49 ("),
    ],
)
def test_what_is_not_possible_names_the_key_and_the_nearest_choice(
    settings: tuple[str, ...], path: str, text: str
) -> None:
    with pytest.raises(PlanError) as caught:
        plan_of(*MASKED, *settings)
    assert caught.value.path == path
    assert text in str(caught.value) and "\n" not in str(caught.value)


def test_a_federation_that_no_protocol_hides_is_refused() -> None:
    with pytest.raises(PlanError, match="fewer than 3 clients hide nobody") as caught:
        plan_of(*MASKED, sites=2)
    assert caught.value.path == "protection.groups"


@pytest.mark.parametrize(("sites", "groups", "bits"), [(20, 4, 24), (255, 1, 24), (1275, 5, 24)])
def test_values_have_24_bits_or_as_many_as_the_largest_group_leaves(sites: int, groups: int, bits: int) -> None:
    plan = plan_of(*MASKED, f"protection.groups={groups}", sites=sites)
    assert bits + (parameters_of(plan).group_size - 1).bit_length() <= 32
    assert exact_terms(plan)[0] == bits


def test_the_largest_value_of_the_heaviest_site_is_the_largest_integer() -> None:
    plan = plan_of(*MASKED, "cohort.weighting=capped", "cohort.weight_cap=300", "protection.groups=4")
    encoding = encoding_of(plan, 3, seed=SEED)
    assert (encoding.value_bits, encoding.max_weight, encoding.members, encoding.word_bits) == (24, 300, 5, 32)
    assert encoding.scale == (2**23 - 1) / (0.5 * 300)
    assert encoding.clip_norm == 0.5 and encoding.rotation is None and encoding.mechanism is None
    sent = encoding.encode(np.array([0.5, 0, 0], np.float32), SecureRandom(SEED), 300)
    assert sent.clamped == 0
    assert abs(int(sent.words.view(np.int32)[0]) - (2**23 - 1)) <= 4, "but for the rounding of float32"


def test_the_mean_of_a_whole_group_comes_back_within_the_error_bound() -> None:
    plan = plan_of(*MASKED, "protection.groups=4")
    encoding, random = encoding_of(plan, 50, seed=SEED), SecureRandom(SEED)
    updates = np.random.Generator(np.random.Philox(key=1)).normal(size=(5, 50)).astype(np.float32) * np.float32(0.01)
    total = np.zeros(50, np.uint32)
    for update in updates:
        total += encoding.encode(update, random).words
    error = np.abs(encoding.decode(total, 5) - updates.mean(axis=0, dtype=np.float64)).max()
    assert error <= encoding.error_bound(1.0, 0.5) < 1e-6


@pytest.mark.parametrize(
    ("settings", "path", "text"),
    [
        (
            ("protection.value_bits=28",),
            "protection.value_bits",
            "at most 27, or the ring is too narrow: words have 32",
        ),
        (("protection.value_bits=7",), "protection.value_bits", "at least 8, since fewer round small values away"),
        (
            ("cohort.weighting=capped", "cohort.weight_cap=131072"),
            "cohort.weight_cap",
            "at most 131071, or the ring is too narrow: a value has 24 bits",
        ),
        (
            ("cohort.weighting=capped", "cohort.weight_cap=3", "protection.value_bits=8"),
            "cohort.weight_cap",
            "at most 1, or the ring is too narrow: a value has 8 bits",
        ),
        (("clipping.clip_norm=",), "clipping.clip_norm", "a number where updates are hidden"),
    ],
)
def test_a_ring_that_is_too_narrow_is_refused_with_the_plan(settings: tuple[str, ...], path: str, text: str) -> None:
    with pytest.raises(PlanError) as caught:
        plan_of(*MASKED, *settings)
    assert caught.value.path == path and text in str(caught.value)


def test_the_widest_plans_are_accepted() -> None:
    assert exact_terms(plan_of(*MASKED, "protection.value_bits=27"))[0] == 27
    heavy = plan_of(*MASKED, "cohort.weighting=capped", "cohort.weight_cap=131071")
    assert encoding_of(heavy, 1, seed=SEED).scale * 0.5 >= 64, "steps up to the clip, of weight 1"


@pytest.mark.parametrize("clip", ["1e-40", "1e30"])
def test_a_clip_that_cannot_be_encoded_is_refused_with_the_plan(clip: str) -> None:
    with pytest.raises(PlanError, match="a norm that can be encoded") as caught:
        plan_of(*MASKED, f"clipping.clip_norm={clip}")
    assert caught.value.path == "clipping.clip_norm"


@pytest.mark.parametrize("clip", ["1e-12", "1e12"])
def test_clips_at_the_ends_of_what_is_accepted_are_encoded(clip: str) -> None:
    plan = plan_of(*MASKED, "cohort.weighting=capped", "cohort.weight_cap=131071", f"clipping.clip_norm={clip}")
    assert encoding_of(plan, 3, seed=SEED).clip_norm == float(clip)


def test_noise_comes_from_the_claim_and_is_the_same_for_all_who_know_the_seed() -> None:
    plan = plan_of(*NOISED, "protection.groups=4")
    encoding = encoding_of(plan, 50, seed=SEED)
    assert encoding.mechanism == client_terms(plan, 50).skellam is not None
    assert (encoding.value_bits, encoding.max_weight, encoding.members, encoding.length) == (31, 1, 5, 64)
    assert encoding.scale == 4 * math.sqrt(64) / 0.5 and encoding.clip_norm == 0.5
    assert encoding == encoding_of(plan, 50, seed=SEED)
    assert encoding != encoding_of(plan, 50, seed=bytes(32))


def test_noise_that_the_ring_cannot_hold_is_refused() -> None:
    loud = plan_of(*NOISED, "privacy.epsilon=", "privacy.noise_multiplier=3000")
    with pytest.raises(PlanError, match="noise of a client with a variance of") as caught:
        encoding_of(loud, 1 << 20, seed=SEED)
    assert caught.value.path == "privacy.noise_multiplier"
    wide = plan_of(*NOISED, "privacy.epsilon=", "privacy.noise_multiplier=3.6e5", sites=200)
    with pytest.raises(PlanError) as caught:
        encoding_of(wide, 1 << 12, seed=SEED)
    assert caught.value.path == "privacy.noise_multiplier"
