"""Known weaknesses of what is installed, from pip-audit where that is there and reaches its source."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from wardround.client.doctor.finding import Finding, fine, skipped, warning
from wardround.client.doctor.situation import Situation
from wardround.plain_text import plain_text

__all__ = ["check_advisories", "judge_advisories"]

_LIMIT_S = 60.0
_MOST_NAMED = 5


def check_advisories(situation: Situation) -> Iterator[Finding]:
    """For the agent's Python, and for that of jobs where it is another."""
    program = _pip_audit(situation)
    if program is None:
        text = "pip-audit is not installed; it would look for known weaknesses (pip install pip-audit)"
        yield skipped("advisories", text)
        return
    for python in dict.fromkeys((sys.executable, situation.python)):
        yield _ask(program, python, situation)


def _pip_audit(situation: Situation) -> str | None:
    beside = Path(sys.executable).parent / "pip-audit"
    if os.access(beside, os.X_OK):
        return str(beside)
    return shutil.which("pip-audit", path=situation.environment.get("PATH", ""))


def _ask(program: str, python: str, situation: Situation) -> Finding:
    command = [program, "--format", "json", "--progress-spinner", "off", "--timeout", "10"]
    environment = {**situation.environment, "PIPAPI_PYTHON_LOCATION": python}
    try:
        done = subprocess.run(  # noqa: S603 (found beside this program, or on PATH)
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=_LIMIT_S
        )
    except subprocess.TimeoutExpired:
        text = f"{python}: pip-audit has not ended within {_LIMIT_S:g} s; is its source reachable?"
        return skipped("advisories", text)
    except OSError as error:
        return skipped("advisories", f"{program}: cannot be started ({error.strerror})")
    try:
        return judge_advisories(python, json.loads(done.stdout)["dependencies"])
    except (ValueError, KeyError, TypeError, AttributeError):
        said = done.stderr.decode(errors="replace").strip().splitlines()
        why = plain_text(said[-1], 200) if said else f"it ended with code {done.returncode}"
        return skipped("advisories", f"{python}: pip-audit could not look ({why})")


def judge_advisories(python: str, packages: Sequence[dict[str, object]]) -> Finding:
    """Of what pip-audit says of each package. Raises TypeError, KeyError or AttributeError for another form."""
    bad = []
    for one in packages:
        found = one.get("vulns", [])
        if not isinstance(found, list):
            raise TypeError("expected a list of vulnerabilities")
        if found:
            ids = ", ".join(plain_text(str(each["id"]), 40) for each in found)
            bad.append(f"{plain_text(str(one['name']), 60)} {plain_text(str(one.get('version')), 40)} ({ids})")
    if not bad:
        return fine("advisories", f"{python}: none is known for its {len(packages)} packages")
    more = f", and {len(bad) - _MOST_NAMED} more" if len(bad) > _MOST_NAMED else ""
    return warning("advisories", f"{python}: {'; '.join(bad[:_MOST_NAMED])}{more}", "install newer versions")
