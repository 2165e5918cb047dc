"""The planner: capacity by Python's own integers, noise by SEAL's own measure, parameters by SEAL's own tables."""

from typing import Any

import numpy as np
import pytest
import tenseal as ts
import tenseal.sealapi as seal
from hypothesis import given
from hypothesis import strategies as st

from wardround.decoding import PlanError
from wardround.strategies.he import he_plan
from wardround.strategies.he.he_plan import COEFF_BITS, DEGREE, Form, HEPlan, Q, batching_prime
from wardround.strategies.he.scheme import KeyHolder, KeylessSum, PublicContext, new_key
from wardround.strategies.secagg.parameters import MAX_COMMITTEE
from wardround.strategies.secagg.plan_terms import exact_terms, he_plan_of

EVERY = range(1, MAX_COMMITTEE + 1)
PLAN_BITS = sorted({HEPlan(members=n).plain_modulus.bit_length() for n in EVERY})


# -- capacity ------------------------------------------------------------------------------------------------


def test_no_sum_of_any_number_of_members_reaches_the_plain_modulus_or_the_next_field() -> None:
    """Every plan there is, at every width of its numbers, with every member at the most."""
    checked = 0
    for members in EVERY:
        plan = HEPlan(members=members)
        for bits in range(1, plan.most_bits(1) + 1):
            fields, width = plan.fields(bits), plan.field_bits(bits)
            largest = members * (2**bits - 1)
            assert largest < 2**width
            assert sum(largest << (width * field) for field in range(fields)) < plan.plain_modulus
            checked += 1
    assert checked > 255 * 30


def test_a_slot_holds_no_more_than_that() -> None:
    """One field more would not fit, nor would one bit more: else slots are wasted, and the proof is not tight."""
    for members in EVERY:
        plan = HEPlan(members=members)
        for fields in (1, 2):
            bits = plan.most_bits(fields)
            width = plan.field_bits(bits + 1)
            one_more = sum((members * (2 ** (bits + 1) - 1)) << (width * field) for field in range(fields))
            assert plan.fields(bits) >= fields and one_more >= plan.plain_modulus
        with pytest.raises(ValueError, match=rf"at most {plan.most_bits(1)} bits in sums of {members} members, got"):
            plan.fields(plan.most_bits(1) + 1)


def test_more_fields_than_a_slot_has_bits_for_are_refused() -> None:
    with pytest.raises(ValueError, match="expected fields that hold a number of 1 bit, got 20"):
        HEPlan(members=255).most_bits(20)


@pytest.mark.parametrize("members", [-1, 0, MAX_COMMITTEE + 1])
def test_there_is_no_plan_for_other_numbers_of_members(members: int) -> None:
    with pytest.raises(ValueError, match=f"expected sums of 1 to 255 members, got {members}"):
        HEPlan(members=members)


def test_what_the_specification_measured_is_what_is_planned() -> None:
    """Two values a slot: an update of 16 bits and 8 members takes no more bytes than float32 does."""
    plan = HEPlan(members=8)
    assert plan.plain_modulus.bit_length() == 38 and plan.fields(16) == 2 and plan.field_bits(16) == 19


# -- noise ---------------------------------------------------------------------------------------------------


def largest_error(members: int, form: Form) -> int:
    """Twice the most that a sum's noise can be, by the bounds in the module's own words, in whole numbers."""
    return members * (2 * 21 + 1 if form is Form.SEEDED else 2 + DEGREE + 1)


def test_the_worst_noise_of_all_members_leaves_decryption_exact_and_a_fifth_of_the_room() -> None:
    for members in EVERY:
        plan = HEPlan(members=members)
        for form in plan.forms:
            worst = largest_error(members, form)
            assert worst * plan.plain_modulus < Q  # |ε| < q / 2t
            assert 5 * worst * plan.plain_modulus <= 4 * Q
            assert 2 ** plan.noise_budget(form) * worst * plan.plain_modulus <= Q


def test_the_next_larger_plain_modulus_has_no_proof() -> None:
    """A plan one step beyond: the planner takes the last one that is proven, up to its own cap."""
    for members in EVERY:
        plan = HEPlan(members=members)
        bits = plan.plain_modulus.bit_length()
        beyond = batching_prime(bits + 1)
        proven = all(5 * largest_error(members, form) * beyond <= 4 * Q for form in plan.forms)
        assert not proven or bits == 44


