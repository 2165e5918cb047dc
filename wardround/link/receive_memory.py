"""Memory for what a peer announces, before it is known that anything will come."""

import mmap

from wardround.errors import LocalError

__all__ = ["receive_memory"]

_PAGED_BYTES = 1 << 16


def receive_memory(size_bytes: int) -> memoryview:
    """Bytes to be written; of a large piece the system gives each page (mmap(2)) when it is written first.

    Raises LocalError where there is not so much.
    """
    try:
        if size_bytes < _PAGED_BYTES:
            return memoryview(bytearray(size_bytes))
        return memoryview(mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
    except (MemoryError, OSError, OverflowError):
        raise LocalError(f"expected {size_bytes} bytes of memory for a message, got none; try again later") from None
