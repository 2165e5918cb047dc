"""The last records of a log, as they stand there, and those that are added."""

import os
import time
from collections import deque
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import TextIO

from wardround.audit.log import lines_back
from wardround.errors import LocalError

__all__ = ["show_tail"]

_LOOK_S = 0.5


def show_tail(
    path: Path, count: int, out: TextIO, *, follow: bool = False, sleep: Callable[[float], None] = time.sleep
) -> None:
    """Write the last `count` lines of the log in `path` to `out`; with `follow` go on until this process is ended.

    Lines are ASCII without control codes as long as the log is whole; what is not printable is replaced.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError as error:
        raise LocalError(f"{path}: cannot be read ({error.strerror}); nothing was logged here yet?") from None
    with os.fdopen(descriptor, "rb") as file:
        end = os.fstat(descriptor).st_size
        for line in reversed(deque(islice((line for _, line in lines_back(descriptor, end)), count))):
            out.write(_shown(line))
        out.flush()
        file.seek(end)
        while follow:
            line = file.readline()
            if line.endswith(b"\n"):
                out.write(_shown(line))
                out.flush()
                continue
            file.seek(-len(line), os.SEEK_CUR)
            sleep(_LOOK_S)


def _shown(line: bytes) -> str:
    text = line.rstrip(b"\n").decode("ascii", "replace")
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text) + "\n"
