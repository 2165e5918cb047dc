"""What the C library's allocator does with the chunks of transfers: kept for the next one, and not once per thread."""

import ctypes

__all__ = ["tune_allocator"]

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # malloc.h


def tune_allocator(kept_bytes: int) -> None:
    """Let glibc (mallopt(3)) keep this much freed memory, in one arena. Elsewhere this does nothing.

    A chunk of 1 MiB is above what it keeps by default: each one would be mapped and cleared page by page again, a third
    of the time of a transfer. And each of gRPC's threads would have an arena with chunks of its own, which doubles what
    a server of many sites has beside the models.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_MMAP_THRESHOLD, max(kept_bytes, 4 << 20))
        mallopt(_M_TRIM_THRESHOLD, kept_bytes)
