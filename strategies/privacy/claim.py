"""What is claimed of differential privacy, in words: no number without unit, relation, adversary and sampling."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from typing import Any

from wardround.decoding import PlanError, encode
from wardround.errors import LocalError
from wardround.orders import SiteId
from wardround.plan import Plan
from wardround.plan_privacy import Disclosure, Mechanism, PrivateStatistics, Relation, Sampling, Unit, UnitClipping
from wardround.plan_simulation import Cryptography
from wardround.strategies.privacy.terms import Terms, client_terms, default_delta, site_terms
from wardround.strategies.secagg.parameters import FAILURE_BITS
from wardround.strategies.secagg.plan_terms import parameters_of

__all__ = ["FEW_CLIENTS", "Claim", "claims_of", "noise_warning", "rounded_up", "stated", "worst"]

FEW_CLIENTS = 100
"""Below so many clients, hiding whole ones costs so much accuracy that the noise is told beside the claim."""

_UNITS = {
    Unit.ROW: "a row of a hospital's training data",
    Unit.PATIENT: "a patient: all of their rows in one hospital's training data",
    Unit.CLIENT: "a client: a whole hospital with all of its rows",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """(epsilon, delta) with all that it needs to mean something. Texts are sentences or parts of them, for people.

    `site` is whose claim it is; empty: of every site, or of the federation. `population` units are hidden among; None
    where their number is not known. `accountant` is empty where each site has its own. Raises ValueError for an
    epsilon or delta that is no claim.
    """

    epsilon: float
    delta: float
    unit: Unit
    relation: Relation
    adversary: str
    sampling: str
    accountant: str = ""
    site: str = ""
    population: int | None = None
    noise_multiplier: float | None = None
    research_delta: bool = False
    assumptions: tuple[str, ...] = ()
    not_covered: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not (math.isfinite(self.epsilon) and self.epsilon >= 0 and 0 < self.delta < 1):
            raise ValueError(f"expected a finite epsilon and a delta in (0, 1), got {self.epsilon} and {self.delta}")
        if self.unit is Unit.OFF:
            raise ValueError("expected a unit that is hidden, got off")

    def headline(self) -> str:
        """E.g. `epsilon 2.98 at delta 1e-6 for every patient (add-remove)`; figures are rounded up."""
        numbers = f"epsilon {rounded_up(self.epsilon)} at delta {rounded_up(self.delta)}"
        research = ", research delta" if self.research_delta else ""
        return f"{numbers} for every {self.unit.value} ({self.relation.value}){research}"

    def facts(self) -> tuple[tuple[str, str], ...]:
        """What the headline's numbers mean: (what, in words)."""
        found = [("unit", _UNITS[self.unit]), ("neighbours", self._neighbours()), ("meaning", self._meaning())]
        found += [("against", self.adversary), ("sampling", self.sampling)]
        if self.population is not None:
            found.append(("population", f"{self.population} {self.unit.value}s{f' at {self.site}' * bool(self.site)}"))
        if self.noise_multiplier is not None:
            told = f"multiplier {self.noise_multiplier:.4g} (standard deviation over the most that a unit adds)"
            found.append(("noise", told))
        if self.accountant:
            found.append(("accountant", self.accountant))
        return tuple(found)

    def words(self) -> str:
        """The whole claim as text of several lines."""
        return "\n".join(self._lines())

    def to_json(self) -> dict[str, Any]:
        """Every field and the headline; numbers, texts and lists."""
        return {"headline": self.headline(), **encode(self)}

    def _lines(self) -> Iterator[str]:
        yield self.headline()
        yield ""
        for what, said in self.facts():
            yield f"{what:12}{said}"
        parts = {
            "It rests on:": self.assumptions,
            "It does not cover:": self.not_covered,
            "Warnings:": self.warnings,
        }
        for title, sentences in parts.items():
            if sentences:
                yield ""
                yield title
                yield from (f"- {sentence}" for sentence in sentences)

    def _neighbours(self) -> str:
        unit = self.unit.value
        return {
            Relation.ADD_REMOVE: f"{self.relation.value}: two data sets of which one has one {unit} more",
            Relation.ZERO_OUT: f"{self.relation.value}: in one of two data sets what one {unit} gives counts as zero",
            Relation.REPLACE_ONE: f"{self.relation.value}: two data sets that differ in one {unit}",
        }[self.relation]

    def _meaning(self) -> str:
        if self.epsilon >= 14:
            return "an outcome may be a million times as likely with one unit's data as without: next to no protection"
        return (
            f"no outcome is more than {rounded_up(math.exp(self.epsilon))} times (e^epsilon) as likely, plus delta, "
            "with one of two neighbouring data sets as with the other"
        )


