"""Bundles against a known answer of NIST; everything else than what was sealed is refused."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.strategies.secagg.key_agreement import share_key
from wardround.strategies.secagg.sealing import TAG_BYTES, bundle_aad, open_sealed, seal

H, KEY = bytes(range(32)), bytes(range(100, 132))
AAD = bundle_aad(H, 1, 2)


def test_sealing_is_the_known_answer_of_nist() -> None:
    # GCM test case 14 (McGrew and Viega; CAVP): key, nonce and plaintext of zeros
    expected = "cea7403d4d606b6e074ec5d3baf39d18" + "d0d1c8a799996bf0265b98b5d48ab919"
    assert seal(bytes(32), bytes(16), b"").hex() == expected


def test_known_answers_for_another_decoder() -> None:
    assert seal(KEY, b"share", AAD).hex() == "2f0f9ae01572c6e69c2908763c7dbc3cae43c0d78d"
    assert (
        hashlib.sha256(seal(KEY, bytes(8192), AAD)).hexdigest()
        == "cb3d3c992b6876ee919228bcf46c8a4f1e8a2a66024dcb8a185179f809d362b3"
    )


def test_the_associated_data_is_hash_sender_and_receiver() -> None:
    assert bundle_aad(H, 1, 0x0203) == H + b"\x00\x01\x02\x03"
    with pytest.raises(ValueError, match="digest of 32 bytes, got 31"):
        bundle_aad(H[1:], 1, 2)
    with pytest.raises(ValueError, match="roster index of 0 to 65535, got 65536"):
        bundle_aad(H, 1, 65_536)


@given(st.binary(max_size=200), st.binary(max_size=50), st.binary(min_size=32, max_size=32))
def test_what_is_sealed_opens_and_is_longer_by_a_tag(plaintext: bytes, aad: bytes, key: bytes) -> None:
    sealed = seal(key, plaintext, aad)
    assert len(sealed) == len(plaintext) + TAG_BYTES
    assert open_sealed(key, sealed, aad) == plaintext


@given(st.binary(max_size=60), st.data())
def test_one_bit_of_anything_changed_is_refused(plaintext: bytes, data: st.DataObject) -> None:
    parts = {"key": KEY, "sealed": seal(KEY, plaintext, AAD), "aad": AAD}
    name = data.draw(st.sampled_from(sorted(parts)))
    bit = data.draw(st.integers(0, 8 * len(parts[name]) - 1))
    parts[name] = (int.from_bytes(parts[name], "little") ^ 1 << bit).to_bytes(len(parts[name]), "little")
    with pytest.raises(ValueError, match="expected bytes sealed under this key for this round, sender and receiver"):
        open_sealed(**parts)


@given(st.integers(0, 75))
def test_truncated_and_lengthened_bytes_are_refused(size: int) -> None:
    sealed = seal(KEY, bytes(44), AAD)
    assert len(sealed) == 60
    wrong = sealed[:size] + bytes(max(0, size - 60))
    if size != 60:
        with pytest.raises(ValueError, match="expected bytes sealed"):
            open_sealed(KEY, wrong, AAD)


def test_a_bundle_opens_for_its_receiver_round_and_direction_only() -> None:
    prk, other_round = bytes(32), bytes(32)
    sealed = seal(share_key(prk, H, 1, 2), b"shares", bundle_aad(H, 1, 2))
    assert open_sealed(share_key(prk, H, 1, 2), sealed, bundle_aad(H, 1, 2)) == b"shares"
    for h, sender, receiver in ((H, 2, 1), (H, 1, 3), (H, 0, 2), (other_round, 1, 2)):
        for key, aad in (
            (share_key(prk, h, sender, receiver), bundle_aad(H, 1, 2)),
            (share_key(prk, H, 1, 2), bundle_aad(h, sender, receiver)),
        ):
            with pytest.raises(ValueError, match="sealed under this key"):
                open_sealed(key, sealed, aad)


@pytest.mark.parametrize("size", [0, 16, 24, 31, 33])
def test_keys_of_other_lengths_are_refused_though_aes_has_them(size: int) -> None:
    with pytest.raises(ValueError, match=f"a key of 32 bytes, got {size}"):
        seal(bytes(size), b"", b"")
    with pytest.raises(ValueError, match=f"a key of 32 bytes, got {size}"):
        open_sealed(bytes(size), bytes(16), b"")
