"""What the rounds of a run tell of contributions and of the sites behind them."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from wardround.contribution import Verdict
from wardround.server.report.run import Json, verdict_of

__all__ = ["Observation", "SiteEvidence", "came", "observations", "quarantines", "site_evidence"]

_FIGURES = re.compile(r"(?<![\w-])[-+−]?\d[\d.]*(?:e[-+]?\d+)?")
_SCORE = re.compile(r" \(score [^)]*\)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """One contribution of one round. `share` is its part of the aggregate, 1 being an equal one; None: not known."""

    round: int
    members: tuple[str, ...]
    norm: float | None
    cosine: float | None
    share: float | None
    verdict: Verdict
    reason: str
    flags: tuple[str, ...]

    @property
    def plain(self) -> bool:
        """Whether it was accepted and no detector found anything."""
        return self.verdict is Verdict.ACCEPTED and not self.flags


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteEvidence:
    """All contributions of one site, or of several; `share` as in `Observation`, on average."""

    contributions: int = 0
    verdicts: Mapping[Verdict, int] = field(default_factory=dict)
    flagged: int = 0
    share: float | None = None
    reason: str = ""
    """The most frequent reason, figures left out."""

    @property
    def conspicuous(self) -> int:
        """How often something was found or decided against it."""
        return sum(n for verdict, n in self.verdicts.items() if verdict is not Verdict.ACCEPTED) + self.flagged


def came(line: Json) -> list[str]:
    """The sites whose update came in the round, refused or not."""
    absent = {absence["site"] for absence in line["absences"]}
    return [site for site in line["cohort"] if site not in absent]


def observations(lines: Sequence[Json]) -> Iterator[Observation]:
    """Every contribution that the lines tell of. Lines of very many sites leave out what was plainly accepted."""
    for line in lines:
        evidence = line["evidence"]
        seen = [one for one in evidence if verdict_of(one) is not Verdict.REFUSED]
        weights = sum(one.get("weight") or 0.0 for one in seen)
        complete = sum(len(one["members"]) for one in evidence) >= len(came(line))
        for one in evidence:
            verdict = verdict_of(one)
            known = complete and weights > 0 and verdict is not Verdict.REFUSED
            yield Observation(
                round=line["round"],
                members=tuple(one["members"]),
                norm=one.get("norm"),
                cosine=one.get("cosine"),
                share=(one.get("weight") or 0.0) / weights * len(seen) if known else None,
                verdict=verdict,
                reason=one.get("reason", ""),
                flags=tuple(one.get("flags", ())),
            )


def site_evidence(lines: Sequence[Json], groups: Mapping[str, str] | None = None) -> dict[str, SiteEvidence]:
    """What there is of each site that contributed; with `groups`, of each group that it names sites to be in."""

    def group(site: str) -> str:
        return site if groups is None else groups[site]

    contributions = Counter(group(site) for line in lines for site in came(line))
    verdicts: dict[str, Counter[Verdict]] = {name: Counter() for name in contributions}
    reasons: dict[str, Counter[str]] = {name: Counter() for name in contributions}
    shares: dict[str, list[float]] = {name: [0, 0.0] for name in contributions}
    flagged: Counter[str] = Counter()
    for one in observations(lines):
        causes = [] if one.plain else [_without_figures(part) for part in one.reason.split("; ") if part]
        for name in map(group, one.members):
            verdicts.setdefault(name, Counter())[one.verdict] += 1
            flagged[name] += bool(one.flags)
            reasons.setdefault(name, Counter()).update(causes)
            if one.share is not None:
                sums = shares.setdefault(name, [0, 0.0])
                sums[0] += 1
                sums[1] += one.share
    return {
        name: SiteEvidence(
            contributions=contributions[name],
            verdicts=verdicts[name],
            flagged=flagged[name],
            share=shares[name][1] / shares[name][0] if name in shares and shares[name][0] else None,
            reason=reasons[name].most_common(1)[0][0] if reasons[name] else "",
        )
        for name in verdicts
    }


def _without_figures(reason: str) -> str:
    """The reason as it is the same in every round."""
    return _FIGURES.sub("…", _SCORE.sub("", reason))


def quarantines(lines: Sequence[Json]) -> dict[str, list[tuple[int, int | None]]]:
    """For each site that ever was in quarantine, after which rounds: the first and the last, None if to the end."""
    found: dict[str, list[tuple[int, int | None]]] = {}
    inside: set[str] = set()
    for line in lines:
        now = set(line.get("quarantined", ()))
        for site in sorted(now - inside):
            found.setdefault(site, []).append((line["round"], None))
        for site in inside - now:
            found[site][-1] = (found[site][-1][0], line["round"] - 1)
        inside = now
    return found