def rounded_up(value: float, digits: int = 3) -> str:
    """`value` with at most so many significant digits, never below it: `2.99` of 2.9812, `1e-6` of 1e-6."""
    exact = Decimal(repr(float(value)))
    if not exact:
        return "0"
    shown = exact.quantize(Decimal(1).scaleb(exact.adjusted() - digits + 1), rounding=ROUND_CEILING)
    return re.sub(r"e([+-])0*(?=\d)", lambda found: "e" + found[1].rstrip("+"), f"{float(shown):g}")


def claims_of(
    plan: Plan, units: Mapping[SiteId, int] | None = None, *, num_parameters: int | None = None
) -> tuple[Claim, ...]:
    """What `plan` claims when all of its rounds are run; empty where it hides nobody.

    Rows and patients: a claim for each site of `units`, the number of units that it trains on; without them the plan's
    own epsilon, which holds at every site. Clients: one claim; `num_parameters` serves its warning, and without it what
    is claimed of Skellam noise holds for a model of any size. Raises PlanError for a claim that cannot be met, and
    LocalError where epsilon depends on `units` and there are none.
    """
    privacy = plan.privacy
    if not privacy.on:
        return ()
    if privacy.per_client:
        return (_of_terms(plan, client_terms(plan, num_parameters), num_parameters=num_parameters),)
    if units is not None:
        first = {count: site for site, count in units.items()}
        terms = {count: _terms_at(plan, count, site) for count, site in first.items()}
        return tuple(_of_terms(plan, terms[count], site) for site, count in units.items())
    if privacy.epsilon is None:
        raise LocalError(
            f"expected the number of {privacy.unit.value}s at a site, on which epsilon of a noise_multiplier depends"
        )
    delta = default_delta(1) if privacy.delta is None else privacy.delta  # the default of any number is no larger
    return (stated(plan, privacy.epsilon, delta),)


def _terms_at(plan: Plan, count: int, site: SiteId) -> Terms:
    try:
        return site_terms(plan, count)
    except PlanError as error:
        raise PlanError(error.path, error.expected, error.got, f"{error.hint}{f' ({site})' * bool(site)}") from None


def stated(plan: Plan, epsilon: float, delta: float, *, accountant: str = "", site: str = "") -> Claim:
    """The claim that `plan` makes when (epsilon, delta) was accounted for, e.g. for the rounds of a run so far."""
    return _claim(plan, epsilon, delta, accountant=accountant, site=site)


def worst(plan: Plan, claims: Sequence[Claim]) -> Claim:
    """What holds at every site: the largest epsilon and the largest delta of `claims`. ValueError for none."""
    if len(claims) == 1:
        return claims[0]
    return stated(
        plan,
        max(claim.epsilon for claim in claims),
        max(claim.delta for claim in claims),
        accountant=", ".join(sorted({claim.accountant for claim in claims} - {""})),
    )


def noise_warning(plan: Plan, terms: Terms, num_parameters: int | None = None) -> str:
    """The noise to expect beside the clip, where so few clients are hidden that it hurts; empty for `FEW_CLIENTS`."""
    if not plan.privacy.per_client or terms.population >= FEW_CLIENTS:
        return ""
    least = "at least " * (terms.spans is not None or plan.privacy.clipping is UnitClipping.ADAPTIVE)
    each = terms.noise_in_mean(plan.cohort_size)
    told = f"{least}{each:.3g} in each parameter"
    if num_parameters is not None:
        told = f"an expected length of {least}{each * num_parameters**0.5:.3g} ({told}, of {num_parameters})"
    return (
        f"only {terms.population} clients (fewer than {FEW_CLIENTS}): the noise in a round's mean update has {told}, "
        f"and what it is added to is at most {plan.privacy.clip_norm:g} long; this costs much accuracy"
    )


def _of_terms(plan: Plan, terms: Terms, site: SiteId | None = None, num_parameters: int | None = None) -> Claim:
    bound = terms.claim
    return _claim(
        plan,
        bound.epsilon,
        terms.delta,
        accountant=bound.accountant,
        site=site or "",
        terms=terms,
        warnings=tuple(filter(None, (noise_warning(plan, terms, num_parameters),))),
    )


