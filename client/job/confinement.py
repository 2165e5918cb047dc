"""Whether a job can be confined here: without a network, the site's keys, other data and other processes.

How it is done: `launcher` makes namespaces of every kind for the job, `file_view` a file system of nothing but what it
needs, `system_calls` a filter. docs/job.md says what that stops and what not.
"""

import sys
import tempfile
from pathlib import Path

from wardround.client.job.launch import Launch
from wardround.client.job.launched_job import LaunchedJob, environment_of
from wardround.client.job.limits import JobLimits
from wardround.errors import LocalError

__all__ = ["available"]

_TRY_S = 60.0
_SETTINGS = (
    ("kernel/unprivileged_userns_clone", "0", "1"),
    ("kernel/apparmor_restrict_unprivileged_userns", "1", "0"),
    ("user/max_user_namespaces", "0", "10000"),
)


def available(python: str = sys.executable) -> str | None:
    """None where a job that `python` runs can be confined here, else why not: tried, with an empty job."""
    with tempfile.TemporaryDirectory(prefix="wardround-job-") as folder:
        root = Path(folder) / "root"
        root.mkdir(mode=0o700)
        wanted = Launch(
            python=python,
            arguments=("-I", "-B", "-c", "pass"),
            environment=environment_of(str(root), confined=True),
            confined=True,
            root=str(root),
            limits=JobLimits(),
        )
        try:
            job = LaunchedJob.start(wanted, log=Path(folder) / "log", timeout_s=_TRY_S)
        except LocalError as error:
            return f"{error}{_hint()}"
        code = job.wait(_TRY_S)
        job.end()
        if code:
            return f"{python} ends with code {code} when it is confined"
    return None


def _hint() -> str:
    """The setting of this system that is known to forbid it."""
    for name, forbids, allows in _SETTINGS:
        try:
            found = Path("/proc/sys", name).read_text(encoding="ascii").strip()
        except OSError:
            continue
        if found == forbids:
            return f"; sysctl {name.replace('/', '.')} is {found}, expected {allows}: see docs/job.md"
    return "; see docs/job.md for what it needs"
