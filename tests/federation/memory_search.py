"""A secret key's bytes, as a hospital has them, and the search for them in processes and files.

A key lies in memory in three forms: the coefficients that SEAL works with (transformed, 64 bits each), TenSEAL's
compressed form of them, which is what is stored and sealed to others, and the tag key. A few windows of each are looked
for: a copy of the whole has them all.
"""

import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from wardround.client.agent.site_folder import SiteFolder
from wardround.file_store import FileStore
from wardround.strategies.secagg.sealed_state import SealedState

__all__ = ["in_files", "in_memory", "key_windows", "loads", "why_no_memory"]

_WINDOW, _PIECE = 64, 1 << 24
_PLACES = (0.25, 0.5, 0.75)
"""Of a form: headers, which all keys have, are at its start."""


def why_no_memory() -> str:
    """Why this user cannot read the memory of agents, which are not dumpable; empty where that is possible."""
    if os.geteuid() != 0:
        return "the memory of an agent is root's alone to read"
    try:
        Path("/proc", str(os.getppid()), "mem").open("rb").close()
    except OSError as error:
        return f"the memory of other processes is not to be read here ({error.strerror})"
    return ""


def key_windows(site: Path, run: str, temporary: Path) -> dict[str, bytes]:
    """Name → bytes of the key that the hospital with the state folder `site` has for the run's epoch.

    Its state is copied to `temporary`: the agent has it open.
    """
    import tenseal as ts

    copy = temporary / "state"
    shutil.copytree(site / "runs" / run / "state", copy)
    (copy / ".lock").unlink(missing_ok=True)
    with FileStore(copy) as store:
        _, _, tag_key, key, *_ = SealedState(store, SiteFolder(site).state_key, os.urandom).get(f"secagg/{run}/he-key")
    shutil.rmtree(copy)
    context = ts.context_from(key)
    holder = context.secret_key().data  # what follows lives as long as these
    secret = holder.data()
    raw = b"".join(secret.data(number).to_bytes(8, "little") for number in range(secret.coeff_count()))
    windows = {"tag key": tag_key}
    for name, form in (("coefficients", raw), ("stored form", key)):
        for place in _PLACES:
            at = int(len(form) * place) // 8 * 8
            windows[f"{name} from byte {at}"] = form[at : at + _WINDOW]
    assert all(2 * len(set(window)) > len(window) for window in windows.values())  # nothing that is anywhere by chance
    return windows


def in_memory(pid: int, windows: Mapping[str, bytes]) -> set[str]:
    """The names of the windows that are somewhere in the memory of a process. OSError where it is not to be read."""
    found = set[str]()
    with Path("/proc", str(pid), "mem").open("rb", buffering=0) as memory:
        for start, end in _mapped(pid):
            tail = b""
            for at in range(start, end, _PIECE):
                try:
                    memory.seek(at)
                    piece = memory.read(min(_PIECE, end - at))
                except (OSError, ValueError):  # of a device, or of the kernel's own
                    break
                found |= _in(tail + piece, windows)
                tail = piece[-_WINDOW:]
    return found


def in_files(folder: Path, windows: Mapping[str, bytes]) -> tuple[int, set[str]]:
    """How many files there are below a folder, and the names of the windows that are in any of them."""
    files, found = 0, set[str]()
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            files += 1
            found |= _in(path.read_bytes(), windows)
    return files, found


def loads(pid: int, library: str) -> bool:
    """Whether a process has a shared library loaded."""
    return library in Path("/proc", str(pid), "maps").read_text(encoding="utf-8", errors="replace")


def _mapped(pid: int) -> Iterator[tuple[int, int]]:
    for line in Path("/proc", str(pid), "maps").read_text(encoding="utf-8", errors="replace").splitlines():
        span, rights, *rest = line.split()
        if rights.startswith("r") and not (rest[3:] and rest[3] in ("[vvar]", "[vsyscall]")):
            start, _, end = span.partition("-")
            yield int(start, 16), int(end, 16)


def _in(data: bytes, windows: Mapping[str, bytes]) -> set[str]:
    return {name for name, window in windows.items() if window in data}
