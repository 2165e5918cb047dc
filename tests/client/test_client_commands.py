"""`wardround client`: the administrator's journey, as commands."""

import json
import os
import re
import runpy
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.client.agent.site_world import NOW, RUN, World, plan_text, write_table
from tests.client.agent.test_site_run import PRIVATE
from wardround.audit.bundle import verify_bundle
from wardround.cli import app
from wardround.client.agent.data_registry import DataRegistry
from wardround.client.agent.plan_store import Outcome, PlanStore, RunState, Verdict
from wardround.client.job.limits import JobLimits
from wardround.identity import Authority
from wardround.signing_key import fingerprint_of

MASKED = (
    'protection.mode="masking"',
    'cohort.weighting="uniform"',
    "clipping.clip_norm=1.0",
    "protection.colluding=0",
    "simulation.sites=3",
)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World.make(tmp_path)


@pytest.fixture
def three(tmp_path: Path) -> World:
    return World.make(tmp_path, others=("Hospital B", "Hospital C"))


def run(world: World, *arguments: str, fails: str = "") -> str:
    """What a command prints; with `fails`, the error that it must end with."""
    told = {"WARDROUND_CLIENT_STATE": str(world.folder.path)}
    result = CliRunner().invoke(app, ["--debug", "client", *arguments], env=told)
    if fails:
        assert result.exception is not None and re.search(fails, str(result.exception)), result.exception
        return str(result.exception)
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


def test_from_data_to_approval(world: World) -> None:
    world.offer()
    file = write_table(world.path / "ehr.csv")
    assert "60 rows, 4 columns" in run(world, "data", "add", str(file))
    assert "ehr" in run(world, "data", "list") and "no budget" in run(world, "data", "list")
    assert "waits for a decision" in run(world, "plan", "list")
    assert "is approved: plan tiny, " in run(world, "plan", "approve", RUN[:6], "--data", "ehr", "--by", "IT")
    decision = PlanStore(world.folder).decision(RUN)
    assert decision is not None and decision.verdict is Verdict.APPROVED and decision.by == "IT"
    assert "approved by IT" in run(world, "status")
    assert json.loads(run(world, "status", "--json"))["agent_runs"] is False


def test_show_says_what_the_server_learns_and_who_takes_part(world: World) -> None:
    plan = world.offer()
    shown = run(world, "plan", "show", RUN[:6])
    assert "sees every update of every site in the clear" in shown and plan.digest in shown
    assert "Hospital B  NEW, not accepted" in shown and "Hospital A, this site" in shown
    assert "rounds             * 3" in shown


def test_a_plan_cannot_write_to_the_terminal(world: World) -> None:
    world.offer(plan_text('data.target={ name = "a\\u001b[31mb", classes = ["x", "y"] }'))
    assert "\x1b" not in run(world, "plan", "show", RUN)


def test_a_table_without_the_plans_columns_is_refused(world: World) -> None:
    world.offer(plan_text('data.target={ name = "sickness", classes = ["no", "yes"] }'))
    world.data()
    run(world, "plan", "approve", RUN, "--data", "ehr", fails="expected a column 'sickness'.*did you mean 'sick'")


def test_a_protected_plan_needs_every_members_key(three: World) -> None:
    three.offer(plan_text(*MASKED))
    three.data()
    run(three, "plan", "approve", RUN, "--data", "ehr", fails="Hospital B, Hospital C")
    key = fingerprint_of(three.others["Hospital B"].public)
    assert "not accepted" in run(three, "members")
    run(three, "members", "accept", "Hospital B", key.upper(), "--by", "IT")
    run(three, "plan", "approve", RUN, "--data", "ehr", fails="of Hospital C")
    run(three, "members", "accept", "--all", "--by", "IT")
    assert "nothing to accept" in run(three, "members", "accept", "--all", "--by", "IT")
    run(three, "plan", "approve", RUN, "--data", "ehr", "--by", "IT")
    listed = {one["name"]: one["key"] for one in json.loads(run(three, "members", "--json"))["members"]}
    assert listed == {"Hospital B": "accepted", "Hospital C": "accepted"}


def test_a_key_that_was_exchanged_is_shown_and_blocks_the_approval(three: World) -> None:
    three.offer(plan_text(*MASKED))
    three.data()
    run(three, "members", "accept", "Hospital B", "ab" * 32, "--by", "IT")
    run(three, "members", "accept", "Hospital C", fingerprint_of(three.others["Hospital C"].public), "--by", "IT")
    assert "Hospital B  KEY CHANGED since 2026-11-30: another is accepted, by IT" in run(three, "members")
    run(three, "plan", "approve", RUN, "--data", "ehr", fails="Hospital B")
    run(three, "members", "accept", "--all", "--by", "IT", fails="expected to replace")
    key = fingerprint_of(three.others["Hospital B"].public)
    run(three, "members", "accept", "Hospital B", key, "--instead-of", "ab" * 32, "--by", "IT")
    run(three, "plan", "approve", RUN, "--data", "ehr", "--by", "IT")


