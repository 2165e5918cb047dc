"""`wardround client data`: the data steward's journey, as commands."""

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.client.agent.site_world import RUN, World, plan_text, write_table
from tests.client.agent.test_run_policy import records
from tests.client.agent.test_withdrawals import SCHEMA
from wardround.cli import app
from wardround.client.agent.data_registry import DataRegistry
from wardround.client.agent.withdrawals import Withdrawals


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World.make(tmp_path)


def run(world: World, *arguments: str, fails: str = "", entered: str = "") -> str:
    """What a command prints; with `fails`, the error that it must end with."""
    told = {"WARDROUND_CLIENT_STATE": str(world.folder.path)}
    result = CliRunner().invoke(app, ["--debug", "client", *arguments], env=told, input=entered)
    if fails:
        assert result.exception is not None and re.search(fails, str(result.exception)), result.exception
        return result.output + str(result.exception)
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


@pytest.fixture
def registered(world: World) -> World:
    schema = world.path / "ehr.toml"
    schema.write_text(SCHEMA)
    said = run(world, "data", "add", str(write_table(world.path / "ehr.csv")), "--schema", str(schema))
    assert "60 rows, 0 bad" in said and "the data fit the schema" in said and "no schema checks it" not in said
    return world


def test_a_draft_is_finished_by_a_person_before_it_counts(world: World) -> None:
    file, draft = write_table(world.path / "ehr.csv"), world.path / "ehr.toml"
    said = run(world, "data", "add", str(file), "--infer")
    assert str(draft) in said and DataRegistry(world.folder).all() == []
    run(world, "data", "add", str(file), "--infer", fails="is there already")
    run(world, "data", "add", str(file), "--schema", str(draft), fails="delete its line draft")
    text = draft.read_text()
    assert "identifier = true  # a guess, for its name" in text
    draft.write_text("\n".join(line for line in text.splitlines() if not line.startswith("draft")))
    assert "the data fit the schema" in run(world, "data", "add", str(file), "--schema", str(draft))


def test_without_a_schema_it_is_said_that_none_checks_it(world: World) -> None:
    assert "no schema checks it" in run(world, "data", "add", str(write_table(world.path / "ehr.csv")))
    assert "no schema, no budget" in run(world, "data", "list")
    run(world, "data", "validate", "ehr", fails="expected a schema")
    run(world, "data", "withdraw", "ehr", "--patient", "1", fails="expected a schema that says whose a row is")


def test_data_that_do_not_fit_are_shown_and_not_registered(world: World) -> None:
    file, schema = write_table(world.path / "ehr.csv"), world.path / "ehr.toml"
    schema.write_text(SCHEMA.replace("[0, 100]", "[0, 60]"))
    said = run(world, "data", "add", str(file), "--schema", str(schema), fails="the data do not fit their schema")
    assert "  column 'age': out of its range in" in said
    assert DataRegistry(world.folder).all() == []


def test_show_and_validate_say_what_there_is_and_no_value(registered: World) -> None:
    shown = run(registered, "data", "show", "ehr")
    assert "identifier, hashed" in shown and "0 to 100" in shown and "whose a row is: id" in shown
    table = json.loads(run(registered, "data", "show", "ehr", "--json"))
    assert table["population"] == "ehr" and table["report"]["rows"] == 60
    assert "the data fit the schema" in run(registered, "data", "validate", "ehr")
    assert json.loads(run(registered, "data", "validate", "ehr", "--json"))["fits"] is True
    file = write_table(registered.path / "ehr.csv", seed=4)
    run(registered, "data", "validate", "ehr", fails="has changed since it was registered")
    file.write_text(file.read_text() + "60,7777,1,no\n")
    assert "7777" not in run(registered, "data", "validate", "ehr", fails="out of its range in 1 row")


def test_a_column_that_changes_its_type_is_named(registered: World) -> None:
    file, schema = registered.path / "ehr.csv", str(registered.path / "ehr.toml")
    file.write_text(re.sub(r"(?m)^(\d+),\d+,", r"\1,old,", file.read_text()))
    expected = "column 'age': no finite number in 60 rows"
    assert "old" not in run(registered, "data", "add", str(file), "--schema", schema, fails=expected)


