"""What the server of a run keeps is unreadable on disk, and bound to its key."""

import hashlib
from pathlib import Path

import pytest

from wardround.errors import LocalError
from wardround.file_store import FileStore
from wardround.server.runs.begun_tries import BegunTries
from wardround.server.runs.sealed_store import SealedStore
from wardround.server.state.vault import Vault
from wardround.state_store import MemoryStore

VAULT = Vault(b"k" * 32)


def test_values_come_back_and_are_nowhere_in_the_files(tmp_path: Path) -> None:
    with FileStore(tmp_path / "store") as files:
        store = SealedStore(files, VAULT, "runs/x/server-state")
        store.put("noise", b"the key of the noise")
        assert store.get("noise") == b"the key of the noise"
        assert store.get("else") is None
        store.advance("counter", 3)
        with pytest.raises(LocalError):
            store.advance("counter", 3)
    assert not any(b"key of the noise" in path.read_bytes() for path in (tmp_path / "store").iterdir())


def test_a_value_in_the_place_of_another_or_of_another_run_does_not_open() -> None:
    below = MemoryStore()
    store = SealedStore(below, VAULT, "runs/x/server-state")
    store.put("one", b"1")
    below.put("other", below.get("one") or b"")
    with pytest.raises(LocalError, match="runs/x/server-state/other"):
        store.get("other")
    with pytest.raises(LocalError):
        SealedStore(below, VAULT, "runs/y/server-state").get("one")
    with pytest.raises(LocalError):
        SealedStore(below, Vault(hashlib.sha256(b"").digest()), "runs/x/server-state").get("one")


def test_masked_updates_are_not_kept() -> None:
    below = MemoryStore()
    store = SealedStore(below, VAULT, "runs/x/server-state")
    store.put("secagg-server/x/0/m1/2", b"a masked update")
    assert store.get("secagg-server/x/0/m1/2") is None and not below._values


def test_a_round_that_is_begun_again_is_another_try() -> None:
    store = MemoryStore()
    tries = BegunTries(store)
    assert [tries.begin(1), tries.begin(2)] == [0, 0]
    again = BegunTries(store)  # after a crash
    assert [again.begin(2), again.begin(2), again.begin(3)] == [1, 2, 0]
    assert again.begun == 5
    store.put("rounds/begun", b"{}")
    with pytest.raises(LocalError, match="rounds/begun"):
        BegunTries(store)
