"""All files that a confined job sees: its Python, the system's libraries, and an empty folder in memory.

Everything else does not exist for it, so that nothing has to be thought of that must be hidden: no home, no keys, no
table, no socket of a service, no /proc and no /run. What the job's Python may bring with it nevertheless (a
folder of packages that holds the site's own) is covered.
"""

import json
import os
import stat
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from wardround.client.job import namespaces
from wardround.client.job.launch import SCRATCH

__all__ = ["build_view", "cover", "finish_view", "needed_by", "steps_of"]

_SYSTEM = (
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/etc/alternatives",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/localtime",
    "/sys/devices/system/cpu",
    "/proc/cpuinfo",
    "/proc/meminfo",
)
_NEVER = frozenset(map(Path, ("/", "/etc", "/home", "/proc", "/root", "/run", "/sys", "/tmp", "/var", "/dev")))  # noqa: S108
_DEVICES = ("null", "zero", "full", "random", "urandom")
_ROOT_BYTES = 4 << 20
_MOST_LINKS = 40
_ASK_S = 60.0
_ACCOUNTS = {
    "passwd": "job:x:1000:1000:job:/job:/bin/false\n",
    "group": "job:x:1000:\n",
}
_ASK = (
    "import importlib.util as u, json, os, sys; found = u.find_spec('wardround'); "
    "missing = [name for name in ('wardround', 'torch', 'safetensors', 'pyarrow') if u.find_spec(name) is None]; "
    "paths = [sys.executable, sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix, *sys.path, "
    "*([os.path.join(folder, name) for folder in found.submodule_search_locations "
    "for name in ('', 'client', 'strategies')] if found else [])]; print(json.dumps([missing, paths]))"
)


def needed_by(python: str, environment: dict[str, str]) -> list[Path]:
    """Where the Python of a job and its packages are, as it says itself; no code of a plan runs here.

    Raises OSError where it cannot be asked, or lacks what a job needs.
    """
    try:
        asked = subprocess.run(  # noqa: S603 (the site's own choice of an interpreter)
            [python, "-I", "-B", "-c", _ASK], env=environment, capture_output=True, check=False, timeout=_ASK_S
        )
    except subprocess.TimeoutExpired:
        raise OSError(0, f"{python} does not answer within {_ASK_S:g} s") from None
    try:
        missing, named = json.loads(asked.stdout)
    except ValueError:
        said = asked.stderr.decode(errors="replace").strip().splitlines()
        raise OSError(0, f"{python} does not start{f' ({said[-1]})' if said else ''}") from None
    if missing:
        raise OSError(0, f"{python} lacks {', '.join(missing)}: install wardround[job] for it")
    return [path for name in dict.fromkeys((*_SYSTEM, *named)) if name and (path := Path(name)).is_absolute()]


def steps_of(path: Path) -> tuple[dict[Path, str], Path | None]:
    """The links on the way to `path` with what they say, and the file or folder at its end, if there is one."""
    links: dict[Path, str] = {}
    at, rest, followed = Path("/"), list(path.parts[1:]), 0
    while rest:
        part = rest.pop(0)
        if part in ("", "."):
            continue
        if part == "..":
            at = at.parent
            continue
        at = at / part
        try:
            kind = os.lstat(at).st_mode
        except OSError:
            return links, None
        if stat.S_ISLNK(kind):
            followed += 1
            if followed > _MOST_LINKS:  # a loop
                return links, None
            links[at] = os.readlink(at)
            target = Path(links[at])
            rest = [*(target.parts[1:] if target.is_absolute() else target.parts), *rest]
            at = Path("/") if target.is_absolute() else at.parent
    return links, at


def build_view(root: Path, needed: Iterable[Path], *, scratch_bytes: int, owner: int) -> None:
    """Put the job's file system together at `root`, for `enter_root`. `owner` is the user (and group) of the job."""
    namespaces.mount_tmpfs(root, _ROOT_BYTES, mode=0o755)
    links: dict[Path, str] = {}
    shown: set[Path] = set()
    for path in needed:
        on_the_way, end = steps_of(path)
        links |= on_the_way
        if end is not None and end not in _NEVER:
            shown.add(end)
    for path in _outermost(shown):
        _show(path, _inside(root, path), namespaces.READ_ONLY | namespaces.NO_SETUID | namespaces.NO_DEVICES)
    for path, target in links.items():
        _link(_inside(root, path), target)
    (root / "dev").mkdir()
    for name in _DEVICES:
        _show(Path("/dev", name), root / "dev" / name, namespaces.NO_SETUID | namespaces.NO_EXECUTION)
    (root / "etc").mkdir(exist_ok=True)
    for name, text in _ACCOUNTS.items():
        (root / "etc" / name).write_text(text, encoding="ascii")
    _make_scratch(root, scratch_bytes, owner)


def _outermost(paths: set[Path]) -> list[Path]:
    kept: list[Path] = []
    for path in sorted(paths):
        if not any(path.is_relative_to(one) for one in kept):
            kept.append(path)
    return kept


def _inside(root: Path, path: Path) -> Path:
    return root / path.relative_to("/")


def _show(path: Path, target: Path, attributes: int) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        target.mkdir(exist_ok=True)
    else:
        target.touch()
    namespaces.bind(path, target, attributes)


def _link(place: Path, target: str) -> None:
    if os.path.lexists(place):
        return  # in a folder that is shown
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(target)


def _make_scratch(root: Path, size_bytes: int, owner: int) -> None:
    scratch = _inside(root, Path(SCRATCH))
    scratch.mkdir()
    namespaces.mount_tmpfs(scratch, size_bytes, mode=0o700)
    for name, place in (("tmp", root / "tmp"), ("shm", root / "dev" / "shm")):
        (scratch / name).mkdir()
        os.chown(scratch / name, owner, owner)
        if not os.path.lexists(place):  # it is there where something below /tmp is shown
            place.symlink_to(f"{SCRATCH}/{name}")
    os.chown(scratch, owner, owner)


def finish_view(hidden: Sequence[str]) -> None:
    """Inside the new root: cover what must not be seen, and let nothing be changed."""
    for path in hidden:
        for name in _names(path):
            cover(name)
    namespaces.set_attributes("/", namespaces.READ_ONLY)


def _names(path: str) -> Iterator[str]:
    yield os.path.abspath(path)
    if os.path.isabs(path) and (real := os.path.realpath(path)) != os.path.abspath(path):
        yield real


def cover(path: str) -> None:
    """Put an empty folder, which nobody may open, over `path`, if that is there."""
    if os.path.isdir(path):
        namespaces.mount_tmpfs(path, 4096, mode=0)
        namespaces.set_attributes(path, namespaces.READ_ONLY)
