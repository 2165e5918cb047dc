"""The red team's page: what it recommends, which numbers stand where, that it is static and keeps names as text."""

import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import pytest

from tests.server.report.parsed_page import Page, check_nothing_is_loaded
from wardround.simulations.report.redteam import render_redteam
from wardround.simulations.report.redteam_table import RedTeam

EVIL = "<img src=x onerror=alert(1)></script><b>&amp;\"'{{%{x}}}"
# by rule and attack, one value for each of the seeds 11 and 12
SCORES: Mapping[str, Mapping[str, tuple[float | None, float | None]]] = {
    "mean": {"none": (0.98, 0.98), "sign_flip": (0.50, 0.30), "dba": (0.97, 0.97)},
    "krum": {"none": (0.90, 0.90), "sign_flip": (0.88, 0.88), "dba": (0.89, 0.87)},
    "nnm + median": {"none": (0.97, 0.97), "sign_flip": (0.96, 0.94), "dba": (0.96, 0.96)},
}


def table_of(
    scores: Mapping[str, Mapping[str, tuple[float | None, float | None]]] = SCORES, **changes: Any
) -> dict[str, Any]:
    """As redteam.json; the backdoor of `dba` works in a quarter of the rows."""
    attacks = [name for name in next(iter(scores.values())) if name != "none"]
    cells = [
        {
            "rule": rule,
            "attack": attack,
            "seed": seed,
            "value": value,
            "metrics": {} if value is None else {"auc": value},
            "backdoor": 0.25 if attack == "dba" else None,
            "void_rounds": 2 if attack == "sign_flip" else 0,
            "error": "" if value is not None else "no round gave an update",
        }
        for rule, row in scores.items()
        for attack, values in row.items()
        for seed, value in zip((11, 12), values, strict=True)
    ]
    rules = [{"name": r, "pre": r.split(" + ")[:-1], "rule": r.split(" + ")[-1], "why_not": ""} for r in scores]
    return {
        "plan": "breast-cancer",
        "digest": "ab" * 32,
        "created": "2026-02-03T04:05:06+00:00",
        "metric": "auc",
        "higher_is_better": True,
        "sites": 10,
        "attackers": 3,
        "rounds": 40,
        "seeds": [11, 12],
        "baseline": {"mean": 0.98, "worst": 0.975, "seeds": {"11": 0.985, "12": 0.975}},
        "rules": [*rules, {"name": "bulyan", "pre": [], "rule": "bulyan", "why_not": "expected more, got 3 of 10"}],
        "attacks": [{"name": name, "summary": f"about {name}", "backdoor": name == "dba"} for name in attacks],
        "cells": cells,
        "choice": {"rule": "nnm + median", "why": "best worst case.", "worst": 0.95, "worst_attack": "sign_flip"},
    } | changes


def drawn(**changes: Any) -> Page:
    return Page(render_redteam(table_of(**changes)))


def cells_of(shown: Page) -> dict[tuple[str, str], dict[str, str | None]]:
    """Cells of the heat maps by what pointing at them begins with, the score's before the backdoor's."""
    found: dict[tuple[str, str], dict[str, str | None]] = {}
    for tag, attributes in shown.tags:
        if tag == "td" and (title := attributes.get("title")):
            rule, attack = re.split(r", |: ", title)[:2]
            found.setdefault((rule, attack), attributes)
    return found


def paper(attributes: Mapping[str, str | None]) -> str:
    return (attributes["style"] or "").split(";")[0]


def test_the_headline_says_which_rule_its_worst_case_and_its_cost() -> None:
    text = drawn().text
    assert "Take nnm + median : in its worst case over 2 attacks (sign_flip) it reaches AUC 0.950" in text
    assert "With no attack it reaches 0.970, against 0.980 of the plain mean (−0.010)." in text
    assert "3 of 10 hospitals attacked in 40 rounds of training; 2 seeds, 18 training runs." in text


def test_rules_are_ordered_by_their_worst_case() -> None:
    assert RedTeam(table_of()).rules == ["nnm + median", "krum", "mean"]


