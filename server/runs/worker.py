"""The worker process of one run: `python -m wardround.server.runs.worker FD`.

FD is the inherited end of a local channel. What to do, and every secret, come over it. When the server is gone, the
worker ends at once, wherever it is: all that it keeps is durable before it is told of, and the next worker goes on.
"""

import logging
import os
import resource
import socket
import sys
import threading
from collections.abc import Callable

from wardround.errors import RemoteError, WardroundError
from wardround.local_channel import Channel
from wardround.server.runs.link_grid import Interrupted, LinkGrid
from wardround.server.runs.pulse import Pulse
from wardround.server.runs.run_directory import BusyError
from wardround.server.runs.run_work import RunWork, how_it_ends
from wardround.server.runs.worker_messages import Start, sites_away, unb64
from wardround.signing_key import SigningKey

__all__ = ["BUSY", "Control", "main", "work"]

BUSY, GONE = 75, 76
"""Exit codes: another worker is still there; the server is gone."""
_START_S = 60.0
STOPPED = "stopped by a person"


class Control:
    """What the server wants of the worker, as it comes in."""

    def __init__(self, channel: Channel, grid: LinkGrid, revocations: bytes) -> None:
        self._channel, self._grid = channel, grid
        self._pause = threading.Event()
        self.stopped = threading.Event()
        self.over = threading.Event()
        """Set before the server is told of the end, after which it may be gone."""
        self.revocations = revocations

    def paused(self) -> bool:
        """Whether the run is to pause, or to stop."""
        if self.stopped.is_set():
            raise Interrupted
        return self._pause.is_set()

    def listen(self, gone: Callable[[int], object]) -> None:
        """Take messages until the server is gone; then call `gone`."""
        try:
            while True:
                header, shared = self._channel.receive()
                kind = header.get("type")
                if kind == "reply":
                    self._grid.take(header, shared)
                elif kind == "pause":
                    self._pause.set()
                elif kind == "resume":
                    self._pause.clear()
                elif kind == "stop":
                    self.stopped.set()
                    self._grid.interrupt()
                elif kind == "revocations":
                    self.revocations = unb64(header.get("der"))
                elif kind == "away":
                    self._grid.note_away(sites_away(header))
                else:
                    raise RemoteError(f"local channel: expected a known message, got {kind!r}")
        except (EOFError, OSError, RemoteError):
            if not self.over.is_set():
                gone(GONE)


def work(channel: Channel, gone: Callable[[int], object]) -> int:
    """Do the work that comes over `channel`; the exit code."""
    header, _ = channel.receive(_START_S)
    start = Start.from_header(header)
    size = sum(_product(shape) for _, shape in start.layout)
    key, public = SigningKey(start.signing_secret), {one.name: one.public for one in start.sites}
    grid = LinkGrid(channel, start.run_id, public, key, size=size)
    control = Control(channel, grid, start.revocations)
    pulse = Pulse(lambda: channel.send({"type": "alive"}), grid.is_waiting, every_s=start.pulse_s)
    pulse.start()

    def told(line: dict[str, object]) -> None:
        channel.send({"type": "round", "line": line})

    try:
        run = RunWork(start, told=told, newest=lambda: control.revocations)
    except BusyError as error:
        print(error, file=sys.stderr)
        return BUSY
    except WardroundError as error:
        channel.send(how_it_ends(error, start.known_round).to_header())
        return 0
    grid.settle_for(run.enough)
    if run.homomorphic:
        grid.take_ciphertexts()
    try:
        channel.send({"type": "ready", "round": run.directory.rounds})
        for line in run.lines_after(start.known_round):
            told(line)
        threading.Thread(target=control.listen, args=(gone,), daemon=True).start()
        try:
            ended = run.run(grid, control.paused)
        except Interrupted:
            ended = run.halted(STOPPED)
        control.over.set()
        pulse.stop()
        channel.send(ended.to_header())
    finally:
        run.close()
    return 0


def main(arguments: list[str]) -> int:
    """The process: its exit code is 0 where it has said how the run ended."""
    logging.basicConfig(level=logging.WARNING, format="run worker: %(levelname)s: %(message)s")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # no key in a core file
    channel = Channel(socket.socket(fileno=int(arguments[0])))
    try:
        return work(channel, os._exit)
    except EOFError:
        return GONE


def _product(shape: tuple[int, ...]) -> int:
    total = 1
    for side in shape:
        total *= side
    return total


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
