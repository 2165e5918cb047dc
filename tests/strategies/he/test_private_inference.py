"""Encrypted inference: answers against plain arithmetic, and what each party may hold."""

import tempfile
from typing import Any

import numpy as np
import pytest
import tenseal as ts
import tenseal.sealapi as seal

from tests.strategies.he.networks import box, network, rows_in
from wardround.errors import LocalError, RemoteError
from wardround.strategies.he.foreign_bytes import holds_secret_key
from wardround.strategies.he.inference_file import join_parts, split_parts
from wardround.strategies.he.inference_plan import (
    LINEAR,
    ONE_HIDDEN_LAYER,
    Layer,
    Network,
    ParameterSet,
    choose_parameters,
)
from wardround.strategies.he.private_inference import Asker, Owner, ciphertext_bytes, measured_error, new_key
from wardround.vector import F64

SECRET, PUBLIC = new_key(LINEAR, squares=False)
OTHER_SECRET, OTHER_PUBLIC = new_key(LINEAR, squares=False)


def answered(one: Network, rows: F64, parameters: ParameterSet = LINEAR) -> F64:
    secret, public = (SECRET, PUBLIC) if parameters is LINEAR else new_key(parameters, squares=one.squares > 0)
    asker, owner = Asker(parameters, secret), Owner(parameters, public, one)
    query, answers = list(asker.encrypt(rows)), list[bytes]()
    assert len(query) == one.inputs * -(-len(rows) // parameters.slots)
    for start in range(0, len(query), one.inputs):
        answers += owner.answer(query[start : start + one.inputs])
    return asker.decrypt(answers, rows=len(rows), outputs=one.outputs, squares=one.squares)


@pytest.mark.parametrize("n", [1, 2048, 2049, 5000])
def test_every_row_of_every_batch_gets_its_outputs(n: int) -> None:
    one, rows = network(5, 3), rows_in(box(5), n)
    np.testing.assert_allclose(answered(one, rows), one(rows), atol=1e-5, rtol=0)


def test_a_hidden_layer() -> None:
    one, rows = network(6, 5, 2), rows_in(box(6), 700)
    found = choose_parameters(one, box(6))
    off = np.abs(answered(one, rows, found.parameters) - one(rows)).max()
    assert found.parameters is ONE_HIDDEN_LAYER and off <= found.error


def test_weights_of_zero() -> None:
    layer = Layer(weight=np.array([[0.0, 2.0], [0.0, 0.0]]), bias=np.array([0.0, -3.0]))
    rows = np.array([[5.0, 7.0], [1.0, 0.0]])
    expected = [[14.0, -3.0], [0.0, -3.0]]
    np.testing.assert_allclose(answered(Network(layers=(layer,)), rows), expected, atol=1e-6)


def test_the_owner_gets_no_key() -> None:
    for parameters, squares in ((LINEAR, False), (ONE_HIDDEN_LAYER, True)):
        secret, public = new_key(parameters, squares=squares)
        held = ts.context_from(secret)
        assert held.has_secret_key() and not held.has_galois_keys()
        parts = split_parts(public, len(parameters.primes) - 1 if squares else 0, "context")
        for part in parts:  # a public key hides the secret one; that it is none, SEAL says
            with pytest.raises((RuntimeError, ValueError)):
                loaded(seal.SecretKey(), held.seal_context().data, part)
        assert not holds_secret_key(public) and holds_secret_key(secret)
        with pytest.raises(RemoteError, match="expected a context of TenSEAL"):
            Asker(parameters, public)


def loaded(target: Any, context: Any, data: bytes) -> Any:
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        target.load(context, file.name)
    return target


def test_every_key_and_every_ciphertext_is_another() -> None:
    assert SECRET != OTHER_SECRET
    asker, rows = Asker(LINEAR, SECRET), np.zeros((1, 2))
    assert len({*asker.encrypt(rows), *asker.encrypt(rows)}) == 4


def test_a_ciphertext_has_a_seed_for_one_of_its_polynomials() -> None:
    [one] = Asker(LINEAR, SECRET).encrypt(np.ones((2048, 1)))
    assert len(one) < 1.25 * LINEAR.degree * LINEAR.data_bits / 8


def test_a_context_with_a_secret_key_is_refused() -> None:
    with pytest.raises(RemoteError, match=r"got the key with it; it is not used\. Destroy this file.*new key"):
        Owner(LINEAR, SECRET, network(2, 1))


def test_a_context_of_tenseal_is_refused() -> None:
    """Its loader takes as many keys as there are, of rotations too: 0.3 MB can make gigabytes."""
    context = ts.context_from(SECRET)
    context.generate_galois_keys()
    for rotations in (False, True):
        data = context.serialize(save_secret_key=False, save_galois_keys=rotations, save_public_key=False)
        with pytest.raises(RemoteError, match="context: expected 2 keys for relinearisation and nothing else"):
            Owner(LINEAR, data, network(2, 1))


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8])
def test_keys_for_relinearisation_with_another_number_of_parts_are_refused(count: int) -> None:
    """SEAL reads past the end of fewer: a crash of the owner, or memory of the owner's in an answer."""
    parts = split_parts(new_key(ONE_HIDDEN_LAYER, squares=True)[1], 4, "context")
    context = join_parts([*parts, *parts][:count])
    with pytest.raises(RemoteError, match="context: expected 4 keys for relinearisation and nothing else"):
        Owner(ONE_HIDDEN_LAYER, context, network(2, 2, 1))


