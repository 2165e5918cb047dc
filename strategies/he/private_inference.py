"""A model applied to encrypted rows: CKKS by TenSEAL and by SEAL beneath it.

The asker has the secret key, and encrypts symmetrically: a seed takes the place of one polynomial, which halves the
bytes, and no public key exists. The model's owner has parameters, and keys for relinearisation where a model has
squares; nothing by which anything could be decrypted, and no keys for rotations. Approximate results must not get back
to the owner: with the query, they give the key away (Li and Micciancio 2021).

The owner makes the parameters itself, and takes no context of TenSEAL from anybody: its loader reads as many keys as
bytes ask for, gigabytes of a few hundred kilobytes, and SEAL's relinearisation reads past the end of keys with fewer
parts than the modulus has primes (`switch_key_inplace` in native/src/seal/evaluator.cpp counts primes, not parts).
"""

import math
import struct
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from wardround.errors import LocalError, RemoteError
from wardround.extras import require
from wardround.strategies.he.foreign_bytes import holds_secret_key
from wardround.strategies.he.inference_file import join_parts, split_parts
from wardround.strategies.he.inference_plan import Layer, Network, ParameterSet, rounded_weights
from wardround.strategies.he.memory_file import load_bytes, saved_bytes
from wardround.vector import F64

if TYPE_CHECKING:
    import tenseal as ts

__all__ = ["Asker", "Owner", "ciphertext_bytes", "measured_error", "new_key", "refuse_secret_key"]

_CKKS = "CKKS"
_HEADER = struct.Struct("<HBBBBHQ")
"""SEAL's (native/src/seal/serialization.h): magic, its size, version (2), compression, reserved, size of all."""
_REFUSALS = (RuntimeError, ValueError, TypeError, IndexError, OverflowError, MemoryError)
"""What the bindings make of exceptions of SEAL."""
_SQUARED = 2
"""The power of the secret key that keys for relinearisation are for."""


def new_key(parameters: ParameterSet, *, squares: bool) -> tuple[bytes, bytes]:
    """A new secret key in TenSEAL's format, and the context of it for the owner.

    Drawn by SEAL from the operating system's randomness. With `squares` the context is the keys for relinearisation,
    part by part; without, there is nothing in it.
    Raises LocalError where SEAL says that the parameters are not of 128-bit security.
    """
    require("he")
    import tenseal as ts

    try:
        context = ts.context(
            ts.SCHEME_TYPE.CKKS,
            parameters.degree,
            coeff_mod_bit_sizes=list(parameters.primes),
            encryption_type=ts.ENCRYPTION_TYPE.SYMMETRIC,
        )
    except (RuntimeError, ValueError, TypeError) as error:
        raise LocalError(f"{parameters}: expected parameters that SEAL takes ({error})") from None
    secret = bytes(
        context.serialize(save_secret_key=True, save_public_key=False, save_galois_keys=False, save_relin_keys=False)
    )
    parts = context.relin_keys().data.key(_SQUARED) if squares else ()
    return secret, join_parts(saved_bytes(part.save) for part in parts)


def ciphertext_bytes(parameters: ParameterSet) -> int:
    """Above what a ciphertext takes: two polynomials of words of 64 bits, and headers."""
    return 16 * parameters.degree * (len(parameters.primes) - 1) + 1024


def refuse_secret_key(context: bytes) -> None:
    """Raises RemoteError for a context of TenSEAL with its secret key, and says what to do."""
    if holds_secret_key(context):
        raise RemoteError(
            "context: expected one without a secret key, got the key with it; it is not used. Destroy this file, "
            "and let its owner make a new key and destroy the old one"
        )


def measured_error(parameters: ParameterSet, network: Network, rows: F64) -> float:
    """The most that encrypted outputs of `rows`, shape (n, inputs), are off from those in the clear.

    By a key of its own, which is thrown away.
    Raises LocalError for a version of TenSEAL that does not do what this module needs.
    """
    try:
        secret, public = new_key(parameters, squares=network.squares > 0)
        asker, owner = Asker(parameters, secret), Owner(parameters, public, network)
        parts, answers = list(asker.encrypt(rows)), list[bytes]()
        for start in range(0, len(parts), network.inputs):
            answers += owner.answer(parts[start : start + network.inputs])
        found = asker.decrypt(answers, rows=len(rows), outputs=network.outputs, squares=network.squares)
    except (AttributeError, ImportError, TypeError, RemoteError) as error:
        raise LocalError(f"{_drifted()}: expected what private inference needs, got {error}") from None
    return float(np.abs(found - network(rows)).max())


