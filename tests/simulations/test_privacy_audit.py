"""`wardround audit privacy`: the mechanisms that plans build pass, and gross faults put into them are found.

Randomness of the operating system is replaced by a stream of a fixed key, so that every run is the same.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from typer.testing import CliRunner

from tests.federation_of_points import point_plan
from tests.server.report.parsed_page import Page, check_nothing_is_loaded
from tests.sites_of_rows import rows_of, rows_plan
from wardround import cli
from wardround.client.trainer import private_gradient, private_mode
from wardround.client.trainer.bundle import load_task
from wardround.client.trainer.private_sample import Units
from wardround.client.trainer.private_workspace import PrivateWorkspace
from wardround.decoding import PlanError
from wardround.errors import LocalError
from wardround.plan import Plan
from wardround.plan_privacy import Privacy, Relation, Sampling, Unit, UnitClipping
from wardround.simulations.executors.flat_loop import one_thread
from wardround.simulations.privacy_audit import PrivacyAudit, audit_privacy
from wardround.simulations.privacy_audit_clients import ClientsUnderTest, canary_federation
from wardround.simulations.privacy_audit_rows import RowsUnderTest
from wardround.simulations.report.privacy_audit import render_audit
from wardround.strategies.privacy import banded_noise, private_mean, secure_random
from wardround.strategies.privacy.accounting import epsilon_of
from wardround.strategies.privacy.central import CentralPrivacy
from wardround.strategies.privacy.gaussian_dp import mu_of
from wardround.strategies.privacy.noise_source import FreshNoise
from wardround.strategies.privacy.one_run_audit import LARGEST_DELTA, OneRun, coin_flips, measure
from wardround.strategies.privacy.secure_random import SecureRandom
from wardround.strategies.privacy.self_test import self_test
from wardround.strategies.privacy.terms import Terms, site_terms
from wardround.vector import F64, I64

SEEDS = (1, 2, 3)
UNITS = 400
CLIENTS = ("privacy.unit=client", "cohort.weighting=uniform", "privacy.epsilon=1")


@pytest.fixture(autouse=True)
def fixed_randomness(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fresh keys are SHA-256 of 0, 1, 2, ..., and torch stays on one thread."""
    numbers = count()

    def key(size: int) -> bytes:
        return hashlib.sha256(f"audit {next(numbers)}".encode()).digest()[:size]

    monkeypatch.setattr(secure_random, "os", SimpleNamespace(urandom=key))
    monkeypatch.setattr(banded_noise, "secrets", SimpleNamespace(token_bytes=key))
    with one_thread():
        yield


def client_plan(*settings: str, sites: int = 40, rounds: int = 12) -> Plan:
    return point_plan(*CLIENTS, *settings, sites=sites, rounds=rounds)


def row_plan(**privacy: Any) -> Plan:
    plan = rows_plan({"steps": 5, "batch_size": 40}, rounds=6)
    return replace(plan, privacy=Privacy(**{"unit": Unit.ROW, "epsilon": 1.0, "public_sizes": True, **privacy}))


def rows_under_test(plan: Plan) -> RowsUnderTest:
    return RowsUnderTest(plan, load_task(plan), site_terms(plan, UNITS), rows_of(8, 1))


def claimed(terms: Terms) -> float:
    return epsilon_of(terms.events(terms.rounds), LARGEST_DELTA).epsilon


def flips(seed: int) -> NDArray[np.bool_]:
    return coin_flips(SecureRandom(hashlib.sha256(f"coins {seed}".encode()).digest()), 1000)


def one_run_of_clients(plan: Plan, seed: int) -> tuple[OneRun, float]:
    federation, included = canary_federation(plan, 1000), flips(seed)
    return measure(included, federation.scores(included), LARGEST_DELTA), claimed(federation.terms)


def one_run_of_rows(plan: Plan, seed: int) -> tuple[OneRun, float]:
    under, included = rows_under_test(plan), flips(seed)
    return measure(included, under.scores(included), LARGEST_DELTA), claimed(under.terms)


def failed_of_clients(plan: Plan) -> set[str]:
    checks = self_test(ClientsUnderTest(plan, np.random.default_rng(0)).probe())
    return {check.name for check in checks if not check.passed}


