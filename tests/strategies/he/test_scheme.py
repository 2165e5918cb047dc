"""The scheme by TenSEAL: bad ciphertexts and contexts, a sum that bad ones leave as it was, and versions that drift."""

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tenseal as ts
import tenseal.sealapi as seal
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.strategies.he.encrypted_group import EncryptedGroup, check_sum
from wardround.errors import LocalError, RemoteError
from wardround.strategies.he import scheme
from wardround.strategies.he.foreign_bytes import MAX_CHUNK_BYTES, _varint, wrapped
from wardround.strategies.he.he_plan import COEFF_BITS, DEGREE, Form, HEPlan
from wardround.strategies.he.memory_file import saved_bytes
from wardround.strategies.he.scheme import (
    KeyHolder,
    KeylessSum,
    PublicContext,
    SpoiledSumError,
    check_form,
    new_key,
)
from wardround.strategies.secagg.keystream import U64
from wardround.strategies.secagg.messages import Cause
from wardround.strategies.secagg.phases import RefusedError

PLAN = HEPlan(members=3)
KEY = new_key(PLAN, Form.SEEDED)
HOLDER = KeyHolder(PLAN, Form.SEEDED, KEY)
PUBLIC_KEY = new_key(PLAN, Form.PUBLIC)
OTHER = KeyHolder(PLAN, Form.SEEDED, new_key(PLAN, Form.SEEDED))


@pytest.fixture(autouse=True)
def fresh_self_test() -> Iterator[None]:
    """What one test makes of TenSEAL is not what the next one is told."""
    scheme._self_test.cache_clear()
    yield
    scheme._self_test.cache_clear()


