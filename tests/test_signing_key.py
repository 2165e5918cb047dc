"""Signing keys: RFC 8032's vectors, files that others cannot read, and keys under which one signature fits all."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from wardround.errors import LocalError, RemoteError
from wardround.signing_key import SigningKey, check_public_key, check_signature, fingerprint_of

PASSWORD = b"correct horse"
P = 2**255 - 19
D = -121665 * pow(121666, -1, P) % P
Point = tuple[int, int]


def counted(size: int) -> bytes:
    return bytes(range(size))


def test_a_signature_is_that_of_rfc_8032() -> None:
    """Section 7.1, TEST 2."""
    key = SigningKey(bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb"))
    assert key.public.hex() == "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
    signature = key.sign(b"\x72")
    assert signature.hex() == (
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    )
    check_signature(key.public, signature, b"\x72", "site")


@pytest.mark.parametrize(
    "change",
    [
        lambda key, signature, data: (key, signature, data + b"x"),
        lambda key, signature, data: (key, signature[:-1], data),
        lambda key, signature, data: (key, signature[:-1] + b"\0" + signature[-1:], data),
        lambda key, signature, data: (key, bytes(64), data),
        lambda key, signature, data: (SigningKey(bytes(32)).public, signature, data),
        lambda key, signature, data: (key[:-1], signature, data),
    ],
)
def test_any_other_signature_is_refused_with_the_name(
    change: Callable[[bytes, bytes, bytes], tuple[bytes, bytes, bytes]],
) -> None:
    key = SigningKey(counted(32))
    bad = change(key.public, key.sign(b"data"), b"data")
    with pytest.raises(RemoteError, match=r"^Malmö: expected a valid signature"):
        check_signature(*bad, "Malmö")


def added(a: Point, b: Point) -> Point:
    """On edwards25519, affine (RFC 8032, section 5.1.4)."""
    (x1, y1), (x2, y2) = a, b
    product = D * x1 * x2 * y1 * y2 % P
    x = (x1 * y2 + x2 * y1) * pow(1 + product, -1, P) % P
    return x, (y1 * y2 + x1 * x2) * pow(1 - product, -1, P) % P


def points_of(y: int) -> list[Point]:
    """The points with this y."""
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if x * x % P != square:
        x = x * pow(2, (P - 1) // 4, P) % P
    return [(x, y), (-x % P, y)] if x * x % P == square else []


def test_every_point_whose_order_divides_8_is_refused() -> None:
    """All eight are the multiples of 1 to 8 of one point of order 8."""
    order_8: list[Point] = []
    y = 2
    while not order_8:  # the order of the curve's large subgroup times any point leaves its small part
        for point in points_of(y)[:1]:
            small, factor = (0, 1), 2**252 + 27742317777372353535851937790883648493
            while factor:
                if factor & 1:
                    small = added(small, point)
                point, factor = added(point, point), factor >> 1
            four = added(added(small, small), added(small, small))
            order_8 = [small] if four == (0, P - 1) else []
        y += 1
    small, multiples = (0, 1), set[Point]()
    for _ in range(8):
        small = added(small, order_8[0])
        multiples.add(small)
    assert len(multiples) == 8
    for _, y in multiples:
        for sign in (0, 1):
            with pytest.raises(ValueError, match="of large order"):
                check_public_key((y | sign << 255).to_bytes(32, "little"))
    check_public_key(SigningKey(counted(32)).public)


def test_under_a_key_of_small_order_one_signature_fits_every_message_and_is_refused() -> None:
    """What the check prevents: the identity as key and as R, and S = 0."""
    identity = (1).to_bytes(32, "little")
    for data in (b"one", b"two"):
        Ed25519PublicKey.from_public_bytes(identity).verify(identity + bytes(32), data)
        with pytest.raises(RemoteError):
            check_signature(identity, identity + bytes(32), data, "site")


@pytest.mark.parametrize("encoding", [P, P + 1, P + 3, 2**255 - 1, P + 3 | 1 << 255])
def test_encodings_that_are_not_canonical_are_refused(encoding: int) -> None:
    with pytest.raises(ValueError, match="canonical"):
        check_public_key(encoding.to_bytes(32, "little"))


@pytest.mark.parametrize("password", [None, PASSWORD])
def test_a_key_survives_its_file_which_only_the_owner_may_read(tmp_path: Path, password: bytes | None) -> None:
    path = tmp_path / "key"
    leftover = tmp_path / ".tmp-key"
    leftover.write_bytes(b"")
    leftover.chmod(0o666)
    key = SigningKey.make(counted)
    before = os.umask(0)
    try:
        key.store(path, password, counted)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600
    assert (counted(32) in path.read_bytes()) == (password is None)
    again = SigningKey.load(path, password)
    assert again.public == key.public and again.sign(b"x") == key.sign(b"x")
    assert [one.name for one in tmp_path.iterdir()] == ["key"]


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "key"
    SigningKey.make(counted).store(path, None, counted)
    before = path.read_bytes()
    with pytest.raises(LocalError, match="never overwritten"):
        SigningKey(bytes(32)).store(path, None, counted)
    assert path.read_bytes() == before
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "nowhere")
    with pytest.raises(LocalError, match="never overwritten"):
        SigningKey(bytes(32)).store(link, None, counted)
    with pytest.raises(LocalError, match="cannot be written"):
        SigningKey(bytes(32)).store(tmp_path / "none" / "key", None, counted)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601])
def test_a_file_that_others_may_use_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "key"
    SigningKey.make(counted).store(path, None, counted)
    path.chmod(mode)
    with pytest.raises(LocalError, match="chmod 600"):
        SigningKey.load(path, None)


def test_links_folders_and_missing_files_are_refused(tmp_path: Path) -> None:
    SigningKey.make(counted).store(tmp_path / "key", None, counted)
    (tmp_path / "link").symlink_to(tmp_path / "key")
    os.mkfifo(tmp_path / "pipe", 0o600)
    for name in ("link", "pipe", "none"):
        with pytest.raises(LocalError):
            SigningKey.load(tmp_path / name, None)
    with pytest.raises(LocalError, match="expected a file"):
        SigningKey.load(tmp_path, None)


def test_a_wrong_a_missing_and_a_needless_password_are_refused(tmp_path: Path) -> None:
    SigningKey.make(counted).store(tmp_path / "sealed", PASSWORD, counted)
    SigningKey.make(counted).store(tmp_path / "plain", None, counted)
    for name, password, match in (
        ("sealed", b"wrong", "does not open; give the right password"),
        ("sealed", None, "is sealed; give its password"),
        ("plain", PASSWORD, "is not sealed; load it without"),
    ):
        with pytest.raises(LocalError, match=match):
            SigningKey.load(tmp_path / name, password)


@pytest.mark.parametrize("password", [None, PASSWORD])
def test_damage_of_any_part_of_the_file_is_noticed(tmp_path: Path, password: bytes | None) -> None:
    path = tmp_path / "key"
    SigningKey.make(counted).store(path, password, counted)
    good = path.read_bytes()
    # beginning, kind, public key, then the secret or salt, nonce, ciphertext and tag
    places = [0, 23, 24, 30, 55, 56, len(good) - 1] + ([72, 90] if password else [])
    for bad in [good[:end] for end in (0, 20, 56, len(good) - 1)] + [good + b"\0"]:
        path.write_bytes(bad)
        with pytest.raises(LocalError, match="damaged"):
            SigningKey.load(path, password)
    for at in places:
        changed = bytearray(good)
        changed[at] ^= 1
        path.write_bytes(changed)
        with pytest.raises(LocalError):
            SigningKey.load(path, password)


def test_a_key_is_neither_shown_nor_pickled() -> None:
    key = SigningKey(counted(32))
    assert repr(key) == f"<SigningKey {fingerprint_of(key.public)[:16]}>"
    with pytest.raises(TypeError, match="not copied or pickled"):
        pickle.dumps(key)
    with pytest.raises(ValueError, match="expected a secret of 32 bytes, got 31"):
        SigningKey(bytes(31))
