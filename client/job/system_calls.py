"""A filter on the system calls of a confined job (seccomp(2)): those that attacks begin with and it never needs.

A network namespace does not hold every family of sockets: AF_VSOCK leads from a virtual machine to its host. So a job
makes sockets of this machine only (AF_UNIX), and the calls that make others by another way (io_uring) are refused, as
are new namespaces, mounts, tracing, and the kernel's keys.
"""

import ctypes
import errno
import platform
import struct

__all__ = ["forbid_system_calls", "program"]

_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2
_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _JUMP_SET, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _MACHINE, _FIRST_ARGUMENT = 0, 4, 16  # offsets in struct seccomp_data; the low half of the argument
_ALLOW, _KILL, _ERROR = 0x7FFF0000, 0x80000000, 0x00050000
_AF_UNIX = 1
_NEW_NAMESPACES = 0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000
_X32 = 0x40000000

_MACHINES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_CALLS: dict[str, dict[str, int]] = {
    "x86_64": {
        "clone": 56,
        "socket": 41,
        "socketpair": 53,
        "ptrace": 101,
        "syslog": 103,
        "personality": 135,
        "pivot_root": 155,
        "chroot": 161,
        "mount": 165,
        "umount2": 166,
        "add_key": 248,
        "request_key": 249,
        "keyctl": 250,
        "unshare": 272,
        "perf_event_open": 298,
        "setns": 308,
        "process_vm_readv": 310,
        "process_vm_writev": 311,
        "kcmp": 312,
        "bpf": 321,
        "userfaultfd": 323,
    },
    "aarch64": {
        "clone": 220,
        "socket": 198,
        "socketpair": 199,
        "ptrace": 117,
        "syslog": 116,
        "personality": 92,
        "pivot_root": 41,
        "chroot": 51,
        "mount": 40,
        "umount2": 39,
        "add_key": 217,
        "request_key": 218,
        "keyctl": 219,
        "unshare": 97,
        "perf_event_open": 241,
        "setns": 268,
        "process_vm_readv": 270,
        "process_vm_writev": 271,
        "kcmp": 272,
        "bpf": 280,
        "userfaultfd": 282,
    },
}
_CLONE3 = 435
_SAME_EVERYWHERE = {
    "io_uring_setup": 425,
    "io_uring_enter": 426,
    "io_uring_register": 427,
    "open_tree": 428,
    "move_mount": 429,
    "fsopen": 430,
    "fsconfig": 431,
    "fsmount": 432,
    "fspick": 433,
    "pidfd_getfd": 438,
    "mount_setattr": 442,
}
_LOOKED_INTO = ("clone", "socket", "socketpair")


def program(machine: str) -> bytes:
    """The filter for `machine`, a classic BPF program. Raises OSError for a machine that is not known."""
    if machine not in _MACHINES:
        raise OSError(errno.ENOSYS, f"seccomp: not known for {machine}")
    calls = _CALLS[machine]
    denied = [number for name, number in {**calls, **_SAME_EVERYWHERE}.items() if name not in _LOOKED_INTO]
    steps = [
        _step(_LOAD, _MACHINE),
        _step(_JUMP_EQUAL, _MACHINES[machine], 1, 0),
        _step(_RETURN, _KILL),
        _step(_LOAD, _NUMBER),
    ]
    if machine == "x86_64":
        steps += [_step(_JUMP_AT_LEAST, _X32, 0, 1), _refuse(errno.EPERM)]
    for number in denied:
        steps += [_step(_JUMP_EQUAL, number, 0, 1), _refuse(errno.EPERM)]
    steps += [_step(_JUMP_EQUAL, _CLONE3, 0, 1), _refuse(errno.ENOSYS)]  # its flags cannot be seen; libc takes clone
    for name in ("socket", "socketpair"):
        steps += [
            _step(_JUMP_EQUAL, calls[name], 0, 4),
            _step(_LOAD, _FIRST_ARGUMENT),
            _step(_JUMP_EQUAL, _AF_UNIX, 1, 0),
            _refuse(errno.EAFNOSUPPORT),
            _step(_RETURN, _ALLOW),
        ]
    steps += [
        _step(_JUMP_EQUAL, calls["clone"], 0, 3),
        _step(_LOAD, _FIRST_ARGUMENT),
        _step(_JUMP_SET, _NEW_NAMESPACES, 0, 1),
        _refuse(errno.EPERM),
        _step(_RETURN, _ALLOW),
    ]
    return b"".join(steps)


def _step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("<HBBI", code, if_true, if_false, value)


def _refuse(number: int) -> bytes:
    return _step(_RETURN, _ERROR | number)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("steps", ctypes.c_char_p))


def forbid_system_calls() -> None:
    """Put the filter on this process and all that it starts, for good; privileges must have been given up before."""
    steps = program(platform.machine())
    wanted = _Program(len(steps) // 8, steps)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_SECCOMP, ctypes.c_ulong(_SECCOMP_MODE_FILTER), ctypes.byref(wanted), 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "seccomp: the filter was refused")