def test_an_error_is_better_when_lower() -> None:
    scores = {
        "mean": {"none": (50.0, 50.0), "sign_flip": (90.0, 110.0)},
        "median": {"none": (51.0, 51.0), "sign_flip": (54.0, 56.0)},
    }
    changes = {"metric": "rmse", "higher_is_better": False, "baseline": {"mean": 50.0, "worst": 52.0, "seeds": {}}}
    choice = {"rule": "median", "why": "w", "worst": 55.0, "worst_attack": "sign_flip"}
    shown = Page(render_redteam(table_of(scores, choice=choice, **changes)))
    assert RedTeam(table_of(scores, choice=choice, **changes)).rules == ["median", "mean"]
    assert "With no attack it reaches 51.0, against 50.0 of the plain mean (+1.00)." in shown.text
    assert "lower is better" in shown.text
    cells = cells_of(shown)
    assert cells["median", "sign_flip"]["class"] == cells["mean", "sign_flip"]["class"] == "worst"
    assert "worst of 2 seeds: 110" in (cells["mean", "sign_flip"]["title"] or "")
    assert "at most 2 % worse than the plain mean" in shown.text


def test_a_cell_holds_the_mean_and_tells_the_worst_seed() -> None:
    cells = cells_of(drawn())
    assert cells["nnm + median", "sign_flip"]["title"] == (
        "nnm + median, sign_flip: 0.950; worst of 2 seeds: 0.940; 4 rounds void"
    )
    assert cells["nnm + median", "sign_flip"]["class"] == "worst"
    assert "class" not in cells["nnm + median", "dba"]
    assert cells["krum", "no attack"]["title"] == "krum, no attack: 0.900; worst of 2 seeds: 0.900"


@pytest.mark.parametrize(
    ("value", "shade"), [(0.99, 0), (0.97, 0), (0.96, 1), (0.94, 2), (0.90, 3), (0.75, 4), (0.70, 5)]
)
def test_shades_follow_what_is_lost_against_the_plain_mean(value: float, shade: int) -> None:
    shades = {paper(cell) for cell in cells_of(drawn()).values()}
    assert all(re.fullmatch("background:#[0-9a-f]{6}", one) for one in shades)
    ladder = [0.98, 0.96, 0.94, 0.90, 0.75, 0.70]
    scores = {"median": {"none": (value, value)} | {f"a{n}": (x, x) for n, x in enumerate(ladder)}}
    cells = cells_of(Page(render_redteam(table_of(scores, choice=None))))
    legend = [paper(cells["median", f"a{n}"]) for n in range(6)]
    assert len(set(legend)) == 6
    assert paper(cells["median", "no attack"]) == legend[shade]


