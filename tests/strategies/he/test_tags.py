"""Tags: a second implementation in Python's own integers, and every sum that a server could make of ciphertexts.

What the server can do to a ciphertext it does to data and tags alike, since it knows neither weights nor pads. So the
forgeries here are of plaintexts, rows of data with their tags behind them: any BFV circuit of addition and plaintext
multiplication gives one of these.
"""

import hashlib
import hmac
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st

from wardround.strategies.he.he_plan import DEGREE, Form, HEPlan
from wardround.strategies.he.packing import Slots
from wardround.strategies.he.scheme import KeyHolder, KeylessSum, PublicContext, new_key
from wardround.strategies.he.tags import TAG_KEY_BYTES, Tagging
from wardround.strategies.secagg.keystream import U64

PLAN = HEPlan(members=5)
T = PLAN.plain_modulus
KEY, H = bytes(range(32)), hashlib.sha256(b"round").digest()
TAGGING = Tagging(PLAN, KEY, H)

Tagged = list[int]
"""A plaintext: data, then tags."""


# -- a second implementation ---------------------------------------------------------------------------------


def expand(key: bytes, info: bytes) -> bytes:
    """HKDF-Expand of RFC 5869 to one block of SHA-256."""
    return hmac.new(key, info + b"\x01", hashlib.sha256).digest()