def test_a_private_plan_needs_a_budget_and_the_budget_is_shown(world: World) -> None:
    world.offer(plan_text(*PRIVATE))
    file = write_table(world.path / "ehr.csv")
    run(world, "data", "add", str(file))
    run(world, "plan", "approve", RUN, "--data", "ehr", fails="expected a budget")
    assert "no data set has a budget" in run(world, "budget")
    run(world, "data", "add", str(file), "--max-epsilon", "3", fails="--delta together")
    run(world, "data", "add", str(file), "--max-epsilon", "3", "--delta", "1e-5", "--unit", "row", "--by", "IT")
    run(world, "plan", "approve", RUN, "--data", "ehr", "--by", "IT")
    assert "epsilon 0 of 3 at delta 1e-05 for every row" in run(world, "budget")
    assert json.loads(run(world, "budget", "--json"))[0]["max_epsilon"] == 3
    run(world, "data", "add", str(file), "--max-epsilon", "9", "--delta", "1e-5", fails="caps stay as they are")


def test_a_budget_is_not_given_up_unasked(world: World) -> None:
    world.offer()
    world.data(epsilon=3.0)
    run(world, "plan", "approve", RUN, "--data", "ehr", fails="infinite for ever")
    run(world, "plan", "approve", RUN, "--data", "ehr", "--unprotected", "--by", "IT")


def test_a_run_that_names_another_key_for_this_site_is_refused(world: World) -> None:
    table = world.offer_table()
    table["sites"][0]["fingerprint"] = "ab" * 32
    from wardround.client.agent.offer import decode_offer

    PlanStore(world.folder).put(decode_offer(json.dumps(table).encode()), NOW)
    world.data()
    run(world, "plan", "approve", RUN, "--data", "ehr", fails="another key")


def test_a_run_of_other_size_than_the_plan_claims_for_is_refused(three: World) -> None:
    three.offer()
    three.data()
    run(three, "plan", "approve", RUN, "--data", "ehr", fails="the 2 sites that the plan's claims are for")


def test_deny(world: World) -> None:
    world.offer()
    run(world, "plan", "deny", RUN, "--reason", "no time", "--by", "IT")
    assert "denied by IT" in run(world, "plan", "list")
    run(world, "plan", "deny", "ffff", fails="expected the id of an offered run")


def test_leaving_erases_keys_and_keeps_what_was_spent(world: World) -> None:
    world.offer(plan_text(*PRIVATE))
    world.approve(world.data(epsilon=3.0))
    PlanStore(world.folder).note(RUN, Outcome(state=RunState.READY, units=48))
    with world.folder.lock():
        run(world, "leave", "--yes", "--offline", fails="an agent runs here already")
    assert "has left" in run(world, "leave", "--yes", "--offline")
    left = {path.name for path in world.folder.path.rglob("*") if path.is_file()}
    (bundle,) = (name for name in left if name.startswith("audit-"))
    assert left == {"lock", "ehr.json", "ehr.ledger", bundle}
    with (world.folder.path / bundle).open("rb") as file:
        assert verify_bundle(file, Authority(world.authority)).log.name == world.folder.name
    run(world, "status", fails="expected a site that has joined")


def test_removing_a_table_keeps_its_ledger(world: World) -> None:
    world.data(epsilon=3.0)
    run(world, "data", "remove", "ehr")
    assert DataRegistry(world.folder).has_ledger("ehr")


def test_start_refuses_a_second_agent(world: World) -> None:
    with world.folder.lock():
        run(world, "start", fails="an agent runs here already")
    assert json.loads(run(world, "data", "list", "--json")) == []


def test_an_invitation_that_is_none_has_an_exit_code_of_its_own(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["client", "join", "http://x#y", "--state", str(tmp_path / "site")])
    assert result.exit_code == 10 and "error: " in result.output


def test_what_jobs_may_use_goes_from_the_command_to_the_agent(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    became: list[list[str]] = []
    served: list[dict[str, object]] = []
    monkeypatch.setattr(os, "execv", lambda program, arguments: became.append(arguments))
    run(world, "start")
    limits = ("--job-memory-gib", "2", "--job-scratch-mib", "9", "--job-processes", "5000", "--job-answer-s", "7200")
    run(world, "start", "--job-python", "/opt/python", "--allow-unconfined-jobs", *limits)
    monkeypatch.setattr("wardround.client.agent.process.serve", lambda folder, **given: served.append(given))
    for arguments in became:
        assert arguments[:4] == [sys.executable, "-P", "-m", "wardround.client.agent"]
        monkeypatch.setattr(sys, "argv", ["agent", *arguments[4:]])
        runpy.run_module("wardround.client.agent", run_name="__main__")
    assert served == [
        {"job_python": None, "allow_unconfined": False, "job_limits": JobLimits()},
        {
            "job_python": Path("/opt/python"),
            "allow_unconfined": True,
            "job_limits": JobLimits(memory_bytes=2 << 30, scratch_bytes=9 << 20, processes=5000, call_s=7200),
        },
    ]
    nothing = CliRunner().invoke(app, ["client", "start", "--state", str(world.folder.path), "--job-processes", "0"])
    assert nothing.exit_code == 2 and len(became) == 2
