"""Logging in and out. A session is a token of 256 bits that its holder alone has; the server keeps its SHA-256.

A session ends 12 hours after the login, or after an hour without use.

Failed logins are counted so that passwords are not guessed and yet nobody keeps an account's owner out by failing:

- from a network, 10 in 15 minutes, for whatever names;
- for a name, 100 in 15 minutes from strangers' networks, and 100 from known ones, where some account has logged in
  within 30 days. Where this very account has, they do not count: whoever uses them up does not keep its owner out.

So for an account there are at most 410 guesses in 15 minutes: 200, and 10 from each of the 20 networks at most that it
is known in, and from the server's own machine. Whether an attempt counts as a stranger's goes by its network alone, so
that this does not tell which names somebody has. What one password costs to verify is spent for strangers one at a
time, and apart from that for those from known networks, so that the former do not make the latter wait.
"""

import base64
import hashlib
import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from wardround.server.api.answers import Refusal, retry_after
from wardround.server.api.attempts import Attempts, Limit
from wardround.server.api.known_networks import KnownNetworks
from wardround.server.api.network import THIS_MACHINE, network_of
from wardround.server.api.passwords import Passwords, account_name
from wardround.server.api.services import Services
from wardround.server.state.accounts import Account
from wardround.server.state.sessions import Session

__all__ = ["IDLE", "LIFETIME", "LoggedIn", "Login", "hash_of_token"]

LIFETIME = timedelta(hours=12)
IDLE = timedelta(hours=1)
_TOKEN_BYTES = 32
_MOST_TOKEN = 128
_NOTED_EVERY = timedelta(minutes=1)
_FROM_NETWORK = Limit(most=10)
_FOR_NAME = Limit(most=100)
_NOTED = Limit(most=10)
"""Failures for one account that are written to the timeline, so that strangers do not fill the disk."""
_WAITING = 8  # logins that wait for their turn, of strangers and of the known each; each holds a thread


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedIn:
    """A new session."""

    token: str = field(repr=False)
    expires: datetime
    account: Account


class Login:
    """The sessions of the services' accounts. Threads may share it."""

    def __init__(self, services: Services, passwords: Passwords | None = None) -> None:
        self._services, self._passwords = services, passwords or Passwords()
        self._networks = KnownNetworks(services.settings)
        self._known, self._strangers, self._noted = _Origin(), _Origin(), Attempts()

    def begin(self, name: str, password: str, address: str) -> LoggedIn:
        """A session for who knows the password.

        Refusal 401 for a wrong name or password, which take the same time and answer, 429 after too many failures, and
        503 where too many log in at once.
        """
        services, now = self._services, self._services.clock()
        try:
            name = account_name(name)
        except ValueError:
            name = ""
        network = network_of(address)
        account = services.accounts.named(name) if name else None
        known_to = self._networks.accounts(network, now)
        at_home = network == THIS_MACHINE or (account is not None and account.id in known_to)
        origin = self._known if known_to or network == THIS_MACHINE else self._strangers
        names = None if at_home else origin.names if account is not None else origin.nobodies
        with origin.place():
            self._count(origin.networks, network, names, name, now)
            usable = account is not None and account.disabled is None
            with origin.turn:
                right = self._passwords.matches(account.password_hash if account and usable else None, password)
        if account is None or not right:
            if account is not None and self._noted.begin([(account.id, _NOTED)], now) is None:
                services.events.add("account.login_failed", now=now, subject=name, detail={"from": address})
            raise Refusal(401, "expected a name and its password, got others")
        origin.networks.take_back(network)
        if names is not None:
            names.take_back(name)
        self._networks.note(account.id, network, now)
        token = services.random(_TOKEN_BYTES)
        text = base64.urlsafe_b64encode(token).decode().rstrip("=")
        services.sessions.tidy(now)
        services.sessions.add(hash_of_token(text), account_id=account.id, now=now, expires=now + LIFETIME)
        services.events.add("account.login", now=now, subject=account.name, who=account.name, detail={"from": address})
        return LoggedIn(token=text, expires=now + LIFETIME, account=account)

    @staticmethod
    def _count(networks: Attempts, network: str, names: Attempts | None, name: str, now: datetime) -> None:
        """Count an attempt as a failure. Refusal 429 where it is one too many."""
        wait = networks.begin([(network, _FROM_NETWORK)], now)
        if wait is None and names is not None:
            wait = names.begin([(name, _FOR_NAME)], now)
        if wait is not None:
            minutes = math.ceil(wait / timedelta(minutes=1))
            raise Refusal(429, f"too many failed logins; try again in {minutes} minutes", retry_after(wait))

    def find(self, token: str) -> Session | None:
        """The session of a token, if it may be used; it is now used."""
        if len(token) > _MOST_TOKEN:
            return None
        services, now = self._services, self._services.clock()
        found = services.sessions.find(hash_of_token(token), now=now, idle=IDLE)
        if found is not None and now - found.last_seen >= _NOTED_EVERY:
            services.sessions.seen(found.token_hash, now)
        return found

    def end(self, session: Session) -> None:
        """Log out."""
        services, name = self._services, session.account.name
        services.sessions.end(session.token_hash)
        services.events.add("account.logout", now=services.clock(), subject=name, who=name)


class _Origin:
    """Logins from strangers' networks, or from known ones: what was counted, and whose `turn` it is, one at a time."""

    def __init__(self) -> None:
        self.networks, self.names = Attempts(), Attempts()
        # strangers make up names that nobody has, and those that somebody has are not to be forgotten for them
        self.nobodies = Attempts()
        self._places = threading.BoundedSemaphore(_WAITING)
        self.turn = threading.Lock()

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place in the queue. Refusal 503 where there is none."""
        if not self._places.acquire(blocking=False):
            raise Refusal(503, "too many are logging in; try again")
        try:
            yield
        finally:
            self._places.release()


def hash_of_token(token: str) -> bytes:
    """What is kept of a token: it has enough randomness to need no salt and no stretching."""
    return hashlib.sha256(b"wardround session 1\0" + token.encode()).digest()
