"""`wardround client model open`: what opens, what is refused and why, what is left behind."""

import hashlib
import json
import os
import re
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.client.agent.site_world import RUN, World, plan_text
from wardround.cli import app
from wardround.client import sealed_model_commands
from wardround.client.agent.archive_keys import keep_archive
from wardround.client.agent.plan_store import Outcome, PlanStore, RunState
from wardround.plan import Plan
from wardround.server.runs.model_file import ModelFile, encode_model
from wardround.strategies.he.sealed_model import ArchiveKey, seal_model
from wardround.vector import Layout, TensorSpec

BFV = (
    'protection.mode="bfv"',
    "protection.sealed_model=true",
    'cohort.weighting="uniform"',
    "clipping.clip_norm=1.0",
)
KEY = ArchiveKey(run=RUN, epoch=4, fingerprint=b"f" * 32, private=b"p" * 32)
LAYOUT = Layout((TensorSpec(name="layers.0.weight", shape=(2, 2)), TensorSpec(name="layers.0.bias", shape=(2,))))


def model_of(plan: Plan, run: str = RUN) -> bytes:
    weights = np.arange(6, dtype=np.float32) / np.float32(7)
    return encode_model(ModelFile(layout=LAYOUT, model=weights, round=3, run_id=run, plan_digest=plan.digest))


def sealed_to(key: ArchiveKey, data: bytes) -> bytes:
    return seal_model(data, key.public, run=key.run, epoch=key.epoch, fingerprint=key.fingerprint)


class Site:
    """A site that was in a run whose model is sealed to it; the server has named the sealed file."""

    def __init__(self, path: Path) -> None:
        self.world, self.path = World.make(path), path
        self.plan = self.world.offer(plan_text(*BFV))
        self.model = model_of(self.plan)
        self.sealed = sealed_to(KEY, self.model)
        self.file, self.out = path / "tiny-1.sealed", path / "model.safetensors"
        self.file.write_bytes(self.sealed)
        keep_archive(self.world.folder, KEY)
        self.name(self.sealed)

    def name(self, sealed: bytes | None) -> None:
        """What the server says came of the run."""
        model = "" if sealed is None else hashlib.sha256(sealed).hexdigest()
        PlanStore(self.world.folder).note(RUN, Outcome(state=RunState.ENDED, reason="finished", model=model))

    def open(self, *, fails: str = "") -> str:
        """What the command prints; with `fails`, the error that it must end with, and that it has made nothing."""
        before = sorted(os.listdir(self.path))
        told = {"WARDROUND_CLIENT_STATE": str(self.world.folder.path)}
        arguments = ["client", "model", "open", str(self.file), "--out", str(self.out)]
        result = CliRunner().invoke(app, ["--debug", *arguments], env=told)
        if not fails:
            assert result.exit_code == 0, (result.output, result.exception)
            return result.output
        assert result.exception is not None and re.search(fails, str(result.exception)), result.exception
        assert sorted(os.listdir(self.path)) == before
        return str(result.exception)

    def opened(self) -> list[dict[str, object]]:
        """The lines of the audit log about it."""
        path = self.world.folder.path / "audit" / "log.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        return [
            one["record"] if "record" in one else one for one in map(json.loads, lines) if "model.opened" in str(one)
        ]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_a_member_gets_the_very_model(site: Site) -> None:
    said = site.open()
    assert site.out.read_bytes() == site.model
    assert stat.S_IMODE(site.out.stat().st_mode) == 0o600
    assert f"the model of run {RUN} after round 3" in said and hashlib.sha256(site.model).hexdigest() in said
    assert "wardround predict" in said and "warning" not in said
    (line,) = site.opened()
    assert line["subject"] == RUN
    detail = line["detail"]
    assert detail == {
        "epoch": 4,
        "sealed": hashlib.sha256(site.sealed).hexdigest(),
        "model": hashlib.sha256(site.model).hexdigest(),
    }
    assert "70" * 32 not in str(line)  # the key


def test_a_file_that_is_there_is_not_written_over(site: Site) -> None:
    site.out.write_text("mine")
    site.open(fails="is there already; name another file with --out")
    assert site.out.read_text() == "mine"
    site.out.unlink()
    site.out.symlink_to(site.path / "elsewhere")
    site.open(fails="is there already")
    assert site.opened() == []


def test_one_that_appears_meanwhile_is_not_written_over(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os.path, "lexists", lambda path: False)
    site.out.write_text("mine")
    site.open(fails="is there already; name another file with --out")
    assert site.out.read_text() == "mine"


