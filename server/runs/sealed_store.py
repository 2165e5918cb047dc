"""What the server of a run must not forget, sealed: epochs of secure aggregation, rounds begun, the key of noise."""

from wardround.server.state.vault import Vault
from wardround.state_store import StateStore

__all__ = ["SealedStore"]

_MASKED_UPDATE = "m1"


class SealedStore:
    """A `StateStore` whose values are sealed in `store`, each for its own key under `label`; counters are not.

    Masked updates of a round at work are not kept: they are for resuming that round, and a worker that starts begins a
    new epoch instead.
    """

    __slots__ = ("_label", "_store", "_vault")

    def __init__(self, store: StateStore, vault: Vault, label: str) -> None:
        self._store, self._vault, self._label = store, vault, label

    def get(self, key: str) -> bytes | None:
        """The value last put under `key`. Raises LocalError for one that does not open."""
        stored = self._store.get(key)
        return None if stored is None else self._vault.open(f"{self._label}/{key}", stored)

    def put(self, key: str, value: bytes) -> None:
        """Store `value`; durable on return."""
        if _MASKED_UPDATE not in key.split("/"):
            self._store.put(key, self._vault.seal(f"{self._label}/{key}", value))

    def advance(self, key: str, to: int) -> None:
        """Move a counter; durable on return. Raises LocalError unless `to` is above the stored value."""
        self._store.advance(key, to)
