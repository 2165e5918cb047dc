"""The attack that gives CKKS keys away finds nothing in BFV sums; and what BFV does not protect from."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest
from numpy.typing import NDArray

from wardround.simulations.redteam.bfv_key_recovery import (
    OpenedPolynomial,
    Parameters,
    coefficients,
    crafted_sum,
    guess_key,
    key_of_opened,
    nearest_key,
    scaled,
    vote,
)
from wardround.strategies.he.he_plan import Form, HEPlan
from wardround.strategies.he.scheme import KeyHolder, KeylessSum, PublicContext, new_key
from wardround.strategies.he.tags import TAG_KEY_BYTES, Tagging

I8 = NDArray[np.int8]
CLIENTS = 5


class Federation(Protocol):
    """Members with a fresh BFV key, and what the server sees of them."""

    parameters: Parameters
    most_noise: float
    """Of one ciphertext, in the worst case."""

    def opened_sum(self) -> OpenedPolynomial:
        """One round: an encrypted sum and what a member published of it."""

    def key(self) -> I8:
        """To compare with."""


class Raw:
    """SEAL's interface alone: 4096, [54, 55], a plain modulus of 38 bits, symmetric encryption with a seed."""

    most_noise = 21.5  # SEAL's centred binomial distribution ends at 21; encoding rounds by a half

    def __init__(self, folder: Path) -> None:
        import tenseal.sealapi as seal

        self.seal, self.file = seal, str(folder / "part")
        parameters = seal.EncryptionParameters(seal.SCHEME_TYPE.BFV)
        parameters.set_poly_modulus_degree(4096)
        parameters.set_coeff_modulus(seal.CoeffModulus.Create(4096, [54, 55]))
        parameters.set_plain_modulus(seal.PlainModulus.Batching(4096, 38))
        self.context = seal.SEALContext(parameters, True, seal.SEC_LEVEL_TYPE.TC128)
        self.secret = seal.KeyGenerator(self.context).secret_key()
        self.encryptor = seal.Encryptor(self.context, self.secret)
        self.decryptor = seal.Decryptor(self.context, self.secret)
        self.evaluator, self.encoder = seal.Evaluator(self.context), seal.BatchEncoder(self.context)
        self.parameters = Parameters.read(self.context)
        self.random = np.random.default_rng()
        self.plain_sum: list[int] = []

    def encode(self, slots: list[int]) -> Any:
        plaintext = self.seal.Plaintext()
        self.encoder.encode(slots, plaintext)
        return plaintext

    def encrypt(self, slots: list[int]) -> bytes:
        self.encryptor.encrypt_symmetric(self.encode(slots)).save(self.file)
        return Path(self.file).read_bytes()

    def load(self, sent: bytes) -> Any:
        Path(self.file).write_bytes(sent)
        ciphertext = self.seal.Ciphertext(self.context)
        ciphertext.load(self.context, self.file)
        return ciphertext

    def open(self, ciphertext: Any) -> list[int]:
        """The slots that a member publishes."""
        plaintext = self.seal.Plaintext()
        self.decryptor.decrypt(ciphertext, plaintext)
        return list(self.encoder.decode_uint64(plaintext))

    def opened_sum(self) -> OpenedPolynomial:
        updates = self.random.integers(0, self.parameters.plain_modulus // CLIENTS, (CLIENTS, 4096))
        total = self.load(self.encrypt(updates[0].tolist()))
        for update in updates[1:]:
            self.evaluator.add_inplace(total, self.load(self.encrypt(update.tolist())))
        self.plain_sum = np.sum(updates, axis=0).tolist()
        return OpenedPolynomial.read(total, self.encode(self.open(total)), 4096)

    def key(self) -> I8:
        return key_in(self.secret, self.parameters)


class Shipped:
    """What wardround ships: members' key holders, a server's keyless sum, the plan's parameters."""

    def __init__(self, folder: Path, form: Form) -> None:
        import tenseal as ts
        import tenseal.sealapi as seal

        self.ts, self.seal, self.file = ts, seal, str(folder / "part")
        self.plan = HEPlan(members=CLIENTS)
        key = new_key(self.plan, form)
        self.member = KeyHolder(self.plan, form, key)
        self.server = ts.context_from(self.member.public)
        self.context = self.server.seal_context().data
        self.secret = ts.context_from(key).secret_key().data
        self.parameters = Parameters.read(self.context)
        self.most_noise = 21.5 if form is Form.SEEDED else 2049.5  # he_plan
        self.random = np.random.default_rng()

    def read(self, chunk: bytes) -> Any:
        """A ciphertext as the server loads it."""
        (ciphertext,) = self.ts.bfv_vector_from(self.server, chunk).ciphertext()
        return ciphertext

    def encode(self, slots: NDArray[np.uint64]) -> Any:
        plaintext = self.seal.Plaintext()
        self.seal.BatchEncoder(self.context).encode(slots.tolist(), plaintext)
        return plaintext

    def opened_sum(self) -> OpenedPolynomial:
        total = KeylessSum(PublicContext(self.plan, self.member.public), 1)
        for _ in range(CLIENTS):
            slots = self.random.integers(0, self.plan.plain_modulus // CLIENTS, 4096, dtype=np.uint64)
            total.add([self.member.encrypt(slots)])
        (chunk,) = total.serialized()
        return OpenedPolynomial.read(self.read(chunk), self.encode(self.member.decrypt(chunk)), 4096)

    def key(self) -> I8:
        return key_in(self.secret, self.parameters)

    def crafted(self) -> bytes:
        """A lying server's sum, as a vector of TenSEAL (BFVVectorProto: sizes, ciphertexts)."""
        self.read(self.member.encrypt(np.zeros(4096, dtype=np.uint64))).save(self.file)
        ciphertext = crafted_sum(self.context, Path(self.file).read_bytes())
        length, left = b"", len(ciphertext)
        while left > 127:
            length, left = length + bytes([left & 127 | 128]), left >> 7
        return b"\x0a\x02\x80\x20\x12" + length + bytes([left]) + ciphertext


def key_in(secret: Any, parameters: Parameters) -> I8:
    words = secret.data()
    points = np.array([words.data(i) for i in range(parameters.ring.degree)], dtype=object)
    return parameters.ring.coefficients(points).astype(np.int8)


FEDERATIONS: dict[str, Callable[[Path], Federation]] = {
    "sealapi": Raw,
    "wardround-seeded": partial(Shipped, form=Form.SEEDED),
    "wardround-public": partial(Shipped, form=Form.PUBLIC),
}
"""What is attacked."""


@pytest.fixture(params=FEDERATIONS)
def start(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Federation]:
    return lambda: FEDERATIONS[request.param](tmp_path)


def phase(federation: Federation, seen: OpenedPolynomial) -> NDArray[np.object_]:
    """c0 + c1·s, noise and all: what CKKS would publish."""
    ring = federation.parameters.ring
    product = ring.points(seen.c1) * ring.points(federation.key().astype(object)) % ring.prime
    found: NDArray[np.object_] = (seen.c0 + ring.coefficients(product)) % ring.prime
    return found


def test_with_the_noise_in_what_is_opened_the_key_would_be_found(start: Callable[[], Federation]) -> None:
    """So that the next test means something: the attack works, were there something to work on."""
    federation = start()
    seen = federation.opened_sum()
    guess = guess_key(federation.parameters.ring, seen, phase(federation, seen))
    assert np.array_equal(guess, federation.key())


def test_what_is_opened_gives_no_more_of_the_key_than_guessing(start: Callable[[], Federation]) -> None:
    """Keys are fresh, their coefficients -1, 0 or 1, each as likely: a guess made without them is right for a third.

    Then the count over all keys is binomial, and further than `margin` from its mean once in 1e9 (Hoeffding 1963,
    theorem 1), both tests together.
    """
    agreed, voted, total, short = 0, 0, 0, 0
    for _ in range(6):
        federation = start()
        key, ring, guesses = federation.key(), federation.parameters.ring, []
        for _ in range(3):
            seen = federation.opened_sum()
            guess = guess_key(ring, seen, scaled(federation.parameters, seen.opened))
            short += int(np.sum(np.abs(guess) <= 1))
            guesses.append(nearest_key(guess))
        agreed += int(np.sum(guesses[0] == key))
        voted += int(np.sum(vote(guesses) == key))
        total += ring.degree
    margin = math.sqrt(math.log(2 * 2 / 1e-9) / (2 * total))
    assert margin < 0.025
    assert abs(agreed / total - 1 / 3) < margin and abs(voted / total - 1 / 3) < margin
    assert short == 0  # guesses are anywhere in q: 3 · 73728 / 2^54 that one is small by chance


def test_the_noise_is_far_below_where_decryption_fails(start: Callable[[], Federation]) -> None:
    federation = start()
    parameters = federation.parameters
    seen = federation.opened_sum()
    ring = parameters.ring
    noise = (phase(federation, seen) - scaled(parameters, seen.opened)) % ring.prime
    noise = np.where(noise > ring.prime // 2, noise - ring.prime, noise)
    assert (
        0 < np.max(np.abs(noise)) <= CLIENTS * federation.most_noise + 0.5 < ring.prime / (2 * parameters.plain_modulus)
    )


# -- what stands behind it, and where it ends ---------------------------------------------------------


def test_what_is_opened_can_be_written_down_without_the_key(tmp_path: Path) -> None:
    federation = Raw(tmp_path)
    seen = federation.opened_sum()
    assert list(seen.opened) == list(coefficients(federation.encode(federation.plain_sum), 4096))


def test_bare_bfv_gives_a_lying_server_the_key(tmp_path: Path) -> None:
    """One opened ciphertext of its own making is enough, and its noise budget is better than a sum's."""
    federation = Raw(tmp_path)
    sent = federation.encrypt([1] * 4096)
    crafted = federation.load(crafted_sum(federation.context, sent))
    published = coefficients(federation.encode(federation.open(crafted)), 4096)
    key = key_of_opened(federation.parameters, published)
    assert key is not None and np.array_equal(key, federation.key())
    budget = federation.decryptor.invariant_noise_budget
    assert budget(crafted) >= budget(federation.load(sent))
    assert key_of_opened(federation.parameters, federation.opened_sum().opened) is None


@pytest.mark.parametrize("form", list(Form))
def test_tags_keep_it_from_a_lying_server(tmp_path: Path, form: Form) -> None:
    """Members open a sum only where its tags are right: what was made to be opened would be the key itself."""
    federation, slots = Shipped(tmp_path, form), HEPlan(members=CLIENTS).slots
    opened = federation.member.decrypt(federation.crafted())
    key = key_of_opened(federation.parameters, coefficients(federation.encode(opened), 4096))
    assert key is not None and np.array_equal(key, federation.key())
    tagging = Tagging(federation.plan, bytes(range(TAG_KEY_BYTES)), bytes(32))
    assert not tagging.hold(opened[None, :slots], opened[None, slots:], 0, range(CLIENTS))
