"""What a job cannot reach: a network, the site's keys, other data, other processes.

The job's process confines itself before it reads the plan. It makes namespaces of its own (user, mount, network, PID,
IPC), builds a file system of nothing but what it needs (its Python, the libraries, the one data file, an empty working
folder in memory, of /proc and /sys nothing but what the processor is) and drops every capability, so that none of this can be taken back: in yet
another user namespace the mounts are locked (mount_namespaces(7)). What the kernel itself lets through by a fault is
not stopped.
"""

import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NoReturn, Self

from wardround.client.job import namespaces
from wardround.errors import LocalError, RemoteError

__all__ = ["JobLimits", "available", "confine", "limit"]

_SYSTEM = ("/usr", "/lib", "/lib64", "/lib32", "/bin", "/sbin", "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/localtime")
_PROCESSOR = ("/proc/cpuinfo", "/proc/meminfo")
_DEVICES = ("null", "zero", "full", "random", "urandom")
WORK = Path("/wardround-job")
"""The job's working folder, as it sees it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobLimits:
    """What a job may use. `memory_bytes` are data of one process, `disk_bytes` its working folder, in memory too."""

    memory_bytes: int = 16 << 30
    disk_bytes: int = 256 << 20
    log_bytes: int = 4 << 20
    processes: int = 256
    files: int = 1024
    call_s: float = 3600.0
    """An order takes no longer; a plan's deadline may be shorter."""

    def __post_init__(self) -> None:
        if not all(getattr(self, one.name) > 0 for one in fields(self)):
            raise ValueError("expected limits above 0")

    @classmethod
    def from_header(cls, table: Any) -> Self:
        """The limits in a message. Raises RemoteError for anything else."""
        try:
            return cls(**table)
        except (TypeError, ValueError):
            raise RemoteError("local channel: expected a job's limits") from None


def available(python: str = sys.executable) -> str | None:
    """None where a job can be confined here, else why not; tried in a process of its own."""
    with tempfile.TemporaryDirectory() as root:
        tried = subprocess.run(  # noqa: S603 (our own program)
            [python, "-P", "-c", "from wardround.client.job.confinement import _try; _try()", root],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    if tried.returncode == 0:
        return None
    lines = tried.stderr.strip().splitlines()
    return lines[-1] if lines else f"the trial ended with code {tried.returncode}"


def _try() -> None:
    root = Path(sys.argv[1])
    try:
        confine([], root=root, disk_bytes=1 << 20)
    except LocalError as error:
        raise SystemExit(str(error)) from None


def confine(readable: Sequence[Path], *, root: Path, disk_bytes: int) -> None:
    """Confine this process, which must have one thread; it goes on in a child, whose end is this one's.

    `readable` are files and folders that it may read beside its Python and the system's libraries, `root` an empty
    folder. It is in `WORK` afterwards, an empty folder in memory. Raises LocalError, in a process that is of no more use, where this system
    cannot do it.
    """
    try:
        needed = [*_needed(), *readable]
        namespaces.enter_user_namespace(
            namespaces.CLONE_NEWNS
            | namespaces.CLONE_NEWNET
            | namespaces.CLONE_NEWPID
            | namespaces.CLONE_NEWIPC
            | namespaces.CLONE_NEWUTS
        )
        _continue_in_child()
        namespaces.make_mounts_private()
        namespaces.mount_tmpfs(root, disk_bytes, execute=True)
        for path in _without_nested(needed):
            _show(path, root)
        for path in _links(needed):
            _copy_link(path, root)
        (root / "dev").mkdir()
        for name in _DEVICES:
            (root / "dev" / name).touch()
            namespaces.bind_read_only(Path("/dev", name), root / "dev" / name, writable=True)
        for name in (WORK.name, "tmp"):
            (root / name).mkdir(exist_ok=True)
        namespaces.enter_root(root)
        namespaces.drop_privileges()
        os.chdir(WORK)
    except OSError as error:
        raise LocalError(
            f"this system cannot confine a job ({error.strerror or error}); see docs/job.md for what it needs"
        ) from None


def limit(limits: JobLimits) -> None:
    """Bound what this process and each of its children may use."""
    for kind, most in (
        (resource.RLIMIT_DATA, limits.memory_bytes),
        (resource.RLIMIT_FSIZE, max(limits.disk_bytes, limits.log_bytes)),
        (resource.RLIMIT_NPROC, limits.processes),
        (resource.RLIMIT_NOFILE, limits.files),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (most, most))


def _continue_in_child() -> None:
    """The first child is the first process of the PID namespace: with it, all of that namespace end."""
    child = os.fork()
    if child == 0:
        namespaces.die_with_parent()
        return
    _await(child)


def _await(child: int) -> NoReturn:
    os.closerange(3, 4096)  # the channel belongs to the child alone
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _, status = os.waitpid(child, 0)
    os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def _needed() -> Iterator[Path]:
    """Where this Python, its packages and the system's libraries are, by all names that lead there."""
    for name in (*_SYSTEM, *_PROCESSOR, sys.prefix, sys.base_prefix, sys.exec_prefix, sys.executable, *sys.path):
        path = Path(os.path.abspath(name))
        if name and path.exists():
            yield path
            yield path.resolve()
    package = Path(__file__).resolve().parents[1]
    for role in ("client", "strategies"):  # of an editable install, which is a folder of links
        yield package.parent / role
    yield _package_folder()
    yield Path(os.path.realpath(sys.executable)).parent.parent


def _package_folder() -> Path:
    import wardround

    return Path(str(wardround.__file__)).resolve().parent


def _links(paths: Sequence[Path]) -> list[Path]:
    """Links on the way to `paths`: as /lib is one to /usr/lib."""
    found: dict[Path, None] = {}
    for path in paths:
        for one in (path, *path.parents):
            if one.is_symlink():
                found[one] = None
    return list(found)


def _without_nested(paths: Sequence[Path]) -> list[Path]:
    """Real files and folders, none inside another."""
    real = sorted({path for path in paths if path.exists() and path.resolve() == path})
    kept: list[Path] = []
    for path in real:
        if not any(path.is_relative_to(one) for one in kept):
            kept.append(path)
    return kept


def _show(path: Path, root: Path) -> None:
    target = root / path.relative_to("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        target.mkdir(exist_ok=True)
    else:
        target.touch()
    namespaces.bind_read_only(path, target)


def _copy_link(path: Path, root: Path) -> None:
    target = root / path.relative_to("/")
    if os.path.lexists(target):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    target.symlink_to(os.readlink(path))
