"""Why chunks are not paid for twice: memory that is freed is kept for the next one."""

__all__ = ["keep_freed_memory"]


def keep_freed_memory(size_bytes: int) -> None:
    """Let glibc keep up to twice `size_bytes` of freed memory in place of giving it back to the system at once.

    A chunk of 1 MiB is above what it keeps by default, so each one would be mapped and cleared page by page again, a
    third of the time of a transfer. It raises its bound (mallopt(3), M_MMAP_THRESHOLD) when a block of a larger size is
    freed. The block is never touched. Elsewhere than on glibc this does nothing.
    """
    bytearray(size_bytes)
