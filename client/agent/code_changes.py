"""What changed between two code bundles, as a unified diff that is safe to print.

What came from outside may not move the cursor, hide a line or look like another one: letters that do not print are
shown as `�`, also direction marks and carriage returns.
"""

import difflib
import hashlib
from collections.abc import Iterator, Mapping

from wardround.plain_text import plain_text

__all__ = ["changes", "printable", "whole"]

_MOST_LINES = 5_000
"""Files with more are not compared line by line: that may take as long as the square of it."""
_TAB = 4


def printable(line: str) -> str:
    """One line as it is, but for what could move the cursor or look like other lines."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in line.expandtabs(_TAB))


def whole(files: Mapping[str, bytes]) -> Iterator[str]:
    """Every file with its lines."""
    for path, data in sorted(files.items()):
        yield f"==== {plain_text(path, 1000)}, SHA-256 {_digest(data)}"
        lines = _lines(data)
        yield from ["(no text)"] if lines is None else map(printable, lines)


def changes(old: Mapping[str, bytes], new: Mapping[str, bytes]) -> Iterator[str]:
    """The files that are new, gone or changed, each with its lines; nothing where all are the same."""
    for path in sorted(old.keys() | new.keys()):
        before, after = old.get(path), new.get(path)
        if before != after:
            yield from _changed(path, before, after)


def _changed(path: str, before: bytes | None, after: bytes | None) -> Iterator[str]:
    yield f"--- {_header(path, before)}"
    yield f"+++ {_header(path, after)}"
    old, new = [] if before is None else _lines(before), [] if after is None else _lines(after)
    if old is None or new is None:
        yield "(no text: compare the digests)"
        return
    if max(len(old), len(new)) > _MOST_LINES and old and new:
        yield f"(more than {_MOST_LINES} lines: not compared; this is the new file)"
        yield from (f"+{printable(line)}" for line in new)
        return
    found = list(difflib.unified_diff(old, new, lineterm=""))[2:]
    yield from (line[:1] + printable(line[1:]) for line in found)
    if not found:
        yield "(both are empty)"


def _header(path: str, data: bytes | None) -> str:
    return "(none)" if data is None else f"{plain_text(path, 1000)}  SHA-256 {_digest(data)}"


def _lines(data: bytes) -> list[str] | None:
    """The lines, or None for what is no text. Only `\\n` ends one: whatever else a terminal may do stays visible."""
    if b"\0" in data:
        return None
    try:
        return data.decode().split("\n") if data else []
    except UnicodeDecodeError:
        return None


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