def slots_of(number: int, plan: HEPlan = PLAN) -> U64:
    random = np.random.Generator(np.random.Philox(key=number))
    return random.integers(0, plan.plain_modulus // plan.members, DEGREE, dtype=np.uint64)


def holder_of(form: Form) -> KeyHolder:
    return HOLDER if form is Form.SEEDED else KeyHolder(PLAN, form, PUBLIC_KEY)


def opened(total: KeylessSum, holder: KeyHolder = HOLDER) -> list[list[int]]:
    return [holder.decrypt(chunk).tolist() for chunk in total.serialized()]


def seal_part(chunk: bytes) -> bytes:
    """The ciphertext in SEAL's format, out of TenSEAL's vector."""
    (found,) = ts.bfv_vector_from(HOLDER._context, chunk).ciphertext()
    return saved_bytes(found.save)


# -- what is encrypted is decrypted --------------------------------------------------------------------------


@pytest.mark.parametrize("form", list(Form))
def test_sums_are_exact_and_wrap_at_the_plain_modulus(form: Form) -> None:
    holder, t = holder_of(form), PLAN.plain_modulus
    rows = [slots_of(number) for number in range(3)]
    rows[0][:3], rows[1][:3], rows[2][:3] = [t - 1, 0, t // 2], [t - 1, 0, t // 2], [1, 0, 1]
    total = KeylessSum(PublicContext(PLAN, holder.public), 1)
    for row in rows:
        total.add([holder.encrypt(row)])
    expected = [sum(map(int, column)) % t for column in zip(*rows, strict=True)]
    assert opened(total, holder) == [expected]


@pytest.mark.parametrize("form", list(Form))
def test_a_ciphertext_never_comes_twice_and_is_as_long_as_is_said(form: Form) -> None:
    """Seeded: about one polynomial of 4096 coefficients of 54 bits; public: two."""
    holder = holder_of(form)
    first, second = holder.encrypt(slots_of(1)), holder.encrypt(slots_of(1))
    assert first != second
    polynomial = DEGREE * 54 // 8
    low, high = (1.0, 1.15) if form is Form.SEEDED else (2.0, 2.3)
    assert low * polynomial < len(first) < high * polynomial < MAX_CHUNK_BYTES


@pytest.mark.parametrize("value", [PLAN.plain_modulus, 2**64 - 1])
def test_slots_that_are_no_plaintext_are_refused(value: int) -> None:
    slots = slots_of(1)
    slots[7] = value
    with pytest.raises(ValueError, match=f"expected {DEGREE} slots below {PLAN.plain_modulus}"):
        HOLDER.encrypt(slots)
    with pytest.raises(ValueError, match="expected 4096 slots"):
        HOLDER.encrypt(np.zeros(DEGREE - 1, dtype=np.uint64))


def test_nothing_is_left_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SEAL writes to paths alone: to one without a name in memory, else to one that is gone afterwards."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = set(os.listdir("/proc/self/fd"))
    HOLDER.encrypt(slots_of(1))
    assert not list(tmp_path.iterdir()) and set(os.listdir("/proc/self/fd")) <= before
    monkeypatch.delattr(os, "memfd_create")
    total = KeylessSum(PublicContext(PLAN, HOLDER.public), 1)
    total.add([HOLDER.encrypt(slots_of(1))])
    assert opened(total) == [slots_of(1).tolist()]
    assert not list(tmp_path.iterdir())


# -- bad ciphertexts -----------------------------------------------------------------------------------------


def of_other_parameters(
    plain_modulus: int = 1032193, coeff: tuple[int, ...] = COEFF_BITS, degree: int = DEGREE
) -> bytes:
    context = ts.context(ts.SCHEME_TYPE.BFV, degree, plain_modulus, coeff_mod_bit_sizes=list(coeff))
    return bytes(ts.bfv_vector(context, [1] * degree).serialize())


def of_ckks() -> bytes:
    context = ts.context(ts.SCHEME_TYPE.CKKS, DEGREE, coeff_mod_bit_sizes=list(COEFF_BITS))
    context.global_scale = 2.0**30
    return bytes(ts.ckks_vector(context, [1.0] * 2048).serialize())


def evaluated(change: Callable[[Any, Any, Any], None]) -> bytes:
    """A ciphertext of this epoch's parameters that SEAL's evaluator made something else of."""
    context: Any = HOLDER._context.seal_context().data
    (found,) = ts.bfv_vector_from(HOLDER._context, HOLDER.encrypt(slots_of(1))).ciphertext()
    change(seal.Evaluator(context), found, context)
    return wrapped(saved_bytes(found.save))


def transparent() -> bytes:
    """Two polynomials of zeros, made without a key."""
    context: Any = HOLDER._context.seal_context().data
    zeros = seal.Ciphertext(context, context.first_parms_id(), 2)
    zeros.resize(2)
    return wrapped(saved_bytes(zeros.save))


def short(count: int) -> bytes:
    return bytes(ts.bfv_vector(holder_of(Form.PUBLIC)._context, [1] * count).serialize())


GOOD = HOLDER.encrypt(slots_of(1))
BAD: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "one byte": lambda: b"\n",
    "text": lambda: b"not a ciphertext at all",
    "zeros": lambda: bytes(len(GOOD)),
    "the header alone": lambda: GOOD[:24],
    "half": lambda: GOOD[: len(GOOD) // 2],
    "all but a byte": lambda: GOOD[:-1],
    "too large": lambda: bytes(MAX_CHUNK_BYTES + 1),
    "good, and more than may be": lambda: GOOD + bytes(MAX_CHUNK_BYTES),
    "another plain modulus": of_other_parameters,
    "other moduli": lambda: of_other_parameters(PLAN.plain_modulus, (54, 54)),
    "a larger ring": lambda: of_other_parameters(PLAN.plain_modulus, COEFF_BITS, 8192)[: MAX_CHUNK_BYTES - 100],
    "CKKS": of_ckks,
    "fewer slots": lambda: short(17),
    "no slots": lambda: b"\x0a\x01\x00\x12" + _varint(len(seal_part(GOOD))) + seal_part(GOOD),
    "no ciphertext": lambda: b"\x0a\x02\x80\x20",
    "two ciphertexts": lambda: GOOD + GOOD[4:],
    "three polynomials": lambda: evaluated(lambda evaluator, one, context: evaluator.square_inplace(one)),
    "one that hides nothing": transparent,
    "in the other domain": lambda: evaluated(lambda evaluator, one, context: evaluator.transform_to_ntt_inplace(one)),
    "a context": lambda: HOLDER.public,
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_ciphertext_is_a_remote_error_and_leaves_the_sum_exact(name: str) -> None:
    """As the first of all, and after others; as a member's first chunk, and as its last."""
    bad = BAD[name]()
    total = KeylessSum(PublicContext(PLAN, HOLDER.public), 2)
    for chunks in ([bad, GOOD], [GOOD, bad]):
        with pytest.raises(RemoteError, match="ciphertext"):
            total.add(chunks)
    rows = [[slots_of(10 * member + chunk) for chunk in range(2)] for member in range(2)]
    for row in rows:
        total.add([HOLDER.encrypt(one) for one in row])
        for chunks in ([bad, GOOD], [GOOD, bad]):
            with pytest.raises(RemoteError, match="ciphertext"):
                total.add(chunks)
    assert opened(total) == [(rows[0][chunk] + rows[1][chunk]).tolist() for chunk in range(2)]
    with pytest.raises(RemoteError, match="ciphertext"):
        HOLDER.decrypt(bad)


def test_what_is_taken_back_leaves_a_sum_that_others_still_come_to() -> None:
    """The same member again, after its bad message: nothing of that is counted twice."""
    total = KeylessSum(PublicContext(PLAN, HOLDER.public), 3)
    good = [HOLDER.encrypt(slots_of(chunk)) for chunk in range(3)]
    for bad in range(3):
        with pytest.raises(RemoteError, match="ciphertext"):
            total.add([*good[:bad], b"x", *good[bad + 1 :]])
    total.add(good)
    total.add(good)
    assert opened(total) == [(2 * slots_of(chunk)).tolist() for chunk in range(3)]


def negated(chunk: bytes) -> bytes:
    """What adds up to nothing with this ciphertext."""
    context: Any = HOLDER._context.seal_context().data
    (found,) = ts.bfv_vector_from(HOLDER._context, chunk).ciphertext()
    seal.Evaluator(context).negate_inplace(found)
    return wrapped(saved_bytes(found.save))


@pytest.mark.parametrize("honest", [0, 1])
def test_ciphertexts_that_add_up_to_nothing_spoil_a_sum_and_it_is_said(honest: int) -> None:
    """SEAL adds first and refuses then: such a sum is no sum any more, and nobody may take it for one."""
    total = KeylessSum(PublicContext(PLAN, HOLDER.public), 1)
    for _ in range(honest):
        total.add([HOLDER.encrypt(slots_of(2))])
    total.add([GOOD])
    if honest:  # then it is a sum of something
        total.add([negated(GOOD)])
        assert opened(total) == [slots_of(2).tolist()]
        return
    with pytest.raises(SpoiledSumError, match="the sum is spoiled"):
        total.add([negated(GOOD)])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, len(GOOD) - 1), st.integers(0, 7))
def test_a_flipped_bit_is_refused_or_another_ciphertext_and_never_worse(at: int, bit: int) -> None:
    """What still parses decrypts to other slots, which the tags refuse; a server stays as it was."""
    changed = bytearray(GOOD)
    changed[at] ^= 1 << bit
    total = KeylessSum(PublicContext(PLAN, HOLDER.public), 1)
    total.add([HOLDER.encrypt(slots_of(2))])
    try:
        total.add([bytes(changed)])
    except RemoteError:
        assert opened(total) == [slots_of(2).tolist()]
        return
    assert opened(total) != [slots_of(2).tolist()]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, len(GOOD) - 1))
def test_every_truncation_is_refused(size: int) -> None:
    with pytest.raises(RemoteError, match="ciphertext"):
        HOLDER.decrypt(GOOD[:size])


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=300))
def test_other_bytes_are_a_remote_error(data: bytes) -> None:
    for one in (data, GOOD[:30] + data, b"\x0a\x02\x80\x20\x12" + _varint(len(data)) + data):
        with pytest.raises(RemoteError, match="ciphertext"):
            HOLDER.decrypt(one)


def test_a_foreign_key_s_ciphertext_decrypts_to_something_else() -> None:
    """Of the same parameters nobody can tell without the key: this is what tags are for."""
    assert HOLDER.decrypt(OTHER.encrypt(slots_of(1))).tolist() != slots_of(1).tolist()


def test_a_sum_without_all_its_chunks_is_not_taken() -> None:
    total = KeylessSum(PublicContext(PLAN, HOLDER.public), 2)
    with pytest.raises(LocalError, match="expected a ciphertext of every chunk"):
        list(total.serialized())
    total.add([GOOD])
    with pytest.raises(LocalError, match="expected a ciphertext of every chunk"):
        list(total.serialized())


# -- contexts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", list(Form))
def test_what_a_server_gets_has_no_secret_key(form: Form) -> None:
    public = holder_of(form).public
    context = ts.context_from(public)
    assert not context.has_secret_key() and context.is_public()
    assert len(public) < 1000 or form is Form.PUBLIC  # parameters alone
    with pytest.raises(Exception, match="secret"):
        ts.bfv_vector_from(PublicContext(PLAN, public).context, GOOD).decrypt()
    assert ts.context_from(KEY).secret_key() is not None


