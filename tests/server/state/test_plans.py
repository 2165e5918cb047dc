"""Plans, their code, and first models."""

import pytest
import sqlalchemy as sa

from tests.server.state.at_once import at_once
from tests.server.state.rows import KEY, NOW, add_plan, later
from wardround.errors import LocalError
from wardround.server.state import tables
from wardround.server.state.database import Database, TakenError
from wardround.server.state.first_models import FirstModels
from wardround.server.state.plans import Plans
from wardround.server.state.vault import Vault

FILES = {"task.py": b"secret = 'sauce'\n", "sub/empty.py": b""}


def test_a_plan_comes_back_with_its_files_and_is_kept_once(database: Database, url: str) -> None:
    def add(one: Database, number: int) -> object:
        plans = Plans(one, Vault(KEY))
        return plans.add(digest="d", name="cardio", toml="x", files=FILES, created_by=f"person {number}", now=NOW)

    found = at_once(url, 4, add)
    plans = Plans(database, Vault(KEY))
    assert [plans.get("d")] * 4 == found
    assert plans.list() == found[:1]
    assert plans.files("d") == FILES
    assert plans.get("e") is None
    assert plans.files("e") == {}


def test_code_is_sealed_and_does_not_open_elsewhere(database: Database) -> None:
    plans = Plans(database, Vault(KEY))
    plans.add(digest="d", name="cardio", toml="x", files=FILES, created_by="ada", now=NOW)
    one = tables.plan_files
    with database.transaction() as connection:
        for sealed in connection.scalars(sa.select(one.c.sealed)):
            assert b"sauce" not in sealed
        connection.execute(sa.update(one).where(one.c.path == "task.py").values(path="other.py"))
    with pytest.raises(LocalError, match="does not open"):
        plans.files("d")


def test_plans_are_listed_as_they_came(database: Database) -> None:
    plans = Plans(database, Vault(KEY))
    for digest, hour in (("b", 1), ("a", 2), ("c", 0)):
        plans.add(digest=digest, name="x", toml="", files={}, created_by="", now=later(hour))
    assert [plan.digest for plan in plans.list()] == ["c", "b", "a"]


def test_a_plan_has_one_first_model(database: Database) -> None:
    models = FirstModels(database)
    digest = add_plan(database)
    layout = [("weight", [3, 4]), ("bias", [])]
    model = models.add(digest, blob="0" * 32, size=13, layout=layout, spec='{"a": 1}')
    assert models.get(digest) == model
    assert model.layout == (("weight", (3, 4)), ("bias", ()))
    assert models.get("another") is None
    for other in (digest, "unknown"):
        with pytest.raises(TakenError):
            models.add(other, blob="1" * 32, size=13, layout=layout, spec="{}")
    big = add_plan(database, "d2")
    assert models.add(big, blob="2" * 32, size=1 << 40, layout=layout, spec="{}") == models.get(big)
