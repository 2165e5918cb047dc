"""What Linux offers to take things away from a process: namespaces, mounts, capabilities. Called on this process itself.

Python 3.11 has none of these calls, so libc is called. Each raises OSError where the kernel refuses.
"""

import ctypes
import os
import platform
import signal
from pathlib import Path

__all__ = [
    "bind_read_only",
    "die_with_parent",
    "drop_privileges",
    "enter_root",
    "enter_user_namespace",
    "make_mounts_private",
    "mount_tmpfs",
    "undumpable",
    "unshare",
]

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REMOUNT, _MS_BIND = 1, 2, 4, 8, 32, 4096
_MS_REC, _MS_PRIVATE, _MNT_DETACH = 16384, 1 << 18, 2
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT = 1, 4, 24, 38, 47
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41, "ppc64le": 203, "s390x": 217}
_CAPABILITY_VERSION_3 = 0x20080522

_libc = ctypes.CDLL(None, use_errno=True)


def _call(name: str, *arguments: object) -> None:
    if getattr(_libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def unshare(flags: int) -> None:
    """Leave the namespaces of these kinds for new ones (unshare(2))."""
    _call("unshare", ctypes.c_int(flags))


def enter_user_namespace(flags: int = 0) -> None:
    """A user namespace, and others by `flags`, in which this process has the same ids and no others exist."""
    user, group = os.geteuid(), os.getegid()
    unshare(CLONE_NEWUSER | flags)
    for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        Path("/proc/self", name).write_text(text, encoding="ascii")


def _mount(source: str, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    encoded = (None if text is None else text.encode() for text in (source, target, kind))
    _call("mount", *encoded, ctypes.c_ulong(flags), None if options is None else options.encode())


def make_mounts_private() -> None:
    """What is mounted from now on is seen by nobody else."""
    _mount("none", "/", None, _MS_REC | _MS_PRIVATE)


def mount_tmpfs(target: Path, size_bytes: int, *, execute: bool = False) -> None:
    """An empty file system in memory, with room for `size_bytes`."""
    flags = _MS_NOSUID | _MS_NODEV | (0 if execute else _MS_NOEXEC)
    _mount("tmpfs", str(target), "tmpfs", flags, f"size={size_bytes},mode=700,nr_inodes=100000")


def bind_read_only(source: Path, target: Path, *, writable: bool = False) -> None:
    """Show `source`, a file or a folder with what is mounted in it, at `target`, which has to exist."""
    _mount(str(source), str(target), None, _MS_BIND | _MS_REC)
    if writable:
        return
    # flags that the mount has already must stay: they are locked for whoever is not root outside
    found = os.statvfs(target).f_flag
    kept = {os.ST_NOSUID: _MS_NOSUID, os.ST_NODEV: _MS_NODEV, os.ST_NOEXEC: _MS_NOEXEC}
    flags = _MS_NOSUID | _MS_NODEV
    for has, flag in {**kept, os.ST_NOATIME: 1024, os.ST_NODIRATIME: 2048, os.ST_RELATIME: 1 << 21}.items():
        flags |= flag if found & has else 0
    _mount("none", str(target), None, _MS_REMOUNT | _MS_BIND | _MS_RDONLY | flags)


def enter_root(root: Path) -> None:
    """Make `root`, a mount, all that there is; what was there before is gone for this process (pivot_root(2))."""
    number = _PIVOT_ROOT.get(platform.machine())
    if number is None:
        raise OSError(0, f"pivot_root: not known for {platform.machine()}")
    old = root / ".old"
    old.mkdir()
    _call("syscall", ctypes.c_long(number), str(root).encode(), str(old).encode())
    os.chdir("/")
    _call("umount2", b"/.old", ctypes.c_int(_MNT_DETACH))
    os.rmdir("/.old")


class _CapabilityHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


def drop_privileges() -> None:
    """No capability, now or through any program that is started (capabilities(7)), for this process and its children."""
    number = 0
    while _libc.prctl(_PR_CAPBSET_DROP, ctypes.c_ulong(number), 0, 0, 0) == 0:
        number += 1
    _call("prctl", _PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), 0, 0, 0)
    _libc.prctl(_PR_CAP_AMBIENT, ctypes.c_ulong(4), 0, 0, 0)  # clear all; refused where there is no such set
    header, none = _CapabilityHeader(_CAPABILITY_VERSION_3, 0), (ctypes.c_uint32 * 6)()
    _call("capset", ctypes.byref(header), none)


def die_with_parent() -> None:
    """This process is killed when its parent ends (prctl(2))."""
    _call("prctl", _PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0)


def undumpable() -> None:
    """No process of the same user may read this one's memory, open files or environment (prctl(2), ptrace(2))."""
    _call("prctl", _PR_SET_DUMPABLE, ctypes.c_ulong(0), 0, 0, 0)
