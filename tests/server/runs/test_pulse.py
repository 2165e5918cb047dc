"""When a worker counts as at work."""

import threading

import pytest

from wardround.server.runs.pulse import Pulse


@pytest.mark.parametrize(
    ("waiting", "cpu", "alive"),
    [
        (False, [0.0, 10.0, 20.0], 2),  # a long computation
        (False, [0.0, 0.001, 0.002], 0),  # a deadlock, in which only the pulse itself uses anything
        (True, [0.0, 0.0, 0.0], 2),  # a slow site
        (False, [5.0, 5.06, 5.06], 1),
    ],
)
def test_what_waits_or_computes_is_alive(waiting: bool, cpu: list[float], alive: int) -> None:
    told, used = [], iter(cpu)
    pulse = Pulse(lambda: told.append(1), lambda: waiting, every_s=5.0, cpu=lambda: next(used))
    pulse.beat()
    pulse.beat()
    assert len(told) == alive


def test_it_goes_on_until_it_is_stopped_or_the_server_is_gone() -> None:
    told, gone = threading.Semaphore(0), threading.Event()

    def tell() -> None:
        told.release()
        if gone.is_set():
            raise EOFError

    for end in (False, True):
        pulse = Pulse(tell, lambda: True, every_s=0.001)
        pulse.start()
        assert told.acquire(timeout=30) and told.acquire(timeout=30)
        (thread,) = (one for one in threading.enumerate() if one.name == "pulse")
        gone.set() if end else pulse.stop()
        thread.join(30)
        assert not thread.is_alive()
    assert not [one for one in threading.enumerate() if one.name == "pulse"]
