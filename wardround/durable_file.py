"""Files that survive a kill or a power cut: a file is there whole, or as it was before.

Every byte goes through `write_all`, on a raw file descriptor. One writer at a time is assumed (its folder is
locked), so a temporary name is the file's own name with a prefix.
"""

import os
from pathlib import Path

__all__ = ["TEMPORARY", "extend_file", "remove_leftovers", "replace_file", "sync_folder", "write_all"]

TEMPORARY = ".tmp-"


def replace_file(path: Path, data: bytes, *, mode: int = 0o666) -> None:
    """Make `path` hold `data`, durably, with the permissions `mode`; on any failure (OSError) it keeps what it held.

    One failure comes later: where the folder cannot be synced, `path` holds `data` already, but it may not last.
    """
    temporary = path.with_name(TEMPORARY + path.name)
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        try:
            write_all(descriptor, data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def extend_file(path: Path, length: int, data: bytes) -> int:
    """Make `path` its first `length` bytes and then `data`, durably; the new length in bytes.

    A kill or a failure (OSError) leaves the first `length` bytes and any part of `data`: the reader must be able to
    tell, and the next call with the same `length` takes that part away.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o666)
    try:
        os.ftruncate(descriptor, length)
        os.lseek(descriptor, length, os.SEEK_SET)
        write_all(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    if length == 0:
        sync_folder(path.parent)
    return length + len(data)


def remove_leftovers(folder: Path) -> None:
    """Delete the temporary files that a killed writer left in `folder`."""
    for leftover in folder.glob(f"{TEMPORARY}*"):
        leftover.unlink()


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of `data`, however many calls it takes."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
