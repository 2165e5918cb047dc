"""The example of docs/privacy-flower.md runs, and shows what it says; its code stands in the page as it is."""

import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flwr.app import Context, RecordDict
from flwr.clientapp import ClientApp

from tests.grid_of_apps import GridOfApps
from tests.simulations.test_export_flower import flower  # noqa: F401  (a fixture)
from wardround.strategies.privacy import build
from wardround.strategies.privacy.flower_strategy import PrivateStrategy
from wardround.strategies.privacy.secure_random import SecureRandom

ROOT = Path(__file__).resolve().parents[3]
APP, PAGE = ROOT / "examples" / "private-flower-app", ROOT / "docs" / "privacy-flower.md"
CONFIG: dict[str, bool | float | int | str] = {
    "num-server-rounds": 10,
    "num-practices": 100,
    "learning-rate": 0.3,
    "private": True,
    "epsilon": 1.0,
}


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    monkeypatch.syspath_prepend(APP)
    yield {name: importlib.import_module(f"private_practices.{name}") for name in ("client_app", "server_app", "task")}
    for name in [name for name in sys.modules if name.partition(".")[0] == "private_practices"]:
        del sys.modules[name]


def run(parts: dict[str, Any], **changes: bool | float) -> GridOfApps:
    config = {**CONFIG, **changes}
    context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config=config)
    grid = GridOfApps(parts["client_app"].app, 100, config)
    parts["server_app"].main(grid, context)
    return grid


def accuracy_of(printed: str) -> float:
    [line] = [line for line in printed.splitlines() if line.startswith("accuracy ")]
    return float(line.removeprefix("accuracy "))


def test_a_hundred_practices_learn_together_at_epsilon_1(
    parts: dict[str, Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "SecureRandom", lambda: SecureRandom(bytes(32)))  # the same noise every time
    run(parts)
    printed = capsys.readouterr().out
    assert accuracy_of(printed) > 0.9
    assert "epsilon 1 at delta 1e-6 for every client (zero-out)" in printed
    assert "The server is trusted to add the noise" in printed
    run(parts, private=False)
    assert accuracy_of(capsys.readouterr().out) > 0.92


def test_no_update_that_reaches_the_server_is_longer_than_the_clip(parts: dict[str, Any]) -> None:
    task, longest = parts["task"], []
    server = parts["server_app"]

    class Watched(GridOfApps):
        def send_and_receive(self, messages: Any, *, timeout: float | None = None) -> Any:
            replies = list(super().send_and_receive(messages, timeout=timeout))
            for sent, reply in zip(self.sent[-1], replies, strict=True):
                before, after = (one.content.array_records["arrays"] for one in (sent, reply))
                square = sum(float(np.sum((after[k].numpy() - before[k].numpy()) ** 2)) for k in before)
                longest.append(square**0.5)
            return replies

    config = {**CONFIG, "num-server-rounds": 2}
    context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config=config)
    server.main(Watched(parts["client_app"].app, 100, config), context)
    assert len(longest) == 200
    assert max(longest) == pytest.approx(task.CLIP_NORM, rel=1e-5), "some are clipped"


def test_the_code_of_the_page_runs_and_prints_the_claim_that_stands_there(capsys: pytest.CaptureFixture[str]) -> None:
    text = PAGE.read_text(encoding="utf-8")
    made: dict[str, Any] = {}
    for block in re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL):
        exec(block, made)  # noqa: S102 (the page's own code)
    [said] = re.findall(r"^```text\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    assert capsys.readouterr().out.startswith(said)
    assert isinstance(made["strategy"], PrivateStrategy) and isinstance(made["app"], ClientApp)


@pytest.mark.slow
def test_the_private_app_runs_with_flwr_run(flower: dict[str, str]) -> None:  # noqa: F811
    settings = "num-supernodes=10 client-resources-num-cpus=1"
    command = ["flwr", "run", str(APP), "--stream", "--federation-config", settings]
    command += ["--run-config", "num-practices=10 epsilon=100.0"]
    for _ in range(5):  # Ray gives its own processes 30 seconds to start; on a busy machine that takes another try
        done = subprocess.run(command, env=flower, capture_output=True, text=True, timeout=600)
        if "The current node timed out during startup" not in done.stdout:
            break
    assert "accuracy " in done.stdout, done.stdout + done.stderr
    assert accuracy_of(done.stdout) > 0.8
    assert "only 10 clients" in done.stdout