def words(key: bytes, first: int, count: int) -> list[int]:
    """64-bit words, little-endian, of AES-256 over the counters 0, 1, 2, … of 16 bytes, big-endian; two of each."""
    cipher = Cipher(algorithms.AES(key), modes.ECB()).encryptor()  # noqa: S305  counters are encrypted, each once
    found = []
    for at in range(first, first + count):
        block = cipher.update((at // 2).to_bytes(16, "big"))
        found.append(int.from_bytes(block[8 * (at % 2) : 8 * (at % 2) + 8], "little"))
    return found


def tags_by_hand(
    plan: HEPlan, key: bytes, h: bytes, slots: Sequence[int], chunk: int, members: Iterable[int]
) -> list[int]:
    of_round = expand(key, b"wardround he tags 1" + h)

    def drawn(purpose: bytes, member: int, first: int, count: int) -> list[int]:
        return words(expand(of_round, b"wardround he " + purpose + b"\0" + member.to_bytes(2, "big")), first, count)

    weights = [one % 2**45 for one in drawn(b"weights", 0, 0, plan.tags * plan.slots)]
    pads = [drawn(b"pads", member, chunk * plan.tags, plan.tags) for member in members]
    return [
        (
            sum(weight * slot for weight, slot in zip(weights[tag * plan.slots :], slots, strict=False))
            + sum(pad[tag] for pad in pads)
        )
        % plan.plain_modulus
        for tag in range(plan.tags)
    ]


def one_chunk(tagging: Tagging, slots: Slots, chunk: int, member: int) -> list[int]:
    (found,) = tagging.tags(slots[None], chunk, [member])
    return [int(one) for one in found]


@pytest.mark.parametrize("members", [1, 2, 5, 9, 64, 255])
def test_tags_are_those_of_a_second_implementation(members: int) -> None:
    plan = HEPlan(members=members)
    slots = np.random.default_rng(members).integers(0, plan.plain_modulus, (11, plan.slots), dtype=np.uint64)
    slots[0, :2] = plan.plain_modulus - 1, 0
    got = Tagging(plan, KEY, H).tags(slots, 3, [members - 1])
    assert got.dtype == np.uint64 and got.shape == (11, plan.tags)
    for at, (row, tags) in enumerate(zip(slots, got, strict=True)):
        assert tags.tolist() == tags_by_hand(plan, KEY, H, row.tolist(), 3 + at, [members - 1])


def test_the_largest_slots_are_multiplied_without_a_rounding() -> None:
    for members in (1, 9, 255):
        plan = HEPlan(members=members)
        slots = np.full(plan.slots, plan.plain_modulus - 1, dtype=np.uint64)
        assert one_chunk(Tagging(plan, KEY, H), slots, 0, 0) == tags_by_hand(plan, KEY, H, slots.tolist(), 0, [0])


@settings(max_examples=20, deadline=None)
@given(st.binary(min_size=32, max_size=32), st.integers(0, 2**22), st.lists(st.integers(0, 254), max_size=3))
def test_a_sum_is_checked_as_by_hand(key: bytes, chunk: int, members: list[int]) -> None:
    slots = np.arange(PLAN.slots, dtype=np.uint64) * np.uint64(12345677)
    expected = tags_by_hand(PLAN, key, H, slots.tolist(), chunk, members)
    assert Tagging(PLAN, key, H).hold(slots[None], np.array([expected], dtype=np.uint64), chunk, members)


# -- sums of the listed members pass -------------------------------------------------------------------------


def data_of(member: int, chunk: int = 0, round_: int = 0) -> Slots:
    random = np.random.Generator(np.random.Philox(key=100 * round_ + 10 * chunk + member))
    return random.integers(0, T // PLAN.members, PLAN.slots, dtype=np.uint64)


def tagged(member: int, chunk: int = 0, tagging: Tagging = TAGGING, data: Slots | None = None) -> Tagged:
    data = data_of(member, chunk) if data is None else data
    return [*data.tolist(), *one_chunk(tagging, data, chunk, member)]


def added(*plaintexts: Tagged) -> Tagged:
    return [sum(column) % T for column in zip(*plaintexts, strict=True)]


def times(factor: int, plaintext: Tagged) -> Tagged:
    return [factor * one % T for one in plaintext]


def holds(plaintext: Tagged, members: Iterable[int], chunk: int = 0) -> bool:
    both = np.array([plaintext], dtype=np.uint64)
    return TAGGING.hold(both[:, : PLAN.slots], both[:, PLAN.slots :], chunk, members)


@pytest.mark.parametrize("members", [[0], [1, 3], [0, 1, 2, 3, 4]])
@pytest.mark.parametrize("chunk", [0, 1, 70_000])
def test_the_sum_of_the_listed_members_passes(members: list[int], chunk: int) -> None:
    assert holds(added(*(tagged(member, chunk) for member in members)), members, chunk)


# -- whatever else a server makes does not -------------------------------------------------------------------

A, B, C = (tagged(member) for member in range(3))
A1, B1, C1 = (tagged(member, 1) for member in range(3))
LISTED = [0, 1, 2]
HALF = DEGREE // 2
OTHER_ROUND = Tagging(PLAN, KEY, hashlib.sha256(b"another round").digest())
OTHER_EPOCH = Tagging(PLAN, bytes(32), H)
UNIT: Tagged = [1] + [0] * (DEGREE - 1)
CONSTANT: Tagged = [1] * DEGREE


def swapped(first: Tagged, second: Tagged) -> Tagged:
    """The first half of one chunk, the second half of another: a plaintext multiplied by zeros and ones, and added."""
    return [*first[:HALF], *second[HALF:]]


FORGERIES: dict[str, Callable[[], Tagged]] = {
    "one left out": lambda: added(A, B),
    "one alone": lambda: A,
    "one twice": lambda: added(A, B, C, C),
    "one in another's place": lambda: added(A, B, B),
    "one twice, another not": lambda: added(A, A, C),
    "a stranger beside them": lambda: added(A, B, C, tagged(3)),
    "a stranger in one's place": lambda: added(A, B, tagged(3)),
    "one times two, half of another": lambda: added(times(2, A), times(pow(2, -1, T), B), C),
    "all of them negated": lambda: times(T - 1, added(A, B, C)),
    "all of them twice": lambda: times(2, added(A, B, C)),
    "nothing at all": lambda: [0] * DEGREE,
    "one update from another chunk": lambda: added(A1, B, C),
    "all of another chunk": lambda: added(A1, B1, C1),
    "half of a chunk from another": lambda: added(swapped(A, A1), B, C),
    "half of all chunks from another": lambda: swapped(added(A, B, C), added(A1, B1, C1)),
    "tags of another chunk": lambda: [*added(A, B, C)[: PLAN.slots], *added(A1, B1, C1)[PLAN.slots :]],
    "slots of one moved by a rotation": lambda: added([*A[1:], A[0]], B, C),
    "the two tags exchanged": lambda: [*(one := added(A, B, C))[: PLAN.slots], *one[: PLAN.slots - 1 : -1]],
    "one more in the first slot": lambda: added(A, B, C, UNIT),
    "one less in the last slot": lambda: added(A, B, C, [*[0] * (PLAN.slots - 1), T - 1, *[0] * PLAN.tags]),
    "a constant in all slots": lambda: added(A, B, C, CONSTANT),
    "another tag": lambda: added(A, B, C, [*[0] * (DEGREE - 1), 1]),
    "another first tag": lambda: added(A, B, C, [*[0] * PLAN.slots, 1, *[0] * (PLAN.tags - 1)]),
    "an update of another round": lambda: added(tagged(0, 0, OTHER_ROUND), B, C),
    "a round's sum again in the next": lambda: added(*(tagged(i, 0, OTHER_ROUND) for i in LISTED)),
    "an update of another epoch's key": lambda: added(tagged(0, 0, OTHER_EPOCH), B, C),
    "an update tagged as another's": lambda: added(tagged(1, data=data_of(0)), B, C),
    "data plus a constant, and its tags of a known key": lambda: added(
        A, B, C, tagged(0, 0, Tagging(PLAN, bytes(32), H), np.ones(PLAN.slots, dtype=np.uint64))
    ),
    "the difference of two rounds beside the sum": lambda: added(A, B, C, tagged(0, 0, OTHER_ROUND), times(T - 1, A)),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_sum_is_refused(name: str) -> None:
    assert not holds(FORGERIES[name](), LISTED)


@pytest.mark.parametrize("members", [[0, 1], [0, 1, 3], [0, 1, 2, 3], [0, 1, 2, 2], []])
def test_the_right_sum_is_refused_for_another_list(members: list[int]) -> None:
    assert holds(added(A, B, C), LISTED)
    assert not holds(added(A, B, C), members)


@pytest.mark.parametrize("chunk", [1, 2, 1 << 24])
def test_chunks_in_another_order_are_refused(chunk: int) -> None:
    assert not holds(added(A, B, C), LISTED, chunk)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, DEGREE - 1), st.integers(1, T - 1)), min_size=1, max_size=8))
