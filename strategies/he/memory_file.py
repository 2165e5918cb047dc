"""Bytes to and from SEAL's interface, which knows paths alone: through a file in memory where the system has them.

Elsewhere it is a temporary file. No secret goes this way.
"""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["load_bytes", "saved_bytes"]


def saved_bytes(save: Callable[[str], None]) -> bytes:
    """What `save` writes to the path that it is given."""
    with _memory_file() as (descriptor, path):
        save(path)
        with open(descriptor, "rb", closefd=False) as file:
            file.seek(0)
            return file.read()


def load_bytes(load: Callable[[str], None], data: bytes) -> None:
    """Have `load` read `data` from a path."""
    with _memory_file() as (descriptor, path):
        with open(descriptor, "wb", closefd=False) as file:
            file.write(data)
        load(path)


@contextmanager
def _memory_file() -> Iterator[tuple[int, str]]:
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("wardround-he")
        try:
            yield descriptor, f"/proc/self/fd/{descriptor}"
        finally:
            os.close(descriptor)
        return
    with tempfile.NamedTemporaryFile() as file:
        yield file.fileno(), file.name
