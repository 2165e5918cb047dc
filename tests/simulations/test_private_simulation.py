"""Simulations of plans with privacy: what is charged where, what is kept through a crash, what ends a run."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.simulations.test_simulate import arrays_plan, sites
from wardround.client.guard.ledger import Ledger
from wardround.client.trainer.tasks.tabular import TabularClassifier
from wardround.errors import LocalError
from wardround.plan import Plan
from wardround.server.runs.run_directory import RunDirectory
from wardround.simulations import accounts
from wardround.simulations.accounts import LEDGERS
from wardround.simulations.federation import build_federation
from wardround.simulations.participants import data_digest
from wardround.simulations.replay import prepare_replay
from wardround.simulations.simulate import simulate
from wardround.strategies.federated import FederatedStrategy
from wardround.strategies.privacy.claim import rounded_up
from wardround.strategies.privacy.terms import client_terms, site_terms
from wardround.strategies.records import RoundRecord, RunState

ROWS = ("privacy.unit=row", "privacy.epsilon=4", "privacy.delta=1e-5", "privacy.public_sizes=true")
CLIENTS = (
    "privacy.unit=client",
    "privacy.noise_multiplier=1",
    "privacy.delta=1e-5",
    "cohort.weighting=uniform",
)
STEPS = ("training.epochs=", "training.steps=2", "simulation.baselines=false", "simulation.bootstrap=0")


def plan_of(*settings: str) -> Plan:
    return arrays_plan(*STEPS, *settings)


class Crash(Exception):
    pass


def run_and_crash(out: Path, plan: Plan, round_number: int) -> None:
    """A run that is broken off in the middle of a round: sites have trained for it, and nothing of it is kept."""
    with pytest.MonkeyPatch.context() as patched:

        def broken(self: RunDirectory, record: RoundRecord, state: RunState) -> None:
            if record.round == round_number:
                raise Crash
            kept(self, record, state)

        kept = RunDirectory.round_done
        patched.setattr(RunDirectory, "round_done", broken)
        with pytest.raises(Crash):
            simulate(plan, data=sites(), out=out, report=False)


def ledger_of(folder: Path, site: str = "ward%200") -> Ledger:
    return Ledger.open(folder / f"{site}.ledger")


def test_rows_are_hidden_and_every_round_says_what_it_has_spent() -> None:
    result = simulate(plan_of(*ROWS), data=sites(), report=False)
    spent = [line["privacy"]["epsilon"] for line in result.rounds]
    assert spent == sorted(spent) and 0 < spent[0] < spent[-1] <= 4
    assert set(result.rounds[0]["privacy"]["sites"]) == {"ward 0", "ward 1", "ward 2"}
    assert result.metrics == {} and all(line["train"] is None is line["validation"] for line in result.rounds)


def test_two_runs_of_one_plan_differ() -> None:
    first, second = (simulate(plan_of(*ROWS, "rounds=1"), data=sites(), report=False) for _ in range(2))
    assert not np.array_equal(first.model, second.model), "noise and samples do not follow from the plan's seed"


def test_each_sites_ledger_holds_the_run(tmp_path: Path) -> None:
    plan = plan_of(*ROWS)
    simulate(plan, data=sites(), out=tmp_path / "run")
    with RunDirectory.open(tmp_path / "run") as directory:
        job = directory.info.run_id
    ledger = ledger_of(tmp_path / "run" / LEDGERS)
    reserved = ledger.account().jobs[job]
    assert reserved.charge.rounds == 4 and reserved.started == (1, 2, 3, 4) and reserved.closed
    assert reserved.cost.once.epsilon <= ledger.spent().cap_epsilon <= 4
    text = (tmp_path / "run" / "report.html").read_text()
    assert "epsilon" in text and "add-remove" in text


def test_a_round_that_was_broken_off_stays_spent(tmp_path: Path) -> None:
    plan = plan_of(*ROWS)
    run_and_crash(tmp_path / "run", plan, 3)
    result = simulate(out=tmp_path / "run", data=sites(), resume=True, report=False)
    (job,) = ledger_of(tmp_path / "run" / LEDGERS).account().jobs.values()
    assert job.started == (1, 2, 3, 3), "no more than was reserved"
    assert len(result.rounds) == 4 and result.rounds[3]["void"] and "all that it reserved" in result.stopped


def test_shared_ledgers_stop_the_job_that_would_exceed_them(tmp_path: Path) -> None:
    plan = plan_of(*ROWS, "simulation.budget={ epsilon = 6, delta = 1e-4 }")
    first = simulate(plan, data=sites(), ledgers=tmp_path / "ledgers", out=tmp_path / "1", report=False)
    assert not first.stopped
    second = simulate(plan, data=sites(), ledgers=tmp_path / "ledgers", out=tmp_path / "2", report=False)
    assert "asks for epsilon" in second.stopped and len(second.rounds) == 1 and second.rounds[0]["void"]
    ledger = ledger_of(tmp_path / "ledgers")
    assert len(ledger.account().jobs) == 1 and ledger.spent().epsilon <= 6


def test_a_run_without_privacy_ends_a_shared_budget_for_ever(tmp_path: Path) -> None:
    simulate(plan_of("simulation.budget={ epsilon = 6, delta = 1e-4 }"), data=sites(), ledgers=tmp_path, report=False)
    assert ledger_of(tmp_path).spent().epsilon == float("inf")
    result = simulate(plan_of(*ROWS), data=sites(), ledgers=tmp_path, report=False)
    assert "without differential privacy" in result.stopped


def test_changed_rows_inherit_what_was_spent(tmp_path: Path) -> None:
    plan = plan_of(*ROWS, "simulation.budget={ epsilon = 6, delta = 1e-4 }")
    simulate(plan, data=sites(), ledgers=tmp_path, report=False)
    result = simulate(plan, data=sites(rows=70), ledgers=tmp_path, report=False)
    assert "asks for epsilon" in result.stopped
    assert len(ledger_of(tmp_path).account().digests) == 2


def test_clients_are_hidden_and_their_patients_charged(tmp_path: Path) -> None:
    plan = plan_of(*CLIENTS)
    result = simulate(plan, data=sites(), out=tmp_path / "run", report=False)
    assert result.rounds[-1]["privacy"]["epsilon"] == client_terms(plan).claim.epsilon
    (job,) = ledger_of(tmp_path / "run" / LEDGERS).account().jobs.values()
    (event,) = job.charge.per_round
    assert event.sensitivity == 2 * plan.privacy.clip_norm and event.relation.value == "replace-one"
    assert not (tmp_path / "run" / "server-state").exists(), "what takes noise off is not kept"


def test_a_broken_round_of_clients_is_charged_by_the_server_too(tmp_path: Path) -> None:
    plan = plan_of(*CLIENTS)
    run_and_crash(tmp_path / "run", plan, 2)
    assert (tmp_path / "run" / "server-state").stat().st_mode & 0o077 == 0
    result = simulate(out=tmp_path / "run", data=sites(), resume=True, report=False)
    spent = [line["privacy"]["epsilon"] for line in result.rounds]
    terms = client_terms(plan)
    assert spent == [terms.spent(count).epsilon for count in (1, 3, 4)] and "budget is spent" in result.stopped


def test_banded_noise_goes_on_after_a_crash(tmp_path: Path) -> None:
    plan = plan_of(
        *CLIENTS, "privacy.mechanism=banded-mf", "privacy.bands=2", "cohort.size=1", "cohort.min_replies=1", "rounds=6"
    )
    run_and_crash(tmp_path / "run", plan, 3)
    result = simulate(out=tmp_path / "run", data=sites(), resume=True, report=False)
    assert len(result.rounds) == 5 and "budget is spent" in result.stopped
    assert len({line["privacy"]["epsilon"] for line in result.rounds}) == 1


def test_noisy_statistics_are_asked_for_once(tmp_path: Path) -> None:
    columns = ", ".join(f'{{ name = "{name}", range = [-9, 9] }}' for name in "abcd")
    plan = plan_of(
        *ROWS,
        f"data.columns=[{columns}]",
        "data.standardize=federated",
        "privacy.statistics=dp",
        "privacy.statistics_noise_multiplier=8",
    )
    run_and_crash(tmp_path / "run", plan, 1)
    agreed = json.loads((tmp_path / "run" / "statistics.json").read_text())
    result = simulate(out=tmp_path / "run", data=sites(), resume=True, report=False)
    assert result.statistics is not None and list(result.statistics.mean) == agreed["mean"]
    terms = site_terms(plan, 60 - 12)
    assert len(terms.once) == 1


def test_patients_with_several_rows(tmp_path: Path) -> None:
    plan = plan_of("privacy.unit=patient", *ROWS[1:], "privacy.max_rows=2", "data.patient=who", "training.batch_size=4")
    given = {name: (x, y, np.arange(len(y)) // 3) for name, (x, y) in sites().items()}
    result = simulate(plan, data=given, out=tmp_path / "run", report=False)
    (job,) = ledger_of(tmp_path / "run" / LEDGERS).account().jobs.values()
    (event,) = job.charge.per_round
    assert event.sensitivity == 2 * plan.privacy.clip_norm
    assert result.rounds[-1]["privacy"]["epsilon"] <= 4


@pytest.mark.parametrize("attack", ["sign_flip", "label_flip"])
def test_noise_in_the_sites_and_a_robust_rule_go_together(attack: str) -> None:
    plan = plan_of(
        *ROWS,
        "cohort.weighting=uniform",
        "robust.rule=median",
        "robust.num_byzantine=1",
        f'simulation.attack={{ name = "{attack}", attackers = 1 }}',
    )
    result = simulate(plan, data=sites(), report=False)
    assert len(result.rounds) == 4 and len(result.rounds[0]["evidence"]) == 3


def test_a_batch_larger_than_a_sites_rows_is_refused() -> None:
    with pytest.raises(LocalError, match=r"training\.batch_size: expected at most the"):
        simulate(plan_of(*ROWS, "training.batch_size=100"), data=sites(), report=False)


def test_a_replay_of_a_private_run_needs_ledgers_that_it_can_be_charged_to(tmp_path: Path) -> None:
    plan = plan_of(*ROWS, "rounds=1")
    simulate(plan, data=sites(), out=tmp_path / "run", report=False)
    with pytest.raises(LocalError, match="a job of its own"):
        prepare_replay(tmp_path / "run", ["ward 1"], tmp_path / "again", 1)
    assert not (tmp_path / "again").exists()
    simulate(plan, data=sites(), out=tmp_path / "2", ledgers=tmp_path / "ledgers", report=False)
    prepare_replay(tmp_path / "2", ["ward 1"], tmp_path / "3", 1)


def test_a_resumed_run_keeps_its_ledgers(tmp_path: Path) -> None:
    plan = plan_of(*ROWS, "rounds=2")
    simulate(plan, data=sites(), out=tmp_path / "run", ledgers=tmp_path / "ledgers", report=False)
    with pytest.raises(LocalError, match="the ledgers of the run's start"):
        simulate(out=tmp_path / "run", data=sites(), ledgers=tmp_path / "others", resume=True, report=False)


def test_without_ledgers_what_was_spent_outlives_a_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounts, "_MOST_LEDGERS", 2)
    run_and_crash(tmp_path / "run", plan_of(*ROWS), 3)
    result = simulate(out=tmp_path / "run", data=sites(), resume=True, report=False)
    spent = [line["privacy"]["epsilon"] for line in result.rounds]
    assert spent == sorted(spent) and spent[-1] <= 4
    assert result.rounds[3]["void"] and "rounds of the claim have begun" in result.stopped
    assert not (tmp_path / "run" / LEDGERS).exists()


@pytest.mark.parametrize("lost", ["ledgers", "server-state"])
def test_a_run_whose_record_of_spending_was_lost_does_not_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    if lost == "server-state":
        monkeypatch.setattr(accounts, "_MOST_LEDGERS", 2)
    run_and_crash(tmp_path / "run", plan_of(*ROWS), 3)
    shutil.rmtree(tmp_path / "run" / lost)
    with pytest.raises(LocalError, match="what was spent is not known"):
        simulate(out=tmp_path / "run", data=sites(), resume=True, report=False)


def test_a_run_directory_does_not_tell_who_was_sampled(tmp_path: Path) -> None:
    plan = plan_of(*CLIENTS, "privacy.sampling=poisson", "cohort.size=1")
    result = simulate(plan, data=sites(), out=tmp_path / "run", report=False)
    assert not (tmp_path / "run" / LEDGERS).exists()
    for line in result.rounds:
        assert line["cohort"] == line["evidence"] == line["absences"] == []
        assert line["seconds"] == line["cpu_seconds"] == 0.0 and line["simulated_seconds"] is None


def test_no_file_that_is_shown_to_people_holds_a_digest_of_rows(tmp_path: Path) -> None:
    simulate(plan_of(*ROWS, "rounds=1"), data=sites(), out=tmp_path / "run", ledgers=tmp_path / "ledgers")
    digests = ledger_of(tmp_path / "ledgers").account().digests
    everything = data_digest(build_federation(plan_of(*ROWS), sites()))
    for name in ("run.json", "model-card.md", "report.html", "metrics.jsonl", "results.json"):
        text = (tmp_path / "run" / name).read_text()
        assert not any(digest in text for digest in (*digests, everything)), name
    for name in ("model-card.md", "report.html"):
        assert str(tmp_path / "ledgers") not in (tmp_path / "run" / name).read_text()


def test_a_resumed_private_run_needs_the_same_data(tmp_path: Path) -> None:
    run_and_crash(tmp_path / "run", plan_of(*ROWS), 3)
    with pytest.raises(LocalError, match="expected the data that the run was started with"):
        simulate(out=tmp_path / "run", data=sites(rows=70), resume=True, report=False)


def test_sums_in_clear_end_a_shared_budget_as_training_does(tmp_path: Path) -> None:
    columns = ", ".join(f'{{ name = "{name}", range = [-9, 9] }}' for name in "abcd")
    settings = (f"data.columns=[{columns}]", "data.standardize=federated")
    plan = plan_of(*settings, "simulation.budget={ epsilon = 6, delta = 1e-4 }")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(FederatedStrategy, "advance", lambda *_: (_ for _ in ()).throw(Crash))
        with pytest.raises(Crash):
            simulate(plan, data=sites(), ledgers=tmp_path, report=False)
    assert ledger_of(tmp_path).spent().epsilon == float("inf")


def test_batch_norm_is_replaced_where_clients_are_hidden(caplog: pytest.LogCaptureFixture) -> None:
    plan = plan_of(*CLIENTS, "task.options.inputs=4")
    result = simulate(plan, task=_Normed(plan), data=sites(), report=False)
    assert not any("running" in tensor.name for tensor in result.layout.tensors)
    assert "BatchNorm1d replaced by GroupNorm" in caplog.text


class _Normed(TabularClassifier):
    def model(self, seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))


def test_a_run_that_broke_off_in_its_last_round_ends_with_what_it_spent(tmp_path: Path) -> None:
    plan = plan_of(*CLIENTS)
    run_and_crash(tmp_path / "run", plan, 4)
    result = simulate(out=tmp_path / "run", data=sites(), resume=True)
    assert len(result.rounds) == 4 and result.rounds[3]["void"] and "budget is spent" in result.stopped
    assert result.rounds[3]["privacy"]["epsilon"] == client_terms(plan).claim.epsilon
    assert not (tmp_path / "run" / "server-state").exists()
    assert f"epsilon {rounded_up(client_terms(plan).claim.epsilon)}" in (tmp_path / "run" / "model-card.md").read_text()
    again = simulate(out=tmp_path / "run", data=sites(), resume=True)  # as `wardround report` does
    assert np.array_equal(again.model, result.model) and again.report is not None


def test_without_ledgers_a_resumed_run_needs_the_same_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounts, "_MOST_LEDGERS", 2)
    run_and_crash(tmp_path / "run", plan_of(*ROWS), 3)
    with pytest.raises(LocalError, match="expected the data that the run was started with"):
        simulate(out=tmp_path / "run", data=sites(rows=70), resume=True, report=False)


def test_rounds_in_which_nobody_took_part_keep_no_run_from_going_on(tmp_path: Path) -> None:
    plan = plan_of(*CLIENTS, "privacy.sampling=poisson", "cohort.size=1", "rounds=8", "simulation.sites=3")
    for attempt in range(3):  # an empty sample is likely in one of them
        run_and_crash(tmp_path / str(attempt), plan, 6)
        result = simulate(out=tmp_path / str(attempt), data=sites(), resume=True, report=False)
        assert len(result.rounds) == 7 and "budget is spent" in result.stopped, "the broken round was paid for"