def _claim(
    plan: Plan,
    epsilon: float,
    delta: float,
    *,
    accountant: str,
    site: str,
    terms: Terms | None = None,
    warnings: tuple[str, ...] = (),
) -> Claim:
    return Claim(
        epsilon=epsilon,
        delta=delta,
        unit=plan.privacy.unit,
        relation=plan.privacy.claimed_relation,
        adversary=_adversary(plan),
        sampling=_sampling(plan, terms),
        accountant=accountant,
        site=site,
        population=None if terms is None else terms.population,
        noise_multiplier=None if terms is None else terms.noise_multiplier,
        research_delta=plan.privacy.research_delta,
        assumptions=tuple(_assumptions(plan, terms)),
        not_covered=tuple(_not_covered(plan)),
        warnings=(*_research(plan), *_simulated(plan), *warnings),
    )


def _hides_sample(plan: Plan) -> bool:
    """Whether the claim is smaller because nobody is to know who takes part."""
    return plan.privacy.claimed_sampling in (Sampling.POISSON, Sampling.FIXED_SIZE)


def _adversary(plan: Plan) -> str:
    if plan.privacy.per_example:
        return (
            "the server, the other hospitals and all who get the model, together: they may see every message of the "
            "hospital and every round's model, and know every other row; not somebody inside the hospital's computers"
        )
    if plan.privacy.mechanism is Mechanism.SKELLAM:
        colluding = parameters_of(plan).colluding
        others = f"together with up to {colluding} other client{'s' * (colluding > 1)}"
        return (
            f"all who see the sums of groups, the server included, {others if colluding else 'or one other client'}: "
            "they may see every message and every round's model, know all other clients' rows and the noise that they "
            "added themselves, and deviate from the protocol"
        )
    if _hides_sample(plan):
        return (
            "those who get the model and do not learn who took part in which round: they may see every round's model "
            "and know all other clients' rows; not the server, and not a client or anybody else who learns that"
        )
    return (
        "those who get the model and the other clients, together: they may see every round's model and who took part, "
        "and know all other clients' rows; not the server, which sees every update before the noise"
    )