def _drifted() -> str:
    import tenseal as ts

    return f"tenseal {ts.__version__}, where 0.3.18 is known to work"


class Asker:
    """Who has rows and the secret key of `new_key`. Raises RemoteError for a key of other parameters."""

    def __init__(self, parameters: ParameterSet, secret: bytes) -> None:
        context = _loaded(parameters, secret)
        if not context.has_secret_key():
            raise RemoteError("key: expected one with its secret part, got a context without it")
        import tenseal.sealapi as seal

        self.parameters = parameters
        self._seal = context.seal_context().data
        key = context.secret_key().data
        self._encoder = seal.CKKSEncoder(self._seal)
        self._encryptor, self._decryptor = seal.Encryptor(self._seal, key), seal.Decryptor(self._seal, key)

    def encrypt(self, rows: F64) -> Iterator[bytes]:
        """The rows, shape (n, inputs), batch by batch, in each batch one ciphertext a feature.

        Raises LocalError, naming no value, for rows that are not finite or do not fit the modulus.
        """
        import tenseal.sealapi as seal

        scale, slots, plain = 2.0**self.parameters.input_bits, self.parameters.slots, seal.Plaintext()
        most = 2.0 ** (self.parameters.data_bits - self.parameters.input_bits - 2)
        if not (np.abs(rows) <= most).all():  # NaN is refused as well
            raise LocalError(f"rows: expected standardised values of at most {most:.3g}, got others")
        for start in range(0, len(rows), slots):
            for values in rows[start : start + slots].T:
                self._encoder.encode(values.tolist(), scale, plain)
                yield saved_bytes(self._encryptor.encrypt_symmetric(plain).save)

    def decrypt(self, ciphertexts: Sequence[bytes], *, rows: int, outputs: int, squares: int) -> F64:
        """The outputs, shape (rows, outputs), of the ciphertexts of `Owner.answer`.

        Raises RemoteError for ciphertexts that are none, or not as an answer has them.
        """
        import tenseal.sealapi as seal

        bits, slots = self.parameters.output_bits(squares), self.parameters.slots
        found = np.empty((rows, outputs), dtype=np.float64)
        plain = seal.Plaintext()
        for place, data in enumerate(ciphertexts):
            batch, output = divmod(place, outputs)
            start = batch * slots
            ciphertext = _ciphertext(self._seal, data, bits)
            self._decryptor.decrypt(ciphertext, plain)
            values = self._encoder.decode_double(plain)
            found[start : start + slots, output] = values[: rows - start]
        return found


class Owner:
    """Who has a model, and the context of `new_key`.

    Raises RemoteError for a context with a secret key, without the keys that squares need, or that is something else.
    """

    def __init__(self, parameters: ParameterSet, context: bytes, network: Network) -> None:
        refuse_secret_key(context)
        if network.squares and not context:
            raise RemoteError("context: expected keys for relinearisation, which a model with hidden layers needs")
        count = len(parameters.primes) - 1 if context else 0
        keys = split_parts(context, count, "context", "keys for relinearisation")
        import tenseal.sealapi as seal

        self.parameters, self._network = parameters, network
        self._seal = _made(parameters)
        self._relin = _relin_keys(self._seal, keys) if network.squares else None
        self._encoder, self._evaluator = seal.CKKSEncoder(self._seal), seal.Evaluator(self._seal)

    def answer(self, batch: Sequence[bytes]) -> list[bytes]:
        """One ciphertext an output, of a batch with one ciphertext a feature.

        Raises RemoteError for ciphertexts that are none, or not as a query has them.
        """
        if len(batch) != self._network.inputs:
            raise RemoteError(f"query: expected {self._network.inputs} ciphertexts a batch, got {len(batch)}")
        bits = self.parameters.input_bits
        values: Iterator[Any] = (_ciphertext(self._seal, data, bits) for data in batch)
        for place, layer in enumerate(self._network.layers):
            if place:
                values = map(self._square, values)
            try:
                values = iter(self._linear(layer, values))
            except _REFUSALS as error:  # SEAL refuses a product that hides nothing
                raise RemoteError(f"query: expected ciphertexts that can be computed on ({error})") from None
        return [saved_bytes(value.save) for value in values]

    def _linear(self, layer: Layer, values: Iterator[Any]) -> list[Any]:
        """The layer's outputs; `values` come one by one, so that few are in memory."""
        import tenseal.sealapi as seal

        rounded = rounded_weights(layer.weight, self.parameters)
        sums: list[Any] = [None] * len(rounded)
        plain, product = seal.Plaintext(), seal.Ciphertext()
        for column, value in zip(rounded.T.tolist(), values, strict=True):
            for output, weight in enumerate(column):
                if weight == 0:
                    continue
                self._encoder.encode(weight, self._seal.first_parms_id(), 2.0**self.parameters.weight_bits, plain)
                if sums[output] is None:
                    sums[output] = seal.Ciphertext()
                    self._evaluator.multiply_plain(value, plain, sums[output])
                else:
                    self._evaluator.multiply_plain(value, plain, product)
                    self._evaluator.add_inplace(sums[output], product)
        for total, bias in zip(sums, layer.bias.tolist(), strict=True):
            self._encoder.encode(bias, self._seal.first_parms_id(), total.scale, plain)
            self._evaluator.add_plain_inplace(total, plain)
        return sums

    def _square(self, value: Any) -> Any:
        self._evaluator.square_inplace(value)
        self._evaluator.relinearize_inplace(value, self._relin)
        return value


