"""The files for containers: linted, and what in them has to fit the rest. No image is built here."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.client.agent.site_world import World
from tests.server.api.serving import serving

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("server", "client")
HADOLINT = Path(sys.executable).parent / "hadolint"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def instructions(name: str) -> list[tuple[str, str]]:
    """What a Dockerfile does, in order: instruction and the rest, continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "deploy" / f"{name}.Dockerfile").read_text(), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    return [(line.split()[0], " ".join(line.split()[1:])) for line in lines if line.strip()]


def last_of(name: str, instruction: str) -> str:
    return [rest for kind, rest in instructions(name) if kind == instruction][-1]


def probe(name: str) -> list[str]:
    """The command of HEALTHCHECK."""
    options, _, command = last_of(name, "HEALTHCHECK").partition("CMD ")
    assert "--timeout=" in options and "--start-period=" in options
    found: list[str] = json.loads(command)
    return found


@pytest.mark.skipif(not HADOLINT.exists(), reason="hadolint is not made for this system")
@pytest.mark.parametrize("name", NAMES)
def test_hadolint_has_no_complaint(name: str) -> None:
    done = subprocess.run(
        [HADOLINT, "--no-color", ROOT / "deploy" / f"{name}.Dockerfile"], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize("name", NAMES)
def test_it_does_not_run_as_root_and_has_exact_versions(name: str) -> None:
    assert last_of(name, "USER") == "10001:10001"
    images = [rest.split()[0] for kind, rest in instructions(name) if kind == "FROM"]
    assert len(set(images)) == 1 and re.fullmatch(r"python:3\.1[1-9]-slim-\w+", images[0])
    installs = [rest for kind, rest in instructions(name) if kind == "RUN" and "pip install" in rest]
    assert installs and all("--constraint constraints.txt" in one for one in installs)
    assert not any(
        address in (ROOT / "deploy" / f"{name}.Dockerfile").read_text() for address in ("http://", "index-url")
    )


@pytest.mark.parametrize(("name", "extras"), [("server", {"server", "postgresql"}), ("client", {"job"})])
def test_all_that_a_wheel_is_made_of_is_copied(name: str, extras: set[str]) -> None:
    copied = {
        word.strip("/")
        for kind, rest in instructions(name)
        if kind == "COPY" and "--from" not in rest
        for word in rest.split()[:-1]
    }
    wheel = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["only-include"]
    project = PROJECT["project"]
    assert copied >= {*wheel, project["readme"], *project["license-files"], "pyproject.toml", "hatch_build.py"}
    assert all((ROOT / one).exists() for one in copied)
    [installed] = [match[1] for _, rest in instructions(name) if (match := re.search(r"'\.\[(.*)\]'", rest))]
    assert set(installed.split(",")) == extras <= project["optional-dependencies"].keys()


def test_the_server_answers_its_probe(tmp_path: Path) -> None:
    python, option, code = probe("server")
    assert code.count("127.0.0.1:8443") == 1 and "8443" in last_of("server", "EXPOSE")
    with serving(tmp_path) as server:
        command = [sys.executable, option, code.replace(":8443", f":{server.port}")]
        assert python == "python" and subprocess.run(command).returncode == 0
        command[2] = code.replace("/health", "/healthy").replace(":8443", f":{server.port}")
        assert subprocess.run(command, stderr=subprocess.PIPE).returncode != 0
    assert subprocess.run(command, stderr=subprocess.PIPE).returncode != 0


def test_the_agents_probe_sees_whether_it_runs(tmp_path: Path) -> None:
    world = World.make(tmp_path / "site")
    _, option, code = probe("client")
    command = [sys.executable, option, code]
    environment = {"WARDROUND_CLIENT_STATE": str(world.folder.path)}
    assert subprocess.run(command, env=environment).returncode == 1
    with world.folder.lock():
        assert subprocess.run(command, env=environment).returncode == 0
