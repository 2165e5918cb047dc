"""`wardround client policy`, and what `plan` and `members` show and refuse by it."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.client.agent.site_world import NOW, PLAN, RUN, FakeJob, World, plan_text, write_table
from tests.client.agent.test_run_policy import records
from tests.client.agent.test_site_run import PRIVATE
from tests.client.test_client_commands import MASKED, run
from wardround.cli import app
from wardround.client.agent.offer import decode_offer
from wardround.client.agent.plan_store import PlanStore
from wardround.client.agent.policy_file import PolicyFile
from wardround.client.agent.site_run import SiteRun
from wardround.client.guard.policy import CodeLeave, PinLeave, SitePolicy
from wardround.errors import WardroundError
from wardround.plain_text import in_groups
from wardround.signing_key import fingerprint_of

OTHER = "f" * 32
CODED = PLAN.replace('name = "tabular-classifier"\nmodel = "logistic"', 'code = "code"\nentry = "task:Task"')
CODE = {"task.py": b"class Task:\n    rate = 1\n", "lib/extra.py": b"x = 1\n"}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World.make(tmp_path)


@pytest.fixture
def three(tmp_path: Path) -> World:
    return World.make(tmp_path, others=("Hospital B", "Hospital C"))


def offer_code(world: World, code: dict[str, bytes], run_id: str = RUN, text: str = CODED) -> None:
    table = world.offer_table(text, run=run_id, code=code)
    PlanStore(world.folder).put(decode_offer(json.dumps(table).encode()), NOW)


def prepare(world: World) -> None:
    """As the agent does once a run is approved."""
    site_run = SiteRun(world.folder, RUN, lambda *about: FakeJob(), now=lambda: NOW)
    try:
        site_run.prepare()
    finally:
        site_run.close()


# -- policy -----------------------------------------------------------------------------------------------


def test_the_spec_s_policy_is_set_shown_and_kept(world: World) -> None:
    run(world, "policy", "set", "--max-epsilon", "3", "--min-sites", "3", "--require", "secure-aggregation,dp")
    shown = run(world, "policy", "set", "--max-rounds", "9")
    assert "max_epsilon             3" in shown and "min_sites               3" in shown and "max_rounds" in shown
    assert run(world, "policy", "show") == shown
    assert json.loads(run(world, "policy", "show", "--json"))["require"] == ["secure-aggregation", "dp"]
    assert (world.folder.path / "policy.toml").stat().st_mode & 0o777 == 0o600


def test_every_change_is_in_the_audit_log_with_what_was_and_what_is(world: World) -> None:
    run(world, "policy", "set", "--min-sites", "3", "--by", "Ann")
    run(world, "policy", "set", "--min-sites", "3", "--by", "Ann")  # changes nothing
    run(world, "policy", "set", "--min-sites", "2", "--max-rounds", "9", "--by", "Bob")
    run(world, "policy", "set", "--max-rounds", "0", fails="at least 1")
    assert [one["detail"] for one in records(world, "policy.changed")] == [
        {"by": "Ann", "changes": {"min_sites": [None, "3"]}},
        {"by": "Bob", "changes": {"min_sites": ["3", "2"], "max_rounds": [None, "9"]}},
    ]


def test_every_rule_has_an_option_and_can_be_cleared(world: World) -> None:
    world.data()
    run(world, "policy", "set", "--max-delta", "1e-5", "--pins", "all", "--tasks", "tabular-classifier")
    run(world, "policy", "set", "--hours", "mon-fri 20:00-06:00", "--hours", "sat 00:00-24:00", "--time-zone", "UTC")
    run(world, "policy", "set", "--min-rows", "50", "--require-schema", "--evaluation", "summed", "--code", "none")
    run(world, "policy", "set", "--data", "ehr", "--max-epsilon", "1", "--allow-unconfined-jobs")
    policy = PolicyFile(world.folder).read()
    assert policy.pins is PinLeave.ALL and policy.code is CodeLeave.NONE and len(policy.hours) == 2
    assert policy.require_schema and policy.allow_unconfined_jobs and policy.max_epsilon_of("ehr") == 1.0
    assert policy.max_epsilon is None
    run(world, "policy", "set", "--pins", "Hospital B", "--pins", "Hospital C", "--no-require-schema")
    assert PolicyFile(world.folder).read().pins == ("Hospital B", "Hospital C")
    run(world, "policy", "clear", "hours", "data.ehr", "max_delta")
    policy = PolicyFile(world.folder).read()
    assert policy.hours == () and policy.time_zone is None and policy.data == {} and policy.min_rows == 50
    assert "no rule is set" in run(world, "policy", "clear", "--all")
    assert PolicyFile(world.folder).read() == SitePolicy()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("set", "--max-epsilon", "0"), r"policy\.max_epsilon: expected more than 0"),
        (("set", "--min-sites", "1000", "--require", "secure-aggregation"), "at most 255"),
        (("set", "--hours", "20:00-20:00", "--time-zone", "UTC"), "has minutes in it"),
        (("set", "--hours", "20:00-21:00"), "time_zone"),
        (("set", "--require", "everything"), "one of 'secure-aggregation'"),
        (("set",), "expected a rule to set"),
        (("set", "--data", "nothing", "--max-epsilon", "1"), "expected a registered data set"),
        (("set", "--data", "ehr"), "--max-epsilon or --max-delta with it"),
        (("set", "--code", "short"), "64 hexadecimal"),
        (("clear",), "RULE... or --all"),
        (("clear", "max_epsilom"), "did you mean 'max_epsilon'"),
        (("clear", "data.ehr"), "expected limits that are set"),
        (("check", "nothing"), "expected the id of an offered run"),
    ],
)
def test_what_cannot_be_met_is_refused_and_changes_nothing(
    world: World, arguments: tuple[str, ...], expected: str
) -> None:
    run(world, "policy", "set", "--max-rounds", "5")
    before = (world.folder.path / "policy.toml").read_bytes()
    run(world, "policy", *arguments, fails=expected)
    assert (world.folder.path / "policy.toml").read_bytes() == before


def test_what_may_not_be_meant_is_said(world: World) -> None:
    world.data()
    said = run(world, "policy", "set", "--min-sites", "2", "--tasks", "tabular-clasifier,x:y", "--min-rows", "61")
    assert "note: min_sites without secure-aggregation" in said and "no task called 'tabular-clasifier'" in said
    assert "no registered data set has so many" in said and "x:y'" not in said
    world.offer()
    run(world, "policy", "clear", "--all")
    run(world, "plan", "approve", RUN, "--data", "ehr", "--by", "IT")
    assert f"run {RUN[:12]} is approved and does not keep to this (max_rounds 1)" in run(
        world, "policy", "set", "--max-rounds", "1"
    )


def test_check_lists_every_rule_and_its_exit_code_says_it(world: World) -> None:
    world.offer(plan_text(*PRIVATE))
    world.data(epsilon=9.0)
    run(world, "policy", "set", "--max-epsilon", "1", "--max-rounds", "2", "--min-rows", "61", "--min-sites", "2")
    result = CliRunner().invoke(
        app, ["client", "policy", "check", RUN], env={"WARDROUND_CLIENT_STATE": str(world.folder.path)}
    )
    assert result.exit_code == 1
    lines = result.output.splitlines()
    assert lines[0].startswith("later   max_epsilon 1") and lines[1] == "keeps   min_sites 2"
    assert lines[2].startswith("BREAKS  min_rows 61: ") and lines[3].startswith("BREAKS  max_rounds 2: ")
    run(world, "policy", "clear", "max_rounds", "min_rows")
    marks = json.loads(run(world, "policy", "check", RUN, "--json"))
    assert [one["mark"] for one in marks] == ["later", "keeps"]


# -- approval ---------------------------------------------------------------------------------------------


def test_an_approval_against_the_policy_is_refused_with_every_rule(world: World) -> None:
    world.offer()
    world.data()
    run(world, "policy", "set", "--max-epsilon", "3", "--min-sites", "3", "--require", "secure-aggregation,dp")
    said = run(world, "plan", "approve", RUN, "--data", "ehr", fails="policy")
    assert [rule in said for rule in ("max_epsilon:", "min_sites:", "secure-aggregation", "expected dp")] == [True] * 4
    assert PlanStore(world.folder).decision(RUN) is None
    run(world, "policy", "clear", "--all")
    run(world, "plan", "approve", RUN, "--data", "ehr", "--by", "IT")


@pytest.mark.parametrize("changed", ["plan.toml", "bundle/code/task.py", "the data"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_one_changed_byte_needs_a_new_approval(world: World, changed: str, when: str) -> None:
    offer_code(world, CODE)
    world.data()

    def change() -> None:
        path = world.path / "ehr.csv" if changed == "the data" else world.folder.path / "plans" / RUN / changed
        data = bytearray(path.read_bytes())
        data[data.index(b"3" if changed == "plan.toml" else b"1")] ^= 1
        path.write_bytes(data)

    expected = "has changed since it was registered" if changed == "the data" else "plan digest differs"
    if when == "before":
        change()
        run(world, "plan", "approve", RUN, "--data", "ehr", fails=expected)
        return
    run(world, "plan", "approve", RUN, "--data", "ehr", "--by", "IT")
    change()
    with pytest.raises(WardroundError, match=expected):
        prepare(world)


def test_data_that_were_registered_again_need_a_new_approval(world: World) -> None:
    world.offer()
    world.data()
    run(world, "plan", "approve", RUN, "--data", "ehr", "--by", "IT")
    run(world, "data", "add", str(write_table(world.path / "ehr.csv", seed=3)))
    with pytest.raises(WardroundError, match=r"have changed.* since the run was approved"):
        prepare(world)


SCHEMA = """
columns = [
    { name = "id", type = "integer" },
    { name = "age", type = "number", range = [0, 100], unit = "years" },
    { name = "dose", type = "number", range = [0, 10] },
    { name = "sick", type = "category", categories = ["no", "yes"] },
]
"""


def test_a_changed_schema_needs_a_new_approval_and_a_policy_may_ask_for_one(world: World) -> None:
    world.offer(plan_text('data.columns=[{ name = "age", unit = "years" }, { name = "dose" }]'))
    file, schema = write_table(world.path / "ehr.csv"), world.path / "ehr.toml"
    run(world, "data", "add", str(file))
    run(world, "policy", "set", "--require-schema")
    run(world, "plan", "approve", RUN, "--data", "ehr", fails="require_schema: expected a data set .* with a schema")
    schema.write_text(SCHEMA)
    run(world, "data", "add", str(file), "--schema", str(schema))
    run(world, "plan", "approve", RUN, "--data", "ehr", "--by", "IT")
    prepare(world)
    schema.write_text(SCHEMA.replace("[0, 10]", "[0, 11]"))
    run(world, "data", "add", str(file), "--schema", str(schema))
    with pytest.raises(WardroundError, match=r"have changed.* since the run was approved"):
        prepare(world)


def test_show_says_where_plan_and_schema_differ(world: World) -> None:
    world.offer(plan_text('data.columns=[{ name = "age", unit = "months" }, { name = "dose" }]'))
    schema = world.path / "ehr.toml"
    schema.write_text(SCHEMA)
    run(world, "data", "add", str(write_table(world.path / "ehr.csv")), "--schema", str(schema))
    assert "BREAKS the schema: column 'age'" in run(world, "plan", "show", RUN)
    run(world, "plan", "approve", RUN, "--data", "ehr", fails="column 'age'")


# -- what is shown ------------------------------------------------------------------------------------------


def test_show_says_in_words_what_would_run_on_what_and_how_the_policy_stands(world: World) -> None:
    text = plan_text(*PRIVATE, 'data.columns=[{ name = "age", unit = "years", range = [0, 100] }, { name = "weight" }]')
    world.offer(text)
    world.data(epsilon=9.0)
    run(world, "policy", "set", "--max-rounds", "2", "--require", "dp", "--max-epsilon", "3")
    shown = run(world, "plan", "show", RUN)
    assert "a site trains tabular-classifier (logistic) for 2 steps, 8 at a time" in shown
    assert "ehr, 60 rows, these columns and no others" in shown
    assert "a number in years, 0 to 100" in shown and "weight  a number; MISSING in this table" in shown
    assert "what is predicted: one of no, yes" in shown
    assert "differential privacy; its epsilon depends on" in shown
    assert "BREAKS  max_rounds 2: expected at most 2 rounds, got 3" in shown and "keeps   require dp" in shown
    assert "later   max_epsilon 3" in shown and "the plan brings none" in shown
    claimed = plan_text(*PRIVATE[:1], "privacy.epsilon=2.0", *PRIVATE[2:])
    world.offer(claimed, run=OTHER)
    shown = run(world, "plan", "show", OTHER, "--data", "ehr")
    assert "epsilon 2 at delta" in shown and "for every row" in shown and "keeps   max_epsilon 3" in shown


def test_a_plan_without_privacy_is_called_that(world: World) -> None:
    world.offer()
    assert "no differential privacy: what leaves the site" in run(world, "plan", "show", RUN)


def test_code_is_shown_as_what_changed_since_the_last_approved_bundle(world: World) -> None:
    offer_code(world, CODE)
    world.data()
    shown = run(world, "plan", "show", RUN, "--code")
    assert "task.py  SHA-256" in shown and "...  new" in shown and "    rate = 1" in shown
    assert "class Task:" in run(world, "plan", "diff", RUN)  # nothing to compare with: all of it
    assert "and, if it likes, others, since it brings code of its own" in shown
    run(world, "plan", "approve", RUN, "--data", "ehr", "--by", "IT")

    newer = {"task.py": CODE["task.py"].replace(b"1", b"2"), "more.py": b"\x1b[2J\n"}
    offer_code(world, newer, OTHER, CODED.replace("rounds = 3", "rounds = 4"))
    shown = run(world, "plan", "show", OTHER)
    assert "task.py  SHA-256" in shown and "CHANGED" in shown and "lib/extra.py  DELETED" in shown
    assert f"compared with run {RUN[:12]}" in shown
    diff = run(world, "plan", "diff", OTHER)
    assert "-rounds             * 3" in diff and "+rounds             * 4" in diff
    assert "-    rate = 1" in diff and "+    rate = 2" in diff and "-x = 1" in diff and "+\ufffd[2J" in diff
    assert "\x1b" not in diff


def test_a_denied_bundle_is_nothing_to_compare_with(world: World) -> None:
    offer_code(world, CODE)
    run(world, "plan", "deny", RUN, "--by", "IT")
    offer_code(world, CODE, OTHER)
    assert "was approved here before" in run(world, "plan", "diff", OTHER)


# -- members ------------------------------------------------------------------------------------------------


def test_keys_are_new_accepted_or_changed_and_their_history_is_kept(three: World) -> None:
    three.offer(plan_text(*MASKED))
    key = fingerprint_of(three.others["Hospital B"].public)
    shown = run(three, "members")
    assert "Hospital B  NEW, not accepted" in shown and in_groups(key) in shown
    assert in_groups(three.folder.fingerprint) in shown
    run(three, "members", "accept", "Hospital B", *in_groups("ab" * 32).upper().split(), "--by", "IT")
    shown = run(three, "members")
    assert "Hospital B  KEY CHANGED since 2026-11-30: another is accepted, by IT" in shown
    assert in_groups("ab" * 32) in shown
    run(three, "members", "accept", "Hospital B", in_groups(key), "--instead-of", in_groups("ab" * 32), "--by", "Ann")
    assert "Hospital B  accepted by Ann on " in run(three, "members")
    history = json.loads(run(three, "members", "history", "--json"))
    assert [(one["name"], one["by"], one["old"], one["new"]) for one in history] == [
        ("Hospital B", "IT", None, "ab" * 32),
        ("Hospital B", "Ann", "ab" * 32, key),
    ]
    told = run(three, "members", "history")
    assert told.count("Hospital B: accepted by") == 2 and f"was {in_groups('ab' * 32)}" in told


def test_no_key_was_accepted_yet(world: World) -> None:
    assert run(world, "members", "history") == "no key was accepted yet\n"


def test_a_foreign_decision_is_named_in_the_list(world: World) -> None:
    world.offer()
    world.approve(world.data())
    table: dict[str, Any] = json.loads(world.folder.read(f"plans/{RUN}/decision.json"))
    world.folder.write(f"plans/{RUN}/decision.json", json.dumps(table | {"by": "somebody"}).encode())
    assert "cannot go on: " in run(world, "plan", "list") and "decide again" in run(world, "status")
    run(world, "plan", "approve", RUN, "--data", "ehr", "--by", "IT")
    assert "approved by IT" in run(world, "plan", "list")
