"""Whose a row is, and choices among rows and patients that no other row or patient can change.

Under differential privacy one patient (or row) more or less must change what is done to that one alone: a split or a
cap that is drawn over all rows at once would move others with it, and the claim would not hold. A lot is therefore
drawn for each by what it is, not by where it stands.
"""

import hashlib
from collections.abc import Iterable

import numpy as np

from wardround.client.data.site_data import Rows
from wardround.vector import F64, I64

__all__ = ["capped", "codes_of_ids", "codes_of_rows", "copies", "lots", "numbered"]


def codes_of_ids(ids: Iterable[str]) -> I64:
    """A number for each id, the same for the same id: 63 bits of its SHA-256, shape (n,).

    Two of a million patients share one with a chance below 1e-7, and then count as one. The ids themselves are not
    kept; whoever has an id can tell its number, so that the numbers stay at the site as well.
    """
    return _codes(each.encode(errors="surrogatepass") for each in ids)


def codes_of_rows(rows: Rows) -> I64:
    """A number for each row, the same for rows that are the same in all inputs and the target, shape (n,)."""
    return _codes(rows.x[index].tobytes() + rows.y[index].tobytes() for index in range(len(rows)))


def _codes(contents: Iterable[bytes]) -> I64:
    return _whole_numbers(hashlib.sha256(content).digest() for content in contents)


def _whole_numbers(digests: Iterable[bytes]) -> I64:
    """The first 63 bits of each, in steps of 64: none is below 0."""
    return np.fromiter((int.from_bytes(digest[:8], "little") >> 1 for digest in digests), dtype=np.int64)


def numbered(codes: I64) -> I64:
    """Numbers 0 to m − 1 in the place of m different codes, shape (n,)."""
    return np.unique(codes, return_inverse=True)[1].astype(np.int64, copy=False)


def copies(codes: I64) -> I64:
    """How many rows of the same code stand before each row, shape (n,)."""
    order = np.argsort(codes, kind="stable")
    sizes = np.unique(codes, return_counts=True)[1]
    found = np.empty(len(codes), dtype=np.int64)
    found[order] = np.arange(len(codes)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return found


def lots(codes: I64, copy: I64, seed: int) -> F64:
    """A lot in [0, 1] for each row, by its code, its number among copies and `seed` alone (SHA-256), shape (n,)."""
    key = seed.to_bytes(8, "little")
    pairs = np.column_stack((codes, copy)).astype("<i8").tobytes()
    return (
        _whole_numbers(hashlib.sha256(key + pairs[at : at + 16]).digest() for at in range(0, len(pairs), 16)) / 2.0**63
    )


def capped(codes: I64, most: int, seed: int) -> I64:
    """Which rows are kept, ascending: of each patient (a code) at most `most`, drawn by lot.

    Values have no part in it, and what is kept of a patient does not depend on any other.
    """
    patient = numbered(codes)
    drawn = np.lexsort((lots(codes, copies(codes), seed), patient))
    return np.sort(drawn[copies(patient[drawn]) < most])