def test_patients_withdraw(registered: World) -> None:
    listed = registered.path / "list.txt"
    listed.write_text("3\n 004\n\nnobody\n")
    said = run(registered, "data", "withdraw", "ehr", "--file", str(listed), "--patient", "5")
    assert "4 patients have withdrawn, 0 had before" in said and "3 rows are used no more" in said
    assert "1 of the ids are in no row" in said
    said = run(registered, "data", "withdraw", "ehr", "--patient", "-", entered="5\n6\n")
    assert "1 patients have withdrawn, 1 had before" in said
    assert len(Withdrawals(registered.folder).hashes("ehr")) == 5
    assert "withdrawn    5 patients" in run(registered, "data", "show", "ehr")
    run(registered, "data", "withdraw", "ehr", fails="expected --patient ID or --file LIST")


def test_who_withdraws_is_looked_for_in_all_data_of_the_same_people(registered: World) -> None:
    schema = registered.path / "later.toml"
    schema.write_text('population = "ehr"\n' + SCHEMA)
    run(registered, "data", "add", str(write_table(registered.path / "later.csv", seed=2)), "--schema", str(schema))
    said = run(registered, "data", "withdraw", "ehr", "--patient", "3", "--patient", "nobody")
    assert "later, of the same people: 1 rows, 1 of the ids in none" in said
    (registered.path / "later.csv").unlink()
    said = run(registered, "data", "withdraw", "ehr", "--patient", "4")
    assert "1 patients have withdrawn" in said and "later, of the same people: " in said and "cannot be read" in said


def test_a_plan_that_wants_an_identifier_is_not_approved(registered: World) -> None:
    registered.offer(plan_text('data.columns=[{ name = "id", range = [0, 100] }]'))
    run(registered, "plan", "approve", RUN, "--data", "ehr", fails="column 'id': is an identifier in the schema")


def test_a_plan_with_another_unit_is_not_approved(registered: World) -> None:
    registered.offer(plan_text('data.columns=[{ name = "age", range = [0, 100], unit = "months" }]'))
    run(registered, "plan", "approve", RUN, "--data", "ehr", fails="unit mismatch: expected 'months'")


def test_purge_forgets_and_keeps_the_file(registered: World) -> None:
    run(registered, "data", "withdraw", "ehr", "--patient", "1")
    assert "what was spent on it stays spent" in run(registered, "data", "purge", "ehr", "--yes")
    assert (registered.path / "ehr.csv").exists() and DataRegistry(registered.folder).all() == []
    assert Withdrawals(registered.folder).hashes("ehr") == ()


def test_purge_may_delete_the_file(registered: World) -> None:
    assert "AND DELETE" in run(registered, "data", "purge", "ehr", "--file", entered="y\n")
    assert not (registered.path / "ehr.csv").exists()


def test_who_decided_is_in_the_audit_log_and_the_same_people_are_asked_for(registered: World) -> None:
    run(registered, "data", "withdraw", "ehr", "--patient", "1", "--by", "Ann")
    schema = str(registered.path / "ehr.toml")
    said = run(registered, "data", "add", str(write_table(registered.path / "new.csv", seed=9)), "--schema", schema)
    assert "1 patients have withdrawn from 'ehr': the same people? then set population" in said
    again = run(registered, "data", "add", str(registered.path / "ehr.csv"), "--schema", schema, "--by", "Bob")
    assert "the same people?" not in again
    run(registered, "data", "remove", "new", "--by", "Bob")
    run(registered, "data", "purge", "ehr", "--yes", "--by", "Bob")
    kinds = ("data.added", "data.withdrawn", "data.removed", "data.purged")
    who = {kind: [one["detail"]["by"] for one in records(registered, kind)][-1] for kind in kinds}
    assert who == {"data.added": "Bob", "data.withdrawn": "Ann", "data.removed": "Bob", "data.purged": "Bob"}