def test_where_it_cannot_be_written_nothing_is_left(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sealed_model_commands, "write_all", full)
    site.open(fails="cannot be written .No space left on device.; there is no such file")
    site.out = site.path / "nowhere" / "model.safetensors"
    monkeypatch.undo()
    site.open(fails="cannot be written .No such file or directory.")


def test_every_changed_byte_is_refused(site: Site) -> None:
    for at in range(0, len(site.sealed), 7):
        changed = bytearray(site.sealed)
        changed[at] ^= 1
        site.file.write_bytes(changed)
        site.open(fails="tiny-1.sealed: ")
    assert site.opened() == [] and not site.out.exists()


def test_every_changed_byte_is_refused_also_before_the_server_has_named_the_file(site: Site) -> None:
    site.name(None)
    for at in range(3, len(site.sealed), 11):
        changed = bytearray(site.sealed)
        changed[at] ^= 1
        site.file.write_bytes(changed)
        site.open(fails="tiny-1.sealed: ")


@pytest.mark.parametrize("told", [True, False])
def test_a_cut_file_is_refused(site: Site, told: bool) -> None:
    site.name(site.sealed if told else None)
    for length in (0, 4, 8, 40, 150, len(site.sealed) - 1):
        site.file.write_bytes(site.sealed[:length])
        site.open(fails="tiny-1.sealed: ")


def test_a_foreign_file_is_refused(site: Site) -> None:
    site.file.write_bytes(site.model)
    site.open(fails="sealed model: expected a file that a wardround server sealed")


def test_a_model_of_another_file_name_is_not_the_one_that_the_server_named(site: Site) -> None:
    """Whoever knows the public key can seal: the server of yesterday, a member, a thief of its state."""
    site.file.write_bytes(sealed_to(KEY, site.model))
    site.open(fails="expected the file that the server named when the run ended .*fetch it again")


def test_before_the_server_has_named_it_that_is_said(site: Site) -> None:
    site.name(None)
    assert "warning: the server has not told this site yet" in site.open()


def test_a_site_that_was_not_in_the_epoch_is_told_so(site: Site) -> None:
    other = replace(KEY, epoch=5, fingerprint=b"g" * 32)
    site.file.write_bytes(sealed_to(other, site.model))
    site.open(fails=r"an epoch in which Hospital A was \(4\), got one of epoch 5 .*ask a member that was in that epoch")
    stranger = replace(KEY, run="f" * 32)
    site.file.write_bytes(sealed_to(stranger, site.model))
    site.open(fails="expected a model of a run that was offered to Hospital A")


def test_a_model_of_another_run_or_plan_within_is_refused(site: Site) -> None:
    other = site.world.offer(plan_text(*BFV, "rounds=4"), run="e" * 32)
    for inside in (model_of(site.plan, run="e" * 32), model_of(other)):
        sealed = sealed_to(KEY, inside)
        site.file.write_bytes(sealed)
        site.name(sealed)
        site.open(fails="expected the model of this run and its plan in it, got one of another")
    site.file.write_bytes(sealed_to(KEY, b"no model"))
    site.name(site.file.read_bytes())
    site.open(fails="expected a model made by wardround")


def test_on_the_command_line_an_error_is_one_line(site: Site) -> None:
    site.file.write_bytes(b"x")
    told = {"WARDROUND_CLIENT_STATE": str(site.world.folder.path)}
    result = CliRunner().invoke(app, ["client", "model", "open", str(site.file), "--out", str(site.out)], env=told)
    assert result.exit_code == 1 and "Traceback" not in result.output
    assert result.output.strip().splitlines() == [
        f"error: {site.file}: sealed model: expected a file that a wardround server sealed"
    ]


def test_it_opens_where_neither_tenseal_nor_torch_is(site: Site) -> None:
    code = (
        "import sys\n"
        "for name in ('tenseal', 'torch', 'flwr', 'safetensors'): sys.modules[name] = None\n"
        "from wardround.cli import main\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "client", "model", "open", str(site.file), "--out", str(site.out)],
        env={**os.environ, "WARDROUND_CLIENT_STATE": str(site.world.folder.path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert site.out.read_bytes() == site.model


def test_who_leaves_is_told_to_open_sealed_models_first(site: Site) -> None:
    told = {"WARDROUND_CLIENT_STATE": str(site.world.folder.path)}
    result = CliRunner().invoke(app, ["client", "leave", "--offline"], env=told, input="n\n")
    assert "whose models only they open (1); open what is wanted first" in " ".join(result.output.split())
    assert result.exit_code != 0
    assert (site.world.folder.path / "plans" / RUN / "archive.json").exists()
