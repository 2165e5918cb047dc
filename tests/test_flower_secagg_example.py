"""The example of secure aggregation in a Flower app: in this process, and with `flwr run`, a drop-out in it."""

import importlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, Error, Message, RecordDict
from numpy.typing import NDArray
from typer.testing import CliRunner

from tests.flower_federation import RUN_CONFIG, Wards, model
from tests.grid_of_apps import App, GridOfApps
from tests.simulations.test_export_flower import flower  # noqa: F401  (a fixture)
from tests.test_examples import accuracy_of
from wardround.client.guard.enrolment_folder import EnrolmentFolder
from wardround.client.secagg_commands import app as commands
from wardround.identity import issue_certificate
from wardround.plan import load_plan
from wardround.strategies.secagg.flower_plan import flower_plan
from wardround.strategies.secagg.identity_folder import IdentityFolder
from wardround.strategies.secagg.plan_terms import encoding_of

PAGE = Path(__file__).parent.parent / "docs" / "secagg-flower.md"
EXAMPLE = Path(__file__).parent.parent / "examples" / "flower-secagg"
SIZE, ROUNDS = 31, 3
Arrays = dict[str, NDArray[np.float32]]


@pytest.fixture
def federation(tmp_path: Path) -> Path:
    """What the example's README has one type."""
    settings = [
        "protection.dropout=0.2",
        "cohort.weighting=capped",
        "cohort.weight_cap=200",
        'protection.metrics=["eval_acc"]',
    ]
    arguments = ["enrol", str(tmp_path / "federation"), "--sites", "5", "--rounds", "5", "--clip-norm", "5.0"]
    for setting in settings:
        arguments += ["--set", setting]
    made = CliRunner().invoke(commands, arguments)
    assert made.exit_code == 0, made.output
    return tmp_path / "federation"


def bound_of(federation: Path) -> float:
    """By how much a round of the masked run may be off: weights are 91 or 92 of 200."""
    plan = load_plan(federation / "server" / "plan.toml")
    return encoding_of(plan, SIZE, seed=bytes(32)).error_bound(mean_weight=91, largest=5.0)


def model_in(path: Path) -> Arrays:
    with np.load(path) as found:
        return {name: found[name] for name in found.files}


def difference(one: Arrays, other: Arrays) -> float:
    return max(float(np.abs(one[name] - other[name]).max()) for name in one)


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(EXAMPLE)
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "masked_wards"]:
        del sys.modules[name]


def reporting(app: App) -> App:
    """Flower's nodes answer with an error where an app raises."""

    def call(message: Message, context: Context) -> Message:
        try:
            return app(message, context)
        except RuntimeError as error:
            return Message(Error(code=1, reason=str(error)), reply_to=message)

    return call


@pytest.mark.usefixtures("example")
def test_the_example_learns_the_model_of_fedavg_with_a_hospital_lost(
    tmp_path: Path, federation: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # disks are slow
    client, server = (importlib.import_module(f"masked_wards.{part}_app") for part in ("client", "server"))
    printed = {}
    for name, app in (("masked", client.app), ("plain", reporting(client.plain))):
        config: dict[str, bool | float | int | str] = {
            "learning-rate": 0.5,
            "num-server-rounds": ROUNDS,
            "protected": name == "masked",
            "federation": str(federation),
            "lost": 1,
            "out": str(tmp_path / f"{name}.npz"),
        }
        context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config=config)
        server.main(GridOfApps(app, 5, config), context)
        printed[name] = capsys.readouterr().out
        assert accuracy_of(printed[name]) > 0.95
    sums = [line for line in printed["masked"].splitlines() if line.startswith("round ")]
    assert sums == [f"round {number}: a sum of {4 if number == 2 else 5} of 5 hospitals" for number in (1, 2, 3)]
    assert difference(model_in(tmp_path / "masked.npz"), model_in(tmp_path / "plain.npz")) < ROUNDS * bound_of(
        federation
    )


def flwr_run(app: Path, config: str, environment: dict[str, str]) -> str:
    settings = "num-supernodes=5 client-resources-num-cpus=1"
    command = ["flwr", "run", str(app), "--stream", "--federation-config", settings, "--run-config", config]
    for _ in range(5):  # Ray gives its own processes 30 seconds to start; on a busy machine that takes another try
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
        if "The current node timed out during startup" not in done.stdout:
            break
    assert "accuracy " in done.stdout, done.stdout + done.stderr
    return done.stdout


def test_the_code_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the place of Flower's network, of telephones and of a coordinator stands what they would give."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.chdir(tmp_path)
    settings: dict[str, Any] = {"population": 5, "rounds": 10, "clip_norm": 1.0, "dropout": 0.2, "colluding": 1}
    wards = Wards(tmp_path / "wards", settings)
    (tmp_path / "plan.toml").write_text(flower_plan(**settings).to_toml(), encoding="utf-8")
    root = IdentityFolder(tmp_path / "wards" / "authority")

    def joined(site: EnrolmentFolder, **given: Any) -> None:
        now = datetime.now(UTC)
        public = site.folder.signing_key.public
        valid = {"not_before": now - timedelta(minutes=1), "not_after": now + timedelta(days=1)}
        signed = issue_certificate(
            root.read("authority.der"), root.signing_key, name=site.site, public=public, random=os.urandom, **valid
        )
        original(site, **{**given, "certificate": signed})

    original = EnrolmentFolder.join
    monkeypatch.setattr(EnrolmentFolder, "join", joined)
    made: dict[str, Any] = {
        "context": Context(1, 1, {}, RecordDict(), dict(RUN_CONFIG)),
        "app": wards.plain,
        "grid": wards.grid,
        "initial_arrays": model(),
        "authority": root.read("authority.der"),
        "revocations": root.read("revocations.der"),
        "certificate": b"",
        "server_key": wards.site(0).folder.server,
        "told": {"site-1": wards.site(1).folder.fingerprint},
    }
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for block in blocks:
        text = block.replace("/srv/wardround/server", str(tmp_path / "wards" / "server"))
        exec(text.replace("/srv/wardround", str(tmp_path / "wards" / "site-0")), made)  # noqa: S102 (the page's own code)
    assert len(blocks) == 3 and len(made["strategy"].records) == 10 and wards.calls == 50
    with made["site"].guard() as (plan, guard):
        assert (guard.site, plan.digest) == ("st-anna", made["strategy"].plan.digest)


@pytest.mark.slow
def test_the_example_runs_with_flwr_run(
    tmp_path: Path,
    federation: Path,
    flower: dict[str, str],  # noqa: F811
) -> None:
    plain = tmp_path / "plain"
    shutil.copytree(EXAMPLE, plain, ignore=shutil.ignore_patterns("__pycache__"))
    settings = (plain / "pyproject.toml").read_text(encoding="utf-8")
    changed = settings.replace("client_app:app", "client_app:plain")
    assert changed != settings
    (plain / "pyproject.toml").write_text(changed, encoding="utf-8")
    common = f"num-server-rounds={ROUNDS} federation='{federation}'"
    printed = flwr_run(EXAMPLE, f"{common} protected=true out='{tmp_path / 'masked.npz'}'", flower)
    assert accuracy_of(printed) > 0.95
    assert "round 1: a sum of 5 of 5 hospitals" in printed and "round 2: a sum of 4 of 5 hospitals" in printed
    flwr_run(plain, f"{common} protected=false out='{tmp_path / 'plain.npz'}'", flower)
    off = difference(model_in(tmp_path / "masked.npz"), model_in(tmp_path / "plain.npz"))
    assert 0 < off < ROUNDS * bound_of(federation)
