"""Sealed files that are written once."""

import hashlib
import os
from pathlib import Path

import pytest

from tests.server.state.rows import KEY
from wardround.errors import LocalError
from wardround.server.state.blob_store import BlobStore
from wardround.server.state.vault import Vault


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    (tmp_path / "models").mkdir()
    return BlobStore(tmp_path / "models", Vault(KEY))


def test_what_is_put_comes_back(store: BlobStore) -> None:
    data = os.urandom(3_000_000)
    name = store.put(data)
    out = bytearray(store.size(name))
    store.get_into(name, memoryview(out))
    assert store.get(name) == b"".join(store.parts(name)) == out == data
    assert store.names() == {name}
    store.delete(name)
    store.delete(name)
    assert store.names() == set()
    for read in (store.get, store.size, lambda name: list(store.parts(name))):
        with pytest.raises(LocalError, match="cannot be read"):
            read(name)


def test_what_comes_piece_by_piece_is_there_after_its_commit(store: BlobStore) -> None:
    with store.receive() as writer:
        for _ in range(3):
            writer.write(b"x" * 700_000)
        assert (writer.size, writer.sha256) == (2_100_000, hashlib.sha256(b"x" * 2_100_000).digest())
        assert store.names() == set()
        name = writer.commit()
    assert store.get(name) == b"x" * 2_100_000


def test_an_upload_that_breaks_off_leaves_nothing(store: BlobStore, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), store.receive() as writer:
        writer.write(b"half")
        raise ZeroDivisionError
    assert list((tmp_path / "models").iterdir()) == []


def test_a_file_opens_under_its_own_name_alone(store: BlobStore, tmp_path: Path) -> None:
    one, two = store.put(b"one"), store.put(b"two")
    (tmp_path / "models" / one).replace(tmp_path / "models" / two)
    with pytest.raises(LocalError, match="does not open"):
        store.get(two)


@pytest.mark.parametrize("name", ["../keyring", "", "A" * 32, "0" * 31, "0" * 32 + "\n", ".tmp-" + "0" * 27])
def test_a_name_that_it_did_not_give_is_refused(store: BlobStore, name: str) -> None:
    for use in (store.get, store.size, store.delete, lambda name: list(store.parts(name))):
        with pytest.raises(LocalError, match="expected the name of a kept file"):
            use(name)


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match="nothing was kept"):
        BlobStore(tmp_path / "missing", Vault(KEY)).put(b"x")
