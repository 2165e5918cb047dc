"""The filter, run on calls in a machine of its own: classic BPF is a handful of steps (seccomp(2))."""

import errno
import struct

import pytest

from wardround.client.job.system_calls import program

X86, ARM = 0xC000003E, 0xC00000B7
ALLOWED, KILLED = 0x7FFF0000, 0x80000000
NUMBERS = {
    "x86_64": {"read": 0, "socket": 41, "clone": 56, "fork": 57, "execve": 59, "ptrace": 101, "unshare": 272},
    "aarch64": {"read": 63, "socket": 198, "clone": 220, "execve": 221, "ptrace": 117, "unshare": 97},
}
MACHINES = {"x86_64": X86, "aarch64": ARM}


def verdict(machine: str, number: int, argument: int = 0, *, speaks: int | None = None) -> int:
    """What the filter of `machine` says to a call."""
    data = struct.pack("<iIQQ", number, MACHINES[machine] if speaks is None else speaks, 0, argument)
    steps = list(struct.iter_unpack("<HBBI", program(machine)))
    at = held = 0
    while True:
        code, if_true, if_false, value = steps[at]
        at += 1
        if code == 0x20:
            (held,) = struct.unpack_from("<I", data, value)
        elif code == 0x06:
            return int(value)
        else:
            holds = {0x15: held == value, 0x35: held >= value, 0x45: bool(held & value)}[code]
            at += if_true if holds else if_false


def refused(number: int) -> int:
    return 0x00050000 | number


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_what_work_needs_passes(machine: str) -> None:
    numbers = NUMBERS[machine]
    for name in ("read", "execve"):
        assert verdict(machine, numbers[name]) == ALLOWED
    assert verdict(machine, numbers["socket"], 1) == ALLOWED  # AF_UNIX
    thread = 0x00000100 | 0x00000200 | 0x00000400 | 0x00000800 | 0x00010000 | 0x00040000 | 0x00080000
    for flags in (17, thread):
        assert verdict(machine, numbers["clone"], flags) == ALLOWED


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("family", [0, 2, 10, 16, 17, 38, 40, (1 << 32) | 2])
def test_a_socket_that_leaves_the_machine_is_refused(machine: str, family: int) -> None:
    assert verdict(machine, NUMBERS[machine]["socket"], family) == refused(errno.EAFNOSUPPORT)


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_attacks_are_refused(machine: str) -> None:
    for name in ("ptrace", "unshare"):
        assert verdict(machine, NUMBERS[machine][name]) == refused(errno.EPERM)
    for number in (425, 426, 427, 428, 429, 442):  # io_uring, mounts
        assert verdict(machine, number) == refused(errno.EPERM)
    assert verdict(machine, 435) == refused(errno.ENOSYS)  # clone3
    for flag in (0x10000000, 0x20000000, 0x40000000, 0x00020000, 0x08000000):
        assert verdict(machine, NUMBERS[machine]["clone"], flag | 17) == refused(errno.EPERM)


def test_calls_in_another_tongue_of_the_processor_are_refused() -> None:
    assert verdict("x86_64", 3, speaks=0x40000003) == KILLED  # 32 bits
    assert verdict("x86_64", 0x40000000 | 41, 2) == refused(errno.EPERM)  # x32


def test_another_machine_is_not_guessed() -> None:
    with pytest.raises(OSError, match="riscv64"):
        program("riscv64")
