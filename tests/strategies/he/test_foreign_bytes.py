"""What a peer may hand to TenSEAL's loader: bombs are refused before, real ones pass, and what passes stays small."""

import json
import resource
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tenseal as ts
import tenseal.sealapi as seal
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.strategies.he import seal_bytes
from tests.strategies.he.seal_bytes import BLOCK, RAW, block, ciphertext, field, seal_frame, seal_part, varint, zstd
from wardround.errors import RemoteError
from wardround.strategies.he import scheme
from wardround.strategies.he.foreign_bytes import MAX_CHUNK_BYTES, _fields, check_chunk, check_context, wrapped
from wardround.strategies.he.he_plan import DEGREE, Form, HEPlan
from wardround.strategies.he.memory_file import saved_bytes
from wardround.strategies.he.scheme import KeyHolder, KeylessSum, PublicContext, new_key

ROOT = Path(__file__).parents[3]
PLAN = HEPlan(members=3)
KEYS = {form: new_key(PLAN, form) for form in Form}
HOLDERS = {form: KeyHolder(PLAN, form, key) for form, key in KEYS.items()}
SLOTS = np.arange(DEGREE, dtype=np.uint64)
CHUNKS = {form: holder.encrypt(SLOTS) for form, holder in HOLDERS.items()}
GOOD = CHUNKS[Form.SEEDED]
CONTEXT = HOLDERS[Form.SEEDED].public
BEFORE = field(1, varint(DEGREE)) + b"\x12"
"""What a chunk begins with: the size of its one ciphertext, and that this follows."""
VERSION = seal_part(GOOD)[3:5]
PUBLIC = PublicContext(PLAN, CONTEXT)
_SEAL: Any = PUBLIC.context.seal_context().data
PARMS, KEY_PARMS = tuple(_SEAL.first_parms_id()), tuple(_SEAL.key_parms_id())


def summed(form: Form) -> bytes:
    total = KeylessSum(PublicContext(PLAN, HOLDERS[form].public), 1)
    total.add([CHUNKS[form]])
    total.add([HOLDERS[form].encrypt(SLOTS)])
    return next(total.serialized())


SUMS = {form: summed(form) for form in Form}


def test_frames_made_by_hand_are_those_that_seal_writes() -> None:
    """Else the bombs below are refused for what they are not."""
    assert VERSION == seal_bytes.VERSION
    assert wrapped(seal_part(GOOD)) == GOOD
    assert seal_frame(seal_part(GOOD)[16:], 2) == seal_part(GOOD)
    loaded = ts.bfv_vector_from(PUBLIC.context, wrapped(ciphertext(PARMS)))
    assert loaded.ciphertext()[0].size() == 2 and loaded.ciphertext()[0].is_transparent()


@pytest.mark.parametrize("form", list(Form))
def test_what_is_real_passes(form: Form) -> None:
    """Updates, sums of them, public parameters, and a member's key."""
    check_chunk(CHUNKS[form])
    check_chunk(SUMS[form])
    check_context(HOLDERS[form].public)
    check_context(KEYS[form])


def framed(body: bytes, mode: int = 2) -> bytes:
    return wrapped(seal_frame(body, mode))