def test_any_plaintext_that_is_added_is_refused(changes: list[tuple[int, int]]) -> None:
    forged = added(A, B, C)
    for slot, value in changes:
        forged[slot] = (forged[slot] + value) % T
    if forged == added(A, B, C):
        return
    assert not holds(forged, LISTED)


@settings(max_examples=60, deadline=None)
@given(st.tuples(*[st.integers(0, T - 1) | st.sampled_from([0, 1, 2, T - 1])] * 3))
def test_any_combination_but_each_once_is_refused(factors: tuple[int, ...]) -> None:
    if factors == (1, 1, 1):
        return
    forged = added(*(times(factor, one) for factor, one in zip(factors, (A, B, C), strict=True)))
    assert not holds(forged, LISTED)


def test_a_ciphertext_that_is_altered_without_a_key_fails_too() -> None:
    """Not by plaintexts: SEAL's own addition and multiplication by plaintexts, on what a server has."""
    import tenseal as ts

    holder = KeyHolder(PLAN, Form.SEEDED, new_key(PLAN, Form.SEEDED))
    sent = [holder.encrypt(np.array(one, dtype=np.uint64)) for one in (A, B, C)]

    def opened(change: Callable[[list[ts.BFVVector]], None]) -> Tagged:
        context = PublicContext(PLAN, holder.public).context
        vectors = [ts.bfv_vector_from(context, one) for one in sent]
        change(vectors)
        total = KeylessSum(PublicContext(PLAN, holder.public), 1)
        for vector in vectors:
            total.add([vector.serialize()])
        return [int(one) for chunk in total.serialized() for one in holder.decrypt(chunk)]

    assert holds(opened(lambda vectors: None), LISTED)
    halves = [1] * HALF + [0] * HALF
    changes: list[Callable[[list[ts.BFVVector]], None]] = [
        lambda vectors: vectors.append(vectors[0]),
        lambda vectors: vectors.pop(),
        lambda vectors: vectors[0].add_(UNIT),
        lambda vectors: vectors[0].mul_(halves),
        lambda vectors: vectors[0].sub_(vectors[1]),
    ]
    for change in changes:
        assert not holds(opened(change), LISTED)


# -- what tags and weights are drawn from --------------------------------------------------------------------


