"""Column types that mean the same on SQLite and on PostgreSQL."""

from datetime import UTC, datetime

from sqlalchemy import BigInteger, DateTime, Dialect, Integer, Text
from sqlalchemy.types import TypeDecorator

from wardround.errors import LocalError
from wardround.plain_text import plain_text

__all__ = ["BigId", "UtcTime", "Words"]

BigId = BigInteger().with_variant(Integer(), "sqlite")
"""A number that the database gives; SQLite gives them to INTEGER alone."""


class UtcTime(TypeDecorator[datetime]):
    """An aware datetime, which comes back in UTC. SQLite keeps no zone, so all that is stored there is UTC."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise LocalError(f"expected a time with its zone, got {value.isoformat()}")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Words(TypeDecorator[str]):
    """Text that both databases can hold: no zero byte (PostgreSQL) and no lone surrogate (either)."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        if value is not None and ("\0" in value or any("\ud800" <= letter <= "\udfff" for letter in value)):
            raise LocalError(f"expected text without zero bytes and lone surrogates, got {plain_text(value)!r}")
        return value
