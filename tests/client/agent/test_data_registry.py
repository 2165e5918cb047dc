"""Registered tables: what is noted, and that no budget is escaped by another name."""

from pathlib import Path

import pytest

from tests.client.agent.site_world import NOW, World, write_table
from wardround.client.agent.data_registry import DataRegistry
from wardround.errors import LocalError
from wardround.plan_privacy import Unit


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World.make(tmp_path)


def test_a_table_is_counted_and_no_value_of_it_is_kept(world: World) -> None:
    found = world.data()
    assert (found.rows, found.columns, found.format) == (60, ("id", "age", "dose", "sick"), "csv")
    found.check_unchanged()
    kept = (world.folder.path / "data" / "ehr.json").read_text()
    assert "yes" not in kept and "age" in kept
    assert DataRegistry(world.folder).all() == [found]


def test_parquet_is_counted(world: World) -> None:
    import pyarrow
    import pyarrow.parquet

    path = world.path / "ehr.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"a": [1, 2, 3], "b": ["x", "y", "z"]}), path)
    found = DataRegistry(world.folder).add(path, "ehr", NOW)
    assert (found.rows, found.columns, found.format) == (3, ("a", "b"), "parquet")
    path.write_bytes(b"no parquet")
    with pytest.raises(LocalError, match="Parquet"):
        DataRegistry(world.folder).add(path, "ehr", NOW)


@pytest.mark.parametrize("text", ["", "a,b\n", "\n\n", "a;b\n\n\n"])
def test_a_table_without_rows_is_refused(world: World, text: str) -> None:
    path = world.path / "x.csv"
    path.write_text(text)
    with pytest.raises(LocalError, match="expected a header and rows"):
        DataRegistry(world.folder).add(path, "x", NOW)


@pytest.mark.parametrize("name", ["../x", "", ".x", "a b", "x" * 70, "a/b"])
def test_a_name_is_no_path(world: World, name: str) -> None:
    with pytest.raises(LocalError, match="expected a name"):
        DataRegistry(world.folder).add(write_table(world.path / "x.csv"), name, NOW)


def test_changed_data_keep_their_budget(world: World) -> None:
    world.data(epsilon=3.0)
    registry = DataRegistry(world.folder)
    changed = registry.add(write_table(world.path / "ehr.csv", seed=5), "ehr", NOW)
    ledger = registry.ledger("ehr")
    assert ledger is not None and ledger.account().digests[-1] == changed.digest and len(ledger.account().digests) == 2


def test_the_same_rows_have_one_budget_whatever_they_are_called(world: World) -> None:
    world.data(epsilon=3.0)
    registry = DataRegistry(world.folder)
    copy = write_table(world.path / "copy.csv")
    with pytest.raises(LocalError, match="is registered as 'ehr' already"):
        registry.add(copy, "other", NOW)
    registry.remove("ehr")
    with pytest.raises(LocalError, match="belongs to 'ehr'"):
        registry.add(copy, "other", NOW)
    registry.add(world.path / "ehr.csv", "ehr", NOW)
    with pytest.raises(LocalError, match="has a budget already"):
        registry.make_ledger(
            registry.find("ehr"), epsilon=9, delta=1e-5, unit=Unit.PATIENT, by="IT", disjoint="because"
        )


def test_a_second_budget_needs_the_reason_why_nobody_is_in_both(world: World) -> None:
    world.data(epsilon=3.0)
    registry = DataRegistry(world.folder)
    other = registry.add(write_table(world.path / "o.csv", seed=9), "other", NOW)
    with pytest.raises(LocalError, match="--disjoint"):
        registry.make_ledger(other, epsilon=3, delta=1e-5, unit=Unit.PATIENT, by="IT", disjoint=None)
    made = registry.make_ledger(other, epsilon=3, delta=1e-5, unit=Unit.PATIENT, by="IT", disjoint="another ward")
    assert [one.reason for one in made.account().disjoint] == ["another ward"]
    assert list(registry.ledgers()) == ["ehr", "other"]


def test_an_anchor_finds_a_ledger_that_was_set_back(world: World, tmp_path: Path) -> None:
    registry, away = DataRegistry(world.folder), tmp_path / "other-disk"
    away.mkdir()
    data = registry.add(write_table(world.path / "e.csv"), "ehr", NOW, anchor=away / "ehr.anchor")
    ledger = registry.make_ledger(data, epsilon=3, delta=1e-5, unit=Unit.PATIENT, by="IT", disjoint=None)
    path = registry.ledger_path("ehr")
    old = path.read_bytes()
    ledger.admit_data("changed")
    path.write_bytes(old)
    with pytest.raises(LocalError, match="older"):
        registry.ledger("ehr")


def test_an_anchor_inside_the_site_folder_is_refused(world: World) -> None:
    registry = DataRegistry(world.folder)
    inside = world.folder.path / "ehr.anchor"
    data = registry.add(write_table(world.path / "e.csv"), "ehr", NOW, anchor=inside)
    with pytest.raises(LocalError, match="expected a place outside"):
        registry.make_ledger(data, epsilon=3, delta=1e-5, unit=Unit.PATIENT, by="IT", disjoint=None)


def test_an_unknown_or_damaged_registration_is_named(world: World) -> None:
    registry = DataRegistry(world.folder)
    with pytest.raises(LocalError, match="expected a registered data set"):
        registry.find("nothing")
    world.data()
    world.folder.write("data/ehr.json", b"{}")
    with pytest.raises(LocalError, match="register it again"):
        registry.find("ehr")
