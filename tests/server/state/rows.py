"""Rows for tests."""

from datetime import UTC, datetime, timedelta

from wardround.orders import SiteId
from wardround.server.state.accounts import Account, Accounts
from wardround.server.state.database import Database
from wardround.server.state.plans import Plans
from wardround.server.state.runs import Run, Runs
from wardround.server.state.sites import Sites
from wardround.server.state.vault import Vault
from wardround.signing_key import SigningKey

__all__ = ["KEY", "NOW", "add_account", "add_plan", "add_run", "add_sites", "later", "public_key"]

NOW = datetime(2026, 3, 1, 12, 30, 15, 123456, tzinfo=UTC)
KEY = bytes(range(32))


def later(hours: float = 1) -> datetime:
    return NOW + timedelta(hours=hours)


def public_key(number: int = 0) -> bytes:
    return SigningKey(bytes([number]) * 32).public


def add_account(database: Database, name: str = "ada", word: str = "$argon2id$x") -> Account:
    return Accounts(database).add(name=name, password_hash=word, role="owner", now=NOW)


def add_sites(database: Database, *names: str) -> list[SiteId]:
    for number, name in enumerate(names):
        Sites(database).add(SiteId(name), public_key(number), now=NOW)
    return [SiteId(name) for name in names]


def add_plan(database: Database, digest: str = "d1") -> str:
    plans = Plans(database, Vault(KEY))
    plans.add(digest=digest, name="cardio", toml="x = 1\n", files={}, created_by="ada", now=NOW)
    return digest


def add_run(database: Database, *sites: str) -> Run:
    """A run of a new plan and new sites."""
    digest, names = add_plan(database), add_sites(database, *sites)
    return Runs(database).create(plan_digest=digest, name="cardio", sites=names, created_by="ada", now=NOW)
