"""Memory for what is announced."""

import mmap
from pathlib import Path

import pytest

from wardround.errors import LocalError
from wardround.link.receive_memory import receive_memory


@pytest.mark.parametrize("size", [0, 1, (1 << 16) - 1, 1 << 16, (1 << 20) + 1])
def test_it_is_zero_and_can_be_written(size: int) -> None:
    made = receive_memory(size)
    assert made.nbytes == size and not made.readonly and not any(made)
    made[:] = b"x" * size
    assert bytes(made) == b"x" * size


def test_what_is_not_written_is_not_taken() -> None:
    before = _resident_bytes()
    made = receive_memory(1 << 30)
    made[1 << 29] = 1
    assert _resident_bytes() - before < 8 << 20


def test_where_there_is_not_so_much_it_says_so() -> None:
    with pytest.raises(LocalError, match="expected 4611686018427387904 bytes of memory for a message, got none"):
        receive_memory(1 << 62)


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE
