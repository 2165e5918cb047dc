import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wardround.decoding import PlanError
from wardround.errors import LocalError
from wardround.plan import Plan, load_plan, parse_plan
from wardround.plan_source import find_plan
from wardround.server.runs.model_file import read_model
from wardround.simulations.export_flower import export
from wardround.simulations.simulate import simulate

EXAMPLES = Path(__file__).parents[2] / "examples"
COUNTING = """
from flwr.clientapp import ClientApp

inner = app

class Counting(ClientApp):
    def __call__(self, message, context):
        with open({file!r}, "a") as file:
            file.write(f"{{context.node_config['partition-id']}} {{message.metadata.message_type}}\\n")
        return inner(message, context)

app = Counting()
"""


def csv_plan(folder: Path) -> Plan:
    (folder / "rows.csv").write_text("x,y\n1,no\n2,yes\n", encoding="utf-8")
    (folder / "code").mkdir()
    (folder / "code" / "t.py").write_text("def task(plan): ...\n", encoding="utf-8")
    (folder / "code" / "words.txt").write_text("ward\n", encoding="utf-8")
    (folder / "code" / "pyproject.toml").write_text("[tool.none]\n", encoding="utf-8")
    data = {
        "source": "csv",
        "path": "rows.csv",
        "columns": [{"name": "x"}],
        "target": {"name": "y", "classes": ["no", "yes"]},
    }
    task = {"code": "code", "entry": "t:task"}
    return parse_plan({"name": "Rows & wards", "rounds": 2, "task": task, "data": data}, folder=folder)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_folder_holds_the_plan_its_code_and_its_data(tmp_path: Path) -> None:
    plan, folder = csv_plan(tmp_path), tmp_path / "app"
    export(plan, folder)
    files = contents(folder)
    assert {"README.md", "plan.toml", "pyproject.toml", "data/rows.csv", "left-out.json"} <= set(files)
    assert files["data/rows.csv"] == (tmp_path / "rows.csv").read_bytes()
    exported = load_plan(folder / "plan.toml")
    assert exported.code_files == plan.code_files
    assert exported.data.path == str(folder / "data" / "rows.csv")
    assert [p for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_what_flower_leaves_out_is_put_back(tmp_path: Path) -> None:
    """Flower's own bundle of the folder, unpacked elsewhere, is the same plan."""
    from wardround import _flower
    from wardround.simulations.flower_app import _load

    plan, folder = csv_plan(tmp_path), tmp_path / "app"
    export(plan, folder)
    carried, files = _flower.bundle_files(folder), contents(folder)
    assert not {"code/words.txt", "code/pyproject.toml"} & carried
    for name in carried & set(files):
        target = tmp_path / "elsewhere" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(files[name])
    for _ in range(2):
        assert _load(tmp_path / "elsewhere" / "plan.toml").digest == load_plan(folder / "plan.toml").digest


def test_the_pyproject_is_one_that_flower_takes(tmp_path: Path) -> None:
    from flwr.cli.config_utils import load_and_validate

    export(csv_plan(tmp_path), tmp_path / "app")
    config, warnings = load_and_validate(tmp_path / "app" / "pyproject.toml")
    assert not warnings
    assert config["project"]["name"] == "wardround-Rows-wards"
    assert config["tool"]["flwr"]["app"]["config"] == {"out": str(tmp_path / "app" / "runs")}


def test_a_folder_with_content_is_left_alone_and_an_empty_one_is_used(tmp_path: Path) -> None:
    plan, folder = csv_plan(tmp_path), tmp_path / "full"
    folder.mkdir()
    (folder / "mine").write_text("x")
    with pytest.raises(LocalError, match="full: expected a new or an empty folder"):
        export(plan, folder)
    assert contents(folder) == {"mine": b"x"}
    with pytest.raises(LocalError, match="expected a new or an empty folder"):
        export(plan, folder / "mine")
    (tmp_path / "empty").mkdir()
    export(plan, tmp_path / "empty")
    assert (tmp_path / "empty" / "plan.toml").exists()


def test_a_missing_data_file_and_changed_code_leave_nothing(tmp_path: Path) -> None:
    plan = csv_plan(tmp_path)
    (tmp_path / "code" / "t.py").write_text("def task(plan): return 1\n")
    with pytest.raises(LocalError, match=r"t\.py changed since the plan was loaded"):
        export(plan, tmp_path / "app")
    plan = parse_plan(plan.to_toml(), folder=tmp_path)
    (tmp_path / "rows.csv").unlink()
    with pytest.raises(LocalError, match=r"rows\.csv: No such file or directory; nothing was written"):
        export(plan, tmp_path / "app")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["code"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["simulation.dropout=0.1", "cohort.min_replies=1"], r"plan\.simulation\.dropout: expected 0"),
        (["simulation.stragglers.fraction=0.1"], r"plan\.simulation\.stragglers\.fraction: expected 0"),
        (
            ["simulation.attack.name=alie", "simulation.attack.attackers=1"],
            r"plan\.simulation\.attack\.attackers: expected 0, since only wardround's own simulation plays attackers",
        ),
        (
            ["robust.rule=fltrust", "robust.root_examples=1"],
            r"plan\.robust\.root_examples: expected 0, since only wardround's own simulation plays attackers and the",
        ),
        (["robust.rule=auto", "robust.num_byzantine=1"], r"plan\.robust\.rule: expected a rule by name"),
        (["data.source=arrays", "data.path="], r"plan\.data\.source: expected a data set or a file"),
    ],
)
def test_what_a_flower_app_cannot_carry_is_refused(tmp_path: Path, settings: list[str], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        export(csv_plan(tmp_path).override(settings), tmp_path / "app")
    assert not (tmp_path / "app").exists()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def flower(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment in which `flwr run` finds a SuperLink of this test's own, stopped afterwards."""
    home, http, control = tmp_path / "home", free_port(), free_port()
    home.mkdir()
    address = f'[superlink]\ndefault = "here"\n\n[superlink.here]\naddress = "127.0.0.1:{http}"\ninsecure = true\n'
    (home / "config.toml").write_text(address, encoding="utf-8")
    programs = Path(sys.executable).parent
    environment = {
        **os.environ,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "UV_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    command = [str(programs / "flower-superlink"), "--insecure", "--simulation", "--host", "127.0.0.1"]
    command += ["--port", str(http), "--control-api-address", f"127.0.0.1:{control}"]
    log = (tmp_path / "superlink.log").open("w")
    process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        for _ in range(600):
            assert process.poll() is None, (tmp_path / "superlink.log").read_text()
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", http)) == 0:
                    break
            time.sleep(0.1)
        yield environment
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=30)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # what it started and left running: a group of its own
        process.wait()
        log.close()


def flwr_run(app: Path, sites: int, environment: dict[str, str]) -> dict[str, Any]:
    """Run the app on Ray and return the last line that our ServerApp printed.

    Ray gives its own processes 30 seconds to start, whatever one sets; on a busy machine that takes another try.
    """
    federation = f"num-supernodes={sites} client-resources-num-cpus=1"
    command = ["flwr", "run", str(app), "--stream", "--federation-config", federation]
    for _ in range(5):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
        if "The current node timed out during startup" not in done.stdout:
            break
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"run"')]
    assert lines, done.stdout + done.stderr
    last: dict[str, Any] = json.loads(lines[-1])
    return last


def rounds_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_one_plan_on_both_executors_and_on_stock_flower(tmp_path: Path, flower: dict[str, str]) -> None:
    plan = find_plan("breast-cancer").override(["rounds=2", "simulation.sites=4"])
    export(plan, tmp_path / "app")
    client, messages = tmp_path / "app" / "wardround_app" / "client_app.py", tmp_path / "messages"
    client.write_text(client.read_text() + COUNTING.format(file=str(messages)))
    last = flwr_run(tmp_path / "app", 4, flower)
    assert last["rounds"] == 2
    run = Path(last["run"])
    assert run.parent == tmp_path / "app" / "runs"
    model, lines = read_model(run / "model.safetensors").model, rounds_of(run)
    assert [line["round"] for line in lines] == [1, 2]

    for executor in ("flat", "blocks"):
        out = tmp_path / executor
        simulate(plan.override([f"simulation.executor={executor}"]), out=out, report=False)
        np.testing.assert_allclose(read_model(out / "model.safetensors").model, model, atol=1e-5)
        for ours, theirs in zip(rounds_of(out), lines, strict=True):
            assert ours["cohort"] == theirs["cohort"] and ours["absences"] == theirs["absences"] == []
            for part in ("train", "validation"):
                assert ours[part]["n"] == theirs[part]["n"] > 0
                assert ours[part]["metrics"] == pytest.approx(theirs[part]["metrics"], abs=1e-4)

    finished = simulate(out=run, resume=True)  # as `wardround report` does: nothing is left to train
    assert finished.report_path == run / "report.html" and finished.report_path.exists()
    assert finished.metrics == pytest.approx(last["test"])
    np.testing.assert_array_equal(finished.model, model)

    counts = Counter(tuple(line.split()) for line in messages.read_text().splitlines())
    expected = {"query.hello": 1, "query.statistics": 1, "train": 2, "evaluate": 2 + 1}  # the last on the test rows
    assert counts == {(str(site), kind): count for site in range(4) for kind, count in expected.items()}


@pytest.mark.slow
def test_a_users_own_flower_app_on_stock_flower_under_a_robust_rule(tmp_path: Path, flower: dict[str, str]) -> None:
    plan = load_plan(EXAMPLES / "flower-app" / "plan.toml").override(
        ["rounds=2", "simulation.sites=3", "robust.rule=geometric_median", "robust.num_byzantine=1"]
    )
    export(plan, tmp_path / "app")
    last = flwr_run(tmp_path / "app", 3, flower)
    result = simulate(plan, report=False)
    assert last["test"] == pytest.approx(result.metrics, abs=1e-5)
    model = read_model(Path(last["run"]) / "model.safetensors").model
    np.testing.assert_allclose(model, result.model, atol=1e-5)
    for ours, theirs in zip(result.rounds, rounds_of(Path(last["run"])), strict=True):
        for one, other in zip(ours["evidence"], theirs["evidence"], strict=True):
            assert (one["members"], one["verdict"], one["flags"]) == (
                other["members"],
                other["verdict"],
                other["flags"],
            )
            assert one["weight"] == pytest.approx(other["weight"], abs=1e-3)