@pytest.mark.parametrize("form", list(Form))
def test_a_context_with_a_secret_key_is_refused_by_the_server(form: Form) -> None:
    with pytest.raises(RemoteError, match="expected public parameters, got a secret key with them; it is not used"):
        PublicContext(PLAN, new_key(PLAN, form))


def test_a_member_s_key_has_its_secret_part() -> None:
    with pytest.raises(RemoteError, match="expected one with its secret part, got public parameters alone"):
        KeyHolder(PLAN, Form.SEEDED, HOLDER.public)


def bfv_context(plain_modulus: int, coeff: list[int], degree: int = DEGREE) -> bytes:
    context = ts.context(ts.SCHEME_TYPE.BFV, degree, plain_modulus, coeff_mod_bit_sizes=coeff)
    return bytes(context.serialize(save_secret_key=False))


OTHER_CONTEXTS: dict[str, Callable[[], bytes]] = {
    "another plain modulus": lambda: bfv_context(1032193, [54, 52]),
    "one for other members": lambda: bfv_context(HEPlan(members=64).plain_modulus, [54, 52]),
    "another modulus": lambda: bfv_context(PLAN.plain_modulus, [53, 55]),
    "three moduli": lambda: bfv_context(PLAN.plain_modulus, [36, 36, 37]),
    "a larger ring": lambda: bfv_context(PLAN.plain_modulus, [54, 52], 8192),
    "CKKS": lambda: bytes(
        ts.context(ts.SCHEME_TYPE.CKKS, DEGREE, coeff_mod_bit_sizes=[54, 55]).serialize(save_secret_key=False)
    ),
    "empty": lambda: b"",
    "text": lambda: b"not a context",
    "zeros": lambda: bytes(1000),
    "half": lambda: HOLDER.public[: len(HOLDER.public) // 2],
    "a ciphertext": lambda: GOOD,
}


@pytest.mark.parametrize("name", OTHER_CONTEXTS)
def test_other_parameters_are_refused(name: str) -> None:
    data = OTHER_CONTEXTS[name]()
    with pytest.raises(RemoteError, match="context: expected"):
        PublicContext(PLAN, data)
    with pytest.raises(RemoteError, match="context: expected"):
        KeyHolder(PLAN, Form.SEEDED, data)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, len(HOLDER.public) - 1), st.integers(0, 7))
def test_a_context_with_a_flipped_bit_is_refused_or_has_the_same_parameters(at: int, bit: int) -> None:
    changed = bytearray(HOLDER.public)
    changed[at] ^= 1 << bit
    try:
        found = PublicContext(PLAN, bytes(changed))
    except RemoteError:
        return
    assert not found.context.has_secret_key()


# -- versions that drift -------------------------------------------------------------------------------------


