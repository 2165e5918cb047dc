"""The BFV scheme by TenSEAL: keys, ciphertexts and sums, each as bytes in TenSEAL's own format.

TenSEAL's interface encrypts whole vectors and writes both polynomials of a ciphertext. SEAL beneath it, which the same
wheel exposes as `tenseal.sealapi`, writes a symmetric ciphertext with a seed in the place of one of them: half the
bytes. It only writes to paths, for which a file without a name in memory is used. Such a ciphertext, wrapped as a
vector of TenSEAL, loads wherever that does; a server that has no key adds it up there.

What this rests on is not TenSEAL's documented interface, so `self_test` tries it all before the first key is made.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from wardround.errors import LocalError, RemoteError
from wardround.extras import require
from wardround.strategies.he.foreign_bytes import check_chunk, check_context, wrapped
from wardround.strategies.he.he_plan import COEFF_BITS, DEGREE, Form, HEPlan, Q
from wardround.strategies.he.memory_file import load_bytes, saved_bytes
from wardround.strategies.secagg.keystream import U64
from wardround.strategies.secagg.wire import Buffer

if TYPE_CHECKING:
    import tenseal as ts

__all__ = [
    "KeyHolder",
    "KeylessSum",
    "PublicContext",
    "SecretKeyError",
    "SpoiledSumError",
    "check_form",
    "new_key",
]


def new_key(plan: HEPlan, form: Form) -> bytes:
    """A new context with its secret key, in TenSEAL's format; drawn by SEAL from the operating system."""
    check_form(plan, form)
    return _serialized(_new_context(plan, form), form, secret=True)


def _new_context(plan: HEPlan, form: Form) -> "ts.Context":
    import tenseal as ts

    kind = ts.ENCRYPTION_TYPE.SYMMETRIC if form is Form.SEEDED else ts.ENCRYPTION_TYPE.ASYMMETRIC
    return ts.context(
        ts.SCHEME_TYPE.BFV,
        DEGREE,
        plan.plain_modulus,
        coeff_mod_bit_sizes=list(COEFF_BITS),
        encryption_type=kind,
    )


def _serialized(context: "ts.Context", form: Form, *, secret: bool) -> bytes:
    saves = {"save_public_key": form is Form.PUBLIC, "save_secret_key": secret}
    return bytes(context.serialize(**saves, save_galois_keys=False, save_relin_keys=False))


class KeyHolder:
    """A member's side: encrypts its own plaintexts, opens sums. `key`: of `new_key`.

    Raises RemoteError for a key of other parameters than the plan's.
    """

    def __init__(self, plan: HEPlan, form: Form, key: bytes) -> None:
        self.plan, self._form = plan, form
        self._context = _loaded(plan, key)
        if not self._context.has_secret_key():
            raise RemoteError("key: expected one with its secret part, got public parameters alone")
        if form is Form.SEEDED:
            import tenseal.sealapi as seal

            context = self._context.seal_context().data
            self._encoder, self._plaintext = seal.BatchEncoder(context), seal.Plaintext()
            self._encryptor = seal.Encryptor(context, self._context.secret_key().data)

    @property
    def public(self) -> bytes:
        """The public parameters, and the public key where members encrypt by it: what a server may have."""
        return _serialized(self._context, self._form, secret=False)

    def encrypt(self, slots: U64) -> bytes:
        """The ciphertext of a plaintext, shape (4096,), values below t."""
        if slots.shape != (DEGREE,) or int(slots.max()) >= self.plan.plain_modulus:
            raise ValueError(f"expected {DEGREE} slots below {self.plan.plain_modulus}")
        if self._form is Form.PUBLIC:
            import tenseal as ts

            return bytes(ts.bfv_vector(self._context, slots.tolist()).serialize())
        self._encoder.encode(slots.tolist(), self._plaintext)
        return wrapped(saved_bytes(self._encryptor.encrypt_symmetric(self._plaintext).save))

    def decrypt(self, chunk: Buffer) -> U64:
        """The slots of a sum, shape (4096,), values below t. Raises RemoteError for what is no ciphertext of ours."""
        signed = np.array(_vector(self._context, chunk).decrypt(), dtype=np.int64)
        return np.where(signed < 0, signed + self.plan.plain_modulus, signed).view(np.uint64)


class PublicContext:
    """The public parameters of an epoch's key at a server. `data` is a member's word.

    Raises RemoteError for other parameters, and for a context that holds a secret key, which nobody may send.
    """

    def __init__(self, plan: HEPlan, data: bytes) -> None:
        self.context = _loaded(plan, data)
        if self.context.has_secret_key():
            raise SecretKeyError(
                "context: expected public parameters, got a secret key with them; it is not used, and its owner "
                "makes another"
            )


class SecretKeyError(RemoteError):
    """A secret key came where only public parameters may."""


class SpoiledSumError(RemoteError):
    """A sum is of no use any more."""


