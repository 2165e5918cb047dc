"""`wardround privacy`: figures that the accountant confirms, the whole claim, one line for what cannot be said."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from wardround import cli
from wardround.plan import Plan, load_plan
from wardround.simulations.federation import build_federation
from wardround.strategies.privacy.accounting import epsilon_of
from wardround.strategies.privacy.claim import claims_of, rounded_up
from wardround.strategies.privacy.terms import site_terms

PLAN = """
name = "two measurements"
rounds = 7
[task]
name = "tabular-classifier"
model = "logistic"
[data]
source = "csv"
path = "patients.csv"
target = { name = "ill", classes = ["no", "yes"] }
columns = [{ name = "a", range = [-9, 9] }, { name = "b", range = [-9, 9] }]
[cohort]
weighting = "uniform"
[training]
batch_size = 8
[evaluation]
every = 0
[privacy]
unit = "row"
noise_multiplier = 3.0
public_sizes = true
[simulation]
sites = 2
partition = { kind = "quantity", alpha = 1.0 }
"""
ROW = "for every row (add-remove)"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A plan and its 200 rows in the current folder."""
    monkeypatch.setitem(cli.COMMANDS, "privacy", ("wardround.simulations.privacy_commands", ""))
    monkeypatch.chdir(tmp_path)
    Path("plan.toml").write_text(PLAN)
    x = np.random.Generator(np.random.Philox(key=1)).normal(size=(200, 2)).round(3)
    with Path("patients.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("a", "b", "ill"), *((*row, "yes" if row[0] > 0 else "no") for row in x.tolist())])
    return tmp_path


def run(*arguments: str) -> str:
    result = CliRunner().invoke(cli.app, ["privacy", *arguments], prog_name="wardround")
    assert (result.exit_code, result.stderr) == (0, ""), result.stderr
    return result.stdout


def refused(*arguments: str) -> str:
    """The one line with which a command is refused."""
    result = CliRunner().invoke(cli.app, ["privacy", *arguments], prog_name="wardround")
    assert (result.exit_code, result.stdout) == (1, ""), (result.stdout, result.stderr)
    assert result.stderr.count("\n") == 1 and result.stderr.startswith("error: ")
    return result.stderr


def curve(text: str) -> dict[int, str]:
    return {int(rounds): value for rounds, value in re.findall(r"^ +(\d+)  (\S+)$", text, re.MULTILINE)}


def rows_at(plan: Plan) -> dict[str, int]:
    return {site.site: len(site.train) for site in build_federation(plan)}


def test_epsilon_over_the_rounds_is_the_accountants() -> None:
    text = run("epsilon", "plan.toml", "--units", "100")
    terms = site_terms(load_plan("plan.toml"), 100)
    expected = {n: rounded_up(epsilon_of(terms.events(n), 1e-6).epsilon) for n in (1, 2, 5, 7)}
    assert curve(text) == expected
    assert text.splitlines()[0] == f"epsilon {expected[7]} at delta 1e-6 {ROW}"
    assert "against   the server" in text and "with probability 0.08, 8 of 100 on average" in text
    assert f"epsilon after so many rounds, at delta 1e-6 {ROW}:" in text


def test_rounds_and_settings_change_the_plan() -> None:
    text = run("epsilon", "plan.toml", "--units", "100", "--rounds", "3", "--set", "privacy.sampling=full")
    assert list(curve(text)) == [1, 2, 3]
    assert "every row takes part in every step" in text


def test_units_are_counted_in_the_plans_data() -> None:
    plan = load_plan("plan.toml")
    counts = rows_at(plan)
    table = json.loads(run("epsilon", "plan.toml", "--json"))
    assert {one["site"]: one["population"] for one in table["sites"]} == counts and len(set(counts.values())) == 2
    assert table["claim"]["epsilon"] == max(one["epsilon"] for one in table["sites"]) == table["rounds"][-1]["epsilon"]
    worst = min(counts, key=lambda site: counts[site])
    assert f"at {worst}, where it is largest, at delta 1e-6 {ROW}" in run("epsilon", "plan.toml")


def test_the_calibrated_noise_meets_the_claim_and_hardly_more() -> None:
    settings = ("--units", "100", "--delta", "1e-7", "--json")
    (site,) = json.loads(run("calibrate", "plan.toml", "--epsilon", "0.8", *settings))["sites"]
    noise = site["noise_multiplier"]
    for factor, meets in ((1.0, True), (0.995, False)):
        plan = load_plan("plan.toml").override([f"privacy.noise_multiplier={factor * noise}", "privacy.delta=1e-7"])
        terms = site_terms(plan, 100)
        assert (epsilon_of(terms.events(7), 1e-7).epsilon <= 0.8) is meets
    text = run("calibrate", "plan.toml", "--epsilon", "0.8", *settings[:-1])
    assert f"noise_multiplier {noise:.6g}  (epsilon {rounded_up(site['epsilon'])} at delta 1e-7 {ROW}; " in text
    assert site["accountant"] in text and "sampling" in text


def test_a_plan_without_privacy_can_be_calibrated_by_settings() -> None:
    Path("plain.toml").write_text(re.sub(r"(?s)\[privacy\].*?\n\[", "[", PLAN))
    text = run("calibrate", "plain.toml", "--epsilon", "2", "--set", "privacy.unit=client")
    assert "for every client (zero-out); Gaussian DP)" in text and "only 2 clients" in text
    for command in (["epsilon"], ["calibrate", "--epsilon", "2"]):
        assert "plan.privacy.unit: expected" in refused(*command, "plain.toml", "--units", "9")
    assert run("explain", "plain.toml").startswith("no differential privacy: nothing bounds")
    assert json.loads(run("explain", "plain.toml", "--json")) == {"claim": None}


def test_the_whole_claim_is_explained_with_every_site() -> None:
    text = run("explain", "plan.toml")
    counts = rows_at(load_plan("plan.toml"))
    for part in ("It rests on:", "It does not cover:", "A patient with several rows", "At each site:"):
        assert part in text, part
    for site, count in counts.items():
        assert re.search(rf"- {site}: epsilon \S+ at delta 1e-6 .*; {count} rows, noise_multiplier 3", text)
    assert list(curve(text)) == [1, 2, 5, 7]


def test_a_claim_that_is_planned_can_be_explained_without_data() -> None:
    Path("patients.csv").unlink()
    settings = ("--set", "privacy.noise_multiplier=", "--set", "privacy.epsilon=3")
    assert "--units N does without the data" in refused("explain", "plan.toml", *settings)
    arrays = (*settings, "--set", "data.source=arrays", "--set", "data.path=")
    text = run("explain", "plan.toml", *arrays)
    assert text.startswith(claims_of(load_plan("plan.toml").override([*arrays[1::2]]))[0].words())
    assert not curve(text)
    assert "expected --units N" in refused("epsilon", "plan.toml", *arrays)
    assert "expected --units N" in refused("calibrate", "plan.toml", "--epsilon", "1", *arrays)
    assert "expected --units N" in refused("explain", "plan.toml", *arrays[4:])


def test_hidden_clients_need_no_units_and_are_told_their_noise() -> None:
    settings = ("--set", "privacy.unit=client", "--set", "privacy.public_sizes=")
    text = run("explain", "plan.toml", *settings)
    # logistic regression of two inputs and two classes
    assert re.search(r"expected length of \S+ \(1.5 in each parameter, of \d\)", text)
    assert "The server is trusted to add the noise" in text and list(curve(text)) == [1, 2, 5, 7]
    result = CliRunner().invoke(cli.app, ["privacy", "explain", "plan.toml", "--units", "5", *settings])
    assert result.exit_code == 2 and "hide rows or patients" in " ".join(result.stderr.split())


@pytest.mark.parametrize("target", ["nan", "inf", "0", "-1"])
def test_an_epsilon_that_is_none_is_refused(target: str) -> None:
    assert "plan.privacy.epsilon" in refused("calibrate", "plan.toml", "--epsilon", target, "--units", "100")
