"""Why orders failed in a job, in its own words: they may be those of the plan's code, and hold anything.

So they are in a file beside the job's own log, for the site's administrator, and in no other log.
"""

import os
from datetime import datetime
from pathlib import Path

from wardround.errors import LocalError
from wardround.plain_text import plain_text

__all__ = ["JobErrors"]

_MOST_BYTES = 1 << 20
_MOST_LETTERS = 2000


class JobErrors:
    """The file `path`: a line for each error, no more than there is room for."""

    __slots__ = ("path",)

    def __init__(self, path: Path) -> None:
        self.path = path

    def note(self, text: str, now: datetime) -> None:
        """Add a line. Raises LocalError where it cannot be written."""
        try:
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
            try:
                if os.fstat(descriptor).st_size < _MOST_BYTES:
                    line = f"{now.isoformat(timespec='seconds')} {plain_text(text, _MOST_LETTERS)}\n"
                    os.write(descriptor, line.encode(errors="replace"))
            finally:
                os.close(descriptor)
        except OSError as error:
            raise LocalError(f"{self.path}: cannot be written ({error.strerror})") from None