def failed_of_rows(plan: Plan) -> set[str]:
    return {check.name for check in self_test(rows_under_test(plan).probe()) if not check.passed}


# -- honest mechanisms ----------------------------------------------------------------------------

CLIENT_PLANS: dict[str, tuple[str, ...]] = {
    "full": (),
    "per-layer": ("privacy.clipping=per-layer",),
    "replace-one": ("privacy.relation=replace-one",),
    "poisson": ("privacy.sampling=poisson", "cohort.size=10"),
    "fixed-size": ("privacy.sampling=fixed-size", "privacy.relation=replace-one", "cohort.size=10"),
    "banded": ("privacy.mechanism=banded-mf", "privacy.bands=3", "cohort.size=5"),
    "adaptive": ("privacy.epsilon=", "privacy.noise_multiplier=1.2", "privacy.clipping=adaptive"),
}
ROW_PLANS: dict[str, dict[str, Any]] = {
    "poisson": {},
    "full": {"sampling": Sampling.FULL},
    "per-layer": {"clipping": UnitClipping.PER_LAYER},
    "replace-one": {"relation": Relation.REPLACE_ONE, "sampling": Sampling.FULL},
    "patients": {"unit": Unit.PATIENT, "max_rows": 3},
    "a wide clip": {"clip_norm": 50.0},
}


@pytest.mark.parametrize("kind", CLIENT_PLANS)
def test_the_server_s_mechanism_passes_its_self_test(kind: str) -> None:
    assert not failed_of_clients(client_plan(*CLIENT_PLANS[kind]))


@pytest.mark.parametrize("kind", ROW_PLANS)
def test_a_site_s_mechanism_passes_its_self_test(kind: str) -> None:
    assert not failed_of_rows(row_plan(**ROW_PLANS[kind]))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", CLIENT_PLANS)
def test_canaries_among_clients_show_no_more_than_is_claimed(kind: str, seed: int) -> None:
    found, claim = one_run_of_clients(client_plan(*CLIENT_PLANS[kind]), seed)
    assert found.epsilon <= claim


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", ROW_PLANS)
def test_canaries_among_rows_show_no_more_than_is_claimed(kind: str, seed: int) -> None:
    found, claim = one_run_of_rows(row_plan(**ROW_PLANS[kind]), seed)
    assert found.epsilon <= claim


def test_a_larger_claim_shows_more() -> None:
    """At epsilon 8 the canaries see much of it: scores tell of the mechanism and not of chance."""
    found, claim = one_run_of_rows(row_plan(epsilon=8.0), 1)
    assert 0.5 < found.epsilon < claim
    found, claim = one_run_of_clients(client_plan("privacy.epsilon=8"), 1)
    assert 1 < found.epsilon < claim


@pytest.mark.parametrize("kind", ["full", "poisson", "fixed-size", "banded"])
def test_canaries_among_clients_are_many_and_the_mechanism_is_the_plan_s(kind: str) -> None:
    plan = client_plan(*CLIENT_PLANS[kind])
    audited = canary_federation(plan, 1000).terms
    own = canary_federation(plan, 20).terms
    assert audited.population == 1000 and own.population == 40
    assert audited.noise_multiplier == own.noise_multiplier and audited.rounds == own.rounds == plan.rounds
    assert audited.rate == pytest.approx(own.rate) if kind != "banded" else audited.spans == own.spans
    assert claimed(audited) == pytest.approx(claimed(own), rel=0.02)


def separation(scores: F64, included: NDArray[np.bool_]) -> float:
    """How far apart the scores of canaries that were put in and left out are, in standard deviations."""
    inside, outside = scores[included], scores[~included]
    return float((inside.mean() - outside.mean()) / np.sqrt((inside.var() + outside.var()) / 2))


@pytest.mark.parametrize("kind", ["full", "per-layer", "replace-one", "banded", "adaptive"])
def test_canaries_among_clients_give_away_all_that_the_claim_allows(kind: str) -> None:
    """Without sampling scores are normal, and differ by the mu of the claim's Gaussian differential privacy."""
    settings = ("privacy.epsilon=30", *CLIENT_PLANS[kind])
    federation, included = canary_federation(client_plan(*settings), 1000), flips(1)
    mu = mu_of(federation.terms.events(federation.terms.rounds))
    allowed = mu / 1.021 if kind == "adaptive" else mu  # the count of an adaptive clip has its share
    assert separation(federation.scores(included), included) == pytest.approx(allowed, rel=0.06)


