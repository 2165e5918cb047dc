"""The process of a job: `python -m wardround.client.job CHANNEL [TABLE]`, descriptors that it was given.

The first is its end of a socket pair, the second the open table, for a process that reads it. The launcher has taken
everything from it that it may not have before it begins; its working folder is its own.
"""

import os
import socket
import sys
from pathlib import Path

from wardround.client.job.work import serve
from wardround.local_channel import Channel

__all__ = ["main"]


def main() -> None:
    """Answer requests until the agent closes its end."""
    channel, *tables = (int(number) for number in sys.argv[1:])
    table = os.fdopen(tables[0], "rb") if tables else None
    serve(Channel(socket.socket(fileno=channel)), Path.cwd(), table)


if __name__ == "__main__":
    main()
