"""The command line as a person meets it: what it prints, where, and with which exit code."""

import json
import os
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import wardround
from wardround import extras, plan_commands
from wardround.cli import COMMANDS, app
from wardround.plan import parse_plan
from wardround.plan_source import find_plan, shipped_plans

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = Path(sys.executable).parent / "wardround"
PLAN = """
name = "small"
rounds = 3
[task]
name = "tabular-classifier"
[data]
source = "breast-cancer"
target = { name = "diagnosis", classes = ["malignant", "benign"] }
columns = [{ name = "mean radius", unit = "mm", range = [5, 30] }]
"""


def run(*arguments: str | Path) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of one command, in this process."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], prog_name="wardround")
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(PLAN)
    return path


def test_help_loads_nothing_heavy() -> None:
    """So that it answers at once."""
    program = """
import sys
sys.argv = ["wardround", "--help"]
from wardround.cli import main
try:
    main()
finally:
    print(*sys.modules, file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    loaded = {name.partition(".")[0] for name in done.stderr.split()}
    assert done.returncode == 0
    assert "wardround" in loaded
    assert not loaded & {"torch", "opacus", "flwr", "plotly", "numpy", "pyarrow", "sklearn", "rich", "ray"}
    assert all(name in done.stdout for name in COMMANDS)


def test_checking_a_plan_loads_nothing_heavy(plan: Path) -> None:
    program = f"""
import sys
sys.argv = ["wardround", "plan", "check", {str(plan)!r}]
from wardround.cli import main
try:
    main()
finally:
    print(*sys.modules, file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0
    assert not {name.partition(".")[0] for name in done.stderr.split()} & {"torch", "flwr", "numpy", "pyarrow"}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_there_and_described_once(name: str) -> None:
    code, text, _ = run(name, "--help")
    assert code == 0
    assert text.startswith(f"Usage: wardround {name} ")
    assert COMMANDS[name][1].replace("\n", " ") in " ".join(text.split())


def test_the_version() -> None:
    assert run("--version") == (0, f"wardround {wardround.__version__}\n", "")


def test_plan_check_tells_what_a_rule_reckons_with(plan: Path) -> None:
    robust = (
        "--set",
        "robust.rule=krum",
        "--set",
        "robust.num_byzantine=3",
        "--set",
        "robust.quarantine.enabled=true",
        "--set",
        "rounds=30",
    )
    lines = run("plan", "check", plan, *robust)[1].splitlines()
    assert lines[1:] == [
        "  krum reckons with 3 bad contributions of 10 in a round, no more",
        "  a round needs 9 updates",
        "  a site is quarantined at suspicion 0.58, at most 3 at a time: one that is always flagged, in its 9th round",
    ]
    assert "too few to tell an attacker from bad luck" in run("plan", "check", plan, *robust[:-1], "rounds=2")[1]


def test_plan_check(plan: Path) -> None:
    digest = parse_plan(PLAN).digest
    expected = f"{plan}: valid: 3 rounds, 10 of 10 sites in each, digest {digest[:12]}\n"
    assert run("plan", "check", plan) == (0, expected, "")
    code, text, _ = run("plan", "check", plan, "--set", "cohort.size=4", "--set", "rounds=7")
    assert code == 0
    assert "7 rounds, 4 of 10 sites" in text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["training.lrr=1"], "plan.training.lrr: expected a known key; did you mean 'lr'?"),
        (["rounds=0"], "plan.rounds: expected at least 1, got 0"),
        (
            ["task.name=tabular-clasifier"],
            "plan.task.name: expected an installed task, got 'tabular-clasifier'; did you mean 'tabular-classifier'?",
        ),
    ],
)
def test_a_bad_plan_is_one_line_on_standard_error(plan: Path, settings: list[str], message: str) -> None:
    arguments = [part for setting in settings for part in ("--set", setting)]
    assert run("plan", "check", plan, *arguments) == (1, "", f"error: {message}\n")


def test_plan_digest(plan: Path) -> None:
    assert run("plan", "digest", plan) == (0, parse_plan(PLAN).digest + "\n", "")
    changed = parse_plan(PLAN).override(["seed=3"])
    assert run("plan", "digest", plan, "--set", "seed=3") == (0, changed.digest + "\n", "")


def test_plan_show_in_three_forms(plan: Path) -> None:
    made = parse_plan(PLAN).override(["training.lr=0.5"])
    setting = ("--set", "training.lr=0.5")
    code, text, _ = run("plan", "show", plan, *setting)
    assert code == 0
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert lines[0] == f"digest {made.digest}"
    for line in (
        "lr * 0.5",
        "batch_size 32",
        "[simulation.stragglers]",
        "delay_s 60.0 s",
        "mean radius unit mm, range [5.0, 30.0]",
    ):
        assert line in lines
    assert parse_plan(run("plan", "show", plan, "--toml", *setting)[1]) == made
    shown = json.loads(run("plan", "show", plan, "--json", *setting)[1])
    assert shown["digest"] == made.digest
    assert parse_plan(shown["plan"]) == made
    assert run("plan", "show", plan, "--json", "--toml")[0] == 2


def test_every_key_is_shown(plan: Path) -> None:
    text = run("plan", "show", plan)[1]
    table: dict[str, Any] = json.loads(run("plan", "show", plan, "--json")[1])["plan"]
    missing = [key for section in table.values() if isinstance(section, dict) for key in section if key not in text]
    assert not missing


