"""From where each account has logged in of late."""

import json
import threading
from datetime import datetime, timedelta

from wardround.server.api.network import THIS_MACHINE
from wardround.server.state.settings import LOGIN_NETWORKS, Settings

__all__ = ["KnownNetworks"]

_REMEMBERED = timedelta(days=30)
_NOTED_EVERY = timedelta(days=1)
_MOST = 20
"""Of an account: each may guess apart from all strangers, so their number bounds the guesses."""


class KnownNetworks:
    """The networks of `network_of`, the newest 20 of an account, for 30 days; kept in the database, as the timeline
    has them too. Threads may share it."""

    __slots__ = ("_lock", "_settings")

    def __init__(self, settings: Settings) -> None:
        self._settings, self._lock = settings, threading.Lock()

    def accounts(self, network: str, now: datetime) -> frozenset[str]:
        """The ids of the accounts that have logged in from there: one query, whatever name is tried."""
        texts = self._settings.having(f"{LOGIN_NETWORKS}.", json.dumps(network))
        return frozenset(key.partition(".")[2] for key, text in texts.items() if network in _times(text, now))

    def note(self, account_id: str, network: str, now: datetime) -> None:
        """The account has logged in from there."""
        if network == THIS_MACHINE:
            return
        with self._lock:
            found = self._read(account_id, now)
            if network in found and now - found[network] < _NOTED_EVERY:
                return
            newest = sorted((found | {network: now}).items(), key=lambda one: one[1])[-_MOST:]
            self._settings.put(_key(account_id), json.dumps({name: at.isoformat() for name, at in newest}))

    def _read(self, account_id: str, now: datetime) -> dict[str, datetime]:
        text = self._settings.get(_key(account_id))
        return {} if text is None else _times(text, now)


def _times(text: str, now: datetime) -> dict[str, datetime]:
    times = {name: datetime.fromisoformat(at) for name, at in json.loads(text).items()}
    return {name: at for name, at in times.items() if now - at < _REMEMBERED}


def _key(account_id: str) -> str:
    return f"{LOGIN_NETWORKS}.{account_id}"