WHOLE = ciphertext(PARMS)
BODY = WHOLE[16:]
REFUSED_CHUNKS: dict[str, Callable[[], bytes]] = {
    "16 polynomials": lambda: wrapped(ciphertext(PARMS, polynomials=16)),
    "16 polynomials of two primes": lambda: wrapped(ciphertext(KEY_PARMS, polynomials=16, primes=2)),
    "two ciphertexts": lambda: GOOD + GOOD[len(BEFORE) - 1 :],
    "as many as fit": lambda: GOOD + b"".join([field(2, ciphertext(PARMS, polynomials=16))] * 400),
    "sizes of many": lambda: field(1, b"\x01" * 10_000) + field(2, seal_part(GOOD)),
    "a huge size": lambda: field(1, varint(2**35 - 1)) + field(2, seal_part(GOOD)),
    "another number of slots": lambda: field(1, varint(DEGREE - 1)) + field(2, seal_part(GOOD)),
    "sizes twice": lambda: BEFORE[:-1] + GOOD,
    "the ciphertext first": lambda: field(2, seal_part(GOOD)) + BEFORE[:-1],
    "a field of its own": lambda: GOOD + field(3, b"x"),
    "a window": lambda: framed(zstd([block(b"\0" * 9, last=True)], None)),
    "a dictionary": lambda: framed(zstd([block(b"\0" * 9, last=True)], 9, 0b10100001)),
    "a size in front above the bound": lambda: framed(zstd([block(b"\0" * 9, last=True)], 3 * BLOCK + 1)),
    "four blocks of zeros": lambda: framed(zstd([*[block(b"\0", 1, BLOCK)] * 3, block(b"\0", 1, 1, last=True)], 9)),
    "many blocks of zeros": lambda: framed(zstd([*[block(b"\0", 1, BLOCK)] * 9000, block(b"", last=True)], 9)),
    "four compressed blocks": lambda: framed(zstd([*[block(b"x", 2)] * 3, block(b"x", 2, last=True)], 9)),
    "a block above the standard's": lambda: framed(zstd([block(b"\0", 1, BLOCK + 1, last=True)], 9)),
    "a reserved block": lambda: framed(zstd([block(b"\0", 3, 1, last=True)], 9)),
    "no last block": lambda: framed(zstd([block(b"\0" * 9)], 9)),
    "a block that is cut": lambda: framed(zstd([block(b"\0" * 9, RAW, 10, last=True)], 9)),
    "a header that is cut": lambda: framed(zstd([block(b"\0" * 9)], 9) + b"\x01\0"),
    "a frame of four bytes": lambda: framed(b"\x28\xb5\x2f\xfd"),
    "a frame after the frame": lambda: framed(BODY + BODY),
    "a skippable frame": lambda: framed(b"\x50\x2a\x4d\x18" + bytes(4) + BODY),
    "a checksum that is not there": lambda: framed(zstd([block(b"\0" * 9, last=True)], 9, 0b10100100)),
    "another compression": lambda: framed(BODY, 1),
    "another magic number": lambda: wrapped(b"\x5e\xa2" + ciphertext(PARMS)[2:]),
    "a header of another size": lambda: wrapped(b"\x5e\xa1\x0f" + ciphertext(PARMS)[3:]),
    "another length within": lambda: wrapped(ciphertext(PARMS) + b"\0"),
    "a header that says more": lambda: wrapped(WHOLE[:8] + (len(WHOLE) + 5).to_bytes(8, "little") + WHOLE[16:]),
    "another length around": lambda: GOOD + b"\0",
    "a length around that says less": lambda: BEFORE + varint(len(WHOLE) - 3) + WHOLE,
    "another frame": lambda: framed(b"\x27" + BODY[1:]),
    "nothing": lambda: b"",
    "no object": lambda: BEFORE,
    "a length that never ends": lambda: BEFORE + b"\xff" * 20,
    "a length of six bytes": lambda: (
        BEFORE + bytes((len(WHOLE) & 127 | 128, len(WHOLE) >> 7 | 128, 128, 128, 128, 0)) + WHOLE
    ),
    "too large": lambda: framed(bytes(MAX_CHUNK_BYTES), 0),
}


def unreached(*given: object) -> None:
    raise AssertionError("expected that nothing is loaded")


