"""Attacks, evidence and red teams as a person meets them: exit codes, lines, files."""

import csv
import getpass
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from tests.simulations.attacked_federation import Stop, StopAfter, hospitals
from tests.simulations.attacked_federation import plan as arrays
from tests.simulations.redteam.inline_pool import InlinePool
from wardround.cli import app
from wardround.plan import load_plan
from wardround.server.runs.run_directory import read_lines
from wardround.simulations.redteam import auto, red_team
from wardround.simulations.redteam.candidates import Candidate
from wardround.simulations.simulate import simulate

PLAN = """
name = "two measurements"
rounds = 6
[task]
name = "tabular-classifier"
model = "logistic"
[data]
source = "csv"
path = "patients.csv"
target = { name = "ill", classes = ["no", "yes"] }
columns = [{ name = "a", range = [-9, 9] }, { name = "b", range = [-9, 9] }]
[training]
lr = 1.0
[evaluation]
every = 0
[robust]
rule = "trimmed_mean"
num_byzantine = 1
detectors = []
quarantine = { enabled = true, decay = 0.5, flag_rate = 0.01, false_positive = 0.5 }
[simulation]
sites = 5
executor = "flat"
workers = 1
bootstrap = 0
baselines = false
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A plan and 200 patients whose illness the two measurements nearly tell; the current folder."""
    monkeypatch.chdir(tmp_path)
    Path("plan.toml").write_text(PLAN)
    generator = np.random.Generator(np.random.Philox(key=1))
    x = generator.normal(size=(200, 2))
    ill = x @ [2.0, -1.0] + 0.3 * generator.normal(size=200) > 0
    with Path("patients.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["a", "b", "ill"])
        writer.writerows([*row, "yes" if sick else "no"] for row, sick in zip(x.round(4).tolist(), ill, strict=True))
    return tmp_path


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(red_team, "ProcessPoolExecutor", InlinePool)
    monkeypatch.setattr(red_team, "_data", None)


def run(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(arguments), prog_name="wardround")
    return result.exit_code, result.stdout, result.stderr


def refused(*arguments: str) -> str:
    """The one line with which a command is refused."""
    code, text, error = run(*arguments)
    assert (code, text) == (1, ""), (text, error)
    assert error.count("\n") == 1 and error.startswith("error: ")
    return error


def attacked(name: str = "run", last: int = 4) -> str:
    """A run in which a site sends NaN, stopped after a round; the site's name."""
    plan = load_plan("plan.toml").override(['simulation.attack.name="nan"', "simulation.attack.attackers=1"])
    with pytest.raises(Stop):
        simulate(plan, out=name, observer=StopAfter(last), report=False)
    first = read_lines(Path(name))[0]["evidence"]
    (site,) = [one["members"][0] for one in first if one["verdict"] == "refused"]
    return str(site)


# -- simulate -----------------------------------------------------------------------------------------


def test_an_attack_is_simulated_with_the_tolerated_number_of_attackers() -> None:
    assert run("simulate", "plan.toml", "--attack", "nan", "--out", "one", "--quiet", "--no-report") == (0, "", "")
    stored = load_plan("one/plan.toml").simulation.attack
    assert (stored.name, stored.attackers) == ("nan", 1)
    refusals = [sum(one["verdict"] == "refused" for one in line["evidence"]) for line in read_lines(Path("one"))]
    assert refusals[:2] == [1, 1]
    more = ("--attack", "ipm", "--attackers", "2", "--set", "robust.num_byzantine=2", "--set", "rounds=1")
    assert run("simulate", "plan.toml", *more, "--out", "two", "-q", "--no-report") == (0, "", "")
    assert load_plan("two/plan.toml").simulation.attack.attackers == 2


def test_without_a_tolerated_number_one_site_attacks() -> None:
    settings = ("--set", "robust={}", "--set", "rounds=1")
    assert run("simulate", "plan.toml", "--attack", "sign_flip", *settings, "--out", "run", "-q", "--no-report")[0] == 0
    assert load_plan("run/plan.toml").simulation.attack.attackers == 1


def test_no_attack_can_be_asked_for() -> None:
    settings = ("--set", 'simulation.attack.name="nan"', "--set", "simulation.attack.attackers=1", "--rounds", "1")
    found = run("simulate", "plan.toml", *settings, "--attack", "none", "--out", "run", "-q", "--no-report")
    assert found == (0, "", "")
    assert load_plan("run/plan.toml").simulation.attack.attackers == 0


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["plan.toml", "--attackers", "2"], "--attackers needs --attack NAME"),
        (["plan.toml", "--attackers", "0", "--attack", "nan"], "Invalid value for '--attackers'"),
        (["--resume", "run", "--attack", "nan"], "--resume takes no PLAN, --set, --attack, --ledgers or --out"),
    ],
)
def test_wrong_usage_of_attacks(arguments: list[str], line: str) -> None:
    Path("run").mkdir()
    code, text, error = run("simulate", *arguments)
    assert (code, text) == (2, "") and line in " ".join(error.split())


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--attack", "sign_flop"], "did you mean 'sign_flip'"),
        (["--attack", 'x"]\nevil = "y'], "plan.simulation.attack.name: expected "),
        (["--attack", ""], "plan.simulation.attack.name: expected "),
        (["--attack", "nan", "--attackers", "5"], "plan.simulation.attack.attackers: expected fewer than the 5 sites"),
        (["--attack", "dba", "--set", "simulation.attack.options.target=9"], "expected target < 2"),
        (["--attack", "ipm", "--set", "simulation.attack.options.epsilon=x"], "simulation.attack.options"),
        (["--attack", "none", "--attackers", "2"], "plan.simulation.attack.attackers: expected "),
    ],
)
def test_an_attack_that_cannot_be_is_one_line(arguments: list[str], line: str) -> None:
    assert line in refused("simulate", "plan.toml", *arguments)
    assert not Path("runs").exists()