class KeylessSum:
    """A server's side: the running sum of members' chunks, of which it can read nothing."""

    def __init__(self, public: PublicContext, chunks: int) -> None:
        self._context = public.context
        self._sums: list[Any] = [None] * chunks
        self._members = 0

    def add(self, ciphertexts: Iterable[Buffer]) -> None:
        """Add a member's ciphertexts, one of each chunk, one after another.

        Raises RemoteError where one is bad, and takes back what was added of them; SpoiledSumError where that cannot
        be, since SEAL refuses a sum whose second polynomial is zero, after it has added: only two who lie bring it
        about.
        """
        added: list[Any] = []
        try:
            for chunk, ciphertext in enumerate(ciphertexts):
                vector = _vector(self._context, ciphertext)
                if self._sums[chunk] is not None:
                    self._sums[chunk].add_(vector)
                else:
                    self._sums[chunk] = vector
                added.append(ciphertext)
        except RemoteError:
            self._take_back(added)
            raise
        except (RuntimeError, ValueError) as error:
            raise SpoiledSumError(f"ciphertext: expected one that can be added ({error}); the sum is spoiled") from None
        self._members += 1

    def _take_back(self, ciphertexts: Sequence[Buffer]) -> None:
        try:
            for chunk, ciphertext in enumerate(ciphertexts):
                if self._members:
                    self._sums[chunk].sub_(_vector(self._context, ciphertext))
                else:
                    self._sums[chunk] = None
        except (RuntimeError, ValueError) as error:
            raise SpoiledSumError(f"ciphertext: expected one that can be taken back ({error})") from None

    def serialized(self) -> Iterator[bytes]:
        """The sums, chunk by chunk. Raises LocalError where nothing was added."""
        for one in self._sums:
            if one is None:
                raise LocalError("expected a ciphertext of every chunk before the sum is taken")
            yield bytes(one.serialize())


def check_form(plan: HEPlan, form: Form) -> None:
    """Raises LocalError unless this machine's TenSEAL does what `form` needs, and the proof holds for it."""
    if form not in plan.forms:
        raise LocalError(
            f"expected the form {plan.forms[0].name.lower()} for {plan.members} members, got {form.name.lower()}: its "
            "noise leaves no proof that sums are exact"
        )
    if reason := _self_test(form):
        raise LocalError(reason)


@cache
def _self_test(form: Form) -> str:
    """Why this TenSEAL cannot be used in this form; empty where it can."""
    require("he")
    import tenseal as ts

    plan = HEPlan(members=2)
    try:
        key = _serialized(_new_context(plan, form), form, secret=True)
        member = KeyHolder(plan, form, key)
        total = KeylessSum(PublicContext(plan, member.public), 1)
        slots = np.arange(DEGREE, dtype=np.uint64) * np.uint64(plan.plain_modulus // (2 * DEGREE))
        chunks = [member.encrypt(slots), member.encrypt(slots[::-1].copy())]
        for chunk in chunks:
            total.add([chunk])
        (opened,) = (member.decrypt(one) for one in total.serialized())
        if not np.array_equal(opened, slots + slots[::-1]):
            return _drifted(ts.__version__, form, "a sum that is not exact")
        most = DEGREE * Q.bit_length() // 8 * (1.25 if form is Form.SEEDED else 2.5)
        if len(chunks[0]) > most or chunks[0] == member.encrypt(slots):
            return _drifted(ts.__version__, form, "ciphertexts that are too large, or twice the same")
        try:
            PublicContext(plan, key)
        except RemoteError:
            return ""
        return _drifted(ts.__version__, form, "a context that hides its secret key from the server")
    except (AttributeError, ImportError, TypeError, ValueError, RuntimeError, LocalError, RemoteError) as error:
        return _drifted(ts.__version__, form, f"{type(error).__name__}: {error}")


def _drifted(version: str, form: Form, got: str) -> str:
    return (
        f"tenseal {version}: expected what the {form.name.lower()} form of BFV needs, got {got}; install tenseal 0.3.18"
    )


def _loaded(plan: HEPlan, data: bytes) -> "ts.Context":
    require("he")
    import tenseal as ts

    _check_parameters(plan, check_context(data))
    try:
        return ts.context_from(data)
    except (RuntimeError, ValueError, TypeError) as error:
        raise RemoteError(f"context: expected one of TenSEAL ({error})") from None


def _check_parameters(plan: HEPlan, parameters: bytes) -> None:
    """Raises RemoteError for other parameters than the plan's, before a context is made of them.

    Of a hundred bytes of parameters TenSEAL makes tables of gigabytes.
    """
    import tenseal.sealapi as seal

    found = seal.EncryptionParameters(seal.SCHEME_TYPE.BFV)
    try:
        load_bytes(found.load, parameters)
    except (RuntimeError, ValueError) as error:
        raise RemoteError(f"context: expected one of TenSEAL ({error})") from None
    moduli = [one.value() for one in found.coeff_modulus()]
    theirs = (found.scheme().name, found.poly_modulus_degree(), found.plain_modulus().value(), *moduli[:1])
    bits = tuple(modulus.bit_length() for modulus in moduli)
    if theirs != ("BFV", DEGREE, plan.plain_modulus, Q) or bits != COEFF_BITS:
        raise RemoteError("context: expected the parameters that follow from the plan, got others")


def _vector(context: "ts.Context", chunk: Buffer) -> Any:
    """One ciphertext of one plaintext. TenSEAL takes anything that parses, so what it found is looked at."""
    import tenseal as ts

    data = bytes(chunk)
    check_chunk(data)
    try:
        vector = ts.bfv_vector_from(context, data)
        if vector.size() != DEGREE or len(found := vector.ciphertext()) != 1 or found[0].size() != 2:
            raise ValueError("another number of slots, ciphertexts or polynomials")
        if found[0].is_ntt_form() or found[0].is_transparent():  # SEAL adds neither to others, and blames those
            raise ValueError("the transform of one, or one that hides nothing")
    except (RuntimeError, ValueError, TypeError) as error:
        raise RemoteError(f"ciphertext: expected one of this epoch's parameters ({error})") from None
    return vector
