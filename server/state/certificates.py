"""The certificates that the server's two authorities have issued, and which of them are revoked."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from wardround.orders import SiteId
from wardround.server.state import tables
from wardround.server.state.database import Database

__all__ = ["Certificate", "CertificateKind", "Certificates"]


class CertificateKind(StrEnum):
    """Which authority issued it."""

    TLS = "tls"
    IDENTITY = "identity"


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """A certificate of a site, DER."""

    kind: CertificateKind
    serial: int
    site: SiteId
    der: bytes
    not_after: datetime
    revoked_at: datetime | None


class Certificates:
    """The table of certificates. A serial number is unique within its kind."""

    __slots__ = ("_database",)

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, kind: CertificateKind, serial: int, *, site: SiteId, der: bytes, not_after: datetime) -> None:
        """A certificate that is to be handed out. Raises TakenError for a serial number that was given before."""
        with self._database.transaction() as connection:
            connection.execute(
                sa.insert(tables.certificates).values(
                    kind=kind.value, serial=f"{serial:x}", site=site, der=der, not_after=not_after
                )
            )

    def get(self, kind: CertificateKind, serial: int) -> Certificate | None:
        """The certificate with this serial number."""
        found = self._where(_is(kind, serial))
        return found[0] if found else None

    def of_site(self, site: SiteId, kind: CertificateKind | None = None) -> list[Certificate]:
        """The certificates of a site, the one that ends last at the end."""
        one = tables.certificates
        condition = one.c.site == site
        return self._where(condition if kind is None else condition & (one.c.kind == kind.value))

    def revoke(self, kind: CertificateKind, serial: int, now: datetime) -> bool:
        """Revoke one; False where it is revoked already, or not known."""
        return self._revoke(_is(kind, serial), now) == 1

    def revoke_site(self, site: SiteId, now: datetime) -> int:
        """Revoke every certificate of a site; how many were not revoked before."""
        return self._revoke(tables.certificates.c.site == site, now)

    def all_revoked(self, kind: CertificateKind, *, ending_after: datetime | None = None) -> frozenset[int]:
        """The serial numbers that are revoked; only of certificates that `ending_after` would otherwise be valid."""
        one = tables.certificates
        condition = (one.c.kind == kind.value) & one.c.revoked_at.is_not(None)
        if ending_after is not None:
            condition &= one.c.not_after > ending_after
        with self._database.reading() as connection:
            return frozenset(int(serial, 16) for serial in connection.scalars(sa.select(one.c.serial).where(condition)))

    def tidy(self, ended_before: datetime) -> int:
        """Delete those that ended before and were not revoked, but for the last of each site; how many there were.

        The keys of what was revoked are not taken again, and a site may be revoked long after its certificates ended.
        """
        one, newer = tables.certificates, tables.certificates.alias()
        followed = sa.exists().where(
            newer.c.site == one.c.site, newer.c.kind == one.c.kind, newer.c.not_after > one.c.not_after
        )
        with self._database.transaction() as connection:
            done = connection.execute(
                sa.delete(one).where(one.c.not_after < ended_before, one.c.revoked_at.is_(None), followed)
            )
        return done.rowcount

    def _revoke(self, condition: sa.ColumnElement[bool], now: datetime) -> int:
        one = tables.certificates
        with self._database.transaction() as connection:
            done = connection.execute(
                sa.update(one).where(condition, one.c.revoked_at.is_(None)).values(revoked_at=now)
            )
        return done.rowcount

    def _where(self, condition: sa.ColumnElement[bool]) -> list[Certificate]:
        one = tables.certificates
        with self._database.reading() as connection:
            return [_row(row) for row in connection.execute(sa.select(one).where(condition).order_by(one.c.not_after))]


def _is(kind: CertificateKind, serial: int) -> sa.ColumnElement[bool]:
    return (tables.certificates.c.kind == kind.value) & (tables.certificates.c.serial == f"{serial:x}")


def _row(row: sa.Row[Any]) -> Certificate:
    found = dict(row._mapping)
    return Certificate(**found | {"kind": CertificateKind(found["kind"]), "serial": int(found["serial"], 16)})
