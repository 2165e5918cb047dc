"""The documents say what the code says: a section for every registered name, its facts in it, examples that run."""

import dataclasses
import doctest
import json
import re
from collections.abc import Iterator
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wardround import registry
from wardround.decoding import PlanError
from wardround.plan import load_plan
from wardround.plan_robust import Quarantine
from wardround.plan_robust import Robust as RobustSettings
from wardround.simulations.attacks.adversary import load_attack
from wardround.simulations.attacks.attack import Knowledge
from wardround.simulations.redteam.auto import ATTACKS, CANDIDATES, TUNING_SEEDS
from wardround.simulations.simulate import simulate
from wardround.strategies.composition import check
from wardround.strategies.reputation import delay, threshold
from wardround.strategies.rules.build import build_rule
from wardround.strategies.rules.robust import Robust
from wardround.strategies.rules.rule import RoundContext

ROOT = Path(__file__).resolve().parent.parent
DOCS, BREAST_CANCER = ROOT / "docs", ROOT / "simulations" / "plans" / "breast-cancer.toml"
SECTIONS = {
    "tasks": ("tasks-and-data.md", "Tasks (`task.name`)"),
    "datasets": ("tasks-and-data.md", "Data sets (`data.source`)"),
    "partitions": ("tasks-and-data.md", "Partitions (`simulation.partition.kind`)"),
    "rules": ("rules.md", "Rules (`robust.rule`)"),
    "preaggregators": ("rules.md", "Pre-aggregators (`robust.pre`)"),
    "detectors": ("rules.md", "Detectors (`robust.detectors`)"),
    "attacks": ("attacks.md", ""),
}
"""For each kind the page, and the part of it; "": the whole page."""
WITH_FACTS = ("rules", "preaggregators", "detectors", "attacks")


def text_of(page: str) -> str:
    return (DOCS / page).read_text(encoding="utf-8")


def entries(kind: str) -> dict[str, EntryPoint]:
    """Our own: a third party's package, if there is one here, has documents of its own."""
    found = entry_points(group=f"wardround.{kind}")
    return {entry.name: entry for entry in found if entry.value.startswith("wardround.")}


def sections(kind: str) -> dict[str, str]:
    """Registered name → what its section says."""
    page, part = SECTIONS[kind]
    text = text_of(page)
    if part:
        [text] = re.findall(rf"^## {re.escape(part)}\n(.*?)(?=^## |\Z)", text, flags=re.MULTILINE | re.DOTALL)
    found = re.findall(r"^### (.*?)\n(.*?)(?=^##|\Z)", text, flags=re.MULTILINE | re.DOTALL)
    assert len({heading for heading, _ in found}) == len(found)
    assert all(re.fullmatch("`[^`]+`", heading) for heading, _ in found)
    return {heading.strip("`"): body for heading, body in found}


def expected_facts(kind: str, cls: Any) -> list[str]:
    """The list at the end of a section."""
    facts = [f"{name}: {getattr(cls, name)}" for name in ("tolerates", "cost") if hasattr(cls, name)]
    if kind == "attacks":
        others = "what honest sites send in the same round"
        facts.append(f"knows: {others if cls.knows_others else 'its own updates and the global model'}")
        if cls.poisons:
            facts.append("poisons: the attackers train on other rows than they have")
        if cls.has_trigger:
            facts.append("backdoor: the red team shows how often its trigger works")
    options = [field for field in dataclasses.fields(cls) if field.name != "num_byzantine"]
    if options:
        facts.append("options: " + ", ".join(f"`{one.name} = {json.dumps(one.default)}`" for one in options))
    return [*facts, f"source: {cls.source}"]


@pytest.mark.parametrize("kind", SECTIONS)
def test_every_registered_name_has_a_section_and_every_section_a_name(kind: str) -> None:
    assert entries(kind)
    assert sorted(sections(kind)) == sorted(entries(kind))


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in WITH_FACTS for name in sorted(entries(kind))])
def test_a_section_has_the_facts_of_the_class(kind: str, name: str) -> None:
    body = sections(kind)[name]
    assert len(body.split("\n- ")[0].strip()) > 40, "expected a description before the facts"
    facts = expected_facts(kind, entries(kind)[name].load())
    assert [line.removeprefix("- ") for line in body.splitlines() if line.startswith("- ")] == facts


@pytest.mark.parametrize("name", sorted(entries("detectors")))
def test_a_detectors_measured_figures_are_those_of_its_docstring(name: str) -> None:
    docstring = " ".join(str(entries("detectors")[name].load().__doc__).split())
    said = " ".join(sections("detectors")[name].split())
    figures = re.findall(r"[\d.]+(?: (?:to|and) [\d.]+)? %", said)
    assert figures and "Measured" in docstring
    assert [figure for figure in figures if figure not in docstring] == []


def test_the_guide_has_the_figures_of_reputation() -> None:
    guide, settings = " ".join(text_of("robust.md").split()), Quarantine()
    for sites, rounds, sentence in (
        (
            10,
            30,
            "it is {:.2f} for 10 sites and 30 rounds, and a site that is flagged in every round is quarantined in",
        ),
        (20, 100, "{:.2f} for 20 sites and 100 rounds, in"),
    ):
        at = threshold(settings, sites=sites, rounds=rounds)
        assert f"{sentence.format(at)} its {delay(settings, at)}th" in guide
    assert not settings.enabled and "By default nothing does" in guide
    assert f"`flag_rate` ({100 * settings.flag_rate:g} %)" in guide
    assert f"`false_positive` ({100 * settings.false_positive:g} %)" in guide
    assert f"`robust.norm_factor` ({RobustSettings().norm_factor:g})" in guide


