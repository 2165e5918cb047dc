"""A sealed model opens for the owner of its key, and nothing else of it does."""

import json
import secrets
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.errors import RemoteError
from wardround.released_model import SEALED_MAGIC, is_sealed_model
from wardround.strategies.he.he_plan import Form
from wardround.strategies.he.key_ceremony import EpochKey
from wardround.strategies.he.sealed_model import MAGIC, ArchiveKey, read_sealed, seal_model

RUN = "0123456789abcdef" * 2
MODEL = b"weights of a small model"


def key_of(tag_key: bytes = bytes(32), epoch: int = 3, run: str = RUN) -> ArchiveKey:
    return EpochKey(epoch=epoch, form=Form.SEEDED, key=b"a key of BFV", tag_key=tag_key).archive(run)


def sealed_to(key: ArchiveKey, data: bytes = MODEL) -> bytes:
    return seal_model(data, key.public, run=key.run, epoch=key.epoch, fingerprint=key.fingerprint)


@given(data=st.binary(max_size=300))
def test_what_was_sealed_opens(data: bytes) -> None:
    key = key_of()
    sealed = sealed_to(key, data)
    assert sealed.startswith(MAGIC) and is_sealed_model(sealed) and MAGIC == SEALED_MAGIC
    found = read_sealed(sealed)
    assert (found.run, found.epoch, found.fingerprint) == (RUN, 3, key.fingerprint)
    assert key.open(found) == data


def test_every_member_of_an_epoch_derives_the_same_key_and_other_epochs_another() -> None:
    tag_key = secrets.token_bytes(32)
    assert key_of(tag_key) == key_of(tag_key)
    assert key_of(tag_key).public != key_of(secrets.token_bytes(32)).public
    assert len(key_of(tag_key).private) == len(key_of(tag_key).public) == 32
    assert key_of(tag_key).private != tag_key


def test_two_sealings_of_one_model_have_nothing_in_common_but_their_header() -> None:
    key = key_of()
    first, second = read_sealed(sealed_to(key)), read_sealed(sealed_to(key))
    assert first.info == second.info and first.ciphertext[:32] != second.ciphertext[:32]
    assert MODEL not in first.ciphertext and MODEL[:8] not in first.ciphertext


def test_every_flipped_bit_is_refused() -> None:
    key = key_of()
    sealed = sealed_to(key)
    for at in range(len(sealed)):
        for bit in range(8):
            changed = bytearray(sealed)
            changed[at] ^= 1 << bit
            with pytest.raises(RemoteError):
                key.open(read_sealed(bytes(changed)))


def test_every_truncation_and_every_addition_is_refused() -> None:
    key = key_of()
    sealed = sealed_to(key)
    for length in range(len(sealed)):
        with pytest.raises(RemoteError):
            key.open(read_sealed(sealed[:length]))
    with pytest.raises(RemoteError):
        key.open(read_sealed(sealed + b"\0"))


@pytest.mark.parametrize(
    "other",
    [key_of(bytes([1]) * 32), key_of(epoch=4), key_of(run="f" * 32)],
    ids=["of another epoch's secret", "of another epoch's number", "of another run"],
)
def test_another_key_opens_nothing_even_when_the_header_is_believed(other: ArchiveKey) -> None:
    sealed = read_sealed(sealed_to(key_of()))
    with pytest.raises(RemoteError, match="sealed model: expected"):
        other.open(sealed)
    told = replace(sealed, run=other.run, epoch=other.epoch, fingerprint=other.fingerprint)
    if other.private != key_of().private:
        with pytest.raises(RemoteError, match="got others"):
            other.open(told)
    else:  # the info, which is encrypted under, has the header that was written
        assert other.open(told) == MODEL


def test_a_header_that_is_put_before_another_sealing_is_refused() -> None:
    """The file's own bytes are bound: one of another run, epoch or key cannot be passed off as this run's."""
    key = key_of()
    first = read_sealed(sealed_to(key))
    for changes in ({"run": "f" * 32}, {"epoch": 4}, {"fingerprint": bytes(32)}):
        header = {"run": key.run, "epoch": key.epoch, "fingerprint": key.fingerprint} | changes
        info = read_sealed(seal_model(b"", key.public, **header)).info  # type: ignore[arg-type]
        found = read_sealed(info + first.ciphertext)
        mine = replace(key, run=found.run, epoch=found.epoch, fingerprint=found.fingerprint)
        with pytest.raises(RemoteError, match="got others"):
            mine.open(found)


def framed(header: bytes, *, magic: bytes = MAGIC) -> bytes:
    return magic + len(header).to_bytes(4, "big") + header + bytes(80)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        MAGIC,
        MAGIC + bytes(4),
        b"PK\x03\x04" + bytes(100),
        framed(json.dumps({"run": RUN, "epoch": 1, "key": "00" * 32}).encode(), magic=b"WRSM2"),
        framed(b"{}"),
        framed(b"[]"),
        framed(b"\xff"),
        framed(b"[" * 4000),
        framed(json.dumps({"run": 1, "epoch": 1, "key": "00" * 32}).encode()),
        framed(json.dumps({"run": RUN, "epoch": True, "key": "00" * 32}).encode()),
        framed(json.dumps({"run": RUN, "epoch": 1, "key": "00" * 31}).encode()),
        framed(json.dumps({"run": RUN, "epoch": 1, "key": "zz"}).encode()),
        framed(json.dumps({"run": RUN, "epoch": 1, "key": None}).encode()),
        MAGIC + (1 << 31).to_bytes(4, "big") + bytes(100),
        framed(b" " * (1 << 12) + b"{}"),
    ],
)
def test_what_is_no_sealed_model_is_refused_with_words(data: bytes) -> None:
    with pytest.raises(RemoteError, match="sealed model: expected"):
        read_sealed(data)


def test_the_private_key_is_in_no_repr() -> None:
    key = key_of(secrets.token_bytes(32))
    for text in (repr(key), str(key), repr(read_sealed(sealed_to(key)))):
        assert key.private.hex() not in text and repr(key.private) not in text