def _made(parameters: ParameterSet) -> Any:
    """SEAL's context of these parameters; only those of 128-bit security are taken."""
    require("he")
    import tenseal.sealapi as seal

    chosen = seal.EncryptionParameters(seal.SCHEME_TYPE.CKKS)
    try:
        chosen.set_poly_modulus_degree(parameters.degree)
        chosen.set_coeff_modulus(seal.CoeffModulus.Create(parameters.degree, list(parameters.primes)))
        context = seal.SEALContext(chosen, True, seal.SEC_LEVEL_TYPE.TC128)
    except _REFUSALS as error:
        raise LocalError(f"{parameters}: expected parameters that SEAL takes ({error})") from None
    if not context.parameters_set():
        raise LocalError(f"{parameters}: expected parameters that SEAL takes ({context.parameters_error_message()})")
    return context


def _relin_keys(context: Any, parts: Sequence[bytes]) -> Any:
    """Keys for relinearisation of these parts, as many as the modulus has primes without the special one.

    What stands around them is written here, so that their number is not the sender's to say; each is a ciphertext, and
    of those SEAL bounds the size.
    """
    import tenseal.sealapi as seal

    ours = seal.Serialization.SEALHeader()
    body = struct.pack("<4QQQ", *context.key_parms_id(), 1, len(parts)) + b"".join(parts)
    size = _HEADER.size + len(body)
    header = _HEADER.pack(ours.magic, _HEADER.size, ours.version_major, ours.version_minor, 0, 0, size)
    keys = seal.RelinKeys()
    try:
        load_bytes(partial(keys.load, context), header + body)
        found = [len(keys.key(_SQUARED))] if keys.size() == 1 else []
    except _REFUSALS as error:
        raise RemoteError(f"context: expected keys for relinearisation of the model's parameters ({error})") from None
    if found != [len(parts)]:
        raise RemoteError(f"context: expected keys for relinearisation in {len(parts)} parts, got others")
    return keys


def _loaded(parameters: ParameterSet, data: bytes) -> "ts.Context":
    require("he")
    import tenseal as ts
    import tenseal.sealapi

    try:
        context = ts.context_from(data)
        found = context.seal_context().data.key_context_data().parms()
        primes = tuple(prime.bit_count() for prime in found.coeff_modulus())
        ours = (found.scheme().name, found.poly_modulus_degree(), primes)
    except _REFUSALS as error:
        raise RemoteError(f"expected a context of TenSEAL ({error})") from None
    if ours != (_CKKS, parameters.degree, parameters.primes):
        raise RemoteError(f"context: expected CKKS {parameters}, got {ours[0]} {ours[1]} {list(primes)}")
    return context


def _ciphertext(context: Any, data: bytes, bits: int) -> Any:
    """A ciphertext of two polynomials at a scale of 2^`bits`; SEAL has checked the rest of its form."""
    import tenseal.sealapi as seal

    ciphertext = seal.Ciphertext()
    try:
        load_bytes(partial(ciphertext.load, context), data)
        size, scale, of = ciphertext.size(), ciphertext.scale, ciphertext.parms_id()
    except _REFUSALS as error:
        raise RemoteError(f"expected a ciphertext of this context ({error})") from None
    if size != 2 or scale != 2.0**bits or of != context.first_parms_id() or ciphertext.is_transparent():
        got = math.log2(scale) if scale > 0 else scale
        raise RemoteError(
            f"expected a ciphertext of two polynomials at a scale of {bits} bits, got {size} at {got:g} bits, or one "
            "that hides nothing"
        )
    return ciphertext