def test_darker_is_worse_and_numbers_can_be_read() -> None:
    ladder = [0.98, 0.96, 0.94, 0.90, 0.75, 0.70]
    scores = {"median": {f"a{n}": (x, x) for n, x in enumerate(ladder)}}
    cells = cells_of(Page(render_redteam(table_of(scores, choice=None))))
    styles = [re.findall("#([0-9a-f]{6})", cells["median", f"a{n}"]["style"] or "") for n in range(6)]
    papers = [luminance(one[0]) for one in styles]
    assert all(after < before for before, after in pairwise(papers)) and papers[-1] < 0.05
    for one in styles:
        light, dark = sorted(map(luminance, one), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5  # WCAG 2.1, 1.4.3


def luminance(color: str) -> float:
    parts = [int(color[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_a_failed_run_counts_as_the_worst_case() -> None:
    scores = dict(SCORES) | {"nnm + median": {"none": (0.97, 0.97), "sign_flip": (None, 0.9), "dba": (0.96, 0.96)}}
    found = table_of(scores)
    assert RedTeam(found).rules == ["krum", "mean", "nnm + median"]
    shown = Page(render_redteam(found))
    cells = cells_of(shown)
    assert cells["nnm + median", "sign_flip"]["class"] == "failed"
    assert "1 of 2 seeds failed (no round gave an update)" in (cells["nnm + median", "sign_flip"]["title"] or "")
    assert "Chosen rule, worst attack fails sign_flip" in shown.text
    assert "nnm + median 0.970 −0.010 0.965 – 0.960 4 1 sign_flip" in shown.text
    assert "sign_flip about sign_flip krum: 0.880 nnm + median: fails" in shown.text


def test_when_every_rule_fails_somewhere_or_the_plain_mean_does_the_page_says_so() -> None:
    scores: dict[str, dict[str, tuple[float | None, float | None]]]
    scores = {"mean": {"none": (None, None), "sign_flip": (None, None)}, "median": {"none": (0.9, 0.9)}}
    choice = {"rule": "median", "why": "w", "worst": None, "worst_attack": "sign_flip"}
    nothing = {"mean": None, "worst": None, "seeds": {"11": None, "12": None}}
    shown = Page(render_redteam(table_of(scores, choice=choice, baseline=nothing)))
    assert "(sign_flip) a training run fails, as with every other rule." in shown.text
    assert "Plain mean, no attack –" in shown.text
    assert "at most 0.01 worse than the best figure here" in shown.text
    assert cells_of(shown)["mean", "sign_flip"]["class"] == "failed"


def test_rules_that_could_not_be_run_say_why() -> None:
    assert "bulyan not run: expected more, got 3 of 10" in drawn().text


def test_backdoors_have_a_map_of_their_own_and_only_if_there_are_any() -> None:
    shown = drawn()
    assert "how often the planted trigger works" in shown.text
    assert shown.text.count("25 %") >= 3
    without = table_of({rule: {k: v for k, v in row.items() if k != "dba"} for rule, row in SCORES.items()})
    assert "planted trigger" not in Page(render_redteam(without)).text


def test_every_attack_is_explained_with_its_best_and_worst_rule() -> None:
    assert "sign_flip about sign_flip nnm + median: 0.950 mean: 0.400" in drawn().text
    assert "dba about dba (backdoor) mean: 0.970 krum: 0.880" in drawn().text


def test_every_rule_has_its_means_and_its_worst_seed() -> None:
    assert "nnm + median 0.970 −0.010 0.960 0.950 0.940 4 0 sign_flip" in drawn().text


def test_how_the_choice_was_made_and_what_is_not_shown() -> None:
    text = drawn().text
    assert "nnm + median: best worst case." in text
    assert "11: 0.985, 12: 0.975" in text
    assert "it was chosen because it looked best on these seeds" in text
    assert "More than 3 attackers" in text


def test_without_a_choice_none_is_recommended() -> None:
    assert "No rule is recommended" in drawn(choice=None).text


def test_shares_are_in_per_cent() -> None:
    text = drawn(metric="accuracy").text
    assert "it reaches accuracy 95.0 %" in text
    assert "97.0 %, against 98.0 % of the plain mean (−1.0 pp)" in text
    assert "at most 1 pp worse" in text


def test_the_page_has_no_script_and_loads_nothing() -> None:
    shown = drawn()
    check_nothing_is_loaded(shown)
    assert not shown.scripts
    assert "script" not in (shown.policy or "") and not any(name.startswith("on") for _, a in shown.tags for name in a)
    levels = [int(tag[1]) for tag, _ in shown.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and all(after <= before + 1 for before, after in pairwise(levels))
    assert shown.sections == ["map", "rules", "attacks", "choice", "limits"]


def test_hostile_names_stay_text() -> None:
    scores = {EVIL: {"none": (0.9, None), EVIL: (0.8, 0.8)}}
    table = table_of(scores, plan=EVIL, digest=EVIL, created=EVIL)
    table["choice"] = {"rule": EVIL, "why": EVIL, "worst": 0.8, "worst_attack": EVIL}
    table["rules"].append({"name": "x", "pre": [], "rule": "x", "why_not": EVIL})
    table["attacks"] = [{"name": EVIL, "summary": EVIL, "backdoor": True}]
    for cell in table["cells"]:
        cell["error"] = EVIL
        cell["backdoor"] = 0.5
    text = render_redteam(table)
    assert "<img" not in text and "<b>" not in text
    assert not Page(text).scripts


def test_a_large_table_stays_small() -> None:
    attacks = {"none": (0.9, 0.9)} | {f"attack_{n}": (0.8, 0.7) for n in range(30)}
    text = render_redteam(table_of({f"rule_{n}": attacks for n in range(40)}, choice=None))
    assert len(text.encode()) < 1_000_000


def test_a_page_is_the_same_each_time() -> None:
    assert render_redteam(table_of()) == render_redteam(table_of())
