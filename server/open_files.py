"""How many files, connections included, the server's process may have open."""

import resource

__all__ = ["WANTED", "allow_open_files"]

WANTED = 16_384
"""All places of both ports, and room for databases, models and workers."""


def allow_open_files(wanted: int = WANTED) -> int:
    """Raise this process's own bound as far as the system lets it; how many it is now.

    The usual 1024 are fewer than the link has places for: strangers, who hold one each until their handshake is late,
    would leave no descriptor for the database.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return wanted if soft == resource.RLIM_INFINITY else soft
