"""The report's section on bad updates: whom it names, what it counts, that old and hostile lines stay readable."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from tests.server.report.parsed_page import Page, check_nothing_is_loaded, strings_of
from tests.server.report.runs import lines_of, names_of, plan_of, run_of
from wardround.contribution import Verdict
from wardround.server.report import ReportedRun, page, render
from wardround.server.report.evidence import observations, quarantines, site_evidence
from wardround.server.report.evidence_plots import contributions_plot, suspicion_plot, verdict_map
from wardround.server.report.robustness import robustness

EVIL = "<img src=x onerror=alert(1)></script><b>&amp;\"'{{%{x}}}"
KRUM = {"rule": "krum", "num_byzantine": 1, "pre": ["nnm"], "detectors": ["norm"]}


@pytest.fixture(autouse=True)
def without_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "_plotly", lambda: "")


def evidence(site: str | Sequence[str], verdict: str = "accepted", **changes: Any) -> dict[str, Any]:
    members = [site] if isinstance(site, str) else list(site)
    table = {"members": members, "weight": 1.0, "norm": 1.0, "cosine": 0.9, "score": 0.1, "verdict": verdict}
    table |= {"reason": "", "flags": []}
    if verdict == "refused":
        table |= {"weight": 0.0, "norm": None, "cosine": None, "score": None, "reason": "expected finite values"}
    return table | changes


def attacked_run(
    names: Sequence[str] = (), rounds: int = 4, *, said: Callable[[int, str], dict[str, Any]] | None = None
) -> ReportedRun:
    """The first site attacks from round 2 on and is refused once, then rejected and flagged, at last quarantined."""
    names = names or names_of(5)
    plan = plan_of(
        "binary",
        len(names),
        rounds,
        robust=KRUM,
        simulation={"sites": len(names), "attack": {"name": "sign_flip", "attackers": 1, "from_round": 2}},
    )
    lines = lines_of(names, rounds, {"auc": 0.9})

    def honest(number: int, site: str) -> dict[str, Any]:
        if site != names[0] or number == 1:
            return evidence(site)
        if number == 2:
            return evidence(site, "refused")
        reason = f"norm: {number}.5 times the median; the rule took nothing of it (score {number})"
        return evidence(site, "rejected", weight=0.0, norm=9.0, cosine=-0.5, flags=["norm"], reason=reason)

    for line in lines:
        line["evidence"] = [(said or honest)(line["round"], site) for site in line["cohort"]]
        line |= {"aggregation": "", "reputation": {}, "quarantined": [], "notes": []}
    lines[2]["reputation"] = {names[0]: 0.4}
    lines[3]["reputation"] = {names[0]: 0.75}
    lines[3]["quarantined"] = [names[0]]
    return replace(run_of(names=names, rounds=rounds, lines=lines, plan=plan), attackers=(names[0],))


def section_of(run: ReportedRun) -> Page:
    found = robustness(run)
    assert found is not None
    return Page(found.body)


def test_a_run_without_a_rule_an_attack_or_a_suspicion_has_no_such_section() -> None:
    assert robustness(run_of()) is None
    assert "robustness" not in Page(render(run_of())).sections


@pytest.mark.parametrize(
    "found", [{"verdict": "refused"}, {"flags": ["norm"]}, {"verdict": "rejected"}], ids=["refused", "flagged", "old"]
)
def test_without_a_rule_the_section_is_there_when_something_was_found(found: dict[str, Any]) -> None:
    run = run_of()
    entry = {"members": ["site-00001"], "weight": 1.0, "norm": 2.0, "verdict": "accepted", "reason": ""} | found
    lines = [dict(line) for line in run.lines]
    lines[0]["evidence"] = [entry]
    shown = section_of(replace(run, lines=lines))
    assert "No rule protected the model" in shown.text
    assert "1 (4.2 %) refused" in shown.text or "flagged 1 (4.2 %)" in shown.text


def test_a_rule_that_found_nothing_is_described_all_the_same() -> None:
    run = run_of(plan=plan_of("binary", 5, 6, robust=KRUM, simulation={"sites": 5}), names=names_of(5))
    shown = section_of(run).text
    assert "combined by nnm and krum, set up so that up to 1 of 5 contributions" in shown
    assert "num_byzantine < n / 2" in shown
    assert "none refused, none rejected and none down-weighted" in shown
    assert "attacked" not in shown


def test_the_section_stands_in_the_report_and_loads_nothing() -> None:
    shown = Page(render(attacked_run()))
    assert shown.sections[4:6] == ["participation", "robustness"]
    assert "In this simulation, 1 of 5 hospitals attacked from round 2 on (sign_flip" in shown.text
    check_nothing_is_loaded(shown)
    levels = [int(tag[1]) for tag, _ in shown.tags if re.fullmatch("h[1-6]", tag)]
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_verdicts_are_counted_in_words_by_group_and_by_site() -> None:
    shown = section_of(attacked_run()).text
    assert "Of 20 updates, 1 (5.0 %) refused, 2 (10.0 %) rejected and none down-weighted; detectors flagged 2" in shown
    assert "attackers 3 1 2 0 2 0.00 honest hospitals 12 0 0 0 0 1.17" in shown
    assert "site-00001 ◉ 4 1 2 0 2 0.33 0.75 since round 4" in shown
    assert "In quarantine after the last round, until a person releases them: site-00001." in shown
    assert "None of this proves an attack." in shown


def test_shares_are_relative_to_those_that_the_rule_saw() -> None:
    shares = {one.members[0]: one.share for one in observations(attacked_run().lines) if one.round == 3}
    assert shares == pytest.approx({name: 1.25 * (name != "site-00001") for name in names_of(5)})
    refused = next(one for one in observations(attacked_run().lines) if one.verdict is Verdict.REFUSED)
    assert refused.share is None


def test_a_group_counts_for_each_of_its_members() -> None:
    lines = lines_of(names_of(4), 1, {"auc": 0.9})
    lines[0]["evidence"] = [
        evidence(["site-00001", "site-00002"], weight=3.0),
        evidence(["site-00003", "site-00004"], "down-weighted", flags=["cosine"]),
    ]
    found = site_evidence(lines)
    assert [found[name].share for name in sorted(found)] == pytest.approx([1.5, 1.5, 0.5, 0.5])
    assert [found[name].flagged for name in sorted(found)] == [0, 0, 1, 1]


def test_the_most_frequent_reason_is_counted_without_its_figures() -> None:
    reasons = ["norm: 3.5 times the median", "norm: 1e+03 times the median; cosine: -0.2", "not fedprox2 (score 3)"]
    lines = lines_of(["a"], 3, {"auc": 0.9})
    for line, reason in zip(lines, reasons, strict=True):
        line["evidence"] = [evidence("a", "down-weighted", reason=reason)]
    assert site_evidence(lines)["a"].reason == "norm: … times the median"
    assert site_evidence(lines[2:])["a"].reason == "not fedprox2"


def test_quarantines_have_a_beginning_and_an_end() -> None:
    lines = [{"round": n, "quarantined": q} for n, q in enumerate([[], ["a"], ["a", "b"], ["b"], ["a"]], start=1)]
    assert quarantines(lines) == {"a": [(2, 3), (5, None)], "b": [(3, 4)]}


def test_more_attackers_than_the_rule_is_set_up_for_is_said() -> None:
    run = attacked_run()
    simulation = replace(run.plan.simulation, attack=replace(run.plan.simulation.attack, attackers=2))
    shown = section_of(replace(run, plan=replace(run.plan, simulation=simulation), attackers=())).text
    assert "more than the 1 that the rule was set up for" in shown
    assert "Attackers beside the others" not in shown


def test_rounds_without_an_aggregate_and_notes_are_told() -> None:
    run = attacked_run()
    lines = [dict(line) for line in run.lines]
    lines[1]["aggregation"] = lines[3]["aggregation"] = "Krum: too few"
    lines[2]["notes"] = ["site-00001 was quarantined"]
    shown = section_of(replace(run, lines=lines)).text
    assert "Krum: too few 2 2, 4" in shown
    assert "round 3 site-00001 was quarantined" in shown


def test_points_are_where_length_and_direction_say_and_attackers_are_ringed() -> None:
    shown = contributions_plot(attacked_run())
    assert shown is not None
    by_name = {trace["name"]: trace for trace in shown.traces}
    assert set(by_name) == {"accepted", "rejected", "sent by an attacker"}
    assert (by_name["rejected"]["x"], by_name["rejected"]["y"]) == ([-0.5, -0.5], [9, 9])
    assert by_name["rejected"]["marker"]["symbol"] == ["square-dot"] * 2
    assert by_name["sent by an attacker"]["x"] == [-0.5, -0.5]
    assert len(by_name["accepted"]["x"]) == 17


def test_lengths_that_differ_by_far_are_drawn_on_a_logarithm() -> None:
    run = attacked_run(said=lambda n, site: evidence(site, norm=1e4 if site == "site-00001" else float(site[-1]) - 2))
    shown = contributions_plot(run)
    assert shown is not None
    assert shown.layout["yaxis"]["type"] == "log"
    assert min(y for trace in shown.traces for y in trace["y"]) > 0


def test_without_directions_lengths_are_drawn_by_round() -> None:
    shown = contributions_plot(attacked_run(said=lambda n, site: evidence(site, cosine=None, norm=float(n))))
    assert shown is not None
    assert shown.traces[0]["x"] == shown.traces[0]["y"] == [n for n in range(1, 5) for _ in range(5)]


def test_cells_hold_verdicts_flags_and_quarantine() -> None:
    run = attacked_run(rounds=5)
    lines = [dict(line) for line in run.lines]
    lines[4]["cohort"] = names_of(5)[1:]
    lines[4]["evidence"] = [evidence("site-00002", flags=["norm"]), evidence("site-00003", "down-weighted")]
    lines[4]["absences"] = [{"site": "site-00004", "reason": "late"}]
    lines[4]["quarantined"] = ["site-00001"]
    heat = verdict_map(replace(run, lines=lines)).traces[0]
    assert heat["z"][0] == [1, 5, 4, 4, 6]
    assert [row[4] for row in heat["z"][1:]] == [2, 3, 0, 1]
    assert "expected finite values" in heat["text"][0][1]


def test_suspicion_has_a_curve_and_a_mark_where_quarantine_begins() -> None:
    shown = suspicion_plot(attacked_run())
    assert shown is not None
    curve, mark = shown.traces
    assert (curve["x"], curve["y"]) == ([1, 2, 3, 4], [0, 0, 0.4, 0.75])
    assert (mark["x"], mark["y"]) == ([4], [0.75])
    assert suspicion_plot(run_of()) is None


def test_hostile_names_and_reasons_stay_text() -> None:
    names = [EVIL, *names_of(4)]
    run = attacked_run(names, said=lambda n, s: evidence(s, "rejected", reason=EVIL, flags=[EVIL]))
    lines = [dict(line) | {"aggregation": EVIL, "notes": [EVIL], "reputation": {EVIL: 0.5}} for line in run.lines]
    text = render(replace(run, lines=lines))
    shown = Page(text)
    assert EVIL in shown.text
    assert "<img" not in text and "onerror=alert(1)></script" not in text
    for found in strings_of(shown.figures):
        assert not re.search(r"<(?!br>|extra>|/extra>)", found), found


def test_lines_from_before_there_were_rules_are_drawn() -> None:
    run = attacked_run()
    keep = {"members", "weight", "norm", "verdict", "reason"}
    new = {"aggregation", "reputation", "quarantined", "notes"}
    lines = [{name: value for name, value in line.items() if name not in new} for line in run.lines]
    for line in lines:
        line["evidence"] = [{name: one[name] for name in keep} for one in line["evidence"]]
    shown = section_of(replace(run, lines=lines)).text
    assert "3 (15.0 %) refused, none rejected" in shown


def test_thousands_of_sites_do_not_explode_the_page() -> None:
    names = names_of(5000)
    plan = plan_of("binary", 5000, 40, simulation={"sites": 5000}, robust=KRUM | {"num_byzantine": 400})
    lines = lines_of(names, 40, {"auc": 0.9}, cohort=1500)
    generator = np.random.Generator(np.random.Philox(key=9))
    for line in lines:  # as `record_line` compacts: only what is not plainly accepted
        odd = [site for site in line["cohort"] if generator.random() < 0.4]
        line["evidence"] = [evidence(site, "rejected", reason="r" * 60) for site in odd]
        line |= {"reputation": dict.fromkeys(odd, 0.5), "quarantined": odd[:50], "notes": ["n"] * 20}
    run = run_of(names=names, rounds=40, lines=lines, plan=plan, differences=None, comparison=None)
    found = robustness(run)
    assert found is not None
    assert len(found.body) < 1_500_000
    shown = Page(found.body)
    assert sum(len(trace["x"]) for trace in shown.figures[0]["data"]) <= 3000
    assert len(shown.figures) == 2
    assert "4 900 less suspicious hospitals left out" in shown.text
    assert "In quarantine after the last round" in shown.text and "40 more." in shown.text
    assert all(one.share is None for one in observations(run.lines))


def test_what_a_rule_tolerates_and_does_not_is_among_the_limits() -> None:
    text = Page(render(attacked_run())).text
    assert "with nnm and krum, at most 1 contribution of a round may be anything at all; above that, nothing" in text
    assert "That evaluations are true" in text
    assert "Robustness: none" not in text
