"""How accurate models are under attack: the rule that "auto" picks, beside FedAvg and other rules.

Breast cancer (10 hospitals, 3 attackers) and digits (20 sites, 4 attackers), Dirichlet 0.5. A rule is picked on tuning
seeds and reported on others. `python benchmarks/accuracy.py --out DIR --page docs/accuracy.md` runs what is missing in
DIR (a line of JSON per run) and writes the page; about an hour on two cores, most of it for digits.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean

from wardround.plan import Plan
from wardround.plan_source import find_plan
from wardround.simulations.redteam.auto import resolve_auto
from wardround.simulations.redteam.candidates import Candidate, parse_candidate
from wardround.simulations.redteam.cells import HONEST, CellResult
from wardround.simulations.redteam.red_team import Grid, plan_grid, run_grid
from wardround.simulations.redteam.results_folder import ResultsFolder

FEDAVG = "off"
NEAR = ("scaled_sign_flip", "gaussian", "label_flip")
"""Attacks under which the pick should stay within three points of FedAvg without an attack; under all, within five."""
NEAR_POINTS, FAR_POINTS = 3.0, 5.0
SEEDS = (11, 12, 13, 14, 15)


@dataclass(frozen=True)
class Setting:
    """A plan, how many of its sites attack, and the rules that are reported beside the pick."""

    plan: str
    attackers: int
    rules: tuple[Candidate, ...]


_BESIDE = ("off", "median", "trimmed_mean", "krum", "multi_krum", "geometric_median", "nnm+geometric_median")
SETTINGS = (
    Setting("breast-cancer", 3, tuple(map(parse_candidate, _BESIDE))),
    # a run takes ten times as long
    Setting("digits", 4, tuple(map(parse_candidate, ("off", "median", "geometric_median")))),
)


@dataclass(frozen=True)
class Measured:
    """All results of a setting, by rule, attack and seed, and the label that was picked."""

    grid: Grid
    pick: str
    results: dict[tuple[str, str, int], CellResult]

    def values(self, rule: str, attack: str, metric: str) -> list[float]:
        """One value for each seed; a failed run is worth nothing."""
        found = (self.results[rule, attack, seed] for seed in self.grid.seeds)
        return [0.0 if one.value is None else one.metrics[metric] for one in found]

    def worst(self, rule: str, metric: str) -> tuple[float, str]:
        """The mean over seeds under the attack that does most harm, and that attack."""
        return min(
            (fmean(self.values(rule, attack, metric)), attack) for attack in self.grid.attacks if attack != HONEST
        )

    def loss(self, attack: str, metric: str) -> float:
        """Points that the pick loses under `attack` to FedAvg without one."""
        honest = fmean(self.values(FEDAVG, HONEST, metric))
        return 100 * (honest - fmean(self.values(self.pick, attack, metric)))


def measure(setting: Setting, out: Path) -> Measured:
    """Run what is missing in `out`."""
    plan = find_plan(setting.plan)
    plan = replace(plan, robust=replace(plan.robust, rule="auto", num_byzantine=setting.attackers))
    pick = picked(plan, out / f"{setting.plan}-pick.json")
    rules = list(dict.fromkeys((*setting.rules, parse_candidate(pick))))
    grid = plan_grid(plan, candidates=rules, attackers=setting.attackers, seeds=SEEDS)
    folder = ResultsFolder.open(out / setting.plan, grid)
    total, count = len(list(grid.cells())), len(folder.done)

    def keep(result: CellResult) -> None:
        nonlocal count
        count += 1
        folder.add(result)
        print(
            f"{setting.plan} {count}/{total} {result.rule} {result.attack} {result.value}", file=sys.stderr, flush=True
        )

    found = run_grid(grid, done=folder.done, on_result=keep)
    return Measured(grid, pick, {(one.rule, one.attack, one.seed): one for one in found})


def picked(plan: Plan, path: Path) -> str:
    """The label that "auto" picks on its tuning seeds; kept in `path`."""
    if not path.exists():
        tuned = resolve_auto(
            plan, on_tuning=lambda *done: print(f"{plan.name} tuning", *done, file=sys.stderr, flush=True)
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(tuned.table, indent=1))
    label: str = json.loads(path.read_text())["choice"]["rule"]
    return label


def metrics_of(found: Measured) -> tuple[str, ...]:
    return ("accuracy", "auc") if len(found.grid.plan.data.target.classes) == 2 else ("accuracy",)


def page(all_found: Sequence[Measured]) -> Iterator[str]:
    """The page, Markdown."""
    yield "# Accuracy under attack\n"
    yield (
        f"Written by `python benchmarks/accuracy.py --out DIR --page docs/accuracy.md`. {len(SEEDS)} seeds ({SEEDS[0]} "
        f"to {SEEDS[-1]}); a seed decides who holds which rows, the first model and the attackers. `auto` picked its "
        "rule on other seeds. Values are means over seeds, in brackets the worst seed; a run that fails counts as 0. "
        "They are of test rows, those of every hospital, the attackers' own included.\n"
    )
    for found in all_found:
        yield from section(found)


def section(found: Measured) -> Iterator[str]:
    plan, attackers, pick = found.grid.plan, found.grid.attackers, found.pick
    yield f"## {plan.name}: {plan.simulation.sites} sites, {attackers} attackers, {plan.rounds} rounds\n"
    yield f"`auto` picked `{pick}`.\n"
    for metric in metrics_of(found):
        yield f"### {metric}\n"
        yield from summary(found, metric)
        rules = list(dict.fromkeys((FEDAVG, pick, *(one.label for one in found.grid.candidates))))
        yield f"| attack | {' | '.join(f'`{rule}`' for rule in rules)} |"
        yield "|---|" + "---|" * len(rules)
        for attack in found.grid.attacks:
            cells = (shown(found.values(rule, attack, metric)) for rule in rules)
            yield f"| {'no attack' if attack == HONEST else f'`{attack}`'} | {' | '.join(cells)} |"
        yield ""
    yield from backdoors(found)


def summary(found: Measured, metric: str) -> Iterator[str]:
    honest = found.values(FEDAVG, HONEST, metric)
    yield f"FedAvg (`off`) without an attack: {shown(honest)}. Points that `{found.pick}` loses to it:\n"
    cost = found.loss(HONEST, metric)
    yield f"- without an attack: {cost:+.1f}"
    for attack in NEAR:
        yield f"- under `{attack}`: {verdict(found.loss(attack, metric), NEAR_POINTS)}"
    _, attack = found.worst(found.pick, metric)
    yield f"- under its worst attack, `{attack}`: {verdict(found.loss(attack, metric), FAR_POINTS)}"
    ranked = sorted(((found.worst(one.label, metric), one.label) for one in found.grid.candidates), reverse=True)
    (value, attack), best = ranked[0]
    yield f"- the best worst case of all rules on these seeds: `{best}`, {value:.3f} under `{attack}`\n"


def verdict(loss: float, most: float) -> str:
    return f"{loss:+.1f} (asked for: at most {most:g}{'' if loss <= most else '; **missed**'})"


def shown(values: Iterable[float]) -> str:
    values = list(values)
    return f"{fmean(values):.3f} ({min(values):.3f})"


def backdoors(found: Measured) -> Iterator[str]:
    rules = [one.label for one in found.grid.candidates]
    rows = []
    for attack in found.grid.attacks:
        cells = [[found.results[rule, attack, seed].backdoor for seed in found.grid.seeds] for rule in rules]
        if any(value is not None for cell in cells for value in cell):
            rows.append(
                (
                    attack,
                    [
                        fmean(v for v in cell if v is not None) if any(v is not None for v in cell) else None
                        for cell in cells
                    ],
                )
            )
    if rows:
        yield "### Backdoors: share of test rows with the trigger that get the attackers' label\n"
        yield f"| attack | {' | '.join(f'`{rule}`' for rule in rules)} |"
        yield "|---|" + "---|" * len(rules)
        for attack, means in rows:
            yield f"| `{attack}` | {' | '.join('–' if mean is None else f'{mean:.2f}' for mean in means)} |"
        yield ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for results; what is there is not run again")
    parser.add_argument("--page", type=Path, help="write the tables here, not to standard output")
    parser.add_argument("--only", choices=[setting.plan for setting in SETTINGS], help="one data set")
    arguments = parser.parse_args()
    found = [measure(setting, arguments.out) for setting in SETTINGS if arguments.only in (None, setting.plan)]
    text = "\n".join(page(found))
    if arguments.page:
        arguments.page.write_text(text, encoding="utf-8")
    else:
        print(text)


if __name__ == "__main__":
    main()
