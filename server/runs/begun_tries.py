"""Which try at a round begins: a count that outlives the worker."""

import json

from wardround.errors import LocalError
from wardround.state_store import StateStore

__all__ = ["BegunTries"]

_KEY = "rounds/begun"


class BegunTries:
    """Counts the tries at rounds in `store`. A round that is begun again after a crash is another try."""

    __slots__ = ("_all", "_round", "_store", "_tries")

    def __init__(self, store: StateStore) -> None:
        self._store = store
        stored = store.get(_KEY)
        try:
            self._round, self._tries, self._all = (0, 0, 0) if stored is None else map(int, json.loads(stored))
        except (ValueError, TypeError) as error:
            raise LocalError(f"{_KEY}: expected the count of begun rounds ({error}); restore it") from None

    @property
    def begun(self) -> int:
        """All tries at all rounds."""
        return self._all

    def begin(self, round_number: int) -> int:
        """The number of the try at `round_number` that begins now, from 0; durable on return."""
        tries = self._tries + 1 if round_number == self._round else 0
        self._store.put(_KEY, json.dumps([round_number, tries, self._all + 1]).encode())
        self._round, self._tries, self._all = round_number, tries, self._all + 1
        return tries
