"""The process of a job: `python -m wardround.client.job DESCRIPTOR`, where DESCRIPTOR is its end of a socket pair.

The first request says what it may reach. It confines itself before it answers that, and before numpy is loaded, which
starts threads; the plan and its code come later.
"""

import socket
import sys
from pathlib import Path
from typing import Any

from wardround.client.job.confinement import JobLimits, confine, limit
from wardround.client.job.namespaces import die_with_parent
from wardround.errors import RemoteError, WardroundError
from wardround.local_channel import Channel


def main() -> None:
    """Answer requests until the agent closes its end."""
    channel = Channel(socket.socket(fileno=int(sys.argv[1])))
    die_with_parent()
    header, _ = channel.receive()
    try:
        _start(header)
    except WardroundError as error:
        channel.send({"error": str(error)})
        raise SystemExit(1) from None
    channel.send({"done": True})
    from wardround.client.job.work import serve

    serve(channel)


def _start(header: dict[str, Any]) -> None:
    try:
        limits = JobLimits.from_header(header["limits"])
        root, readable = Path(header["root"]), [Path(one) for one in header["readable"]]
    except (KeyError, TypeError):
        raise RemoteError("job: expected a start") from None
    if header.get("confined", True):
        confine(readable, root=root, disk_bytes=limits.disk_bytes)
    limit(limits)


if __name__ == "__main__":
    main()
