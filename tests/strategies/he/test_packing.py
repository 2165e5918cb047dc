"""Packing: what is packed and added up in the slots is what Python's own integers give, or it is refused."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.errors import RemoteError
from wardround.strategies.he.he_plan import HEPlan
from wardround.strategies.he.packing import Packing, Slots
from wardround.strategies.secagg.keystream import U32, U64

MEMBERS = [1, 2, 3, 5, 8, 9, 64, 255]


@dataclass(frozen=True)
class Case:
    """A packing, and what each of some members packs by it."""

    packing: Packing
    words: tuple[tuple[int, ...], ...]
    scalars: tuple[tuple[int, ...], ...]

    def slots(self) -> Slots:
        """The sum, as it is in a ciphertext: modulo t."""
        total = np.zeros((self.packing.chunks, self.packing.plan.slots), dtype=object)
        for words, scalars in zip(self.words, self.scalars, strict=True):
            total = total + self.packing.pack(as_words(words), as_scalars(scalars)).astype(object)
        return (total % self.packing.plan.plain_modulus).astype(np.uint64)


def as_words(values: tuple[int, ...]) -> U32:
    return np.array([value % 2**32 for value in values], dtype=np.uint32)


def as_scalars(values: tuple[int, ...]) -> U64:
    return np.array(values, dtype=np.uint64)


@st.composite
def cases(draw: st.DrawFn, ring: bool = False) -> Case:
    plan = HEPlan(members=draw(st.sampled_from(MEMBERS)))
    bits = draw(st.integers(2, min(32, plan.most_bits(1))))
    half = 1 << (bits - 1)
    edge = st.sampled_from([-half, half - 1, 0])
    word = edge | (st.integers(-(2**31), 2**31 - 1) if ring else st.integers(-half, half - 1))
    size, scalars = draw(st.integers(0, 9)), draw(st.integers(0, 3))
    members = draw(st.integers(1, min(plan.members, 4)))
    lane = st.sampled_from([0, 1, 2**64 - 1]) | st.integers(0, 2**64 - 1)
    return Case(
        packing=Packing(plan=plan, bits=bits, size=size, scalars=scalars, ring=ring),
        words=tuple(tuple(draw(st.tuples(*[word] * size))) for _ in range(members)),
        scalars=tuple(tuple(draw(st.tuples(*[lane] * scalars))) for _ in range(members)),
    )


@given(cases())
def test_sums_of_words_and_of_scalars_come_back_exactly(case: Case) -> None:
    words, scalars = case.packing.unpack(case.slots(), len(case.words))
    assert words.view(np.int32).tolist() == [
        (sum(column) + 2**31) % 2**32 - 2**31 for column in zip(*case.words, strict=True)
    ]
    assert scalars.tolist() == [sum(column) % 2**64 for column in zip(*case.scalars, strict=True)]


@given(cases(ring=True))
def test_in_a_ring_sums_come_back_modulo_its_size_with_their_sign(case: Case) -> None:
    words, scalars = case.packing.unpack(case.slots(), len(case.words))
    bits = case.packing.bits
    half = 1 << (bits - 1)
    expected = [(sum(column) + half) % (1 << bits) - half for column in zip(*case.words, strict=True)]
    assert words.view(np.int32).tolist() == expected
    assert scalars.tolist() == [sum(column) % 2**64 for column in zip(*case.scalars, strict=True)]


@pytest.mark.parametrize("members", MEMBERS)
@pytest.mark.parametrize("bits", [2, 12, 16, 19, 24, 32])  # every plan holds one number of 32 bits in a slot
def test_the_extremes_of_all_members_of_the_largest_plan_come_back(members: int, bits: int) -> None:
    """All at the most, all at the least, and scalars of 2^64 − 1: where anything would wrap, it does here."""
    plan = HEPlan(members=members)
    packing = Packing(plan=plan, bits=bits, size=5, scalars=2)
    half = 1 << (bits - 1)
    one = (half - 1, -half, 0, -1, 1)
    case = Case(packing=packing, words=(one,) * members, scalars=((2**64 - 1, 1),) * members)
    slots = case.slots()
    assert int(slots.max()) < plan.plain_modulus
    words, scalars = packing.unpack(slots, members)
    expected = [(members * value + 2**31) % 2**32 - 2**31 for value in one]
    assert words.view(np.int32).tolist() == expected
    assert scalars.tolist() == [-members % 2**64, members]


@pytest.mark.parametrize("extra", [-1, 0, 1])
def test_chunks_are_as_many_as_the_numbers_need(extra: int) -> None:
    plan = HEPlan(members=3)
    packing = Packing(plan=plan, bits=18, size=2 * 2 * plan.slots - 4 + extra, scalars=1)
    assert packing.fields == 2 and packing.digits == 4
    assert packing.chunks == (3 if extra > 0 else 2)
    words = (np.arange(packing.size) % 2**17).astype(np.uint32)
    slots = packing.pack(words, np.array([2**63 + 5], dtype=np.uint64))
    assert slots.shape == (packing.chunks, plan.slots)
    back, scalars = packing.unpack(slots, 1)
    assert np.array_equal(back, words) and scalars.tolist() == [2**63 + 5]


def test_an_update_without_anything_has_a_chunk_all_the_same() -> None:
    packing = Packing(plan=HEPlan(members=3), bits=18, size=0, scalars=0)
    assert packing.chunks == 1
    words, scalars = packing.unpack(packing.pack(as_words(()), as_scalars(())), 3)
    assert words.size == scalars.size == 0


PACKING = Packing(plan=HEPlan(members=3), bits=16, size=4, scalars=1)
GOOD = PACKING.pack(as_words((1, -2, 3, -4)), as_scalars((7,)))


@pytest.mark.parametrize(
    ("words", "scalars"),
    [((1, 2, 3), (1,)), ((1, 2, 3, 4, 5), (1,)), ((1, 2, 3, 4), ()), ((1, 2, 3, 4), (1, 2)), ((), ())],
)
def test_updates_of_other_sizes_are_refused(words: tuple[int, ...], scalars: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected 4 words and 1 scalars, got"):
        PACKING.pack(as_words(words), as_scalars(scalars))


@pytest.mark.parametrize("value", [2**15, -(2**15) - 1, 2**31 - 1, -(2**31)])
def test_a_value_above_the_clip_is_refused_and_not_wrapped(value: int) -> None:
    with pytest.raises(ValueError, match=rf"expected integers of 16 bits, got {value}: a value above the clip"):
        PACKING.pack(as_words((0, value, 0, 0)), as_scalars((1,)))


@pytest.mark.parametrize("shape", [(2, HEPlan(members=3).slots), (1, 4096), (HEPlan(members=3).slots,)])
def test_slots_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected slots of shape"):
        PACKING.unpack(np.zeros(shape, dtype=np.uint64), 3)


@pytest.mark.parametrize("members", [0, 4, -1])
def test_sums_of_more_members_than_the_plan_is_for_are_refused(members: int) -> None:
    with pytest.raises(ValueError, match=f"expected 1 to 3 members, got {members}"):
        PACKING.unpack(GOOD, members)


@pytest.mark.parametrize("bits", [0, 1, 33])
def test_words_of_other_widths_are_refused(bits: int) -> None:
    with pytest.raises(ValueError, match=f"expected words of 2 to 32 bits, got {bits}"):
        Packing(plan=HEPlan(members=3), bits=bits, size=1, scalars=1)


@pytest.mark.parametrize("place", ["field", "beyond", "unused", "second"])
def test_sums_that_so_many_members_cannot_have_are_refused(place: str) -> None:
    """A field above their most, bits above the last field, and numbers where nothing is packed."""
    slots, width = GOOD.copy(), PACKING.plan.field_bits(16)
    PACKING.unpack(slots, 1)
    slots[0, {"field": 0, "second": 0, "beyond": 1, "unused": -1}[place]] = {
        "field": 2**16,
        "second": (2**16) << width,
        "beyond": 1 << (2 * width),
        "unused": 1,
    }[place]
    with pytest.raises(RemoteError, match="expected a sum of 1 packed updates, got another plaintext"):
        PACKING.unpack(slots, 1)


def test_the_same_sum_is_one_that_more_members_can_have() -> None:
    slots = GOOD.copy()
    slots[0, 0] = 2**16
    words, _ = PACKING.unpack(slots, 2)
    assert words.view(np.int32)[0] == 2**16 - 2 * 2**15


@given(st.integers(0, 4095 - 2), st.integers(1, 2**40 - 2**13))
def test_any_other_plaintext_is_refused_or_a_sum_in_range(slot: int, value: int) -> None:
    slots = GOOD.copy()
    slots[0, slot] = value % PACKING.plan.plain_modulus
    try:
        words, _ = PACKING.unpack(slots, 3)
    except RemoteError:
        return
    assert np.abs(words.view(np.int32).astype(np.int64)).max() <= 3 * 2**15