def test_keys_for_relinearisation_that_are_none_are_refused() -> None:
    asker = Asker(ONE_HIDDEN_LAYER, new_key(ONE_HIDDEN_LAYER, squares=True)[0])
    parts = split_parts(new_key(ONE_HIDDEN_LAYER, squares=True)[1], 4, "context")
    of_others = ParameterSet(degree=8192, primes=(45, 45, 45, 45, 34), input_bits=30, weight_bits=20)
    foreign = split_parts(new_key(of_others, squares=True)[1], 4, "context")
    [ciphertext] = asker.encrypt(np.ones((1, 1)))
    for bad in (b"", b"junk" * 1000, parts[0][:-9], ciphertext, foreign[0], parts[0] + parts[1], parts[0] + b"x"):
        with pytest.raises(RemoteError, match="context: expected keys for relinearisation"):
            Owner(ONE_HIDDEN_LAYER, join_parts([bad, *parts[1:]]), network(2, 2, 1))


def test_a_context_without_what_squares_need_is_refused() -> None:
    _, public = new_key(ONE_HIDDEN_LAYER, squares=False)
    with pytest.raises(RemoteError, match="expected keys for relinearisation"):
        Owner(ONE_HIDDEN_LAYER, public, network(2, 2, 1))


def test_keys_of_other_parameters_and_of_other_things_are_refused() -> None:
    with pytest.raises(RemoteError, match=r"context: expected CKKS 8192.*got CKKS 4096 \[45, 44, 17\]"):
        Asker(ONE_HIDDEN_LAYER, SECRET)
    bfv = ts.context(ts.SCHEME_TYPE.BFV, 4096, 1032193, encryption_type=ts.ENCRYPTION_TYPE.SYMMETRIC)
    with pytest.raises(RemoteError, match=r"expected CKKS 4096.*got BFV"):
        Asker(LINEAR, bfv.serialize(save_public_key=False, save_secret_key=True))
    for data in (b"", b"text", SECRET[:5000]):
        with pytest.raises(RemoteError, match="expected a context of TenSEAL"):
            Asker(LINEAR, data)


def test_a_secret_key_is_found_in_a_context_that_is_cut_behind_it() -> None:
    with pytest.raises(RemoteError, match="got the key with it"):
        Owner(LINEAR, SECRET[:-1], network(2, 1))
    assert not holds_secret_key(SECRET[:5000]) and not holds_secret_key(b"") and not holds_secret_key(b"\x1a\x01x")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 2.0**48, -1e300])
def test_rows_that_no_plaintext_holds_are_refused(value: float) -> None:
    with pytest.raises(LocalError, match=r"rows: expected standardised values of at most 1.41e\+14, got others"):
        list(Asker(LINEAR, SECRET).encrypt(np.array([[1.0, value]])))


def test_no_ciphertext_is_larger_than_stated() -> None:
    for parameters in (LINEAR, ONE_HIDDEN_LAYER):
        one = network(2, 2, 1) if parameters is ONE_HIDDEN_LAYER else network(2, 1)
        secret, public = new_key(parameters, squares=one.squares > 0)
        query = list(Asker(parameters, secret).encrypt(rows_in(box(2), 5000)[: parameters.slots]))
        answer = Owner(parameters, public, one).answer(query)
        most = ciphertext_bytes(parameters)
        assert max(map(len, query)) < most / 2 and most / 2 < max(map(len, answer)) < most


def test_parameters_that_seal_does_not_take_make_no_key() -> None:
    too_many = ParameterSet(degree=4096, primes=(17,) * 6, input_bits=20, weight_bits=10)  # there are not that many
    with pytest.raises(LocalError, match="expected parameters that SEAL takes"):
        new_key(too_many, squares=False)


def test_what_is_no_ciphertext_of_the_query_is_refused() -> None:
    asker, owner = Asker(LINEAR, SECRET), Owner(LINEAR, PUBLIC, network(2, 1))
    query = list(asker.encrypt(np.ones((1, 2))))
    with pytest.raises(RemoteError, match="expected 2 ciphertexts a batch, got 1"):
        owner.answer(query[:1])
    for bad in (b"", b"junk" * 1000, query[0][:-9], query[0][:50]):
        with pytest.raises(RemoteError, match="expected a ciphertext of this context"):
            owner.answer([query[0], bad])
    answer = owner.answer(query)
    with pytest.raises(RemoteError, match="at a scale of 40 bits, got 2 at 68 bits"):
        owner.answer([query[0], answer[0]])
    with pytest.raises(RemoteError, match="at a scale of 68 bits, got 2 at 40 bits"):
        asker.decrypt(query[:1], rows=1, outputs=1, squares=0)


def test_another_key_reads_noise() -> None:
    one, rows = network(2, 1), np.ones((3, 2))
    answer = Owner(LINEAR, PUBLIC, one).answer(list(Asker(LINEAR, SECRET).encrypt(rows)))
    right = Asker(LINEAR, SECRET).decrypt(answer, rows=3, outputs=1, squares=0)
    wrong = Asker(LINEAR, OTHER_SECRET).decrypt(answer, rows=3, outputs=1, squares=0)
    np.testing.assert_allclose(right, one(rows), atol=1e-5)
    assert np.abs(wrong).min() > 100


def test_an_asker_learns_a_linear_model_from_one_query() -> None:
    """What the documents say is not claimed: with a row for every feature and one of zeros, weights can be read off."""
    one = network(4, 1)
    outputs = answered(one, np.concatenate((np.zeros((1, 4)), np.eye(4))))
    np.testing.assert_allclose(outputs[0], one.layers[0].bias, atol=1e-5)
    np.testing.assert_allclose(outputs[1:] - outputs[0], one.layers[0].weight.T, atol=1e-5)


def test_a_tenseal_of_another_interface_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(seal.CKKSEncoder, "encode")
    with pytest.raises(LocalError, match=rf"tenseal {ts.__version__}, where 0.3.18 is known to work: .*'encode'"):
        measured_error(LINEAR, network(2, 1), np.ones((1, 2)))