def test_weights_are_so_even_that_a_forgery_is_right_with_the_stated_chance() -> None:
    """A forgery passes where Σ r d = e (mod t), and t is prime: r d takes each value as often as r takes each residue.

    r is a word of 45 bits; a residue has at most ⌈2^45 / t⌉ of them, so that its chance is at most 1/t + 2^-45.
    """
    for members in range(1, 256):
        t = HEPlan(members=members).plain_modulus
        assert -(-(2**45) // t) / 2**45 <= 1 / t + 2.0**-45
        assert t < 2**45  # a word of fewer bits than t would leave residues that no weight has


def test_weights_look_uniform() -> None:
    """Of 64 bits, each half of the time: further than this from it once in 1e9 (Hoeffding 1963), all bits together."""
    count = PLAN.tags * PLAN.slots
    drawn = np.concatenate([TAGGING._drawn(b"weights", 0, 0, count), OTHER_ROUND._drawn(b"weights", 0, 0, count)])
    margin = np.sqrt(np.log(2 * 64 / 1e-9) / (2 * drawn.size))
    for bit in range(64):
        assert abs(float(((drawn >> np.uint64(bit)) & np.uint64(1)).mean()) - 0.5) < margin
    assert np.unique(drawn).size == drawn.size


def test_every_purpose_chunk_member_round_and_epoch_has_draws_of_its_own() -> None:
    """A pad that two updates or two chunks share would give the difference of their tags away, and so the weights."""
    seen: dict[int, str] = {}
    for name, tagging in {"": TAGGING, "round": OTHER_ROUND, "epoch": OTHER_EPOCH}.items():
        for purpose in (b"weights", b"pads"):
            for member in (0, 1, 255):
                for at, word in enumerate(tagging._drawn(purpose, member, 0, 300).tolist()):
                    place = f"{name} {purpose!r} {member} {at}"
                    assert seen.setdefault(word, place) == place
    assert len(seen) == 3 * 2 * 3 * 300


@pytest.mark.parametrize("first", [0, 1, 2, 7, 4096, 2**22])
def test_a_stream_is_the_same_from_wherever_it_is_read(first: int) -> None:
    whole = TAGGING._drawn(b"pads", 3, first - first % 2, 8)
    assert np.array_equal(TAGGING._drawn(b"pads", 3, first, 5), whole[first % 2 :][:5])


def test_tags_of_many_chunks_are_those_of_each() -> None:
    """The product is made of so many rows at a time; the last are fewer."""
    slots = np.stack([data_of(0, chunk) for chunk in range(19)])
    together = TAGGING.tags(slots, 5, [0, 3])
    for chunk in range(19):
        (alone,) = TAGGING.tags(slots[chunk : chunk + 1], 5 + chunk, [0, 3])
        assert np.array_equal(together[chunk], alone)


@pytest.mark.parametrize("bad", [0, 7, 18])
def test_one_bad_chunk_of_many_spoils_the_sum(bad: int) -> None:
    slots = np.stack([data_of(0, chunk) for chunk in range(19)])
    tags = TAGGING.tags(slots, 0, [0])
    assert TAGGING.hold(slots, tags, 0, [0])
    changed = slots.copy()
    changed[bad, 1] ^= np.uint64(1)
    assert not TAGGING.hold(changed, tags, 0, [0])
    swapped_tags = tags.copy()
    swapped_tags[bad] = tags[(bad + 1) % 19]
    assert not TAGGING.hold(slots, swapped_tags, 0, [0])


def test_tags_tell_nothing_of_equal_updates() -> None:
    """Two members with the same update have other tags, as has one in two rounds or chunks: else a server could see."""
    data = data_of(0)
    found = {
        tuple(one_chunk(tagging, data, chunk, member))
        for tagging in (TAGGING, OTHER_ROUND, OTHER_EPOCH)
        for chunk in (0, 1)
        for member in (0, 1)
    }
    assert len(found) == 12


@pytest.mark.parametrize("size", [0, 16, 31, 33])
def test_keys_of_other_lengths_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"expected a key of {TAG_KEY_BYTES} bytes, got {size}"):
        Tagging(PLAN, bytes(size), H)


@pytest.mark.parametrize("size", [0, DEGREE, PLAN.slots - 1])
def test_slots_of_other_sizes_are_refused(size: int) -> None:
    slots: U64 = np.zeros((2, size), dtype=np.uint64)
    with pytest.raises(ValueError, match=f"expected {PLAN.slots} slots"):
        TAGGING.tags(slots, 0, [0])