def _sampling(plan: Plan, terms: Terms | None) -> str:
    privacy = plan.privacy
    sampling, unit = privacy.claimed_sampling, privacy.unit.value
    what = "round" if privacy.per_client else "step"
    if privacy.bands is not None:
        most = -(-plan.rounds // privacy.bands)
        return (
            f"a client takes part in rounds that are at least {privacy.bands} apart, at most {most} of {plan.rounds}; "
            "no secret is made of which"
        )
    if sampling is Sampling.FULL:
        if privacy.per_client and plan.cohort_size < plan.simulation.sites - len(plan.cohort.without):
            some = f"{plan.cohort_size} clients take part in a {what}, and no secret is made of which"
            return f"{some}; sampling lowers nothing"
        return f"every {unit} takes part in every {what}; sampling lowers nothing"
    if sampling is Sampling.SHUFFLE:
        return f"rows are shuffled, not drawn: epsilon is as if every {unit} took part in every step"
    drawn = plan.cohort_size if privacy.per_client else plan.training.batch_size
    of = "" if terms is None else f" of {terms.population}"
    if sampling is Sampling.FIXED_SIZE:
        told = f"{drawn}{of} {unit}s are drawn for a {what}"
    else:
        chance = "" if terms is None else f" with probability {terms.rate:.4g}"
        told = f"each {unit} takes part in a {what} by itself{chance}, {drawn}{of} on average (Poisson)"
    return f"{told}, in secret{' at the hospital' if privacy.per_example else ' at the server'}"


def _assumptions(plan: Plan, terms: Terms | None) -> Iterator[str]:
    privacy = plan.privacy
    if privacy.per_example:
        yield (
            "The approved code: clip, sample and noise are part of the training job inside the hospital, and the claim "
            "holds for the code of this plan's digest, run as it is."
        )
    elif privacy.mechanism is Mechanism.SKELLAM:
        yield from _sums_assumed(plan, terms)
    else:
        yield "The server is trusted to add the noise, and to show nobody the updates, which it sees in clear."
    if privacy.unit is Unit.PATIENT:
        rows = "1 training row" if privacy.max_rows == 1 else f"{privacy.max_rows} training rows"
        column = f"column {plan.data.patient!r}" if plan.data.patient else "the hospital's data"
        yield f"{column[0].upper()}{column[1:]} says whose a row is; at most {rows} of a patient are used."
    if privacy.per_client and _hides_sample(plan):
        yield "Who takes part in a round is drawn by the server in secret, and never published."
    if privacy.clipping is UnitClipping.ADAPTIVE:
        yield "The clip follows a noisy count of clients; epsilon includes that count."
    if privacy.bands is not None:
        yield "Noise that later rounds cancel: all rounds are charged at once, at the start."
    if privacy.statistics is PrivateStatistics.DP:
        yield "The sums that standardise the columns are released once, with noise; epsilon includes them."
    if privacy.epsilon is not None and privacy.noise_multiplier is not None:
        when = "" if terms is None else f", after {terms.rounds} of {plan.rounds} rounds at the latest"
        yield f"Training stops before epsilon {privacy.epsilon:g} is exceeded{when}."


def _sums_assumed(plan: Plan, terms: Terms | None) -> Iterator[str]:
    found = parameters_of(plan)
    yield (
        f"Honest clients' own noise: each clips, rounds and adds 1/{found.noise_share} of what is claimed, inside its "
        "guard, as the approved plan says. One that does not counts as one that colludes."
    )
    yield (
        f"At most {found.colluding} of the {found.clients} clients collude with the server. A sum is of at least "
        f"{found.min_survivors} clients and whoever looks knows at most {found.known} of them: "
        f"{found.noise_share} honest ones, and their noise, are in it for certain, and no more is counted."
    )
    if found.drawn and found.colluding > found.known:
        yield (
            f"Groups are drawn by chance: that one has more than {found.known} who collude has a probability of at "
            f"most 2^-{FAILURE_BITS} in the whole run, beside delta."
        )
    yield (
        "Secure aggregation: single updates stay hidden behind masks, which rests on computational assumptions and on "
        "the signing keys that each site has accepted of the others."
    )
    if terms is not None and terms.skellam is None:
        yield "A model of any size: of a known size the same noise claims a little less, or less noise the same."


def _not_covered(plan: Plan) -> Iterator[str]:
    privacy = plan.privacy
    yield (
        "The search for good settings, and any other training on the same rows: every trial is a charge of its own, "
        "and choosing by results that look at rows in clear is covered by none."
    )
    sent = "that a hospital takes part, whether its training fails, when it answers and how long it takes"
    if privacy.public_sizes:
        sent += ", and its number of rows, which is declared public (public_sizes)"
    yield f"What is sent in clear: {sent}."
    if privacy.mechanism is Mechanism.SKELLAM:
        yield "Which clients' updates are in a sum, which is public; and what a client that deviates gives away itself."
    yield "A patient who is in two hospitals: what the two release about them adds up."
    if privacy.unit is Unit.ROW:
        yield "A patient with several rows is not covered as such: what is hidden is one row."
    if privacy.evaluation is Disclosure.CLEAR:
        yield (
            "Evaluation, which is in clear: evaluation patients are not covered; if used for selection, neither is the "
            "selected model." + " A hospital as a whole is covered in training alone." * privacy.per_client
        )
    yield "A simulation's own figures and reports: they are the researcher's view, computed from rows in clear."


def _simulated(plan: Plan) -> Iterator[str]:
    """In what a simulation falls short of a claim that rests on masks and on the clients' own noise."""
    if plan.privacy.mechanism is not Mechanism.SKELLAM:
        return
    liars, reckoned = plan.simulation.attack.attackers, parameters_of(plan).known
    if liars > reckoned:
        yield (
            f"{liars} sites attack in this simulation and add no noise, more than the {reckoned} that are reckoned "
            "with in a sum: the claim need not hold for it."
        )
    if plan.simulation.cryptography is not Cryptography.REAL:
        yield (
            "No cryptography runs in this simulation (simulation.cryptography): the claim is that of hospitals which "
            "mask their updates under such a plan."
        )


def _research(plan: Plan) -> Iterator[str]:
    if plan.privacy.research_delta:
        yield (
            "research_delta is set, so that a delta above min(1e-5, 1/(10 n)) is accepted. What gives somebody's data "
            "away whole in one run of ten may keep such a claim: it is for research, not for a release."
        )