@pytest.mark.parametrize("name", REFUSED_CHUNKS)
def test_a_chunk_that_could_grow_is_refused_before_it_is_loaded(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = REFUSED_CHUNKS[name]()
    monkeypatch.setattr(ts, "bfv_vector_from", unreached)
    for load in (check_chunk, lambda data: KeylessSum(PUBLIC, 1).add([data]), HOLDERS[Form.SEEDED].decrypt):
        with pytest.raises(RemoteError, match="ciphertext: expected"):
            load(data)


@pytest.mark.parametrize("form", list(Form))
def test_a_truncated_chunk_or_context_is_refused(form: Form) -> None:
    for real, check in ((CHUNKS[form], check_chunk), (SUMS[form], check_chunk)):
        for size in {*range(120), *range(0, len(real), 997), len(real) - 1}:
            with pytest.raises(RemoteError):
                check(real[:size])
    for real in (HOLDERS[form].public, KEYS[form]):
        ends = {at for at in range(len(real)) if _passes(check_context, real[:at])}
        fields = fields_of(real)  # only between two fields
        assert ends == {len(b"".join(field(*one) for one in fields[:count])) for count in range(1, len(fields))}


def _passes(check: Callable[[bytes], object], data: bytes) -> bool:
    try:
        check(data)
    except RemoteError:
        return False
    return True


def context_of(form: Form, **saves: bool) -> bytes:
    """A context of TenSEAL with keys of every kind."""
    context = scheme._new_context(PLAN, form)
    context.generate_galois_keys()
    context.generate_relin_keys()
    every = {f"save_{name}": False for name in ("public_key", "secret_key", "galois_keys", "relin_keys")}
    return bytes(context.serialize(**(every | saves)))


def fields_of(data: bytes) -> list[tuple[int, bytes | int]]:
    return list(_fields(data))


def again(changed: dict[int, bytes | int], data: bytes = CONTEXT) -> bytes:
    """The context with other values of some fields, or with more fields."""
    known = dict(fields_of(data))
    return b"".join(field(number, value) for number, value in (known | changed).items())


PARAMETERS = fields_of(CONTEXT)[0][1]
assert isinstance(PARAMETERS, bytes)
REFUSED_CONTEXTS: dict[str, Callable[[], bytes]] = {
    "galois keys": lambda: context_of(Form.PUBLIC, save_public_key=True, save_galois_keys=True),
    "relinearization keys": lambda: context_of(Form.PUBLIC, save_public_key=True, save_relin_keys=True),
    "galois keys without any other": lambda: context_of(Form.SEEDED, save_galois_keys=True),
    "a field of its own": lambda: CONTEXT + field(9, b"x"),
    "a number of its own": lambda: CONTEXT + field(9, 1),
    "a field of 2^29": lambda: CONTEXT + varint((1 << 32) | (4 << 3)) + b"\0",
    "parameters twice": lambda: CONTEXT + field(1, PARAMETERS),
    "keys twice": lambda: CONTEXT + field(2, b""),
    "keys as a number": lambda: again({2: 1}),
    "parameters as a number": lambda: again({1: 1}),
    "no parameters": lambda: b"".join(field(*one) for one in fields_of(CONTEXT)[1:]),
    "a kind of bytes": lambda: again({4: b"x"}),
    "a key of its own": lambda: again({2: field(7, b"x")}),
    "a key twice": lambda: again({2: field(1, b"") * 2}),
    "a flag of bytes": lambda: again({2: field(2, WHOLE)}),
    "a key that is a number": lambda: again({2: field(1, 5)}),
    "a secret key twice": lambda: again({3: field(1, seal_part(GOOD)) * 2}),
    "a group": lambda: CONTEXT + b"\x0b\x0c",
    "parameters that are no object": lambda: again({1: b"\0" * 40}),
    "parameters with a window": lambda: again({1: seal_frame(zstd([block(b"\0" * 9, last=True)], None), 2)}),
    "a public key of many blocks": lambda: again(
        {2: field(1, seal_frame(zstd([*[block(b"\0", 1, BLOCK)] * 3, block(b"\0", 1, 1, last=True)], 9), 2))}
    ),
    "a secret key of many blocks": lambda: again(
        {3: field(1, seal_frame(zstd([*[block(b"\0", 1, BLOCK)] * 3, block(b"\0", 1, 1, last=True)], 9), 2))}
    ),
    "too large": lambda: again({2: field(1, seal_frame(bytes(1 << 18), 0))}),
}


@pytest.mark.parametrize("name", REFUSED_CONTEXTS)
def test_a_context_with_more_than_ours_have_is_refused_before_it_is_loaded(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = REFUSED_CONTEXTS[name]()
    monkeypatch.setattr(ts, "context_from", unreached)
    for load in (
        check_context,
        lambda data: PublicContext(PLAN, data),
        lambda data: KeyHolder(PLAN, Form.SEEDED, data),
    ):
        with pytest.raises(RemoteError, match="context: expected"):
            load(data)


def _other_parameters(scheme_type: str, degree: int, primes: int) -> bytes:
    """A context of so many primes of about 20 bits: a hundred bytes, of which a context makes tables of gigabytes."""
    found, candidate = list[int](), 2 * degree + 1
    while len(found) < primes:
        if all(candidate % small for small in range(3, int(candidate**0.5) + 1, 2)) and candidate != 786433:
            found.append(candidate)
        candidate += 2 * degree
    made = seal.EncryptionParameters(getattr(seal.SCHEME_TYPE, scheme_type))
    made.set_poly_modulus_degree(degree)
    made.set_coeff_modulus([seal.Modulus(prime) for prime in found])
    if scheme_type == "BFV":
        made.set_plain_modulus(seal.Modulus(786433))
    return again({1: saved_bytes(made.save)})


LARGE = [("CKKS", 32768, 37), ("BFV", 32768, 37), ("BFV", 16384, 20)]


@pytest.mark.parametrize(("scheme_type", "degree", "primes"), LARGE)
def test_other_parameters_are_refused_before_a_context_is_made_of_them(
    scheme_type: str, degree: int, primes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = _other_parameters(scheme_type, degree, primes)
    assert len(data) < 200
    monkeypatch.delattr(ts, "context_from")
    with pytest.raises(RemoteError, match="context: expected the parameters that follow from the plan"):
        PublicContext(PLAN, data)


# -- whatever else comes -------------------------------------------------------------------------------------


def changed(data: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
    """`data` after changes: at a place, so many bytes become others."""
    made = bytearray(data)
    for at, size, new in changes:
        at %= len(made) + 1
        made[at : at + size] = new
    return bytes(made)


CHANGES = st.lists(
    st.tuples(
        st.one_of(st.integers(0, 200), st.integers(0, 1 << 18)),
        st.integers(0, 16),
        st.one_of(st.binary(max_size=8), st.sampled_from([b"\xff" * 8, bytes(8), b"\x80", b"\x01\0\0\0\0\0\0\x80"])),
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=250, deadline=None)
@given(st.one_of(st.sampled_from([*CHUNKS.values(), *SUMS.values(), wrapped(WHOLE)])), CHANGES)
@example(wrapped(ciphertext(PARMS, polynomials=3)), [(0, 0, b"")])
@example(wrapped(ciphertext(KEY_PARMS, primes=2)), [(0, 0, b"")])
@example(wrapped(ciphertext(PARMS, ntt=True)), [(0, 0, b"")])
def test_whatever_a_chunk_is_it_is_refused_or_added(real: bytes, changes: list[tuple[int, int, bytes]]) -> None:
    data = changed(real, changes)
    total = KeylessSum(PUBLIC, 1)
    for chunk in (data, GOOD):
        try:
            check_chunk(chunk)
            total.add([chunk])
        except RemoteError:
            assert chunk is data  # whatever was added before, an honest one can still be
    assert len(list(total.serialized())) == 1
    try:
        HOLDERS[Form.SEEDED].decrypt(data)
    except RemoteError:
        pass


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([*(holder.public for holder in HOLDERS.values()), *KEYS.values()]), CHANGES)
def test_whatever_a_context_is_it_is_refused_or_has_our_parameters(
    real: bytes, changes: list[tuple[int, int, bytes]]
) -> None:
    data = changed(real, changes)
    for load in (check_context, lambda data: PublicContext(PLAN, data)):
        try:
            load(data)
        except RemoteError:
            continue
    for form in Form:
        try:
            holder = KeyHolder(PLAN, form, data)
        except RemoteError:
            continue
        assert holder.plan is PLAN and holder._context.has_secret_key()


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_other_bytes_are_a_remote_error_or_nothing(data: bytes) -> None:
    for one in (data, BEFORE + varint(len(data)) + data, wrapped(seal_frame(b"\x28\xb5\x2f\xfd" + data, 2))):
        for check in (check_chunk, check_context):
            _passes(check, one)


# -- memory --------------------------------------------------------------------------------------------------

_BOUND = 48 << 10
"""KiB that loading one after another of what passes may take beyond what the process has already."""


def _peak() -> int:
    """VmHWM, in KiB."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))


def _largest() -> list[tuple[bool, bytes]]:
    """Whether a chunk, and: what is real, what passes and is the most, a bomb, and what random changes make."""
    most: list[tuple[bool, bytes]] = [
        *((True, real) for real in (*CHUNKS.values(), *SUMS.values())),
        *((False, holder.public) for holder in HOLDERS.values()),
        *((False, _other_parameters(*one)) for one in LARGE),
        (True, wrapped(ciphertext(PARMS, polynomials=11))),
        (True, wrapped(ciphertext(KEY_PARMS, polynomials=5, primes=2))),
        (True, wrapped(ciphertext(PARMS, ntt=True))),
        (True, framed(zstd([*[block(b"\0", 1, BLOCK)] * 2, block(b"\0", 1, BLOCK, last=True)], 3 * BLOCK))),
        (True, framed(_nested_bomb(), 0)),
        (True, REFUSED_CHUNKS["as many as fit"]()),
        (False, again({2: field(1, ciphertext(KEY_PARMS, primes=2, ntt=True))})),
        (False, again({3: field(1, ciphertext(KEY_PARMS, primes=2, ntt=True))})),
    ]
    draw = np.random.Generator(np.random.Philox(key=1))
    kinds = [[CONTEXT, *KEYS.values()], [GOOD, *SUMS.values(), wrapped(WHOLE)]]
    for at in range(300):
        real = kinds[at % 2][at // 2 % 3]
        edits = [(int(draw.integers(200)), int(draw.integers(9)), draw.bytes(int(draw.integers(9)))) for _ in range(2)]
        most.append((bool(at % 2), changed(real, edits)))
    return most


def _nested_bomb() -> bytes:
    """A ciphertext whose data is compressed once more: a gigabyte behind what it needs."""
    form = struct.pack("<4Q?3QdQ", *PARMS, False, 2, DEGREE, 1, 1.0, 1)
    blocks = [block(struct.pack("<Q", 2 * DEGREE)), *[block(b"\0", 1, BLOCK)] * 8000, block(b"", last=True)]
    return form + seal_frame(zstd(blocks, None), 2)


def _load_all(checked: bool) -> None:
    """In a process of its own: how much the peak grew, in KiB, how many were taken, and how many were not."""
    resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))
    given, loaded, refused = _largest(), 0, 0
    if not checked:
        setattr(scheme, "check_chunk", lambda data: None)  # noqa: B010
    before = _peak()
    for is_chunk, data in given:
        try:
            if is_chunk:
                scheme._vector(PUBLIC.context, data)
            else:
                PublicContext(PLAN, data)
            loaded += 1
        except RemoteError:
            refused += 1
    print(json.dumps({"grown": _peak() - before, "loaded": loaded, "refused": refused}))


def _in_a_process(*, checked: bool) -> dict[str, int]:
    code = f"from tests.strategies.he import test_foreign_bytes as t; t._load_all({checked})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_what_passes_takes_little_memory_to_load() -> None:
    found = _in_a_process(checked=True)
    assert found["loaded"] > 5 and found["refused"] > 100, found
    assert found["grown"] < _BOUND, found


def test_without_the_check_a_small_chunk_takes_more_than_that() -> None:
    """The bound above is one that bombs break: 60 KiB of ciphertexts of 16 polynomials."""
    assert _in_a_process(checked=False)["grown"] > _BOUND
