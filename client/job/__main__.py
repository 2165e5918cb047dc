"""The process of a job: `python -m wardround.client.job DESCRIPTOR`, where DESCRIPTOR is its end of a socket pair.

The launcher has taken everything from it that it may not have before it begins; its working folder is its own.
"""

import socket
import sys
from pathlib import Path

from wardround.client.job.work import serve
from wardround.local_channel import Channel

__all__ = ["main"]


def main() -> None:
    """Answer requests until the agent closes its end."""
    serve(Channel(socket.socket(fileno=int(sys.argv[1]))), Path.cwd())


if __name__ == "__main__":
    main()
