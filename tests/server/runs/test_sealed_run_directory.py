"""A run directory of a server: what holds a model is sealed for its place; the rest is as in a simulation."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from tests.server.runs.test_run_directory import advance, state
from wardround.errors import LocalError
from wardround.plan import Plan, load_plan, parse_plan
from wardround.server.runs.run_directory import BusyError, RunDirectory
from wardround.server.state.vault import Vault, is_sealed
from wardround.vector import Layout, TensorSpec

VAULT = Vault(b"k" * 32)
PLAN = """
name = "tiny"
rounds = 3
[task]
code = "mine"
entry = "mine:Task"
[data]
source = "csv"
path = "rows.csv"
target = { name = "ill", classes = ["no", "yes"] }
columns = [{ name = "a", range = [0, 1] }]
[simulation]
sites = 2
"""
FILES = (("mine.py", "0" * 64),)


def the_plan(folder: Path) -> Plan:
    return parse_plan(PLAN, folder=folder, code_files=FILES)


def create(path: Path, run_id: str = "one", vault: Vault = VAULT) -> RunDirectory:
    return RunDirectory.create(path, the_plan(path), {}, run_id=run_id, created=datetime.now(UTC), vault=vault)


def reopen(path: Path, vault: Vault = VAULT) -> RunDirectory:
    return RunDirectory.open(path, vault=vault, plan=the_plan(path))


def test_the_plan_is_kept_as_it_was_approved_without_its_code(tmp_path: Path) -> None:
    with create(tmp_path / "one") as run:
        assert run.info.plan_digest == run.info.source_digest == the_plan(tmp_path).digest
        assert not (run.path / "code").exists()
        assert run.path.stat().st_mode & 0o077 == 0
        (run.path / "mine").mkdir()
        (run.path / "mine" / "mine.py").write_text("other code")
        assert load_plan(run.path / "plan.toml").digest != run.info.plan_digest
    other = parse_plan(PLAN, folder=tmp_path, code_files=(("mine.py", "1" * 64),))
    with pytest.raises(LocalError, match="expected the plan and code with digest"):
        RunDirectory.open(tmp_path / "one", vault=VAULT, plan=other)


def test_checkpoints_and_the_model_are_sealed_and_come_back(tmp_path: Path) -> None:
    layout = Layout((TensorSpec(name="w", shape=(10,)),))
    with create(tmp_path / "one") as run:
        advance(run, 1, 2)
        run.write_model(layout, state(2).model, round=2, statistics=None)
        run.write_text("model-card.md", "# readable\n")
    sealed = {path.name for path in run.path.rglob("*") if path.is_file() and is_sealed(path.read_bytes())}
    assert sealed == {"round-000001.safetensors", "round-000002.safetensors", "model.safetensors"}
    with reopen(tmp_path / "one") as again:
        found = again.latest()
        assert found is not None and np.array_equal(found.state.model, state(2).model)
        assert again.lines()[1]["round"] == 2
        advance(again, 3)
    assert b"wardround sealed" in VAULT.seal("runs/one/model.safetensors", b"")
    assert VAULT.open("runs/one/model.safetensors", (run.path / "model.safetensors").read_bytes())


def test_a_checkpoint_of_another_round_run_or_key_does_not_open(tmp_path: Path) -> None:
    with create(tmp_path / "one") as run:
        advance(run, 1, 2)
    with create(tmp_path / "two", "two") as other:
        advance(other, 1, 2)
    last = run.path / "checkpoints" / "round-000002.safetensors"
    good = last.read_bytes()
    for bad in (
        (run.path / "checkpoints" / "round-000001.safetensors").read_bytes(),
        (other.path / "checkpoints" / "round-000002.safetensors").read_bytes(),
        good[:-1],
        good[:60] + bytes([good[60] ^ 1]) + good[61:],
    ):
        last.write_bytes(bad)
        with pytest.raises(LocalError, match="runs/one/checkpoints/round-000002"):
            reopen(tmp_path / "one")
    last.write_bytes(good)
    with pytest.raises(LocalError):
        reopen(tmp_path / "one", Vault(b"x" * 32))
    reopen(tmp_path / "one").close()


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with create(tmp_path / "one"), pytest.raises(BusyError, match="another process is writing this run"):
        reopen(tmp_path / "one")
