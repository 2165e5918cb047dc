"""The heads of the audit log that sites have co-signed, each with the certificate of the key that did."""

import json
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

from wardround.audit.bundle import Certified
from wardround.audit.head import CoSigned
from wardround.orders import SiteId
from wardround.server.state import tables
from wardround.server.state.database import Database

__all__ = ["CoSignatures"]

_BATCH = 1000


class CoSignatures:
    """The table of co-signatures: one for each site and head."""

    __slots__ = ("_database",)

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, one: Certified) -> bool:
        """Keep one that was checked; False where this head has the site's signature already."""
        cosigned, table = one.cosigned, tables.cosignatures
        key = {"site": cosigned.site, "log": cosigned.head.log.hex(), "seq": cosigned.head.seq}
        with self._database.transaction() as connection:
            self._database.serialise("cosignatures")
            known = sa.select(table.c.seq).where(*(table.c[name] == value for name, value in key.items()))
            if connection.scalar(known) is not None:
                return False
            text = json.dumps(cosigned.table())
            connection.execute(sa.insert(table).values(**key, cosigned=text, certificate=one.certificate))
        return True

    def newest(self, site: SiteId, log: bytes) -> int | None:
        """How many records of this log the site has co-signed; None where it has co-signed none."""
        table = tables.cosignatures
        condition = (table.c.site == site) & (table.c.log == log.hex())
        with self._database.reading() as connection:
            found: int | None = connection.scalar(sa.select(sa.func.max(table.c.seq)).where(condition))
        return found

    def all(self, log: bytes) -> Iterator[Certified]:
        """Those of this log, by number of records and site."""
        table, after = tables.cosignatures, (0, "")
        while True:
            later = sa.tuple_(table.c.seq, table.c.site) > sa.tuple_(*map(sa.literal, after))
            query = sa.select(table).where(table.c.log == log.hex(), later).order_by(table.c.seq, table.c.site)
            with self._database.reading() as connection:
                rows = connection.execute(query.limit(_BATCH)).all()
            if not rows:
                return
            yield from map(_certified, rows)
            after = rows[-1].seq, rows[-1].site


def _certified(row: sa.Row[Any]) -> Certified:
    return Certified(cosigned=CoSigned.of(json.loads(row.cosigned)), certificate=row.certificate)
