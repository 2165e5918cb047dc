"""The sums that secure aggregation would give, without any of it: for cohorts that are too large for real keys.

Updates come in the clear, are encoded as members would encode them, and are added up as integers; groups, drop-outs
and aborts follow the protocol's rules. No cryptography runs and nothing is hidden, which every output of such a
simulation says. Nothing outside of `simulations` knows this class.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from flwr.serverapp import Grid

from wardround.contribution import Contribution
from wardround.errors import LocalError, RemoteError
from wardround.orders import Order, OrderKind, SiteId, derive_seed
from wardround.plain_text import plain_text
from wardround.plan import Plan
from wardround.plan_protection import Protection, TableChoice
from wardround.simulations.attacks.rogue_guard import words_of_lie
from wardround.simulations.faults import Faults
from wardround.strategies.plain import Plain
from wardround.strategies.privacy.secure_random import SecureRandom
from wardround.strategies.privacy.unit_clip import wide_square
from wardround.strategies.records import Absence
from wardround.strategies.secagg.encoding import Encoding
from wardround.strategies.secagg.group_mean import group_mean
from wardround.strategies.secagg.keystream import U32, U64
from wardround.strategies.secagg.lane import lane_of, lane_size, projected, rotation_seed
from wardround.strategies.secagg.messages import Cause
from wardround.strategies.secagg.parameters import MAX_COMMITTEE
from wardround.strategies.secagg.plan_terms import encoding_of, parameters_of
from wardround.strategies.secagg.round_evidence import Evidence, ProtectionRecord, Stage
from wardround.tally import TallySpec
from wardround.vector import F32

__all__ = ["AccountedSums", "in_clear"]

_HAIR = 1 + 1e-4
"""Honest guards clip in float32."""


def in_clear(plan: Plan) -> Plan:
    """`plan` as the guards of such a simulation read it: without protection, and without drop-outs that need one."""
    simulation = replace(plan.simulation, dropout=0.0, late_dropout=0.0)
    return replace(plan, protection=Protection(), simulation=simulation)


class _Group:
    """What has come of one group, of so many sites when it was dealt: words and lane, added up."""

    def __init__(self, members: tuple[SiteId, ...], dealt: int, lane: int) -> None:
        self.members, self.dealt = members, dealt
        self.came: list[SiteId] = []
        self.words: U32 | None = None
        self.lane: U64 = np.zeros(lane, dtype=np.uint64)

    def add(self, site: SiteId, words: U32 | None, lane: U64) -> None:
        self.came.append(site)
        self.lane += lane
        if words is not None:
            self.words = words if self.words is None else np.add(self.words, words, out=self.words)


class AccountedSums:
    """A `Protection` that adds up what `sites` send as the masking of `plan` would; `specs` says what they count."""

    def __init__(self, plan: Plan, sites: Sequence[SiteId], specs: Mapping[OrderKind, TallySpec]) -> None:
        self._plan, self._sites, self._specs = plan, tuple(sites), specs
        self._plain, self._faults, self._random = Plain(plan), Faults(plan), SecureRandom()
        self._parameters = parameters_of(plan)
        self._cohort: tuple[SiteId, ...] = ()
        self._absences: dict[SiteId, Absence] = {}
        self._number = -1
        self.record: ProtectionRecord | None = None

    @property
    def absences(self) -> Sequence[Absence]:
        return tuple(self._absences.values())

    def open(self, grid: Grid, cohort: Mapping[SiteId, int]) -> None:
        """Remember who is asked. Raises LocalError for fewer than an epoch needs."""
        if len(cohort) < self._parameters.min_roster:
            raise LocalError(f"expected at least {self._parameters.min_roster} sites, got {len(cohort)}")
        self._cohort = tuple(cohort)
        self._plain.open(grid, cohort)

    def collect(self, grid: Grid, order: Order, model: bytes | None = None) -> Iterator[Contribution]:
        """A contribution for each group that gives a sum; sites that are in none become absences."""
        self._absences, self.record = {}, None
        self._number += 1
        spec, evidence = self._specs[order.kind], Evidence()
        size = lane_size(self._plan, order.kind, spec)
        asked = set(self._cohort)
        groups = [_Group(tuple(site for site in one if site in asked), len(one), size) for one in self._table(order)]
        group_of = {site: group for group in groups for site in group.members}
        encoding: Encoding | None = None
        for one in self._plain.collect(grid, order, model):
            (site,), words = one.members, None
            if order.kind is OrderKind.FIT:
                update = np.concatenate(list(one.vector.chunks()))
                if encoding is None:
                    encoding = encoding_of(self._plan, update.size, seed=rotation_seed(order))
                words = self._words(encoding, update, one.weight)
            members = self._parameters.group_size
            try:
                lane = lane_of(self._plan, order.kind, one.weight, projected(one.tally, spec), members)
            except ValueError as error:
                self._absences[site] = Absence(site=site, reason=plain_text(f"rejected: {error}"), failed=True)
            else:
                group_of[site].add(site, words, lane)
        self._absences |= {absence.site: absence for absence in self._plain.absences}
        for site in self._absences:
            evidence.lose(Stage.UPDATE, site)
        for holders, numbers in self._committees(groups):
            given, why = self._opened(order, holders, [groups[number] for number in numbers], evidence)
            for number in numbers:
                group, contribution, reason = groups[number], None, why
                if group in given:
                    try:
                        contribution = group_mean(
                            self._plan, order.kind, spec, encoding, tuple(group.came), group.words, group.lane
                        )
                    except RemoteError as error:
                        reason = f"rejected: its group's counts: {error}"
                evidence.group(number, group.members, () if contribution is None else group.came)
                if contribution is None:
                    for site in group.came:
                        self._absences[site] = Absence(site=site, reason=reason)
                else:
                    yield contribution
        self.record = evidence.record(epoch=0, round=self._number, accounted=True)

    def _table(self, order: Order) -> list[list[SiteId]]:
        """The groups of the round: all sites, dealt by a draw from the plan's seed."""
        each = self._plan.protection.tables is TableChoice.EACH_ROUND
        seed = derive_seed(self._plan.seed, "groups", *((order.round,) if each else ()))
        dealt = np.random.Generator(np.random.Philox(key=seed)).permutation(len(self._sites)).tolist()
        count = self._parameters.groups
        return [sorted((self._sites[at] for at in dealt[g::count]), key=str.encode) for g in range(count)]

    def _committees(self, groups: Sequence[_Group]) -> Iterator[tuple[Sequence[SiteId], Sequence[int]]]:
        """Who decides, on which groups: everyone on all, or of very many each group on itself."""
        present = [number for number, group in enumerate(groups) if group.members]
        if len(self._cohort) <= MAX_COMMITTEE:
            yield self._cohort, present
        else:
            yield from ((groups[number].members, (number,)) for number in present)

    def _opened(
        self, order: Order, holders: Sequence[SiteId], groups: Sequence[_Group], evidence: Evidence
    ) -> tuple[list[_Group], str]:
        """The groups whose sums a committee opens, and why it opens no others."""
        parameters = self._parameters
        enough = [group for group in groups if len(group.came) >= parameters.min_survivors]
        gone = {site for site in holders if site in self._absences}
        reason, cause = "", Cause.TOO_FEW_MEMBERS
        if not enough:
            reason = f"expected {parameters.min_survivors} updates of a group, got fewer in every group"
        else:
            for site in holders:
                if order.kind is OrderKind.FIT and site not in gone and self._faults.fate(site, order.round).leaves:
                    gone.add(site)
                    evidence.lose(Stage.SIGNATURE, site)
            colluders = parameters.colluders_in(max(group.dealt for group in groups), parameters.clients)
            threshold = parameters.committee_of(len(self._cohort), len(holders), colluders).threshold
            if (signed := len(holders) - len(gone)) < threshold:
                reason, cause = f"expected {threshold} signatures of the list, got {signed}", Cause.TOO_FEW_SIGNATURES
        if not reason:
            return enough, "its group gave no sum"
        evidence.abort(cause.name, [site for site in holders if site in gone], reason)
        return [], f"no sum: {reason}"

    def _words(self, encoding: Encoding, update: F32, weight: int) -> U32:
        """As a member encodes its update. Only a liar sends one that is longer than the clip, and encodes it so."""
        clip = encoding.clip_norm
        if not np.isfinite(update).all() or (clip is not None and wide_square(update) ** 0.5 > clip * _HAIR):
            return words_of_lie(encoding, update, weight)
        return encoding.encode(update, self._random, weight).words.view(np.uint32)
