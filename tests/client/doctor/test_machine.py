"""Versions, the job's Python, memory, confinement, and advisories."""

import json
import os
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.client.agent.site_world import NOW, World, plan_text
from wardround import __version__
from wardround.client.agent.plan_store import Decision, Outcome, PlanStore, RunState, Verdict
from wardround.client.doctor import versions
from wardround.client.doctor.advisories import check_advisories, judge_advisories
from wardround.client.doctor.finding import Level
from wardround.client.doctor.machine import (
    check_confinement,
    check_machine,
    judge_confinement,
    judge_memory,
    judge_open_files,
)
from wardround.client.doctor.situation import Situation
from wardround.client.doctor.versions import (
    Installed,
    check_extras,
    check_job_python,
    check_versions,
    fits,
    installed_for,
    judge_installed,
    requirements,
)
from wardround.clock import utc_now


def situation(tmp_path: Path, *, python: str = sys.executable, path: str | None = None) -> Situation:
    return Situation(
        path=tmp_path,
        folder=None,
        server=None,
        link=None,
        authority=None,
        python=python,
        environment=dict(os.environ) if path is None else {"PATH": path},
        now=utc_now,
    )


# -- versions ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "bounds", "expected"),
    [
        ("1.41.0", ">=1.41,<1.43", True),
        ("1.42.9", "<1.43,>=1.41", True),
        ("1.43.0", ">=1.41,<1.43", False),
        ("1.40.9", ">=1.41,<1.43", False),
        ("2.13.0+cpu", ">=2.6", True),
        ("2.6", ">=2.6.0", True),
        ("10.0", ">=9", True),
        ("46.0.0rc1", ">=46", True),
        ("0.1.0", "==0.1.0", True),
        ("0.1.1", "==0.1.0", False),
        ("1.0", "", True),
        ("nonsense", ">=1", False),
    ],
)
def test_bounds(version: str, bounds: str, expected: bool) -> None:
    assert fits(version, bounds) is expected


def test_what_is_asked_for_is_what_the_project_declares() -> None:
    """Every line of pyproject.toml is read, in the form in which an installation has it."""
    declared = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    for extra, lines in ((None, declared["dependencies"]), ("job", declared["optional-dependencies"]["job"])):
        found = requirements(extra)
        assert sorted(found) == sorted(line.split(">")[0] for line in lines)
        for line in lines:
            name, bounds = line.split(">", 1)
            assert sorted(found[name].split(",")) == sorted(f">{bounds}".split(","))


def test_this_installation_fits(tmp_path: Path) -> None:
    [agent] = check_versions(situation(tmp_path))
    [job] = check_job_python(situation(tmp_path))
    assert agent.level is job.level is Level.OK
    assert f"wardround {__version__}" in agent.text and "grpcio " in agent.text and "torch " in job.text


def test_a_package_that_is_missing_or_does_not_fit_is_named() -> None:
    found = Installed(python=(3, 12, 1), versions={"torch": "2.5.1", "flwr": "1.41.0", "wardround": "0.0.9"})
    wanted = {"torch": ">=2.6", "flwr": ">=1.41,<1.43", "opacus": ">=1.5", "wardround": "==0.1.0"}
    made = judge_installed("job python", found, wanted, ("torch",), "pip install it")
    assert made.level is Level.PROBLEM and made.fix == "pip install it"
    for text in ("torch 2.5.1 (expected >=2.6)", "opacus is missing", "wardround 0.0.9 (expected ==0.1.0)"):
        assert text in made.text
    assert "flwr" not in made.text
    old = judge_installed("job python", Installed(python=(3, 10, 4), versions={}), {}, (), "take another")
    assert old.level is Level.PROBLEM and "3.11 or newer" in old.text


def test_a_job_python_that_is_none(tmp_path: Path) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho 'no such library' >&2\nexit 1\n")
    broken.chmod(0o755)
    for python, said in ((str(tmp_path / "gone"), "cannot be started"), (str(broken), "(no such library)")):
        [found] = check_job_python(situation(tmp_path, python=python))
        assert found.level is Level.PROBLEM and said in found.text
    assert isinstance(installed_for(sys.executable, ("numpy",)), Installed)


def test_what_runs_that_were_offered_need_beside_the_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World.make(tmp_path / "site")
    here = replace(situation(tmp_path), folder=world.folder)
    plans, bfv, other = PlanStore(world.folder), "b" * 32, "c" * 32
    assert list(check_extras(situation(tmp_path))) == list(check_extras(here)) == []
    world.offer(run=other)
    assert list(check_extras(here)) == []
    settings = ('protection.mode="bfv"', 'cohort.weighting="uniform"', "clipping.clip_norm=1.0")
    plan = world.offer(plan_text(*settings), run=bfv)
    [found] = check_extras(here)
    assert found.level is Level.OK and "tenseal " in found.text and bfv[:12] in found.text
    assert other[:12] not in found.text
    monkeypatch.setattr(versions, "installed_for", lambda python, names: Installed(python=(3, 11, 7), versions={}))
    [found] = check_extras(here)
    assert found.level is Level.PROBLEM and "tenseal is missing" in found.text and "wardround[he]" in str(found.fix)
    plans.note(bfv, Outcome(state=RunState.READY, reason=""))
    assert [one.level for one in check_extras(here)] == [Level.PROBLEM]
    denied = Decision(verdict=Verdict.DENIED, plan_digest=plan.digest, by="IT", at=NOW.isoformat())
    plans.decide(bfv, denied)
    assert list(check_extras(here)) == []