def test_auto_tells_of_its_trials_and_of_the_rule(inline: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto, "CANDIDATES", (Candidate("mean"), Candidate("median")))
    monkeypatch.setattr(auto, "ATTACKS", ("scaled_sign_flip",))
    monkeypatch.setattr(auto, "TUNING_SEEDS", auto.TUNING_SEEDS[:2])
    settings = ("--set", "robust.rule=auto", "--rounds", "2", "--no-report")
    code, text, error = run("simulate", "plan.toml", *settings, "--out", "run")
    assert (code, error) == (0, "")
    lines = text.splitlines()
    trials = [line.split("  ") for line in lines[:8]]
    assert [trial[0] for trial in trials] == [f"choosing a rule {number}/8" for number in range(1, 9)]
    assert all(" against " in trial[1] for trial in trials[:7]) and trials[7][1] == "median"
    assert lines[8].startswith("round 1/2  ")
    assert load_plan("run/plan.toml").robust.rule == "median" and Path("run/redteam.html").exists()
    as_json = run("simulate", "plan.toml", *settings, "--out", "two", "--json")
    assert as_json[0] == 0
    assert [json.loads(line).get("round") for line in as_json[1].splitlines()] == [1, 2, None]


# -- redteam ------------------------------------------------------------------------------------------

TINY = tuple(
    "redteam plan.toml --set rounds=1 --rule mean --rule nnm+median --attack scaled_sign_flip --seeds 1".split()
)


def test_a_red_team_names_the_rule_to_take_and_writes_its_page(inline: None) -> None:
    code, text, error = run(*TINY)
    assert (code, error) == (0, "")
    lines = text.splitlines()
    assert [line.split("  ")[0] for line in lines[:4]] == [f"run {number}/4" for number in range(1, 5)]
    assert any("  mean against none, seed 101: 0." in line for line in lines[:4])
    assert lines[4].strip() == "accuracy: mean of 1 seeds"
    assert lines[-2].startswith("take nnm+median: its worst attack (") and lines[-2].count("rules") == 1
    assert lines[-1] == "report  runs/two-measurements-redteam-1/redteam.html"
    assert {path.name for path in Path("runs/two-measurements-redteam-1").iterdir()} == {
        "grid.json",
        "cells.jsonl",
        "redteam.json",
        "redteam.html",
    }


def test_json_and_quiet(inline: None) -> None:
    code, text, _ = run(*TINY, "--json", "--out", "grid")
    *cells, last = [json.loads(line) for line in text.splitlines()]
    assert code == 0 and len(cells) == 4 and {cell["rule"] for cell in cells} == {"mean", "nnm+median"}
    assert last["report"] == "grid/redteam.html" and last["choice"]["rule"] == "nnm+median"
    assert set(last["baseline"]) == {"mean", "worst", "seeds"}
    assert run(*TINY, "--quiet", "--out", "other") == (0, "", "")
    assert Path("grid/redteam.html").exists() and Path("other/redteam.html").exists()


