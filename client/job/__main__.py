"""The process of a job: `python -m wardround.client.job CHANNEL TABLE`, two descriptors that it was given.

The first is its end of a socket pair, the second the open table. The launcher has taken everything from it that it may
not have before it begins; its working folder is its own.
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
    channel, table = (int(number) for number in sys.argv[1:])
    serve(Channel(socket.socket(fileno=channel)), Path.cwd(), os.fdopen(table, "rb"))


if __name__ == "__main__":
    main()