@pytest.mark.parametrize("kind", ["full", "replace-one"])
def test_canaries_among_rows_give_away_all_that_the_claim_allows(kind: str) -> None:
    under, included = rows_under_test(row_plan(**{**ROW_PLANS[kind], "epsilon": 30.0})), flips(1)
    mu = mu_of(under.terms.events(under.terms.rounds))
    assert separation(under.scores(included), included) == pytest.approx(mu, rel=0.06)


def test_a_patient_s_rows_move_a_sum_as_far_as_is_allowed() -> None:
    probe = rows_under_test(row_plan(unit=Unit.PATIENT, max_rows=3)).probe()
    assert probe.moved(1e3) == pytest.approx(1, abs=1e-4)
    assert probe.moved(0.5) == pytest.approx(0.5, abs=1e-4)


# -- faults ---------------------------------------------------------------------------------------


def weaken_clients(monkeypatch: pytest.MonkeyPatch, divisor: float) -> None:
    whole = FreshNoise.draw

    def draw(self: FreshNoise, size: int) -> I64:
        return np.rint(whole(self, size) / divisor).astype(np.int64)

    monkeypatch.setattr(FreshNoise, "draw", draw)


def weaken_rows(monkeypatch: pytest.MonkeyPatch, divisor: float) -> None:
    whole = PrivateWorkspace._add_noise

    def add_noise(self: PrivateWorkspace, terms: Terms, random: SecureRandom) -> None:
        whole(self, replace(terms, noise_std=terms.noise_std / divisor), random)

    monkeypatch.setattr(PrivateWorkspace, "_add_noise", add_noise)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", ["full", "per-layer", "replace-one", "poisson", "fixed-size"])
