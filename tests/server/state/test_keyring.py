"""The keyring: it opens for its secret alone."""

import os
import pickle
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st

from wardround.errors import LocalError
from wardround.server.state import keyring as module
from wardround.server.state.keyring import Keyring, make_keyring, open_keyring, read_key_file, seal_keyring
from wardround.signing_key import SigningKey

SECRET = b"correct horse battery staple"


@pytest.fixture(scope="module")
def keyring() -> Keyring:
    return make_keyring()


@pytest.fixture(scope="module")
def sealed(keyring: Keyring) -> bytes:
    return seal_keyring(keyring, SECRET, os.urandom)


def test_a_keyring_opens_for_its_secret_alone(keyring: Keyring, sealed: bytes) -> None:
    opened = open_keyring(sealed, SECRET)
    assert opened.tls_authority == keyring.tls_authority
    assert opened.identity_authority.public == keyring.identity_authority.public
    assert opened.signing.public == keyring.signing.public
    assert opened.data_key == keyring.data_key
    with pytest.raises(LocalError, match="the passphrase or the key file"):
        open_keyring(sealed, SECRET + b" ")
    for wrong in (b"",):
        with pytest.raises(LocalError, match="got an empty one"):
            open_keyring(sealed, wrong)


def test_no_key_is_readable_in_it(keyring: Keyring, sealed: bytes) -> None:
    for secret in (keyring.data_key, keyring.tls_authority, keyring.signing.public):
        assert secret not in sealed
    assert sealed != seal_keyring(keyring, SECRET, os.urandom)


def test_every_damage_is_found(sealed: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "stretched", lambda secret, salt, cost: (secret + salt)[:32].ljust(32, bytes([cost])))
    cheap = seal_keyring(make_keyring(), b"s", os.urandom)
    open_keyring(cheap, b"s")
    for at in range(len(cheap)):
        changed = bytearray(cheap)
        changed[at] ^= 1
        with pytest.raises(LocalError):
            open_keyring(bytes(changed), b"s")
    for length in range(len(cheap)):
        with pytest.raises(LocalError):
            open_keyring(cheap[:length], b"s")


@given(st.binary(max_size=400))
def test_no_bytes_do_anything_but_be_refused(data: bytes) -> None:
    for some in (data, b"wardround keyring 1\n\xff" + data, b"wardround keyring 1\n\0" + data):
        with pytest.raises(LocalError):
            open_keyring(some, SECRET)


def test_a_cost_that_would_hang_the_start_is_refused(sealed: bytes) -> None:
    for cost in (0, 16, 21, 255):
        changed = bytearray(sealed)
        changed[20] = cost
        with pytest.raises(LocalError, match="expected a cost"):
            open_keyring(bytes(changed), SECRET)


def test_a_keyring_is_neither_shown_nor_pickled(keyring: Keyring) -> None:
    shown = repr(keyring)
    assert repr(keyring.data_key) not in shown
    assert keyring.data_key.hex() not in shown
    assert repr(keyring.tls_authority) not in shown
    with pytest.raises(TypeError):
        pickle.dumps(keyring)


def test_only_a_p256_key_is_a_tls_authority(keyring: Keyring) -> None:
    format_ = (Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    others = [
        b"",
        b"junk",
        ec.generate_private_key(ec.SECP384R1()).private_bytes(*format_),
        ed25519.Ed25519PrivateKey.generate().private_bytes(*format_),
    ]
    for other in others:
        with pytest.raises(ValueError, match="P-256"):
            Keyring(
                tls_authority=other,
                identity_authority=keyring.identity_authority,
                signing=SigningKey(bytes(32)),
                data_key=bytes(32),
            )


# -- key files -----------------------------------------------------------------------------------------


def test_a_key_file_is_read_without_the_end_of_its_line(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(b"0123456789abcdef\n")
    path.chmod(0o600)
    assert read_key_file(path) == b"0123456789abcdef"


@pytest.mark.parametrize(
    ("content", "mode", "reason"),
    [
        (b"0123456789abcdef", 0o640, "chmod 600"),
        (b"0123456789abcdef", 0o604, "chmod 600"),
        (b"too short\n", 0o600, "16 bytes to 64 KiB"),
        (b"x" * ((1 << 16) + 1), 0o600, "16 bytes to 64 KiB"),
    ],
)
def test_a_key_file_that_is_not_private_or_not_a_key_is_refused(
    tmp_path: Path, content: bytes, mode: int, reason: str
) -> None:
    path = tmp_path / "key"
    path.write_bytes(content)
    path.chmod(mode)
    with pytest.raises(LocalError, match=reason):
        read_key_file(path)


def test_what_is_no_file_is_no_key_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    for name in ("pipe", "link", "missing"):
        with pytest.raises(LocalError):
            read_key_file(tmp_path / name)
    with pytest.raises(LocalError, match="expected a file"):
        read_key_file(tmp_path)
