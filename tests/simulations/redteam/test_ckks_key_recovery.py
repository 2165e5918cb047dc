"""Li and Micciancio's attack on federated averaging with CKKS, as the tutorials show it: the server gets the key."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from wardround.simulations.redteam.ckks_key_recovery import (
    Ciphertext,
    OpenedSum,
    Tutorial,
    attack,
    decrypt,
    main,
    recover_key,
)

DEFAULT: dict[str, Any] = {"degree": 8192, "coeff_bits": (60, 40, 40, 60)}
SHORTER: dict[str, Any] = {"degree": 8192, "coeff_bits": (60, 40, 40)}
F64 = NDArray[np.float64]


def updates(federation: Tutorial, *, clients: int = 3, ciphertexts: int = 2, size: float = 0.01) -> list[F64]:
    random = np.random.default_rng(7)
    return [size * random.standard_normal(ciphertexts * federation.slots) for _ in range(clients)]


def opened(federation: Tutorial, given: list[F64]) -> list[OpenedSum]:
    """A round as the server sees it."""
    totals = federation.add([federation.encrypt(one) for one in given])
    return [
        OpenedSum(ciphertext=Ciphertext.read(total.ciphertext()[0]), values=values)
        for total, values in zip(totals, federation.publish(totals), strict=True)
    ]


@pytest.mark.parametrize(
    ("parameters", "mean"),
    [
        (DEFAULT, False),
        (DEFAULT, True),
        ({**DEFAULT, "symmetric": True}, False),
        (SHORTER, False),
        ({**SHORTER, "symmetric": True}, True),
        ({"degree": 4096, "coeff_bits": (54, 55)}, False),
    ],
    ids=["default", "default-mean", "default-symmetric", "60-40-40", "60-40-40-symmetric-mean", "4096"],
)
def test_one_round_gives_the_whole_key_and_a_single_clients_update(parameters: dict[str, Any], mean: bool) -> None:
    federation = Tutorial.start(**parameters)
    outcome = attack(federation, updates(federation), mean=mean)
    assert outcome.key_share == 1.0
    assert outcome.update_error is not None and outcome.update_error < 1e-6  # of values of 0.01


def test_the_server_has_no_key_of_its_own() -> None:
    federation = Tutorial.start(**DEFAULT)
    assert federation.members.has_secret_key() and not federation.server.has_secret_key()


def test_one_ciphertext_is_too_little_and_those_of_two_rounds_are_enough() -> None:
    federation = Tutorial.start(**DEFAULT)
    given = updates(federation, ciphertexts=1)
    first, second = opened(federation, given), opened(federation, given)
    assert recover_key(federation.ring, first) is None
    assert recover_key(federation.ring, [*first, *first]) is None
    key = recover_key(federation.ring, [*first, *second])
    assert key is not None and np.array_equal(key, federation.key())


def test_what_gives_the_key_away_is_the_noise_in_published_values() -> None:
    """The very sums, of plaintexts, give nothing: what was published differs from them by the noise only."""
    federation = Tutorial.start(**DEFAULT)
    given = updates(federation)
    exact = np.sum(given, axis=0).reshape(2, -1)
    seen = opened(federation, given)
    clean = [OpenedSum(ciphertext=one.ciphertext, values=part) for one, part in zip(seen, exact, strict=True)]
    assert max(np.max(np.abs(one.values - part)) for one, part in zip(seen, exact, strict=True)) < 1e-7
    assert recover_key(federation.ring, clean) is None
    assert recover_key(federation.ring, seen) is not None


@pytest.mark.parametrize(("size", "found"), [(0.01, False), (1e-5, True)])
def test_single_precision_hides_the_key_of_large_updates_only(size: float, found: bool) -> None:
    federation = Tutorial.start(**DEFAULT)
    outcome = attack(federation, updates(federation, size=size), single=True)
    assert outcome.key_share == (1.0 if found else 0.0) and (outcome.update_error is None) is not found


def test_ciphertexts_that_were_opened_in_part_are_left_out() -> None:
    federation = Tutorial.start(**DEFAULT)
    seen = opened(federation, updates(federation))
    partly = OpenedSum(ciphertext=seen[0].ciphertext, values=seen[0].values[:100])
    assert recover_key(federation.ring, [partly, seen[1]]) is None
    assert recover_key(federation.ring, [seen[0], partly, seen[1]]) is not None


def test_decryption_with_coefficients_is_tenseals() -> None:
    federation = Tutorial.start(**SHORTER)
    (update,) = updates(federation, clients=1, ciphertexts=1)
    (part,) = federation.encrypt(update)
    (theirs,) = federation.publish(federation.add([[part]]))
    ours = decrypt(federation.ring, federation.key(), federation.received(part))
    assert np.max(np.abs(ours - theirs)) < 1e-12


def test_nothing_is_shown_in_a_representation() -> None:
    federation = Tutorial.start(**SHORTER)
    (seen,) = opened(federation, updates(federation, ciphertexts=1))
    assert "[" not in repr(seen) and "array" not in repr(seen) and "members" not in repr(federation)


def test_anybody_can_run_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--clients", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 7 and all(("100.0%" in line) is ("as float32" not in line) for line in lines[1:])