def test_an_interrupted_grid_is_completed_with_the_same_command(inline: None, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[Any] = []
    run_cell = vars(red_team)["run_cell"]

    def third_is_interrupted(*arguments: Any) -> Any:
        ran.append(arguments[1])
        if len(ran) == 3:
            raise KeyboardInterrupt
        return run_cell(*arguments)

    monkeypatch.setattr(red_team, "run_cell", third_is_interrupted)
    code, text, error = run(*TINY, "--out", "grid", "--workers", "1", "--quiet")
    kept = len(Path("grid/cells.jsonl").read_text().splitlines()) if Path("grid/cells.jsonl").exists() else 0
    assert (code, text) == (130, "") and kept < 3
    assert error == f"interrupted: {kept} results are kept; continue with the same command and --out grid\n"
    ran.extend([None] * 3)  # no interruption any more
    before = len(ran)
    assert run(*TINY, "--out", "grid", "--workers", "1", "--quiet") == (0, "", "")
    assert len(ran) - before == 4 - kept
    assert len(Path("grid/cells.jsonl").read_text().splitlines()) == 4
    assert run(*TINY, "--out", "grid", "--workers", "1", "--quiet") == (0, "", "")
    assert len(ran) - before == 4 - kept


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["plan.toml", "--rule", "mediam"], "got 'mediam'; did you mean 'median'"),
        (["plan.toml", "--rule", ""], "got ''"),
        (["plan.toml", "--attack", "nann"], "no attack is called 'nann'; did you mean 'nan'"),
        (["plan.toml", "--attackers", "0"], "expected 1 to 4 attackers (--attackers or robust.num_byzantine), got 0"),
        (["plan.toml", "--attackers", "99"], "got 99"),
        (["plan.toml", "--rule", "bulyan"], "expected a rule that can be used, but bulyan: "),
        (["plan.toml", "--metric", "rmse"], "got 'rmse'"),
        (["plan.toml", "--out", "patients.csv"], "Not a directory"),
        (["plan.toml", "--out", "."], "exists, and holds no results of this plan"),
        (["nowhere.toml"], "nowhere.toml"),
    ],
)
def test_a_red_team_that_cannot_be_is_one_line(arguments: list[str], line: str) -> None:
    before = {path: path.read_bytes() for path in Path().iterdir()}
    assert line in refused("redteam", *arguments)
    assert {path: path.read_bytes() for path in Path().iterdir()} == before


# -- run evidence, release, replay --------------------------------------------------------------------


def test_evidence_of_all_sites_and_of_one() -> None:
    site = attacked()
    code, text, error = run("run", "evidence", "run")
    assert (code, error) == (0, "") and len(text.splitlines()) == 6  # a line each in 80 columns
    heading, *sites = text.splitlines()
    assert heading.split() == "site sent refused rejected down-weighted flagged suspicion quarantine".split()
    assert [line.split()[0] for line in sites] == [f"site-0{number}" for number in range(1, 6)]
    assert next(line for line in sites if line.startswith(site)).split()[-3:] == ["3", "to", "4"]
    code, text, _ = run("run", "evidence", "run", "--json")
    rows = {row["site"]: row for row in map(json.loads, text.splitlines())}
    assert code == 0 and len(rows) == 5
    assert rows[site]["refused"] == rows[site]["contributions"] >= 2 and rows[site]["quarantined in rounds"]
    assert all(row["refused"] == 0 for name, row in rows.items() if name != site)
    code, text, _ = run("run", "evidence", "run", "--site", site, "--json")
    assert code == 0 and {json.loads(line)["verdict"] for line in text.splitlines()} == {"refused"}


def test_a_released_site_is_back_when_the_run_goes_on() -> None:
    site = attacked()
    code, text, error = run("run", "release", "run", site, "--reason", "a new scanner", "--by", "Dr. A")
    assert (code, error) == (0, "")
    assert text == f"released {site} after round 4; continue with: wardround simulate --resume run\n"
    event = json.loads(Path("run/audit.jsonl").read_text().splitlines()[-1])
    assert (event["event"], event["site"], event["by"], event["reason"]) == ("release", site, "Dr. A", "a new scanner")
    assert run("simulate", "--resume", "run", "--quiet", "--no-report") == (0, "", "")
    assert site in read_lines(Path("run"))[4]["cohort"]
    assert "expected a run with rounds to come" in refused("run", "release", "run", site, "--reason", "again")


