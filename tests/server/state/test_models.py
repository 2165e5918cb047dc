"""Models by name and version."""

from tests.server.state.at_once import at_once
from tests.server.state.rows import NOW, add_plan, add_run
from wardround.server.state.database import Database
from wardround.server.state.models import Models, StoredModel
from wardround.server.state.runs import Runs


def add(database: Database, run_id: str, name: str = "cardio") -> StoredModel:
    return Models(database).add(name=name, run_id=run_id, plan_digest="d1", blob="0" * 32, sha256=b"s" * 32, now=NOW)


def test_versions_count_up_without_a_gap_however_many_are_added(database: Database, url: str) -> None:
    add_plan(database)
    runs = Runs(database)
    ids = [runs.create(plan_digest="d1", name="x", sites=[], created_by="", now=NOW).id for _ in range(8)]
    versions = at_once(url, 8, lambda one, i: add(one, ids[i]).version)
    assert sorted(versions) == list(range(1, 9))
    assert [one.version for one in Models(database).list("cardio")] == list(range(1, 9))


def test_a_run_has_one_model_however_often_it_is_added(database: Database, url: str) -> None:
    run = add_run(database)
    found = at_once(url, 4, lambda one, _: add(one, run.id))
    assert found == [found[0]] * 4
    assert Models(database).list() == found[:1]
    assert add(database, run.id, "another name") == found[0] == Models(database).of_run(run.id)


def test_a_model_is_found_by_name_and_version(database: Database) -> None:
    first = add_run(database)
    second = Runs(database).create(plan_digest="d1", name="x", sites=[], created_by="", now=NOW)
    one, two = add(database, first.id), add(database, second.id)
    models = Models(database)
    assert (models.get("cardio"), models.get("cardio", 1), models.get("cardio", 3)) == (two, one, None)
    assert models.get("neuro") is None
    assert models.of_run("unknown") is None
