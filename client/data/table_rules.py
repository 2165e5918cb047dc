"""What a site says of a table besides the plan: its schema, and whose rows are not used any more."""

from dataclasses import dataclass

__all__ = ["TableRules"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TableRules:
    """`schema` is a `DataSchema.encode()`; None where the data set has none.

    `key` is the one that ids are hashed under, `withdrawn` the hashes of the patients who have withdrawn.
    """

    schema: str | None = None
    key: bytes = b""
    withdrawn: tuple[str, ...] = ()