def test_who_releases_is_by_default_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    site = attacked()
    monkeypatch.setattr(getpass, "getuser", lambda: "nurse")
    assert run("run", "release", "run", site, "--reason", "x")[0] == 0
    assert json.loads(Path("run/audit.jsonl").read_text().splitlines()[-1])["by"] == "nurse"


@pytest.mark.parametrize("error", [OSError("No username set"), KeyError("getpwuid(): uid not found: 5")])
def test_a_user_without_a_name_is_asked_for_one(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def nobody() -> str:
        raise error

    site = attacked()
    monkeypatch.setattr(getpass, "getuser", nobody)
    assert "--by NAME" in refused("run", "release", "run", site, "--reason", "x")
    assert run("run", "release", "run", site, "--reason", "x", "--by", "me")[0] == 0


def test_a_release_that_cannot_be_is_one_line() -> None:
    site = attacked()
    assert "expected a site in quarantine" in refused("run", "release", "run", "nobody", "--reason", "x")
    assert "expected a reason" in refused("run", "release", "run", site, "--reason", "  ")
    Path("empty").mkdir()
    assert "expected a run directory" in refused("run", "release", "empty", site, "--reason", "x")
    assert run("run", "release", "run", site)[0] == 2  # without a reason


def test_a_run_is_replayed_without_the_site() -> None:
    site = attacked()
    before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    code, text, error = run("run", "replay", "run", "--without", site, "--no-report")
    assert (code, error) == (0, "")
    lines = text.splitlines()
    assert (
        lines[0] == f"retraining without {site} from round 1" and lines[-1] == "run     runs/two-measurements-replay-1"
    )
    assert [line.split("  ")[0] for line in lines[1:-1]] == [f"round {number}/6" for number in range(1, 7)]
    found = read_lines(Path("runs/two-measurements-replay-1"))
    assert len(found) == 6 and all(site not in line["cohort"] for line in found)
    assert {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()} == before
    code, text, _ = run("run", "replay", "run", "--without", site, "--from", "3", "--out", "late", "--no-report")
    assert code == 0 and text.splitlines()[1].startswith("note: what was learned with the site in rounds 1 to 2")
    origin = json.loads(Path("late/run.json").read_text())["origin"]
    assert (origin["without"], origin["from_round"]) == ([site], 3)


def test_a_replay_that_cannot_be_is_one_line() -> None:
    site = attacked()
    Path("full").mkdir()
    Path("full/mine").write_text("mine")
    Path("empty").mkdir()
    honest = next(name for name in read_lines(Path("run"))[0]["cohort"] if name != site)
    assert "expected a site that took part" in refused("run", "replay", "run", "--without", "nobody")
    assert "never suspicious; say from which round: --from ROUND" in refused(
        "run", "replay", "run", "--without", honest
    )
    assert "from 1 to 4, got 5" in refused("run", "replay", "run", "--without", site, "--from", "5")
    assert "exists; use --resume" in refused("run", "replay", "run", "--without", site, "--out", "full")
    assert "expected a run directory" in refused("run", "replay", "empty", "--without", site)
    assert run("run", "replay", "run")[0] == 2
    assert not Path("runs").exists() and [path.name for path in Path("full").iterdir()] == ["mine"]


def test_a_run_on_data_from_python_is_replayed_there_and_nothing_is_made() -> None:
    simulate(arrays("rounds=1"), data=hospitals(), out="run", report=False)
    assert "its data came from Python" in refused("run", "replay", "run", "--without", "ward 0", "--from", "1")
    assert not Path("runs").exists()


@pytest.mark.parametrize("command", ["evidence", "release", "replay"])
def test_every_command_on_runs_has_help(command: str) -> None:
    code, text, error = run("run", command, "--help")
    assert (code, error) == (0, "") and "RUN" in text


# -- Ctrl-C, with real processes ----------------------------------------------------------------------


@pytest.mark.slow
def test_control_c_on_a_red_team_is_one_line(tmp_path: Path) -> None:
    program = Path(sys.executable).parent / "wardround"
    command = [
        str(program),
        "redteam",
        "plan.toml",
        "--set",
        "rounds=300",
        "--out",
        "grid",
        "--workers",
        "2",
        "--quiet",
    ]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    cells = tmp_path / "grid" / "cells.jsonl"
    while not cells.exists() and process.poll() is None:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers too
    text, error = process.communicate(timeout=60)
    kept = len(cells.read_text().splitlines())
    assert (process.returncode, text) == (130, "")
    assert error == f"interrupted: {kept} results are kept; continue with the same command and --out grid\n"