class Measured:
    """Members under one real key, and what SEAL says of a ciphertext's noise."""

    def __init__(self, members: int, form: Form) -> None:
        self.plan = HEPlan(members=members)
        key = new_key(self.plan, form)
        self.holder = KeyHolder(self.plan, form, key)
        self.context = ts.context_from(key)
        raw: Any = self.context.seal_context().data
        self.decryptor = seal.Decryptor(raw, self.context.secret_key().data)

    def budget(self, chunk: bytes) -> int:
        (found,) = ts.bfv_vector_from(self.context, chunk).ciphertext()
        return int(self.decryptor.invariant_noise_budget(found))

    def sum_of_all(self) -> tuple[bytes, np.ndarray]:
        """The encrypted sum of the full number of members, each slot's sum the largest that fits, and that sum."""
        t, members = self.plan.plain_modulus, self.plan.members
        random = np.random.Generator(np.random.Philox(key=members))
        total, expected = KeylessSum(PublicContext(self.plan, self.holder.public), 1), np.zeros(DEGREE, dtype=np.uint64)
        for _ in range(members):
            slots = random.integers(0, (t - 1) // members + 1, DEGREE, dtype=np.uint64)
            slots[0] = (t - 1) // members
            total.add([self.holder.encrypt(slots)])
            expected += slots
        (chunk,) = total.serialized()
        return chunk, expected


@pytest.mark.parametrize(
    ("members", "form"),
    [
        *((members, form) for members in (1, 2, 3, 5, 8) for form in Form),
        *((members, Form.SEEDED) for members in (9, 27, 64, 255)),
    ],
)
def test_the_sum_of_all_members_has_at_least_the_noise_budget_that_is_proven(members: int, form: Form) -> None:
    measured = Measured(members, form)
    chunk, expected = measured.sum_of_all()
    assert measured.budget(chunk) >= measured.plan.noise_budget(form)
    assert measured.budget(chunk) > 0  # of SEAL's: at 0 decryption is wrong
    assert np.array_equal(measured.holder.decrypt(chunk), expected)


def test_noise_grows_with_the_members_so_that_the_measure_means_something() -> None:
    measured = Measured(255, Form.SEEDED)
    one = measured.holder.encrypt(np.zeros(DEGREE, dtype=np.uint64))
    assert measured.budget(measured.sum_of_all()[0]) < measured.budget(one)


def test_public_encryption_is_offered_to_so_many_members_only_as_it_is_proven_for() -> None:
    assert HEPlan(members=8).forms == (Form.SEEDED, Form.PUBLIC)
    assert HEPlan(members=9).forms == (Form.SEEDED,)


# -- parameters ----------------------------------------------------------------------------------------------


def test_the_moduli_are_those_that_seal_makes() -> None:
    first, _ = (one.value() for one in seal.CoeffModulus.Create(DEGREE, list(COEFF_BITS)))
    assert first == Q


@pytest.mark.parametrize("bits", range(30, 46))
def test_batching_primes_are_those_of_seal(bits: int) -> None:
    assert batching_prime(bits) == seal.PlainModulus.Batching(DEGREE, bits).value()


@pytest.mark.parametrize("bits", PLAN_BITS)
def test_each_plain_modulus_is_a_prime_with_all_its_slots(bits: int) -> None:
    """By trial division: the planner's own test is that of Miller and Rabin."""
    t = batching_prime(bits)
    assert t % (2 * DEGREE) == 1 and t.bit_length() == bits
    divisors = np.arange(3, int(t**0.5) + 2, 2, dtype=np.int64)
    assert not (t % divisors == 0).any()


@given(st.integers(41, 1 << 20))
def test_primes_are_told_from_other_numbers(number: int) -> None:
    odd = number | 1
    assert he_plan._is_prime(odd) == all(odd % d for d in range(3, int(odd**0.5) + 1, 2))


def test_the_security_level_is_the_one_of_128_bits_and_is_enforced() -> None:
    """Below what SEAL allows, which refuses more than the standard of 2018; ours keep to the estimates of 2024."""
    assert sum(COEFF_BITS) == 106 <= seal.CoeffModulus.MaxBitCount(DEGREE, seal.SEC_LEVEL_TYPE.TC128)
    plan = HEPlan(members=3)
    raw: Any = ts.context_from(new_key(plan, Form.SEEDED)).seal_context().data
    assert raw.parameters_set()
    data = raw.key_context_data()
    assert data.total_coeff_modulus_bit_count() == 106 and data.qualifiers().using_batching
    with pytest.raises(ValueError, match="encryption parameters"):
        ts.context(ts.SCHEME_TYPE.BFV, DEGREE, plan.plain_modulus, coeff_mod_bit_sizes=[55, 55])


def test_tags_are_so_many_that_a_forged_chunk_passes_with_less_than_2_to_the_minus_64() -> None:
    for members in EVERY:
        plan = HEPlan(members=members)
        chance = (1 / plan.plain_modulus + 2.0**-45) ** plan.tags
        assert chance < 2.0**-64
        assert plan.slots + plan.tags == DEGREE


# -- plans ---------------------------------------------------------------------------------------------------


def bfv_plan(*settings: str, sites: int = 3) -> Any:
    from tests.masked_points import masked_plan

    return masked_plan("protection.mode=bfv", *settings, sites=sites)


def test_a_plan_of_too_many_sites_is_refused_with_the_number_that_is_proven() -> None:
    with pytest.raises(PlanError, match=r"simulation\.sites.*255"):
        he_plan_of(bfv_plan("simulation.sites=256", "protection.dropout=0"))


@pytest.mark.parametrize("sites", [2, 3, 5, 8, 32])
def test_values_are_as_wide_as_two_of_them_fit_a_slot(sites: int) -> None:
    plan = bfv_plan("protection.dropout=0", sites=sites)
    bits, weight, scale = exact_terms(plan)
    he = he_plan_of(plan)
    assert he.members == sites and he.fields(bits) >= 2 and (bits == 24 or he.fields(bits + 1) < 2)
    assert weight == 1 and scale == (2 ** (bits - 1) - 1) / 2.0


def test_more_bits_than_a_slot_has_are_refused() -> None:
    most = min(HEPlan(members=128).most_bits(1), 32 - 7)
    exact_terms(bfv_plan("protection.dropout=0", f"protection.value_bits={most}", sites=128))
    with pytest.raises(PlanError, match=f"at most {most}"):
        exact_terms(bfv_plan("protection.dropout=0", f"protection.value_bits={most + 1}", sites=128))