def test_canaries_among_clients_show_a_tenth_of_the_noise(
    kind: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    weaken_clients(monkeypatch, 10)
    found, claim = one_run_of_clients(client_plan(*CLIENT_PLANS[kind]), seed)
    assert found.epsilon > claim


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", ROW_PLANS)
def test_canaries_among_rows_show_a_tenth_of_the_noise(kind: str, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    weaken_rows(monkeypatch, 10)
    found, claim = one_run_of_rows(row_plan(**ROW_PLANS[kind]), seed)
    assert found.epsilon > claim


@pytest.mark.parametrize("seed", SEEDS)
def test_canaries_among_clients_show_banded_noise_of_a_tenth(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = banded_noise.BandedNoise.draw
    monkeypatch.setattr(
        banded_noise.BandedNoise,
        "draw",
        lambda self, size: np.rint(whole(self, size) / 10).astype(np.int64),
    )
    found, claim = one_run_of_clients(client_plan(*CLIENT_PLANS["banded"]), seed)
    assert found.epsilon > claim


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", ["full", "per-layer", "poisson", "banded"])
def test_canaries_among_clients_show_a_missing_clip(kind: str, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(private_mean, "factor", lambda square, bound: 1.0)
    found, claim = one_run_of_clients(client_plan(*CLIENT_PLANS[kind]), seed)
    assert found.epsilon > claim


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", ROW_PLANS)
def test_canaries_among_rows_show_a_missing_clip(kind: str, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(private_gradient, "_HAIR", 1e9)
    found, claim = one_run_of_rows(row_plan(**ROW_PLANS[kind]), seed)
    assert found.epsilon > claim


@pytest.mark.parametrize("epsilon", [0.1, 1.0, 8.0, 50.0])
def test_a_sixth_less_noise_shows_at_any_epsilon(epsilon: float, monkeypatch: pytest.MonkeyPatch) -> None:
    weaken_clients(monkeypatch, 1.2)
    weaken_rows(monkeypatch, 1.2)
    assert "noise: size" in failed_of_clients(client_plan(f"privacy.epsilon={epsilon}"))
    assert "noise: size" in failed_of_rows(row_plan(epsilon=epsilon))


def test_noise_on_the_count_of_an_adaptive_clip_is_tested(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = FreshNoise.draw

    def draw(self: FreshNoise, size: int) -> I64:
        noise = whole(self, size)
        noise[-1] = 0
        return noise

    monkeypatch.setattr(FreshNoise, "draw", draw)
    assert failed_of_clients(client_plan(*CLIENT_PLANS["adaptive"])) >= {"noise: in every value"}


def test_noise_by_the_plan_s_seed_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secure_random, "os", SimpleNamespace(urandom=bytes))
    monkeypatch.setattr(banded_noise, "secrets", SimpleNamespace(token_bytes=bytes))
    assert failed_of_clients(client_plan()) == {"noise: independent across releases"}
    assert failed_of_clients(client_plan(*CLIENT_PLANS["banded"])) == {"noise: independent across releases"}
    assert failed_of_rows(row_plan()) == {"noise: independent across releases"}


def test_the_same_noise_in_each_step_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = SecureRandom.normal
    made: dict[tuple[int, int], F64] = {}

    def normal(self: SecureRandom, n: int) -> F64:
        found = made.pop((id(self), n), None)
        if found is None:
            found = made[id(self), n] = whole(self, n)
        return found.copy()

    monkeypatch.setattr(SecureRandom, "normal", normal)
    assert "noise: size" in failed_of_rows(row_plan())


def test_a_layer_without_noise_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = PrivateWorkspace._add_noise

    def add_noise(self: PrivateWorkspace, terms: Terms, random: SecureRandom) -> None:
        whole(self, terms, random)
        self._gradients[-1].zero_()

    monkeypatch.setattr(PrivateWorkspace, "_add_noise", add_noise)
    assert failed_of_rows(row_plan()) >= {"noise: in every tensor", "noise: in every value"}


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_a_missing_clip_fails_the_self_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(private_mean, "factor", lambda square, bound: 1.0)
    monkeypatch.setattr(private_gradient, "_HAIR", 1e9)
    assert "clip" in failed_of_clients(client_plan())
    assert "clip" in failed_of_rows(row_plan())


def test_a_clip_of_the_sum_and_not_of_rows_fails_the_self_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a batch's gradient is clipped by whoever takes the one clip for the other."""
    whole = private_gradient.PrivateGradient.add_to

    def add_to(self, total, rows, index, shares, mode):  # type: ignore[no-untyped-def]
        limit, self._limit = self._limit, math.inf
        found = whole(self, total, rows, index, shares, mode)
        norm = math.sqrt(sum(float(part.double().square().sum()) for part in total))
        for part in total:
            part.mul_(min(1.0, limit / max(norm, 1e-12)))
        self._limit = limit
        return found

    monkeypatch.setattr(private_gradient.PrivateGradient, "add_to", add_to)
    # the choice of a mode would refuse such a model before
    monkeypatch.setattr(private_mode.ModeChoice, "__call__", lambda *_: private_gradient.Mode.HOOKS)
    assert "clip" in failed_of_rows(row_plan())


def test_a_nan_that_is_let_through_fails_the_self_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "isfinite", lambda values: torch.ones_like(values, dtype=torch.bool))
    assert "clip: not a number" in failed_of_rows(row_plan())


def test_batches_of_a_fixed_size_fail_the_self_test(monkeypatch: pytest.MonkeyPatch) -> None:
    def draw(self: Units, terms: Terms, random: SecureRandom) -> I64:
        return self.rows_of(random.draw(len(self), round(terms.rate * len(self))))

    monkeypatch.setattr(Units, "draw", draw)
    assert failed_of_rows(row_plan()) >= {"sampling: sizes vary"}


def test_more_rows_than_claimed_fail_the_self_test(monkeypatch: pytest.MonkeyPatch) -> None:
    def draw(self: Units, terms: Terms, random: SecureRandom) -> I64:
        return self.rows_of(random.chosen(len(self), 1.1 * terms.rate))

    monkeypatch.setattr(Units, "draw", draw)
    assert failed_of_rows(row_plan()) >= {"sampling: rate"}


def test_more_clients_than_claimed_fail_the_self_test(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = CentralPrivacy.cohort

    def cohort(self, roster, index):  # type: ignore[no-untyped-def]
        return whole(replace(self, terms=replace(self.terms, drawn=1.1 * self.terms.drawn)), roster, index)

    monkeypatch.setattr(CentralPrivacy, "cohort", cohort)
    assert failed_of_clients(client_plan(*CLIENT_PLANS["poisson"])) >= {"sampling: rate"}


def test_banded_noise_with_clients_that_come_back_too_soon_fails_the_self_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CentralPrivacy, "cohort", lambda self, roster, index: dict(roster))
    assert failed_of_clients(client_plan(*CLIENT_PLANS["banded"])) == {"sampling: rounds apart"}


# -- the audit as a whole -------------------------------------------------------------------------


def test_an_audit_of_a_plan_with_arrays_needs_their_number() -> None:
    with pytest.raises(LocalError, match="expected --units N"):
        audit_privacy(row_plan(), seed=1)
    audit = audit_privacy(row_plan(), units=UNITS, seed=1)
    assert audit.passed and audit.claim.population == UNITS
    assert audit.one_run.canaries == 1000


def test_data_from_python_tell_the_smallest_site() -> None:
    plan = row_plan()
    sizes = {"one": 500, "two": 300}
    given = {name: (rows.x, rows.y) for name, rows in ((name, rows_of(n, n)) for name, n in sizes.items())}
    plan = replace(
        plan, data=replace(plan.data, validation=0.0, test=0.0), simulation=replace(plan.simulation, sites=2)
    )
    audit = audit_privacy(plan, data=given, canaries=100, seed=1)
    assert audit.claim.population == 300


def test_noise_that_clients_add_together_is_not_said_to_be_tested() -> None:
    skellam = ("privacy.unit=client", "privacy.mechanism=skellam", "privacy.epsilon=8", "privacy.delta=1e-5")
    masked = ("protection.mode=masking", "protection.colluding=0", "cohort.weighting=uniform", "privacy.clip_norm=1")
    with pytest.raises(PlanError, match=r"privacy\.mechanism: expected another mechanism.*together is not tested"):
        audit_privacy(point_plan(*skellam, *masked, sites=10), units=10)


def test_a_plan_without_privacy_is_refused() -> None:
    with pytest.raises(PlanError, match=r"privacy\.unit.*no claim to test"):
        audit_privacy(rows_plan(), units=10)
    for canaries in (1, 5001):
        with pytest.raises(LocalError, match="2 to 5000 canaries"):
            audit_privacy(client_plan(), canaries=canaries)


def test_coins_follow_the_seed_and_noise_does_not() -> None:
    one, other, third = (audit_privacy(client_plan(), canaries=200, seed=seed) for seed in (5, 5, 6))
    assert one.one_run.included == other.one_run.included != third.one_run.included
    assert one.checks[0].measured != other.checks[0].measured


def test_statistics_are_neither_tested_nor_counted_as_room() -> None:
    """The claim has them; what training may show is compared with training's own share."""
    columns = [{"name": f"c{number}", "range": [-5, 5]} for number in range(6)]
    plan = rows_plan({"steps": 5, "batch_size": 40}, data={"columns": columns, "standardize": "federated"}).override(
        (
            "privacy.unit=row",
            "privacy.public_sizes=true",
            "privacy.noise_multiplier=8",
            'privacy.statistics="dp"',
            "privacy.statistics_noise_multiplier=2",
        )
    )
    audit = audit_privacy(plan, units=UNITS, canaries=200, seed=1)
    assert audit.passed
    assert audit.claimed < audit.claim.epsilon
    assert any("standardise" in sentence for sentence in audit.cannot_see)


@pytest.fixture(scope="module")
def audit() -> PrivacyAudit:
    return audit_privacy(client_plan("privacy.epsilon=9"), canaries=200, seed=1)


def test_the_table_is_json_and_says_all(audit: PrivacyAudit) -> None:
    table = json.loads(json.dumps(audit.to_json(), allow_nan=False))
    assert table["claim"]["headline"] == audit.claim.headline()
    assert {"unit", "relation", "adversary", "epsilon", "delta", "sampling"} <= set(table["claim"])
    assert table["one_run"]["measured_epsilon"] == audit.one_run.epsilon
    assert table["one_run"]["confidence"] == 1 - 1e-4
    assert len(table["self_test"]["checks"]) == len(audit.checks)
    assert all(check["sees"] and check["cannot_see"] for check in table["self_test"]["checks"])
    assert "never widens" in table["cannot_see"][0]


def test_what_is_not_a_number_is_no_number_in_the_table(audit: PrivacyAudit) -> None:
    checks = (replace(audit.checks[0], measured=math.nan), *audit.checks[1:])
    table = json.dumps(replace(audit, checks=checks).to_json(), allow_nan=False)
    assert json.loads(table)["self_test"]["checks"][0]["measured"] is None
    assert not json.loads(table)["passed"]


def test_the_page_says_what_was_found_and_what_it_cannot_see(audit: PrivacyAudit) -> None:
    shown = Page(render_audit(audit))
    check_nothing_is_loaded(shown)
    assert shown.sections == ["canaries", "self-test", "limits", "claim", "particulars"]
    assert "Nothing was found that contradicts the claim. That is no proof of it." in shown.text
    assert audit.claim.headline() in shown.text
    assert "where canaries are blind" in shown.text, "200 canaries cannot contradict epsilon 9"
    for check in audit.checks:
        assert check.name in shown.text and check.sees in shown.text
    for sentence in audit.cannot_see:
        assert sentence in shown.text
    assert not shown.scripts


def test_the_page_of_a_failure_says_so_first(audit: PrivacyAudit) -> None:
    checks = (replace(audit.checks[0], measured=0.8), *audit.checks[1:])
    worse = replace(audit, checks=checks, claimed=0.0, one_run=replace(audit.one_run, epsilon=1.5))
    shown = Page(render_audit(worse))
    assert "Failed. The mechanism does not do what is claimed: noise: size, canaries." in shown.text


def test_names_stay_text(audit: PrivacyAudit) -> None:
    evil = "<img src=x onerror=alert(1)>"
    shown = Page(render_audit(replace(audit, plan=replace(audit.plan, name=evil))))
    check_nothing_is_loaded(shown)
    assert evil in shown.text


# -- the command ----------------------------------------------------------------------------------


@pytest.fixture
def plan_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(cli.COMMANDS, "audit", ("wardround.simulations.audit_commands", ""))
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "plan.toml"
    path.write_text(client_plan().to_toml(), encoding="utf-8")
    return path


def run(*arguments: str | Path, code: int = 0) -> str:
    result = CliRunner().invoke(cli.app, ["audit", "privacy", *map(str, arguments)], prog_name="wardround")
    assert result.exit_code == code, result.output
    return result.output


def test_the_command_prints_a_table_and_writes_a_report(plan_file: Path) -> None:
    said = run(plan_file, "--out", "found", "--canaries", "200", "--seed", "1")
    assert "epsilon 1 at delta 1e-6 for every client (zero-out)" in said
    assert "noise: size" in said and "result    passed" in said and "never widens a claim" in said
    assert json.loads(Path("found/audit.json").read_text())["passed"]
    assert Path("found/audit.html").read_text().startswith("<!DOCTYPE html>")
    assert "expected a new or an empty folder" in run(plan_file, "--out", "found", code=1)


def test_json_is_one_line(plan_file: Path) -> None:
    table = json.loads(run(plan_file, "--json", "--canaries", "200", "--seed", "1"))
    assert table["passed"] and table["seed"] == 1
    assert table["report"].startswith("runs")
    assert Path(table["report"]).exists()


def test_the_exit_code_tells_a_failure(plan_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weaken_clients(monkeypatch, 10)
    said = run(plan_file, "--out", "found", "--seed", "1", code=1)
    assert "FAILED: noise: size" in said and "canaries" in said.splitlines()[-2]
    assert not json.loads(Path("found/audit.json").read_text())["one_run"]["passed"]
    assert run(plan_file, "--quiet", "--out", "again", "--seed", "1", code=1) == ""


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (("privacy.unit=off", "privacy.epsilon="), "privacy.unit"),
        (("privacy.delta=1e-2",), "privacy.delta"),
    ],
)
def test_what_has_no_claim_is_refused_in_one_line(plan_file: Path, settings: Sequence[str], told: str) -> None:
    said = run(plan_file, *(word for setting in settings for word in ("--set", setting)), "--out", "found", code=1)
    assert said.startswith("error: plan.") and told in said and len(said.splitlines()) == 1
    assert not Path("found").exists()
