"""Heat maps of rules against attacks, as tables: the numbers stand in the cells, and no script draws them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from wardround.server.report.markup import key, text
from wardround.server.report.wording import count, number
from wardround.simulations.report.redteam_table import NO_ATTACK, Outcome, RedTeam

__all__ = ["backdoor_map", "named", "score_map"]

# From pale to dark, so that they also differ in grey and to every kind of colour vision: colour, colour of the number.
_SHADES = (
    ("#e6f2fa", "#1c2733"),
    ("#ffe9b8", "#1c2733"),
    ("#fdc878", "#1c2733"),
    ("#f39a45", "#1c2733"),
    ("#b8480c", "#ffffff"),
    ("#571b00", "#ffffff"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scale:
    """Where the shades change, from good to bad; `factor` and `unit` say it for people, `what` what grows."""

    steps: tuple[float, ...]
    factor: float
    unit: str
    what: str

    def shade(self, value: float) -> tuple[str, str]:
        return _SHADES[sum(value > step + 1e-9 for step in self.steps)]

    def legend(self) -> str:
        """What the shades mean, as HTML."""
        edges = [f"{self.factor * step:g}" for step in self.steps]
        between = [f"{low} to {high}{self.unit}" for low, high in pairwise(edges)]
        meanings = [f"at most {edges[0]}{self.unit} {self.what}", *between, f"over {edges[-1]}{self.unit}"]
        return key((color, meaning) for (color, _), meaning in zip(_SHADES, meanings, strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cell:
    """What stands in a cell and what pointing at it tells; `value` decides its shade, None: nothing is known."""

    shown: str
    more: str
    value: float | None
    worst: bool = False


_BELOW = "worse than the plain mean without an attack"
_LOST = (0.01, 0.03, 0.05, 0.10, 0.25)
_SHARES = _Scale(steps=_LOST, factor=100, unit=" pp", what=_BELOW)
_AREAS = _Scale(steps=_LOST, factor=1, unit="", what=_BELOW)
_ERRORS = _Scale(steps=(0.02, 0.05, 0.10, 0.25, 1.00), factor=100, unit=" %", what=_BELOW)
_HITS = _Scale(steps=(0.05, 0.10, 0.25, 0.50, 0.75), factor=100, unit=" %", what="of triggered rows")


def named(attack: str) -> str:
    """The attack's name as people read it."""
    return "no attack" if attack == NO_ATTACK else attack


def score_map(found: RedTeam) -> str:
    """HTML: the metric's mean over seeds, the worst case of each rule framed; rules that could not be run come last."""
    scale = _ERRORS if not found.higher else _SHARES if found.metric == "accuracy" else _AREAS
    if found.baseline is None:
        scale = replace(scale, what="worse than the best figure here")

    def cell(rule: str, attack: str) -> _Cell:
        one, worst = found.outcome(rule, attack), found.worst_of(rule)
        if one.mean is None:
            return _Cell(shown="failed" if one.seeds else "–", more=_told(found, one), value=None)
        shown = number(found.metric, one.mean).removesuffix(" %")
        framed = worst == (one.mean, attack)
        return _Cell(shown=shown, more=_told(found, one), value=found.loss(one.mean), worst=framed)

    unable = [(rule, f"not run: {why}") for rule, why in found.why_not.items()]
    return scale.legend() + _map(found, found.attacks, cell, scale, unable)


def backdoor_map(found: RedTeam) -> str:
    """HTML: how often the planted trigger works; empty when no backdoor was tried."""
    measured = {attack for (_, attack), one in found.outcomes.items() if one.hits is not None}
    attacks = [attack for attack in (NO_ATTACK, *found.backdoors) if attack in measured]
    if not measured.intersection(found.backdoors):
        return ""

    def cell(rule: str, attack: str) -> _Cell:
        hits = found.outcome(rule, attack).hits
        if hits is None:
            return _Cell(shown="–", more="not measured", value=None)
        return _Cell(shown=f"{100 * hits:.0f} %", more="mean over seeds", value=hits)

    return _HITS.legend() + _map(found, attacks, cell, _HITS, ())


def _told(found: RedTeam, one: Outcome) -> str:
    if not one.seeds:
        return "not tried"
    told = [] if one.worst is None else [f"worst of {count(one.seeds, 'seed')}: {number(found.metric, one.worst)}"]
    if one.failed:
        told.append(f"{one.failed} of {count(one.seeds, 'seed')} failed" + (f" ({one.error})" if one.error else ""))
    if one.void_rounds:
        told.append(f"{count(one.void_rounds, 'round')} void")
    return "; ".join(told)


def _map(
    found: RedTeam,
    attacks: Sequence[str],
    cell_of: Callable[[str, str], _Cell],
    scale: _Scale,
    unable: Sequence[tuple[str, str]],
) -> str:
    chosen = None if found.choice is None else found.choice["rule"]
    head = "".join(f'<th scope="col"><span>{text(named(attack))}</span></th>' for attack in attacks)
    rows = []
    for rule in found.rules:
        mark = (' class="chosen"', " ✓") if rule == chosen else ("", "")
        cells = "".join(_html(rule, attack, cell_of(rule, attack), scale) for attack in attacks)
        rows.append(f'<tr><th scope="row"{mark[0]}>{text(rule)}{mark[1]}</th>{cells}</tr>')
    for rule, why in unable:
        cells = f'<td class="unable" colspan="{len(attacks)}">{text(why)}</td>'
        rows.append(f'<tr><th scope="row">{text(rule)}</th>{cells}</tr>')
    return (
        f'<div class="scroll heat"><table><thead><tr><td></td>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _html(rule: str, attack: str, cell: _Cell, scale: _Scale) -> str:
    title = text(f"{rule}, {named(attack)}: {cell.shown}; {cell.more}")
    if cell.value is None:
        return f'<td class="failed" title="{title}">{text(cell.shown)}</td>'
    paper, ink = scale.shade(cell.value)
    worst = ' class="worst"' if cell.worst else ""
    return f'<td{worst} style="background:{paper};color:{ink}" title="{title}">{text(cell.shown)}</td>'