# -- the machine ---------------------------------------------------------------------------------


def test_memory_and_open_files(tmp_path: Path) -> None:
    assert [one.check for one in check_machine(situation(tmp_path))] == ["machine", "open files"]
    assert judge_memory(16 << 30, 4).text == "16.0 GiB of memory, 4 cores"
    assert judge_memory(2 << 30, 1).level is Level.WARNING
    assert (judge_open_files(1024).level, judge_open_files(256).level) == (Level.OK, Level.WARNING)


def test_what_is_said_of_confinement() -> None:
    assert judge_confinement(None, contained=True, allowed=False).level is Level.OK
    refused = judge_confinement("unshare: not permitted", contained=True, allowed=False)
    assert refused.level is Level.PROBLEM and "docs/install.md" in str(refused.fix)
    allowed = judge_confinement("unshare: not permitted", contained=False, allowed=True)
    assert allowed.level is Level.WARNING and "docs/job.md" in str(allowed.fix)


def test_confinement_is_not_tried_with_a_python_that_has_no_torch(tmp_path: Path) -> None:
    [found] = check_confinement(situation(tmp_path, python=str(tmp_path / "gone")))
    assert found.level is Level.SKIPPED


def test_under_a_filter_as_containers_have_it_confinement_is_a_problem(tmp_path: Path) -> None:
    """The calls that an engine's default profile forbids are forbidden to this doctor, and it says so."""
    program = """
import os, sys
from pathlib import Path
from wardround.clock import utc_now
from wardround.client.doctor.machine import check_confinement
from wardround.client.doctor.situation import Situation
from wardround.client.job.namespaces import forbid_more_privileges
from wardround.client.job.system_calls import forbid_system_calls

forbid_more_privileges()
forbid_system_calls()
about = Situation(path=Path("/"), folder=None, server=None, link=None, authority=None, python=sys.executable,
                  environment={"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, now=utc_now)
for one in check_confinement(about):
    print(one.line())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("problem  confinement  jobs cannot be confined, and are refused (")
    assert "unshare" in done.stdout and "docs/install.md says what its container must be allowed" in done.stdout


# -- advisories ----------------------------------------------------------------------------------


def pip_audit(tmp_path: Path, *, code: int = 0, out: str = "", error: str = "") -> str:
    """A pip-audit that says this; the PATH that it is on."""
    (tmp_path / "out").write_text(out)
    made = tmp_path / "pip-audit"
    made.write_text(f"#!/bin/sh\nenv > {tmp_path}/environment\ncat {tmp_path}/out\necho '{error}' >&2\nexit {code}\n")
    made.chmod(0o755)
    return f"{tmp_path}:/usr/bin:/bin"


def test_without_pip_audit_it_is_said_and_no_failure(tmp_path: Path) -> None:
    [found] = check_advisories(situation(tmp_path, path=str(tmp_path)))
    assert found.level is Level.SKIPPED and "pip-audit is not installed" in found.text


def test_known_weaknesses_are_named(tmp_path: Path) -> None:
    packages: list[dict[str, Any]] = [
        {"name": "numpy", "version": "2.4.6", "vulns": []},
        {"name": "grpcio", "version": "1.0", "vulns": [{"id": "PYSEC-2030-1", "fix_versions": ["1.1"]}, {"id": "G-2"}]},
        {"name": "local", "skip_reason": "not on PyPI"},
    ]
    path = pip_audit(tmp_path, code=1, out=json.dumps({"dependencies": packages}))
    found = list(check_advisories(situation(tmp_path, python="/opt/job/bin/python", path=path)))
    assert {one.level for one in found} == {Level.WARNING}
    assert "grpcio 1.0 (PYSEC-2030-1, G-2)" in found[0].text
    assert [one.text.partition(":")[0] for one in found] == [sys.executable, "/opt/job/bin/python"]
    assert "PIPAPI_PYTHON_LOCATION=/opt/job/bin/python" in (tmp_path / "environment").read_text()
    assert judge_advisories("python", packages[:1]).level is Level.OK


@pytest.mark.parametrize("out", ["", "[]", '{"dependencies": 3}', '{"dependencies": [{"vulns": 1}]}', "null"])
def test_a_pip_audit_that_cannot_look_is_no_failure(tmp_path: Path, out: str) -> None:
    path = pip_audit(tmp_path, code=1, out=out, error="Connection refused")
    [found] = check_advisories(situation(tmp_path, path=path))
    assert found.level is Level.SKIPPED and "could not look (Connection refused)" in found.text
