"""The parameters of secure aggregation: groups, committees, thresholds and survivors, and what they tolerate."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from functools import lru_cache
from typing import ClassVar

__all__ = [
    "FAILURE_BITS",
    "MAX_CLIENTS",
    "MAX_COMMITTEE",
    "MAX_DRAWS",
    "STARTS",
    "Committee",
    "Costs",
    "HomomorphicParameters",
    "InfeasibleError",
    "Parameters",
    "Tables",
    "lost",
    "most_colluders",
]

MAX_COMMITTEE = 255
"""Members of a committee or group: a share belongs to one of the 255 non-zero elements of GF(2^8)."""
MAX_CLIENTS = 1_000_000
MAX_DRAWS = 10_000_000
STARTS = 240
"""Epochs of a run that draw groups, at the most: 8 a day, which is what a member takes part in, for 30 days."""
FAILURE_BITS = 40
"""In a run, a roster that an honest client signed has a group of more colluders than reckoned: 2^-40 at the most."""

_CHUNK_BYTES, _ENCRYPT_US, _ADD_CHUNK_US = 31_000, 560, 130  # of a ciphertext, as benchmarks/he.py measures them
_MASK_NS, _ADD_NS, _ENCODE_NS = 0.38, 0.15, 1.4  # per parameter, of 32-bit words


class Tables(StrEnum):
    """How clients come into groups."""

    PLAN = "plan"
    ONCE = "once"
    EACH_ROUND = "each-round"


class InfeasibleError(ValueError):
    """No protocol has these parameters together; the text says why, and which ones near them are possible.

    `key` names the parameter whose change is the first that would do.
    """

    def __init__(self, text: str, key: str = "groups") -> None:
        super().__init__(text)
        self.key = key


@dataclass(frozen=True, slots=True)
class Committee:
    """Those who hold the shares of a round's seeds, and decide by signatures which sum is opened.

    A colluder signs every list of survivors that the server likes, an honest member one: two lists have at most
    size + colluders signatures together, so that not both of them reach the threshold. Raises InfeasibleError for a
    committee that could be all colluders, and ValueError for one of more than MAX_COMMITTEE.
    """

    size: int
    colluders: int

    def __post_init__(self) -> None:
        if not 1 <= self.size <= MAX_COMMITTEE or self.colluders < 0:
            raise ValueError(f"expected a committee of 1 to {MAX_COMMITTEE} members, got {self}")
        if self.colluders >= self.size:
            raise InfeasibleError(f"all {self.size} members of a committee may collude")

    @property
    def threshold(self) -> int:
        """Signatures, and shares, that are needed: the smallest t with 2t > size + colluders."""
        return (self.size + self.colluders) // 2 + 1

    @property
    def may_drop(self) -> int:
        """Members that may be missing, or withhold their answer."""
        return self.size - self.threshold


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What a round costs by the model of this file's constants: ns per parameter and mask on one core, not measured."""

    upload_bytes: int
    client_s: float
    server_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """What a plan fixes of secure aggregation, possible together in every roster that it permits; the rest follows.

    `clients` N of the federation, of which `colluding` f may help the server; `dropout` δ, the share of each group and
    committee that may be lost in a round; `groups` m, of sizes that differ by one at most; `min_roster` n_min, the
    fewest clients that an epoch starts with; `min_survivors` u_min, the fewest updates of a group's sum; `starts`, the
    most epochs of the run that draw groups; `regrouped_rounds`, those of a run that draws groups in each round.
    Raises ValueError for what is out of range and InfeasibleError for what is not possible together.
    """

    clients: int
    colluding: int
    dropout: float
    groups: int
    min_roster: int
    min_survivors: int
    tables: Tables = Tables.ONCE
    starts: int = STARTS
    regrouped_rounds: int = 0

    least_hidden: ClassVar[int] = 2
    """Honest updates, at the least, in every sum that is learnt, and not known to those who look."""

    def __post_init__(self) -> None:
        _check_ranges(self)
        if self.clients > MAX_COMMITTEE and self.group_size > MAX_COMMITTEE:
            raise InfeasibleError(
                f"{self.groups} groups of {self.clients} clients have up to {self.group_size} members, "
                f"more than the {MAX_COMMITTEE} of a committee"
            )
        smallest, sum_of = self.smallest_group, self.min_survivors
        left = smallest - lost(smallest, self.dropout)
        if sum_of > left:
            raise InfeasibleError(
                f"{sum_of} survivors are needed for a group's sum, but only {left} of a group of {smallest} "
                f"are left after drop-outs"
            )
        if self.noise_share < self.least_hidden:
            raise InfeasibleError(
                f"a sum of {sum_of} updates leaves {max(0, self.noise_share)} unknown to those who look, who may "
                f"know {self.known}: expected at least {self.least_hidden}"
            )
        for committee in _committees(self):
            if committee.may_drop < lost(committee.size, self.dropout):
                raise InfeasibleError(
                    f"a committee of {committee.size} with {committee.colluders} colluders needs "
                    f"{committee.threshold} signatures, but only "
                    f"{committee.size - lost(committee.size, self.dropout)} members are left after drop-outs"
                )

    @property
    def group_size(self) -> int:
        """Members of the largest group."""
        return -(-self.clients // self.groups)

    @property
    def smallest_group(self) -> int:
        """Members of the smallest group of the smallest roster."""
        return self.min_roster // self.groups

    @property
    def drawn(self) -> bool:
        """Whether chance puts clients into groups, by a beacon of all members' nonces."""
        return self.groups > 1 and self.tables is not Tables.PLAN

    @property
    def known(self) -> int:
        """k: updates of a group, its noise included, that one who looks may know; each member knows its own."""
        return max(1, self.colluders_in(self.group_size, self.clients))

    @property
    def noise_share(self) -> int:
        """h = u_min − k: the fewest honest updates in a sum; each client adds 1/h of the noise that a claim needs."""
        return self.min_survivors - self.known

    @property
    def committee(self) -> Committee:
        """The committee, or the one of the largest group, in a roster of all clients."""
        colluders = self.colluders_in(self.group_size, self.clients)
        return self.committee_of(self.clients, self.group_size, colluders)

    @property
    def malicious_groups(self) -> int:
        """The most bad group means that a robust rule over them tolerates: fewer than half."""
        return (self.groups - 1) // 2

    def colluders_in(self, size: int, population: int) -> int:
        """c of a group of `size` when its table was made, drawn or not, for `population` clients.

        The server keeps honest clients out until the roster is smallest. So colluders are drawn from n_min, or from
        fewer where newcomers draw groups among themselves. Sizes of larger rosters are covered too: fewer honest
        clients to draw from, or a larger group, never make colluders fewer.
        """
        population = min(population, self.min_roster)
        if not 1 <= size <= self.clients or population < 1:
            raise ValueError(f"expected a group of 1 to {self.clients} clients, got {size} of {population}")
        if not self.drawn or size >= population:
            return min(self.colluding, size)
        colluding = min(self.colluding, population)
        odds = self.groups * self._draws << FAILURE_BITS  # a union bound over all groups that are drawn in the run
        return most_colluders(population, colluding, size, odds)

    def committee_of(self, roster: int, present: int, colluders: int) -> Committee:
        """The committee of a group with `present` members in a roster of so many: everyone up to 255, else the group.

        `colluders` is `colluders_in` the group when its table was made: those who are missing since may be honest.
        Raises ValueError for a roster that the plan does not permit, InfeasibleError for one that may be all colluders.
        """
        self._check_roster(roster)
        if roster <= MAX_COMMITTEE:
            return Committee(roster, self.colluding)
        return Committee(present, colluders)

    def signatures_needed(self, roster: int, *, drawing: bool) -> int:
        """Equal signatures on a roster of so many that start an epoch; where groups are drawn, everyone's.

        More than (roster + f) / 2: no two rosters of the same members in one epoch get as many, since only colluders
        sign twice.
        """
        self._check_roster(roster)
        return roster if drawing else (roster + self.colluding) // 2 + 1

    def costs(self, size: int) -> Costs:
        """A round's costs for `size` parameters, everyone there and then as many lost as is tolerated.

        Upload and seconds of one client, and the server's seconds for all groups.
        """
        if size < 1:
            raise ValueError(f"expected at least 1 parameter, got {size}")
        group, committee, out = self.group_size, self.committee.size, lost(self.group_size, self.dropout)
        unmasked = (group - out) * (_ADD_NS + _MASK_NS) + out * (group - out) * _MASK_NS
        return Costs(
            upload_bytes=4 * size + 32 * group * committee + 80 * committee + 32 * group + 1024,
            client_s=size * (_ENCODE_NS + group * _MASK_NS) * 1e-9,
            server_s=self.groups * size * unmasked * 1e-9,
        )

    def explain(self, size: int = 1_000_000) -> str:
        """What the server learns, what is tolerated, and what a model of `size` parameters costs; lines of words."""
        group, committee, costs = self.group_size, self.committee, self.costs(size)
        everyone = "everyone" if self.clients <= MAX_COMMITTEE else "one for each group"
        return "\n".join(
            (
                f"groups      {self.clients} clients in {self.groups_in_words()}{_tables_in_words(self)}",
                f"server      learns in each round, per group, the sum of at least {self.min_survivors} updates, "
                f"or nothing; at least {self.noise_share} of them are honest and unknown to those who look, "
                f"who may know {self.known}",
                f"drop-outs   a group of {group} may lose {lost(group, self.dropout)} in a round "
                f"(gives no sum with fewer than {self.min_survivors}); the committee of {committee.size} ({everyone}) "
                f"{committee.may_drop}, since {committee.threshold} must sign; one that withholds its answer is lost",
                f"collusion   the server and any {self.colluding} of the {self.clients} clients together learn no "
                f"more; {_collusion_in_words(self)}; committees are reckoned with {committee.colluders}",
                f"malicious   {self.malicious_in_words()}; what a client sends is not checked",
                f"noise       for distributed differential privacy each client adds 1/{self.noise_share} of the "
                "variance that is claimed",
                f"epoch       starts with at least {self.min_roster} of {self.clients} clients; when all are there, "
                f"{self.signatures_needed(self.clients, drawing=False)} must sign the same roster"
                + (", and all of them where groups are drawn" if self.drawn else ""),
                f"costs       (a model, not measured here) with {size:,} parameters a client sends "
                f"{costs.upload_bytes / 1e6:.3g} MB and computes {costs.client_s:.2g} s a round, the server "
                f"{costs.server_s:.2g} s, with the drop-outs above",
                "unbounded   what the sums of several rounds tell together: only differential privacy bounds that",
            )
        )

    def groups_in_words(self) -> str:
        """How many groups, and of how many clients."""
        low, high = self.clients // self.groups, self.group_size
        if self.groups == 1:
            return f"one group of {high}"
        return f"{self.groups} groups of {low}" + (f" or {high}" if high > low else "")

    def malicious_in_words(self) -> str:
        """What a robust rule over the groups' means can bear: one bad client makes its whole group bad."""
        bad = self.malicious_groups
        if bad == 0:
            return "no rule over so few groups tolerates a malicious client"
        return f"a robust rule over {self.groups} group means tolerates {bad} malicious, one per bad group"

    @property
    def _draws(self) -> int:
        """The most draws of a run, of rosters side by side too: each is counted by n_min − f honest clients or more."""
        each, honest = self.starts + self.regrouped_rounds, self.min_roster - self.colluding
        return each * (self.clients - self.colluding) // honest if honest > 0 else each  # the latter is refused

    def _check_roster(self, roster: int) -> None:
        if not self.min_roster <= roster <= self.clients:
            raise ValueError(f"expected a roster of {self.min_roster} to {self.clients} clients, got {roster}")


@dataclass(frozen=True, slots=True, kw_only=True)
class HomomorphicParameters(Parameters):
    """The same, of homomorphic aggregation: members have one key together, so that none of them may help the server.

    A sum of two is enough to hide each from the server; each of two members learns the other's update from it, as it
    would from any mean of two. Raises InfeasibleError for colluders, and for groups.
    """

    least_hidden: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if self.colluding:
            raise InfeasibleError("any member's key opens every update: no colluder is tolerated", "colluding")
        if self.groups != 1:
            raise InfeasibleError("there is one sum of all members", "groups")
        Parameters.__post_init__(self)

    def costs(self, size: int) -> Costs:
        """A round's costs with two of `size` parameters in each of 4094 slots, everyone there."""
        if size < 1:
            raise ValueError(f"expected at least 1 parameter, got {size}")
        chunks = -(-size // (2 * 4094))
        return Costs(
            upload_bytes=chunks * _CHUNK_BYTES + 1024,
            client_s=chunks * _ENCRYPT_US * 1e-6,
            server_s=chunks * self.clients * _ADD_CHUNK_US * 1e-6,
        )

    def explain(self, size: int = 1_000_000) -> str:
        """What the server learns, and what is tolerated; lines of words."""
        committee, costs = self.committee, self.costs(size)
        return "\n".join(
            (
                f"group       all {self.clients} clients; one key, which every client has and the server has not",
                "server      adds updates up that it cannot read, and is told the sum of at least "
                f"{self.min_survivors} by two clients; tags prove to them that it is the sum of those who are listed",
                f"drop-outs   a round may lose {lost(self.clients, self.dropout)} of {self.clients} clients, at any "
                f"time (gives no sum with fewer than {self.min_survivors}); {committee.threshold} must sign the list",
                "collusion   none is tolerated: one client's key opens every update that the server has",
                "malicious   no rule over one sum tolerates a malicious client; what a client sends is not checked",
                f"noise       for distributed differential privacy each client adds 1/{self.noise_share} of the "
                "variance that is claimed",
                f"epoch       starts with at least {self.min_roster} of {self.clients} clients, with a new key; "
                f"{self.signatures_needed(self.clients, drawing=False)} must sign the same roster",
                f"costs       (a model, not measured here) with {size:,} parameters a client sends "
                f"{costs.upload_bytes / 1e6:.3g} MB and computes {costs.client_s:.2g} s a round, about as long to open "
                f"a sum; the server {costs.server_s:.2g} s",
                "unbounded   what the sums of several rounds tell together: only differential privacy bounds that",
            )
        )


@lru_cache(maxsize=1 << 14)
def most_colluders(population: int, colluding: int, drawn: int, odds: int) -> int:
    """The smallest c with P[X > c] ≤ 1/odds, X the colluders among `drawn` clients of a population with `colluding`.

    Hypergeometric, in whole numbers: Σ_{k>c} C(f, k) C(n − f, g − k) · odds ≤ C(n, g) decides without rounding.
    """
    if not (0 <= colluding <= population and 0 <= drawn <= population and odds >= 1):
        raise ValueError(f"expected colluders and drawn clients within {population}, got {colluding} and {drawn}")
    k = min(colluding, drawn)
    ways = math.comb(colluding, k) * math.comb(population - colluding, drawn - k)
    allowed, tail = math.comb(population, drawn), ways
    fewest = max(0, drawn - (population - colluding))
    while k > fewest and tail * odds <= allowed:  # here tail = P[X ≥ k] in units of 1 / C(n, g)
        ways = ways * k * (population - colluding - drawn + k) // ((colluding - k + 1) * (drawn - k + 1))
        k -= 1
        tail += ways
    return k


def lost(size: int, dropout: float) -> int:
    """⌊δ size⌋ of δ as it is written in decimals: 0.29 of 100 are 29, which the nearest binary number misses."""
    return math.floor(Fraction(str(float(dropout))) * size)


def _check_ranges(wanted: Parameters) -> None:
    if not 1 <= wanted.clients <= MAX_CLIENTS:
        raise ValueError(f"clients: expected 1 to {MAX_CLIENTS}, got {wanted.clients}")
    for name, low, high in (
        ("colluding", 0, wanted.clients),
        ("groups", 1, wanted.clients),
        ("min_roster", 1, wanted.clients),
        ("min_survivors", 1, wanted.clients),
        ("starts", 1, MAX_DRAWS),
    ):
        if not low <= getattr(wanted, name) <= high:
            raise ValueError(f"{name}: expected {low} to {high}, got {getattr(wanted, name)}")
    if not 0 <= wanted.dropout < 1:  # and not NaN
        raise ValueError(f"dropout: expected a share from 0 to below 1, got {wanted.dropout}")
    low, high = (1, MAX_DRAWS) if wanted.tables is Tables.EACH_ROUND else (0, 0)
    if not low <= wanted.regrouped_rounds <= high:
        raise ValueError(
            f"regrouped_rounds: expected {low} to {high} for group tables {wanted.tables.value!r}, "
            f"got {wanted.regrouped_rounds}"
        )


def _committees(wanted: Parameters) -> Iterator[Committee]:
    """The committees of every roster that is permitted."""
    for roster in range(wanted.min_roster, min(wanted.clients, MAX_COMMITTEE) + 1):
        yield wanted.committee_of(roster, roster, wanted.colluding)
    if wanted.clients > MAX_COMMITTEE:
        least = max(wanted.min_roster, MAX_COMMITTEE + 1) // wanted.groups
        for size in range(least, wanted.group_size + 1):
            yield wanted.committee_of(wanted.clients, size, wanted.colluders_in(size, wanted.clients))


def _tables_in_words(wanted: Parameters) -> str:
    if wanted.groups == 1:
        return ""
    if wanted.tables is Tables.PLAN:
        return ", fixed by the plan"
    if wanted.tables is Tables.ONCE:
        return f", drawn once for the whole run, in {wanted.starts} attempts at most"
    return (
        f", drawn anew in {wanted.regrouped_rounds} rounds (with distributed or example-level differential privacy "
        f"only) and in {wanted.starts} starts at most"
    )


def _collusion_in_words(wanted: Parameters) -> str:
    colluders = wanted.colluders_in(wanted.group_size, wanted.clients)
    if colluders == min(wanted.colluding, wanted.group_size):
        return f"{colluders} of them may be in one group"
    return f"no group has more than {colluders} of them, but for a chance of 2^-{FAILURE_BITS} in the whole run"