def without_raw_interface(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(seal, "Encryptor")


def without_symmetric_encryption(monkeypatch: pytest.MonkeyPatch) -> None:
    class Encryptor:
        def __init__(self, context: Any, key: Any) -> None:
            pass

    monkeypatch.setattr(seal, "Encryptor", Encryptor)


def with_other_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both polynomials are written, as the documented interface does."""
    saved = saved_bytes

    def both(save: Any) -> bytes:
        context: Any = HOLDER._context
        del context
        data = saved(save)
        return data + bytes(len(data))

    monkeypatch.setattr(scheme, "saved_bytes", both)


def with_a_fixed_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same bytes twice: whatever was random is not."""
    kept: list[bytes] = []
    saved = saved_bytes

    def first(save: Any) -> bytes:
        kept.append(saved(save))
        return kept[0]

    monkeypatch.setattr(scheme, "saved_bytes", first)


def with_inexact_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    class BatchEncoder:
        def __init__(self, context: Any) -> None:
            self._real = REAL_ENCODER(context)

        def encode(self, values: list[int], plaintext: Any) -> None:
            self._real.encode([*values[:-1], values[-1] ^ 1], plaintext)

    monkeypatch.setattr(seal, "BatchEncoder", BatchEncoder)


REAL_ENCODER = seal.BatchEncoder
DRIFTS = [
    without_raw_interface,
    without_symmetric_encryption,
    with_other_sizes,
    with_a_fixed_seed,
    with_inexact_encoding,
]


def test_the_version_that_is_tested_does_what_is_needed() -> None:
    for form in Form:
        check_form(PLAN, form)


@pytest.mark.parametrize("drift", DRIFTS)
def test_a_version_that_drifted_is_named_and_the_public_form_still_works(
    drift: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    drift(monkeypatch)
    with pytest.raises(LocalError, match=r"tenseal \S+: expected what the seeded form of BFV needs.*install tenseal"):
        check_form(PLAN, Form.SEEDED)
    check_form(PLAN, Form.PUBLIC)


@pytest.mark.parametrize("drift", DRIFTS)
def test_a_whole_round_falls_back_to_public_encryption_with_a_notice(
    drift: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    drift(monkeypatch)
    group = EncryptedGroup()
    group.start_epoch()
    assert group.deal is not None and group.deal.header.form is Form.PUBLIC
    assert "this epoch uses bfv-public: updates take twice the bytes" in caplog.text
    check_sum(group.run_round(), range(4))


def test_where_no_form_works_no_key_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    without_raw_interface(monkeypatch)
    monkeypatch.delattr(ts, "bfv_vector")
    group = EncryptedGroup()
    group.agree()
    with pytest.raises(RefusedError, match=r"tenseal \S+: expected what the seeded form of BFV needs") as error:
        group.site(0).receive(group.request(), group.now)
    assert error.value.cause is Cause.FORM


def test_a_member_whose_version_drifted_refuses_a_key_of_a_form_that_it_has_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    group = EncryptedGroup()
    group.start_epoch()
    assert group.deal is not None
    group.agree(1)
    (dealt,) = group.site(0).receive(group.request(), group.now)
    (offer, *_) = group.offers(dealt.message)  # type: ignore[arg-type]
    scheme._self_test.cache_clear()
    without_raw_interface(monkeypatch)
    with pytest.raises(RefusedError, match="seeded form of BFV needs") as error:
        group.site(1).receive(offer.message, group.now)
    assert error.value.cause is Cause.FORM


def test_more_members_than_public_encryption_is_proven_for_have_no_way_back(monkeypatch: pytest.MonkeyPatch) -> None:
    large = HEPlan(members=9)
    with pytest.raises(LocalError, match="expected the form seeded for 9 members, got public"):
        check_form(large, Form.PUBLIC)
    with pytest.raises(LocalError, match="expected the form seeded"):
        new_key(large, Form.PUBLIC)
    without_raw_interface(monkeypatch)
    with pytest.raises(LocalError, match="install tenseal"):
        check_form(large, Form.SEEDED)


def test_without_tenseal_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "tenseal", None)
    with pytest.raises(LocalError, match=r"wardround\[he\]"):
        check_form(PLAN, Form.SEEDED)
