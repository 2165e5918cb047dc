"""A worker that is killed where a file says: `killed_worker.py FILE FD`; the file goes with the first that reads it.

`full-N` in the file lets the disk be full from the N-th write on.
Without the file it works as any other. In the end it writes how often it changed the disk to FILE.calls.
"""

import errno
import os
import sys
from pathlib import Path

from tests.server.runs.tiny_run import Killer
from wardround.server.runs.worker import main


def fill_up(at: int) -> None:
    write, done = os.write, 0

    def writing(descriptor: int, data: bytes) -> int:
        nonlocal done
        done += 1
        if done > at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, data)

    setattr(os, "write", writing)  # noqa: B010


def run(file: Path, descriptor: str) -> int:
    kind, at = "none", "0"
    if file.exists():
        kind, _, at = file.read_text().partition("-")
        file.unlink()
    if kind == "full":
        fill_up(int(at))
    killer = Killer(kind, int(at))
    code = main([descriptor])
    file.with_suffix(".calls").write_text(str(killer.calls))
    return code


if __name__ == "__main__":
    sys.exit(run(Path(sys.argv[1]), sys.argv[2]))
