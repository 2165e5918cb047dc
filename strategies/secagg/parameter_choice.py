"""The choice of secure aggregation's parameters, and the nearest possible ones to those that are not possible."""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from wardround.strategies.secagg.parameters import (
    MAX_COMMITTEE,
    STARTS,
    HomomorphicParameters,
    InfeasibleError,
    Parameters,
    Tables,
    lost,
)

__all__ = ["choose"]


def choose(
    *,
    clients: int,
    colluding: int,
    dropout: float,
    groups: int,
    min_roster: int | None = None,
    min_survivors: int | None = None,
    tables: Tables = Tables.ONCE,
    starts: int = STARTS,
    regrouped_rounds: int = 0,
    homomorphic: bool = False,
) -> Parameters:
    """The parameters asked for; see `Parameters`.

    Absent `min_roster` is all clients, absent `min_survivors` the most that tolerate the drop-outs. Raises ValueError
    for what is out of range, and InfeasibleError, with the nearest possible choices, for what is not possible.
    """
    wish = _Wish(
        clients=clients,
        colluding=colluding,
        dropout=dropout,
        groups=groups,
        min_roster=min_roster,
        min_survivors=min_survivors,
        tables=tables,
        starts=starts,
        regrouped_rounds=regrouped_rounds,
        kind=HomomorphicParameters if homomorphic else Parameters,
    )
    try:
        return wish.parameters()
    except InfeasibleError as error:
        choices = _near(wish) or _far(wish)
        fewest = wish.kind.least_hidden + 1
        possible = f"; possible: {'; or '.join(choices)}" if choices else f"; fewer than {fewest} clients hide nobody"
        raise InfeasibleError(f"{error}{possible}", *(choice.split()[0] for choice in choices[:1])) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Wish:
    clients: int
    colluding: int
    dropout: float
    groups: int
    min_roster: int | None
    min_survivors: int | None
    tables: Tables
    starts: int
    regrouped_rounds: int
    kind: type[Parameters]

    def parameters(self) -> Parameters:
        roster = self.clients if self.min_roster is None else self.min_roster
        survivors = self.min_survivors
        if survivors is None:
            survivors = 1  # also for what is out of range, which is refused with its own reason
            if self.groups >= 1 and 0 <= self.dropout < 1:
                survivors = max(1, roster // self.groups - lost(roster // self.groups, self.dropout))
        return self.kind(
            clients=self.clients,
            colluding=self.colluding,
            dropout=self.dropout,
            groups=self.groups,
            min_roster=roster,
            min_survivors=survivors,
            tables=self.tables,
            starts=self.starts,
            regrouped_rounds=self.regrouped_rounds,
        )


def _near(wish: _Wish) -> list[str]:
    """The nearest possible choices that differ from `wish` in one value, in words."""
    found = []
    # of the numbers of groups with the same largest size, the smallest is possible whenever another one is
    counts = {-(-wish.clients // size) for size in range(3, min(wish.clients, MAX_COMMITTEE) + 1)}
    if near := _first(wish, sorted(counts, key=lambda m: (abs(m - wish.groups), m)), "groups"):
        found.append(f"groups = {near.groups} ({near.groups_in_words()}; {near.malicious_in_words()})")
    if near := _nearest(wish, range(wish.colluding), "colluding"):
        found.append(f"colluding = {near.colluding} (one more that helps the server voids the promise)")
    hundredths = [part / 100 for part in range(math.ceil(Fraction(str(float(wish.dropout))) * 100))]
    if near := _nearest(wish, hundredths, "dropout"):
        group, committee = near.group_size, near.committee
        found.append(
            f"dropout = {near.dropout:g} (a round is lost to more than {lost(group, near.dropout)} missing of a group "
            f"of {group}, or {lost(committee.size, near.dropout)} of a committee of {committee.size})"
        )
    if wish.min_survivors is not None:
        wanted = wish.min_survivors
        sums = sorted(range(1, wish.clients // wish.groups + 1), key=lambda u: (abs(u - wanted), -u))
        if near := _first(wish, sums, "min_survivors"):
            found.append(f"min_survivors = {near.min_survivors} (a sum hides {near.noise_share} honest updates)")
    if wish.min_roster is not None:
        if near := _nearest(wish, range(wish.clients, wish.min_roster, -1), "min_roster"):
            found.append(f"min_roster = {near.min_roster} (no epoch starts with fewer)")
    return found


def _far(wish: _Wish) -> list[str]:
    """A possible choice that differs in several values: the fewest groups, and the drop-outs or the colluders less."""
    fewest = replace(wish, groups=-(-wish.clients // MAX_COMMITTEE), min_roster=None, min_survivors=None)
    for start, values, key in (
        (fewest, [part / 100 for part in range(100)], "dropout"),
        (replace(fewest, dropout=0.0), range(wish.colluding + 1), "colluding"),
    ):
        if found := _nearest(start, values, key):
            return [
                f"groups = {found.groups}, colluding = {found.colluding} and dropout = {found.dropout:g}, all "
                f"{found.clients} clients in the roster and at least {found.min_survivors} in a sum"
            ]
    return []


def _try(wish: _Wish, key: str, value: float) -> Parameters | None:
    changed: dict[str, Any] = {key: value}
    try:
        return replace(wish, **changed).parameters()
    except ValueError:
        return None


def _first(wish: _Wish, values: Sequence[float], key: str) -> Parameters | None:
    return next((found for value in values if (found := _try(wish, key, value))), None)


def _nearest(wish: _Wish, values: Sequence[float], key: str) -> Parameters | None:
    """The last possible one of values that are possible up to some place and not beyond it."""
    end = bisect_left(values, True, key=lambda value: _try(wish, key, value) is None)
    return _try(wish, key, values[end - 1]) if end else None
