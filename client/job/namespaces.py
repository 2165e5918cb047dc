"""What Linux offers to take things away from a process: namespaces, mounts, capabilities. It is always this process.

Python 3.11 has none of these calls, so libc is called. Each raises OSError where the kernel refuses.
"""

import ctypes
import os
import platform
import signal
from dataclasses import dataclass
from pathlib import Path

__all__ = [
    "NEW_USER",
    "NO_DEVICES",
    "NO_EXECUTION",
    "NO_SETUID",
    "READ_ONLY",
    "IdMap",
    "bind",
    "die_with_parent",
    "drop_capabilities",
    "dumpable",
    "enter_root",
    "forbid_more_privileges",
    "make_mounts_private",
    "mount_tmpfs",
    "prctl",
    "set_attributes",
    "set_subreaper",
    "undumpable",
    "unshare",
    "unshare_everything",
    "unshare_users_and_mounts",
]

_NEW_MOUNTS, _NEW_CGROUP, _NEW_UTS, _NEW_IPC = 0x00020000, 0x02000000, 0x04000000, 0x08000000
NEW_USER, _NEW_PID, _NEW_NET = 0x10000000, 0x20000000, 0x40000000
_EVERYTHING = NEW_USER | _NEW_MOUNTS | _NEW_CGROUP | _NEW_UTS | _NEW_IPC | _NEW_PID | _NEW_NET
_MS_NOSUID, _MS_NODEV, _MS_BIND, _MS_REC, _MS_PRIVATE = 2, 4, 4096, 16384, 1 << 18
_MNT_DETACH, _AT_FDCWD, _AT_RECURSIVE = 2, -100, 0x8000
_MOUNT_SETATTR = 442  # the same on every machine
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 1, 4, 24, 38
_PR_SET_CHILD_SUBREAPER, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 36, 47, 4
_CAPABILITY_VERSION_3 = 0x20080522

READ_ONLY, NO_SETUID, NO_DEVICES, NO_EXECUTION = 1, 2, 4, 8
"""Attributes of a mount (mount_setattr(2))."""

_libc = ctypes.CDLL(None, use_errno=True)


def _call(name: str, *arguments: object) -> None:
    if getattr(_libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class IdMap:
    """Which ids exist in a user namespace: pairs of the id inside and the one outside."""

    users: tuple[tuple[int, int], ...]
    groups: tuple[tuple[int, int], ...]

    def write(self, proc: int, process: str, *, deny_groups: bool) -> None:
        """Give the user namespace of `process` (its number, or self) these ids; `proc` is a descriptor of /proc.

        `deny_groups` has to be set by who is not root outside (user_namespaces(7)).
        """
        if deny_groups:
            _write(proc, f"{process}/setgroups", "deny")
        for name, pairs in (("uid_map", self.users), ("gid_map", self.groups)):
            _write(proc, f"{process}/{name}", "".join(f"{inside} {outside} 1\n" for inside, outside in pairs))


def _write(proc: int, name: str, text: str) -> None:
    descriptor = os.open(name, os.O_WRONLY | os.O_CLOEXEC, dir_fd=proc)
    try:
        os.write(descriptor, text.encode("ascii"))
    finally:
        os.close(descriptor)


def unshare(flags: int) -> None:
    """Leave the namespaces of these kinds for new ones (unshare(2))."""
    _call("unshare", ctypes.c_int(flags))


def unshare_everything() -> None:
    """New namespaces of every kind for this process; that of processes begins with its next child."""
    unshare(_EVERYTHING)


def unshare_users_and_mounts() -> None:
    """A user namespace below this one, in which the mounts of this one are locked (mount_namespaces(7))."""
    unshare(NEW_USER | _NEW_MOUNTS)


def _mount(source: str, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    encoded = (None if text is None else os.fsencode(text) for text in (source, target, kind))
    try:
        _call("mount", *encoded, ctypes.c_ulong(flags), None if options is None else options.encode())
    except OSError as error:
        raise OSError(error.errno, f"{target}: {error.strerror}") from None


def make_mounts_private() -> None:
    """What is mounted from now on is seen by nobody else, and what others mount is not seen here."""
    _mount("none", "/", None, _MS_REC | _MS_PRIVATE)


def mount_tmpfs(target: str | Path, size_bytes: int, *, mode: int) -> None:
    """An empty file system in memory, with room for `size_bytes`."""
    _mount("tmpfs", str(target), "tmpfs", _MS_NOSUID | _MS_NODEV, f"size={size_bytes},mode={mode:o},nr_inodes=65536")


def bind(source: str | Path, target: str | Path, attributes: int) -> None:
    """Show `source`, a file or a folder with what is mounted in it, at `target`, which has to exist."""
    _mount(str(source), str(target), None, _MS_BIND | _MS_REC)
    set_attributes(target, attributes, recursive=True)


class _Attributes(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint64) for name in ("set", "clear", "propagation", "user_namespace"))


def set_attributes(target: str | Path, attributes: int, *, recursive: bool = False) -> None:
    """Add attributes to a mount, or to all that are below it as well."""
    wanted = _Attributes(attributes, 0, 0, 0)
    _call(
        "syscall",
        ctypes.c_long(_MOUNT_SETATTR),
        ctypes.c_int(_AT_FDCWD),
        os.fsencode(str(target)),
        ctypes.c_uint(_AT_RECURSIVE if recursive else 0),
        ctypes.byref(wanted),
        ctypes.c_size_t(ctypes.sizeof(wanted)),
    )


def enter_root(root: Path) -> None:
    """Make `root`, a mount, all that there is; what was there before is gone for this process (pivot_root(2))."""
    number = _PIVOT_ROOT.get(platform.machine())
    if number is None:
        raise OSError(0, f"pivot_root: not known for {platform.machine()}")
    os.chdir(root)
    _call("syscall", ctypes.c_long(number), b".", b".")  # the old root lies over the new one, and is taken off
    _call("umount2", b".", ctypes.c_int(_MNT_DETACH))
    os.chdir("/")


class _CapabilityHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


def prctl(option: int, first: int = 0, second: int = 0) -> None:
    _call("prctl", ctypes.c_int(option), ctypes.c_ulong(first), ctypes.c_ulong(second), ctypes.c_ulong(0), 0)


def drop_capabilities() -> None:
    """No capability is left, nor can a program that is started have one (capabilities(7))."""
    number = 0
    while _libc.prctl(_PR_CAPBSET_DROP, ctypes.c_ulong(number), 0, 0, 0) == 0:
        number += 1
    if number == 0:
        raise OSError(ctypes.get_errno(), "capabilities cannot be dropped")
    prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    _call("capset", ctypes.byref(_CapabilityHeader(_CAPABILITY_VERSION_3, 0)), (ctypes.c_uint32 * 6)())


def forbid_more_privileges() -> None:
    """No program that is started has more rights than this one (PR_SET_NO_NEW_PRIVS)."""
    prctl(_PR_SET_NO_NEW_PRIVS, 1)


def die_with_parent() -> None:
    """This process is killed when the thread that started it ends; set it after the last change of its ids."""
    prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def undumpable() -> None:
    """No other process of the same user may read this one's memory, environment or open files (ptrace(2)).

    An agent, which holds keys, calls this at its start.
    """
    prctl(_PR_SET_DUMPABLE, 0)


def dumpable() -> None:
    """Its files in /proc are this process's own again, which they are not after a change of its user."""
    prctl(_PR_SET_DUMPABLE, 1)


def set_subreaper() -> None:
    """What its children leave behind becomes this process's child."""
    prctl(_PR_SET_CHILD_SUBREAPER, 1)
