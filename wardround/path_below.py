"""Relative paths, in the one spelling that both ends of a link take for the same place."""

from pathlib import PurePosixPath

__all__ = ["is_below"]

_MOST_DEPTH = 16


def is_below(path: str, *, allow_itself: bool = False) -> bool:
    """Whether it names something below a folder, in one spelling; nothing of it could be read as another place.

    With `allow_itself` the folder itself is one too (`.`), and a slash may end the path.
    """
    if not path.isprintable():  # what cannot be encoded is not
        return False
    if allow_itself and path in (".", "./"):
        return True
    parts = PurePosixPath(path).parts
    return (
        0 < len(parts) <= _MOST_DEPTH
        and path.removesuffix("/" if allow_itself else "\0") == "/".join(parts)
        and all(0 < len(part.encode()) <= 255 and part not in (".", "..") for part in parts)
        and not path.startswith("/")
        and "\\" not in path
    )
