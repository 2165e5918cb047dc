"""Logging in and out. A session is a token of 256 bits that its holder alone has; the server keeps its SHA-256.

A session ends 12 hours after the login, or after an hour without use.
"""

import base64
import hashlib
import threading
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from wardround.server.api.answers import Refusal
from wardround.server.api.attempts import Attempts, Limit
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
_FROM_ADDRESS = Limit(most=10)
_FOR_ACCOUNT = Limit(most=100)
_WAITING = 16  # logins that wait for their turn; each holds a thread


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
        self._attempts = Attempts()
        self._places = threading.BoundedSemaphore(_WAITING)

    def begin(self, name: str, password: str, address: str) -> LoggedIn:
        """A session for who knows the password.

        Refusal 401 for a wrong name or password, which take the same time and answer, 429 after 10 failures from an
        address or 100 for an account in 15 minutes, 503 where too many log in at once.
        """
        services, now = self._services, self._services.clock()
        try:
            name = account_name(name)
        except ValueError:
            name = ""
        keys = ((f"address {address}", _FROM_ADDRESS), (f"account {name}", _FOR_ACCOUNT))
        if not self._places.acquire(blocking=False):
            raise Refusal(503, "too many are logging in; try again")
        try:
            if not self._attempts.begin(keys, now):
                raise Refusal(429, "too many failed logins; try again in 15 minutes")
            account = services.accounts.named(name) if name else None
            usable = account is not None and account.disabled is None
            if not self._passwords.matches(account.password_hash if account and usable else None, password):
                if account is not None:  # names that nobody has could be written without end
                    services.events.add("account.login_failed", now=now, subject=name, detail={"from": address})
                raise Refusal(401, "expected a name and its password, got others")
        finally:
            self._places.release()
        assert account is not None  # noqa: S101 (nobody's password never matches)
        self._attempts.succeeded(key for key, _ in keys)
        token = services.random(_TOKEN_BYTES)
        text = base64.urlsafe_b64encode(token).decode().rstrip("=")
        services.sessions.tidy(now)
        services.sessions.add(hash_of_token(text), account_id=account.id, now=now, expires=now + LIFETIME)
        services.events.add("account.login", now=now, subject=account.name, who=account.name, detail={"from": address})
        return LoggedIn(token=text, expires=now + LIFETIME, account=account)

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


def hash_of_token(token: str) -> bytes:
    """What is kept of a token: it has enough randomness to need no salt and no stretching."""
    return hashlib.sha256(b"wardround session 1\0" + token.encode()).digest()