def test_plan_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name = next(iter(shipped_plans()))
    assert run("plan", "new", name) == (0, f"wrote {name}.toml\n", "")
    assert find_plan(f"{name}.toml").digest == find_plan(name).digest
    assert run("plan", "new", name) == (1, "", f"error: {name}.toml: File exists\n")
    assert run("plan", "new", name, "--out", "other.toml")[0] == 0
    code, _, line = run("plan", "new", name + "x")
    assert (code, line) == (
        1,
        f"error: plan: expected the name of a shipped plan, got '{name}x'; did you mean '{name}'?\n",
    )


@pytest.mark.parametrize("name", shipped_plans())
def test_every_shipped_plan_is_valid(name: str) -> None:
    assert run("plan", "check", name)[0] == 0


def test_a_path_wins_over_a_shipped_name(plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = next(iter(shipped_plans()))
    monkeypatch.chdir(plan.parent)
    plan.rename(name)
    assert find_plan(name).name == "small"


def test_an_unknown_plan_names_the_nearest() -> None:
    name = next(iter(shipped_plans()))
    code, _, line = run("plan", "check", name[:-1])
    assert code == 1
    assert line.endswith(f"did you mean '{name}'?\n")
    assert run("plan", "check", "no/such.toml")[2].startswith(
        "error: plan: expected a readable plan file at no/such.toml"
    )


def test_list() -> None:
    code, text, _ = run("list", "--json")
    assert code == 0
    found = json.loads(text)
    assert "tabular-classifier" in found["tasks"]
    assert "breast-cancer" in found["datasets"]
    assert "dirichlet" in found["partitions"]
    assert found["plans"] == list(shipped_plans())
    plain = run("list")[1]
    assert all(name in plain for names in found.values() for name in names)


@pytest.mark.parametrize("arguments", [["plan", "chek", "x"], ["simulat"], ["plan", "check"], ["--deb"], ["simulate"]])
def test_wrong_usage_has_exit_code_2(arguments: list[str]) -> None:
    code, text, error = run(*arguments)
    assert (code, text) == (2, "")
    assert "Traceback" not in error


def raising(error: BaseException) -> Any:
    def find(source: str) -> None:
        raise error

    return find


FAILURES: list[tuple[BaseException, int, str]] = [
    (
        RuntimeError("two\nlines"),
        70,
        "error: RuntimeError: two lines (this is a bug; run with --debug to see where)\n",
    ),
    (PermissionError(13, "Permission denied", "/x"), 1, "error: /x: Permission denied\n"),
    (OSError(28, "No space left on device"), 1, "error: the system: No space left on device\n"),
    (MemoryError(), 1, "error: out of memory\n"),
    (KeyboardInterrupt(), 130, "interrupted\n"),
]


@pytest.mark.parametrize(("error", "code", "line"), FAILURES)
def test_whatever_is_raised_becomes_one_line(
    error: BaseException, code: int, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan_commands, "find_plan", raising(error))
    assert run("plan", "check", "x") == (code, "", line)


@pytest.mark.parametrize("arguments", [["plan", "check", "no.toml"], ["plan", "check", "x"]])
def test_debug_shows_the_traceback(arguments: list[str]) -> None:
    done = subprocess.run([PROGRAM, "--debug", *arguments], capture_output=True, text=True)
    assert done.returncode == 1
    assert "Traceback (most recent call last)" in done.stderr
    assert "PlanError" in done.stderr
    plain = subprocess.run([PROGRAM, *arguments], capture_output=True, text=True)
    assert plain.returncode == 1
    assert plain.stderr.count("\n") == 1
    assert plain.stderr.startswith("error: ")


def test_a_reader_that_goes_away_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([PROGRAM, "list"], stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert done.stderr == ""


def test_a_missing_extra_is_named(plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == "torch" else object())
    assert run("simulate", plan) == (
        1,
        "",
        "error: this needs wardround[simulation]: pip install 'wardround[simulation]' (module 'torch' is missing)\n",
    )


@pytest.mark.parametrize("extra", extras.EXTRAS)
def test_extras_are_those_of_the_distribution(extra: str) -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    listed = [name for entry in declared[extra] for name in (declared["job"] if entry == "wardround[job]" else [entry])]
    distributions = packages_distributions()
    installed = {name.lower() for module in extras.EXTRAS[extra] for name in distributions[module]}
    assert installed == {entry.split(">")[0] for entry in listed}


@pytest.mark.parametrize(
    ("words", "expected"),
    [("wardround si", "simulate"), ("wardround plan ch", "check"), ("wardround simulate --re", "--resume")],
)
def test_the_shell_completes(words: str, expected: str) -> None:
    position = str(len(words.split()) - 1)
    environment = os.environ | {"_WARDROUND_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": position}
    done = subprocess.run([PROGRAM], env=environment, capture_output=True, text=True)
    assert done.stdout.split() == [expected]


def test_the_completion_script_is_shown() -> None:
    environment = os.environ | {"SHELL": "/bin/bash"}
    done = subprocess.run([PROGRAM, "--show-completion", "bash"], env=environment, capture_output=True, text=True)
    assert "_WARDROUND_COMPLETE" in done.stdout + done.stderr


def test_commands_are_described_in_the_documentation() -> None:
    page = (ROOT / "docs" / "cli.md").read_text()
    assert not [name for name in COMMANDS if f"## `wardround {name}" not in page]
    for command in ("simulate", "compare", "predict", "report", "export-flower", "list"):
        loaded = typer.main.get_group(__import__(COMMANDS[command][0], fromlist=["app"]).app).commands[command]
        options = [option for parameter in loaded.params for option in parameter.opts if option.startswith("--")]
        section = page.split(f"## `wardround {command}", 1)[1].split("\n## ")[0]
        assert not [option for option in options if option not in section], command
