"""How accurate models are when secure aggregation, privacy and a robust rule hold at once, beside each left out.

`python benchmarks/protected_accuracy.py --out FILE --page docs/protected-accuracy.md` runs what is missing in FILE (a
line of JSON per run) and writes the page; about a quarter of an hour on two cores. Settings were chosen on other seeds
(101 to 103).
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

from kept_runs import Cell, Found, measure

from wardround.plan import Plan
from wardround.plan_source import find_plan
from wardround.simulations.simulate import simulate

SEEDS = tuple(range(11, 21))
EPSILONS = ("8", "3")
DELTA = "1e-5"
Settings = tuple[str, ...]

_QUIET = ("simulation.baselines=false", "simulation.bootstrap=0", "simulation.workers=1")
_OPEN = ("protection=", "simulation.cryptography=")
_NO_RULE = ("robust=",)
_NOBODY_LOST = ("simulation.dropout=0",)
_LOST = ("cohort.min_replies=10",)  # what a plan without groups needs beside drop-outs
_ATTACK = ("simulation.attack.name=scaled_sign_flip", "simulation.attack.attackers=1")
_NO_NOISE = ("privacy=", "training.steps=", "training.epochs=2", "training.lr=0.3", "rounds=30")
_CLIENT = ("privacy.unit=client", f"privacy.delta={DELTA}")
_TRIMMED = ("robust.rule=trimmed_mean", "robust.num_byzantine=1")

HOSPITALS: dict[str, tuple[str, Settings]] = {
    "plain": ("nothing; mean of clear updates", (*_NO_NOISE, *_OPEN, *_NO_RULE, *_NOBODY_LOST)),
    "attacked": (
        "nothing; mean of clear updates; one attacker, 20 % drop-outs",
        (*_NO_NOISE, *_OPEN, *_NO_RULE, *_LOST, *_ATTACK),
    ),
    "masked": (
        "updates, by masking; 4 groups, trimmed mean; one attacker, 20 % drop-outs",
        (*_NO_NOISE, *_ATTACK),
    ),
    "rows": ("a row (add-remove); mean of clear updates", (*_OPEN, *_NO_RULE, *_NOBODY_LOST)),
    "all-rows": (
        "a row (add-remove), and updates, by masking; 4 groups, trimmed mean; one attacker, 20 % drop-outs",
        _ATTACK,
    ),
    "all-clients": (
        "a client (zero-out) by Skellam noise, and updates, by masking; 4 groups, trimmed mean; one attacker, "
        "20 % drop-outs",
        (
            *_CLIENT,
            "privacy.sampling=",
            "privacy.public_sizes=false",
            "privacy.clip_norm=0.3",
            "privacy.mechanism=skellam",
            "clipping.clip_norm=",
            "training.steps=",
            "training.epochs=2",
            "training.lr=0.1",
            "rounds=8",
            *_ATTACK,
        ),
    ),
}
_MANY = ("simulation.cryptography=accounting",)
_ONE_GROUP = ("protection.groups=1",)
_CENTRAL = (*_OPEN, "privacy.mechanism=gaussian")

CLIENTS: dict[str, tuple[str, Settings]] = {
    "plain": ("nothing; mean of clear updates", ("privacy=", *_OPEN)),
    "central": ("a client (zero-out) from all but the server, which adds the noise", _CENTRAL),
    "one-group": ("a client (zero-out) by Skellam noise, and updates, by masking; one group", _ONE_GROUP),
    "ten-groups": ("a client (zero-out) by Skellam noise, and updates, by masking; 10 groups", ()),
    "ten-groups-robust": (
        "the same, trimmed mean; one attacker, 10 % drop-outs",
        ("protection.dropout=0.25", *_TRIMMED, *_ATTACK, "simulation.dropout=0.1"),
    ),
}
TABLES = {"hospitals": ("digits-protected", (), HOSPITALS), "clients": ("digits-clients", _MANY, CLIENTS)}
_UNPROTECTED = {"plain", "attacked", "masked"}


def plan_of(cell: Cell) -> Plan:
    """The plan of one run."""
    table, kind, epsilon, seed = cell
    shipped, base, kinds = TABLES[table]
    settings = [*_QUIET, *base, *kinds[kind][1], f"seed={seed}"]
    if epsilon != "off":
        settings.append(f"privacy.epsilon={epsilon}")
    return find_plan(shipped).override(settings)


def cells() -> Iterator[Cell]:
    for table, (_, _, kinds) in TABLES.items():
        for kind in kinds:
            for epsilon in ("off",) if kind in _UNPROTECTED else EPSILONS:
                for seed in SEEDS:
                    yield table, kind, epsilon, seed


def run(cell: Cell) -> dict[str, float]:
    """Accuracy of the released model on all test rows, and how many rounds were void."""
    result = simulate(plan_of(cell))
    assert result.comparison is not None
    accuracy = result.comparison.overall["federated"]["accuracy"].value
    assert accuracy is not None
    return {"accuracy": accuracy, "void": sum(bool(line["void"]) for line in result.rounds)}


def page(found: Found) -> Iterator[str]:
    """The page, Markdown."""
    yield "# Accuracy when all protections hold at once\n"
    yield (
        "Written by `python benchmarks/protected_accuracy.py --out FILE --page docs/protected-accuracy.md`. "
        "Handwritten digits (scikit-learn's), a linear classifier of 650 parameters, accuracy on all test rows: mean "
        f"(lowest to highest) of {len(SEEDS)} seeds, {SEEDS[0]} to {SEEDS[-1]}. A seed decides who holds which rows, "
        "who attacks, who drops out, and the first model; noise, masks and groups follow from no seed. Every epsilon "
        f"is at delta {DELTA}; unit and neighbouring relation stand in each row. The attacker sends its update times "
        "-5 (scaled_sign_flip). Settings were chosen on other seeds, a choice that no claim here covers.\n"
    )
    yield "## 20 hospitals\n"
    yield (
        "The shipped plan `digits-protected` with an attacker, and what is left when parts are taken away; `wardround "
        "simulate digits-protected --attack scaled_sign_flip --attackers 1` is one run of all at once. Under masking "
        "the server learns four sums of at least three updates each, and one hospital may help it to spy. The trimmed "
        "mean bears one bad group, which one attacker is enough to make.\n"
    )
    yield from _table(found, "hospitals")
    yield (
        "\nClient-level privacy among 20 hospitals is useless, as expected: noise that hides one of 20 drowns the "
        "rest. With so few, hide rows or patients.\n"
    )
    yield "## 200 clients\n"
    yield (
        "The shipped plan `digits-clients`: each has seven training rows. In ten groups the noise of each must hide a "
        "client alone, so that all together hold ten times the variance of one group. These runs add the same integers "
        'up in the clear (`simulation.cryptography = "accounting"`), which changes no figure; without that key masks '
        "are real.\n"
    )
    yield from _table(found, "clients")


def _table(found: Found, table: str) -> Iterator[str]:
    yield "| what is hidden, and what happens | epsilon 8 | epsilon 3 | no privacy |"
    yield "|---|---|---|---|"
    for kind, (told, _) in TABLES[table][2].items():
        shown = [_shown(found, table, kind, epsilon) for epsilon in (*EPSILONS, "off")]
        yield f"| {told} | {' | '.join(shown)} |"


def _shown(found: Found, table: str, kind: str, epsilon: str) -> str:
    cells = [found.get((table, kind, epsilon, str(seed))) for seed in SEEDS]
    values = [cell["accuracy"] for cell in cells if cell is not None]
    if not values:
        return ""
    void = sum(cell["void"] for cell in cells if cell is not None)
    lost = f"; void rounds: {void:.0f}" if void else ""
    return f"{fmean(values):.3f} ({min(values):.3f} to {max(values):.3f}{lost})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="file of results; what is there is not run again")
    parser.add_argument("--page", type=Path, help="write the tables here, not to standard output")
    arguments = parser.parse_args()
    text = "\n".join(page(measure(arguments.out, cells(), run))) + "\n"
    if arguments.page:
        arguments.page.write_text(text, encoding="utf-8")
    else:
        print(text)


if __name__ == "__main__":
    main()
