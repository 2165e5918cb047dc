"""What is installed, for the agent and for jobs, beside what wardround's own metadata asks for."""

import json
import re
import ssl
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import requires

from wardround import __version__
from wardround.client.agent.plan_store import PlanStore, RunState, Verdict
from wardround.client.doctor.finding import Finding, fine, problem
from wardround.client.doctor.situation import Situation
from wardround.errors import WardroundError
from wardround.plain_text import plain_text

__all__ = [
    "Installed",
    "check_extras",
    "check_job_python",
    "check_versions",
    "fits",
    "installed_for",
    "judge_installed",
    "requirements",
]

_ASK_S = 60.0
_OLDEST = (3, 11)
_ASK = (
    "import importlib.metadata as m, json, sys\n"
    "found = {}\n"
    "for name in sys.argv[1:]:\n"
    "    try: found[name] = m.version(name)\n"
    "    except m.PackageNotFoundError: pass\n"
    "print(json.dumps([list(sys.version_info[:3]), found]))"
)
_REQUIREMENT = re.compile(r"([\w.-]+)(?:\[[^]]*\])?\s*\(?([^;()]*)\)?(?:;\s*extra\s*==\s*['\"](\w+)['\"])?")
_BOUND = re.compile(r"(>=|<=|==|<|>|!=)\s*([\w.+*-]+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """A Python and the versions of some packages in it."""

    python: tuple[int, ...]
    versions: Mapping[str, str]


def requirements(extra: str | None) -> dict[str, str]:
    """Name → bounds, of the base (None) or of one extra, as the installed wardround declares them."""
    found = {}
    for text in requires("wardround") or ():
        match = _REQUIREMENT.fullmatch(text.strip())
        if match is not None and match[3] == extra and match[1] != "wardround":
            found[match[1]] = match[2].strip()
    return found


def fits(version: str, bounds: str) -> bool:
    """Whether a release is within bounds such as `>=1.41,<1.43`; only the numbers of a version count."""
    return all(_holds(_numbers(version), sign, _numbers(bound)) for sign, bound in _BOUND.findall(bounds))


def _numbers(version: str) -> tuple[int, ...]:
    match = re.match(r"\d+(\.\d+)*", version)
    numbers = [int(one) for one in match[0].split(".")] if match else []
    while numbers and numbers[-1] == 0:  # 1.0 is 1
        numbers.pop()
    return tuple(numbers)


def _holds(ours: tuple[int, ...], sign: str, bound: tuple[int, ...]) -> bool:
    return {
        ">=": ours >= bound,
        "<=": ours <= bound,
        "==": ours == bound,
        "!=": ours != bound,
        "<": ours < bound,
        ">": ours > bound,
    }[sign]


def installed_for(python: str, names: tuple[str, ...]) -> Installed | str:
    """What `python` has, asked of itself; else why it cannot be asked."""
    try:
        done = subprocess.run(  # noqa: S603 (the site's own choice of an interpreter)
            [python, "-I", "-B", "-c", _ASK, *names], capture_output=True, check=False, timeout=_ASK_S
        )
        numbers, versions = json.loads(done.stdout)
        return Installed(python=tuple(map(int, numbers)), versions={str(k): str(v) for k, v in versions.items()})
    except OSError as error:
        return f"cannot be started ({error.strerror})"
    except subprocess.TimeoutExpired:
        return f"does not answer within {_ASK_S:g} s"
    except (ValueError, TypeError, AttributeError):
        said = done.stderr.decode(errors="replace").strip().splitlines()
        return f"is no Python that works ({plain_text(said[-1]) if said else 'it says nothing'})"


def judge_installed(
    check: str, found: Installed, wanted: Mapping[str, str], named: tuple[str, ...], fix: str
) -> Finding:
    """Whether all of `wanted` (name → bounds) is there in a version that fits; `named` are shown."""
    python = ".".join(map(str, found.python))
    if found.python < _OLDEST:
        return problem(check, f"Python {python}, expected 3.11 or newer", fix)
    wrong = [
        f"{name} {found.versions.get(name) or 'is missing'} (expected {bounds or 'any'})"
        for name, bounds in wanted.items()
        if name not in found.versions or not fits(found.versions[name], bounds)
    ]
    if wrong:
        return problem(check, f"Python {python}: {', '.join(wrong)}", fix)
    shown = ", ".join(f"{name} {found.versions[name]}" for name in named if name in found.versions)
    return fine(check, f"Python {python}, {shown}")


def check_versions(situation: Situation) -> Iterator[Finding]:
    """Of the agent."""
    if not ssl.HAS_TLSv1_3:
        yield problem("versions", f"this Python's {ssl.OPENSSL_VERSION} has no TLS 1.3", "take another Python")
    wanted = requirements(None)
    found = installed_for(sys.executable, ("wardround", *wanted))
    if isinstance(found, str):
        yield problem("versions", f"{sys.executable}: {found}", "install wardround anew")
        return
    named = ("wardround", "cryptography", "grpcio")
    yield judge_installed("versions", found, wanted, named, f"pip install 'wardround=={__version__}'")


def check_extras(situation: Situation) -> Iterator[Finding]:
    """What runs that were offered here, and go on, need of the agent's Python beside the base."""
    runs = [] if situation.folder is None else list(_under_bfv(PlanStore(situation.folder)))
    if not runs:
        return
    fix = f"{sys.executable} -m pip install 'wardround[he]=={__version__}'"
    wanted = requirements("he")
    found = installed_for(sys.executable, tuple(wanted))
    if isinstance(found, str):
        yield problem("extras", f"{sys.executable}: {found}", "install wardround anew")
        return
    judged = judge_installed("extras", found, wanted, tuple(wanted), fix)
    yield replace(judged, text=f"{judged.text}; under bfv: {', '.join(run[:12] for run in runs)}")


def _under_bfv(plans: PlanStore) -> Iterator[str]:
    """The runs with homomorphic aggregation that were neither denied nor have ended."""
    for run in plans.names():
        try:
            decision, outcome = plans.decision(run), plans.outcome(run)
            over = outcome is not None and outcome.state is RunState.ENDED
            denied = decision is not None and decision.verdict is Verdict.DENIED
            if not over and not denied and plans.plan(run).protection.homomorphic:
                yield run
        except WardroundError:  # of what is damaged the agent's log tells
            continue


def check_job_python(situation: Situation) -> Iterator[Finding]:
    """Of jobs: another Python perhaps, with torch, and with the same wardround."""
    wanted = {"wardround": f"=={__version__}", **requirements("job")}
    found = installed_for(situation.python, tuple(wanted))
    fix = f"{situation.python} -m pip install 'wardround[job]=={__version__}'"
    if isinstance(found, str):
        yield problem("job python", f"{situation.python} {found}", "name another with --job-python")
        return
    yield judge_installed("job python", found, wanted, ("torch", "flwr", "opacus"), fix)
