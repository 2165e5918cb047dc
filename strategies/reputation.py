"""What a run thinks of its sites: suspicion that fades, and who is left out until a person decides.

Hospitals whose patients differ look like attackers, so nothing follows from one round, and what follows from many is
tied to a stated rate of error (`threshold`).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache, reduce

import numpy as np

from wardround.contribution import Report
from wardround.orders import SiteId
from wardround.plan_robust import Quarantine

__all__ = ["Reputation", "Standing", "delay", "honest_flag_rate", "threshold"]

_HIGHEST = 0.95
"""A threshold above it would spare a site that is flagged in 19 of 20 rounds."""
_GRID = 1 << 13
"""Steps in which suspicion is computed, always rounded up."""
_MEMBERS = 20
"""So many names are written out in a note."""

Group = tuple[SiteId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What is known of one site.

    `suspicion`, in [0, 1]: S ← decay · S + (1 − decay) · evidence after each round of the site, where the evidence is
    1/|group| when its contribution is suspicious and 0 otherwise. `seen` and `flagged` count its rounds.
    `groups`: the latest different groups that were flagged with it in them, as many as `regroupings`.
    """

    suspicion: float = 0.0
    seen: int = 0
    flagged: int = 0
    groups: tuple[Group, ...] = ()

    def __post_init__(self) -> None:
        if not 0.0 <= self.suspicion <= 1.0 or not 0 <= self.flagged <= self.seen:
            raise ValueError(
                "expected a suspicion from 0 to 1 and 0 <= flagged <= seen, "
                f"got {self.suspicion}, {self.flagged} and {self.seen}"
            )
        if not all(self.groups) or (self.suspicion > 0.0 and not self.groups):
            raise ValueError(f"expected flagged groups, none of them empty, beside suspicion, got {self.groups}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reputation:
    """The standing of every site that was seen, and the sites in quarantine with the round in which it began.

    `notes`: what a person should read about the latest round, in sentences.
    """

    standings: Mapping[SiteId, Standing] = field(default_factory=dict)
    quarantined: Mapping[SiteId, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def standing(self, site: SiteId) -> Standing:
        """The site's standing; that of a new site if it was never seen."""
        return self.standings.get(site, Standing())

    def after(
        self,
        report: Report,
        round: int,
        settings: Quarantine,
        *,
        threshold: float | None,
        sites: int,
        num_byzantine: int,
        least: int,
        group_size: int = 1,
        fixed_groups: bool = False,
    ) -> "Reputation":
        """The reputation after `report` of `round`.

        A site is quarantined when its suspicion reaches `threshold` (of the function of that name; None: no site
        ever is) and the evidence is its own: a contribution of its own was flagged, or `regroupings` different groups
        were that have only this site in common. With `fixed_groups` the evidence stays with the group. At most
        `num_byzantine` of the `sites` are in quarantine at a time, and at least `least` are not; the most suspicious
        go first. Evidence against a group of fewer than `group_size`, which lost members, is no more than against
        `group_size`. Raises ValueError when a site is in more than one contribution.
        """
        standings = dict(self.standings)
        present: set[SiteId] = set()
        for line in report.lines:
            group = tuple(sorted(line.members))
            if present & set(group) or len(set(group)) != len(group):
                raise ValueError(f"expected each site in one contribution, got two with one of {list(group)}")
            present.update(group)
            amount = 1.0 / max(len(group), group_size) if line.suspicious else 0.0
            for site in group:
                standings[site] = _updated(self.standing(site), group, amount, settings)
        quarantined, notes = dict(self.quarantined), []
        if threshold is not None:
            due = sorted(
                (site for site in standings if site not in quarantined and standings[site].suspicion >= threshold),
                key=lambda site: (-standings[site].suspicion, site),
            )
            for site in due:
                obstacle = "" if settings.enabled else "quarantine is off"
                obstacle = obstacle or _bound_to_group(site, standings[site], settings, fixed_groups)
                if not obstacle and len(quarantined) >= num_byzantine:
                    obstacle = f"at most num_byzantine = {num_byzantine} sites may be in quarantine"
                if not obstacle and sites - len(quarantined) <= least:
                    obstacle = f"fewer than {least} sites would be left"
                figures = f"suspicion {standings[site].suspicion:.2f} of {threshold:.2f}"
                if obstacle:
                    notes.append(f"{site} is suspicious ({figures}) but not quarantined: {obstacle}")
                else:
                    quarantined[site] = round
                    notes.append(f"{site} is quarantined from round {round} ({figures}) until a person releases it")
        return Reputation(standings=standings, quarantined=quarantined, notes=tuple(notes))

    def release(self, site: SiteId) -> "Reputation":
        """The reputation after a person has released `site`, whose suspicion begins at 0 again.

        Raises ValueError when it is not in quarantine.
        """
        if site not in self.quarantined:
            raise ValueError(f"expected one of {sorted(self.quarantined)}, which are in quarantine, got {site!r}")
        others = {name: since for name, since in self.quarantined.items() if name != site}
        return replace(self, standings={**self.standings, site: Standing()}, quarantined=others)

    def to_json(self) -> dict[str, object]:
        """Plain JSON values; `from_json` takes them back."""
        return {
            "standings": {
                site: {
                    "suspicion": one.suspicion,
                    "seen": one.seen,
                    "flagged": one.flagged,
                    "groups": [list(group) for group in one.groups],
                }
                for site, one in self.standings.items()
            },
            "quarantined": dict(self.quarantined),
            "notes": list(self.notes),
        }

    @classmethod
    def from_json(cls, value: object) -> "Reputation":
        """The reputation that `to_json` wrote. Raises ValueError for anything else."""
        table = _table(value, {"standings", "quarantined", "notes"}, "reputation")
        standings = {
            SiteId(site): _standing(one, f"standings.{site}") for site, one in _map(table["standings"], "standings")
        }
        quarantined = {
            SiteId(site): _count(since, f"quarantined.{site}")
            for site, since in _map(table["quarantined"], "quarantined")
        }
        return cls(standings=standings, quarantined=quarantined, notes=_texts(table["notes"], "notes"))


def _updated(before: Standing, group: Group, evidence: float, settings: Quarantine) -> Standing:
    """The standing after a round in which the site's contribution was that of `group`."""
    groups = before.groups
    if evidence:
        groups = (*(one for one in groups if one != group), group)[-settings.regroupings :]
    return Standing(
        suspicion=settings.decay * before.suspicion + (1.0 - settings.decay) * evidence,
        seen=before.seen + 1,
        flagged=before.flagged + (evidence > 0.0),
        groups=groups,
    )


def _bound_to_group(site: SiteId, standing: Standing, settings: Quarantine, fixed_groups: bool) -> str:
    """Why the evidence is not the site's own, or an empty string."""
    groups = standing.groups
    if (site,) in groups:
        return ""
    shared = reduce(set.intersection, (set(group) for group in groups), set(groups[-1])) - {site}
    if fixed_groups or len(groups) == 1:
        return f"it was flagged only as one of the group {_listed(set(groups[-1]))}, with which the evidence stays"
    if len(groups) < settings.regroupings:
        return f"{len(groups)} different groups with it were flagged, {settings.regroupings} are needed"
    if shared:
        return f"all flagged groups with it had {_listed(shared)} in them, too"
    return ""


def _listed(sites: set[SiteId]) -> str:
    names = sorted(sites)
    more = f" and {len(names) - _MEMBERS} more" if len(names) > _MEMBERS else ""
    return ", ".join(names[:_MEMBERS]) + more


# -- the threshold --------------------------------------------------------------------------------


def threshold(
    settings: Quarantine,
    *,
    sites: int,
    rounds: int,
    num_byzantine: int = 0,
    group_size: int = 1,
    largest_group: int | None = None,
) -> float:
    """The smallest suspicion at which quarantine keeps to `settings.false_positive`, for `Reputation.after`.

    Assumption: whatever came before, an honest site is flagged in a round of its own with probability at most
    p = `honest_flag_rate`. Then the probability that any of `sites` honest sites reaches the threshold in any of
    `rounds` rounds is at most `false_positive`. For one site suspicion is a Markov chain on [0, 1] that grows with
    every flag, so flags with probability exactly p, drawn independently, are the worst case; the probability that it
    ever reaches s is computed round by round on a grid, every value rounded up; sites are added up (union bound), so
    they may depend on each other. Where contributions are of groups, of `group_size` to `largest_group` sites that
    are drawn anew for every round, all of this holds for suspicion in units of 1/`group_size`.

    A hospital whose patients differ so much that it is flagged round after round breaks the assumption, and is
    quarantined, too; that is why a person decides. Measured with `norm` and `cosine`, the plan's defaults, 30 rounds
    and honest sites only (split i.i.d., and by Dirichlet 0.5): on breast cancer 26 and 18 of 400 sites were quarantined
    where a site trains on all its rows in every round, 1 and 2 of 400 where it draws batches; on digits 1 and 6 of 800
    and none of 800.

    The threshold is more than what one flagged round adds: two in a row at the least. With the plan's defaults it is
    0.58 for 10 sites and 30 rounds (a site that is always flagged is quarantined in its 9th round), 0.65 for 20 sites
    and 100 rounds (11th round).

    Raises ValueError, saying what to change, when even a site that is flagged 19 times out of 20, or in each of its
    rounds, would not reach it.
    """
    if not 0 <= num_byzantine < sites or rounds < 1 or not 1 <= group_size <= (largest_group or group_size) <= sites:
        raise ValueError(
            "expected 0 <= num_byzantine < sites, rounds >= 1 and 1 <= group_size <= largest_group <= sites, "
            f"got {num_byzantine}, {sites}, {rounds}, {group_size} and {largest_group}"
        )
    rate = honest_flag_rate(settings, sites=sites, group_size=largest_group or group_size, num_byzantine=num_byzantine)
    least = _least_threshold(settings.decay, rate, rounds, settings.false_positive / sites)
    if least is None:
        raise ValueError(
            f"expected more rounds, a smaller flag_rate or a larger false_positive: an honest site that is flagged in "
            f"{rate:.3g} of its rounds cannot be told from an attacker within {rounds} rounds"
        )
    if least > _HIGHEST:
        raise ValueError(
            f"expected a decay closer to 1 (more rounds are averaged), a smaller flag_rate or a larger false_positive: "
            f"with decay {settings.decay:g} a site would need suspicion {least:.3f}, more than {_HIGHEST:g}"
        )
    return least / group_size


def honest_flag_rate(settings: Quarantine, *, sites: int, group_size: int = 1, num_byzantine: int = 0) -> float:
    """How often an honest site is flagged at most: `flag_rate`, and with its group for what others in it did.

    The second part is the probability that `group_size` − 1 of the other sites, drawn at random, hold one of the
    `num_byzantine`: 1 − C(sites − 1 − f, g − 1) / C(sites − 1, g − 1).
    """
    clean = math.comb(max(sites - 1 - num_byzantine, 0), group_size - 1) / math.comb(sites - 1, group_size - 1)
    return min(settings.flag_rate + (1.0 - clean), 1.0)


def delay(settings: Quarantine, threshold: float, *, group_size: int = 1) -> int:
    """In which of its rounds a new site that is flagged in each of them reaches `threshold`."""
    return math.ceil(math.log1p(-min(threshold * group_size, 1 - 1e-12)) / math.log(settings.decay) - 1e-9)


@cache
def _least_threshold(decay: float, rate: float, rounds: int, probability: float) -> float | None:
    """The smallest s with P(suspicion ever >= s) <= `probability` for one site; None if `rounds` do not suffice.

    Bisection: the probability falls with s.
    """
    reach = -math.expm1(rounds * math.log(decay))  # 1 − decay^rounds: flagged in every round
    step = reach / _GRID
    low = math.ceil((1.0 - decay**2) / step)  # two flags in a row
    high = math.floor(reach / step * (1 - 1e-9))
    if low > high or _crossing(decay, rate, rounds, step, high) > probability:
        return None
    if _crossing(decay, rate, rounds, step, low) <= probability:
        return low * step
    while high - low > 1:
        middle = (low + high) // 2
        if _crossing(decay, rate, rounds, step, middle) > probability:
            low = middle
        else:
            high = middle
    return high * step


def _crossing(decay: float, rate: float, rounds: int, step: float, level: int) -> float:
    """An upper bound on the probability that suspicion reaches `level` · `step` within `rounds` rounds, from 0."""
    states = np.arange(level)
    calm = np.ceil(states * decay).astype(np.intp)
    flagged = np.ceil(states * decay + (1.0 - decay) / step).astype(np.intp)
    over = flagged >= level
    mass, crossed = np.zeros(level), 0.0
    mass[0] = 1.0
    for _ in range(rounds):
        crossed += rate * float(mass[over].sum())
        mass = (1.0 - rate) * np.bincount(calm, mass, level) + rate * np.bincount(flagged[~over], mass[~over], level)
    return crossed


# -- strict reading -------------------------------------------------------------------------------


def _standing(value: object, where: str) -> Standing:
    table = _table(value, {"suspicion", "seen", "flagged", "groups"}, where)
    suspicion, groups = table["suspicion"], table["groups"]
    if isinstance(suspicion, bool) or not isinstance(suspicion, int | float) or not 0.0 <= suspicion <= 1.0:
        raise ValueError(f"{where}.suspicion: expected a number from 0 to 1, got {suspicion!r}")
    if not isinstance(groups, list):
        raise ValueError(f"{where}.groups: expected a list, got {type(groups).__name__}")
    return Standing(
        suspicion=float(suspicion),
        seen=_count(table["seen"], f"{where}.seen"),
        flagged=_count(table["flagged"], f"{where}.flagged"),
        groups=tuple(tuple(map(SiteId, _texts(group, f"{where}.groups"))) for group in groups),
    )


def _table(value: object, keys: set[str], where: str) -> dict[str, object]:
    table = dict(_map(value, where))
    if set(table) != keys:
        raise ValueError(f"{where}: expected the keys {sorted(keys)}, got {sorted(table)}")
    return table


def _map(value: object, where: str) -> list[tuple[str, object]]:
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise ValueError(f"{where}: expected a table, got {type(value).__name__}")
    return list(value.items())


def _count(value: object, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{where}: expected a whole number of at least 0, got {value!r}")
    return value


def _texts(value: object, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise ValueError(f"{where}: expected a list of text values, got {value!r}")
    return tuple(value)
