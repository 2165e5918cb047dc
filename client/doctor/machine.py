"""What the machine gives: memory, cores, open files, and whether a job can be confined on it."""

import os
import resource
from collections.abc import Iterator, Mapping
from pathlib import Path

from wardround.client.agent.policy_file import PolicyFile
from wardround.client.doctor.finding import Finding, Level, fine, problem, skipped, warning
from wardround.client.doctor.situation import Situation
from wardround.client.doctor.versions import check_job_python
from wardround.client.job.confinement import available

__all__ = ["check_confinement", "check_machine", "judge_confinement", "judge_memory", "judge_open_files"]

_GIB = 1 << 30
_LITTLE_MEMORY = 3 * _GIB
_FEW_FILES = 512


def check_machine(situation: Situation) -> Iterator[Finding]:
    """Memory, cores and open files."""
    yield judge_memory(_memory_bytes(), len(os.sched_getaffinity(0)))
    yield judge_open_files(resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def judge_memory(size: int, cores: int) -> Finding:
    """`size` bytes are this process's to use; torch alone takes half a GiB in a job."""
    text = f"{size / _GIB:.1f} GiB of memory, {cores} core{'s' * (cores != 1)}"
    if size < _LITTLE_MEMORY:
        return warning("machine", text, "a job with torch may not have room in less than 3 GiB")
    return fine("machine", text)


def judge_open_files(most: int) -> Finding:
    """How many files, connections included, the agent may have open."""
    if most == resource.RLIM_INFINITY:
        return fine("open files", "without a limit")
    if most < _FEW_FILES:
        return warning("open files", f"{most}", f"allow {_FEW_FILES} or more: ulimit -n, or LimitNOFILE= in the unit")
    return fine("open files", f"{most}")


def _memory_bytes() -> int:
    """Of the machine, or of the control group where that has less."""
    sizes = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    root = Path("/sys/fs/cgroup")
    try:
        [own] = [line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::")]
    except (OSError, ValueError):
        return sizes[0]
    group = root / own.strip("/")
    for one in (group, *group.parents):
        try:
            sizes.append(int((one / "memory.max").read_text()))
        except (OSError, ValueError):  # none there, or "max"
            pass
        if one == root:
            break
    return min(sizes)


def check_confinement(situation: Situation) -> Iterator[Finding]:
    """An empty job is confined, to see, once its Python has what a job needs."""
    if any(one.level is Level.PROBLEM for one in check_job_python(situation)):
        yield skipped("confinement", "is tried when the Python of jobs is in order")
        return
    allowed = situation.folder is not None and PolicyFile(situation.folder).read().allow_unconfined_jobs
    yield judge_confinement(available(situation.python), contained=_contained(situation.environment), allowed=allowed)


def judge_confinement(why: str | None, *, contained: bool, allowed: bool) -> Finding:
    """`why` a job cannot be confined here, None where it can; `allowed` by the site to run all the same."""
    if why is None:
        return fine("confinement", "jobs run without network, keys and other files")
    fix = "docs/install.md says what its container must be allowed" if contained else "docs/job.md says what it needs"
    if allowed:
        return warning("confinement", f"jobs are not confined ({why}), which this site's policy allows", fix)
    return problem("confinement", f"jobs cannot be confined, and are refused ({why})", fix)


def _contained(environment: Mapping[str, str]) -> bool:
    """Whether this is a container of Docker, Podman or Kubernetes."""
    marks = ("/.dockerenv", "/run/.containerenv")
    return any(map(os.path.exists, marks)) or "KUBERNETES_SERVICE_HOST" in environment
