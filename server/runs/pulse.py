"""A worker's signs of life: as long as it waits for sites, or computes, the server hears of it."""

import threading
import time
from collections.abc import Callable

__all__ = ["Pulse"]

_LEAST_SHARE = 0.01
"""Of a core: who uses less over an interval, and waits for nobody, does not compute."""


class Pulse:
    """Says by `tell`, every `every_s`, that the process is at work; silence means that it is stuck.

    It is stuck where it neither waits for sites, by `waiting`, nor uses the processor, in whatever thread: stopped, in
    a deadlock, or on a disk that does not answer. A long computation is none of that. `cpu` is the time used so far, s.
    """

    def __init__(
        self,
        tell: Callable[[], None],
        waiting: Callable[[], bool],
        *,
        every_s: float,
        cpu: Callable[[], float] = time.process_time,
    ) -> None:
        self._tell, self._waiting, self._every_s, self._cpu = tell, waiting, every_s, cpu
        self._used = cpu()
        self._over = threading.Event()

    def start(self) -> None:
        """Go on until `stop`, or until the server is gone."""
        threading.Thread(target=self._beat_on, name="pulse", daemon=True).start()

    def stop(self) -> None:
        """Say nothing more."""
        self._over.set()

    def beat(self) -> None:
        """Look once."""
        used, before = self._cpu(), self._used
        self._used = used
        if self._waiting() or used - before >= _LEAST_SHARE * self._every_s:
            self._tell()

    def _beat_on(self) -> None:
        try:
            while not self._over.wait(self._every_s):
                self.beat()
        except (EOFError, OSError):
            pass  # whoever listens to the server ends the process