@pytest.mark.parametrize("name", sorted(entries("detectors")))
def test_detectors_beside_which_quarantine_is_refused_say_so(name: str) -> None:
    robust = RobustSettings(
        rule="trimmed_mean", num_byzantine=1, detectors=(name,), quarantine=Quarantine(enabled=True)
    )
    plan = dataclasses.replace(load_plan(BREAST_CANCER), robust=robust)
    try:
        check(plan)
        refused = False
    except PlanError as error:
        refused = error.path == "robust.quarantine.enabled"
    assert ("Quarantine is refused beside it." in " ".join(sections("detectors")[name].split())) == refused


def test_the_guide_says_how_auto_chooses() -> None:
    guide = " ".join(text_of("robust.md").split())
    labels, attacks = (", ".join(f"`{name}`" for name in found) for found in ([c.label for c in CANDIDATES], ATTACKS))
    assert f"that can be used for the cohort: {labels};" in guide
    assert f"with no attack, and under {attacks}, by" in guide
    assert f"on the seeds {TUNING_SEEDS[0]} to {TUNING_SEEDS[-1]}." in guide
    assert f"up to {len(CANDIDATES) * (1 + len(ATTACKS)) * len(TUNING_SEEDS)} short simulations" in guide


def test_the_plans_in_the_guide_can_be_read() -> None:
    base = load_plan(BREAST_CANCER)
    assert base.robust.rule == "off"
    blocks = [block for block in blocks_of("robust.md", "toml") if "entry-points" not in block]
    assert len(blocks) >= 3
    for block in blocks:
        plan = base.override(list(settings_of(block)))
        assert plan != base


def settings_of(block: str) -> Iterator[str]:
    """The lines of a TOML block as `--set` takes them."""
    table = ""
    for line in block.splitlines():
        if line.startswith("["):
            table = line.strip("[]")
        elif line:
            key, _, value = line.partition(" = ")
            yield f"{table}.{key}={value}"


def blocks_of(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text_of(page), flags=re.MULTILINE | re.DOTALL)


def test_the_guides_examples_print_what_they_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = "\n".join(blocks_of("robust.md", "pycon"))
    example = doctest.DocTestParser().get_doctest(text, {}, "robust.md", "robust.md", 0)
    assert len(example.examples) > 10
    told: list[str] = []
    failed = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example, out=told.append).failed
    assert not failed, "".join(told)


def test_the_guides_own_pieces_work_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [module] = blocks_of("robust.md", "python")
    (tmp_path / "my_rules.py").write_text(module, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    [declared] = [block for block in blocks_of("robust.md", "toml") if "entry-points" in block]
    own: dict[str, dict[str, EntryPoint]] = {}
    for group, name, value in re.findall(
        r'^\[project\.entry-points\."(.*)"\]\n(\w+) = "(.*)"$', declared, re.MULTILINE
    ):
        own[group] = {name: EntryPoint(name=name, value=value, group=group)}
    assert sorted(own) == ["wardround.attacks", "wardround.detectors", "wardround.rules"]
    installed = registry._entries
    monkeypatch.setattr(registry, "_entries", lambda group: {**installed(group), **own.get(group, {})})

    settings = RobustSettings(rule="nearest_to_median", num_byzantine=2, detectors=("silent",))
    rule = build_rule(settings)
    assert isinstance(rule, Robust)
    rows = np.array([[1.0, 0.0], [1.0, 0.2], [1.2, 0.0], [0.0, 0.0], [-9.0, 9.0]], dtype=np.float32)
    made = rule.aggregate(rows, RoundContext(size=2))
    assert made.vector == pytest.approx(rows[:3].mean(axis=0))
    assert [line.verdict.value for line in made.report.lines] == ["accepted"] * 3 + ["rejected"] * 2
    assert [line.flags for line in made.report.lines] == [(), (), (), ("silent",), ()]
    with pytest.raises(ValueError, match="expected num_byzantine < n / 2, got 2 of 4"):
        rule.check(4)

    plan = load_plan(BREAST_CANCER)
    attacked = plan.override(
        ['simulation.attack={name="standstill", attackers=2, options={share=0.5}}'],
    )
    attack = load_attack(attacked)
    assert attack is not None
    knowledge = Knowledge(
        own=rows[:2], honest=rows[2:], model=np.zeros(2, np.float32), round=1, seed=1, aggregate=lambda rows: None
    )
    assert attack.craft(knowledge).updates.tolist() == (rows[:2] / 2).tolist()


def test_an_honest_hospital_is_flagged_as_often_as_the_guide_says() -> None:
    [(site, said, rounds)] = re.findall(r"`(site-\d\d)` is flagged in (\d+) of (\d+) rounds", text_of("robust.md"))
    plan = load_plan(BREAST_CANCER)
    plan = plan.override(["seed=19", "robust.rule=trimmed_mean", "robust.num_byzantine=3"])
    lines = simulate(plan, report=False).rounds
    flags = [bool(one["flags"]) for line in lines for one in line["evidence"] if one["members"] == [site]]
    assert len(flags) == int(rounds) == plan.rounds
    assert abs(sum(flags) - int(said)) <= 2, "the guide's example has other figures now"  # other CPUs round otherwise
