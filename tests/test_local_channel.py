"""Two ends of a socket pair: what arrives, and what a peer that is not trusted cannot do."""

import fcntl
import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wardround.errors import LocalError, RemoteError
from wardround.local_channel import Channel, Shared


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    one, other = Channel.pair()
    far = Channel(other)
    yield one, far
    one.close()
    far.close()


@pytest.fixture
def raw() -> Iterator[tuple[Channel, socket.socket]]:
    near, far = Channel.pair()
    yield near, far
    near.close()
    far.close()


def test_a_header_and_memory_arrive(ends: tuple[Channel, Channel]) -> None:
    near, far = ends
    model = np.arange(1000, dtype="<f4")
    near.send({"do": "fit", "text": "åß"}, [Shared.of(model.tobytes()), Shared.of(b"")])
    header, (found, empty) = far.receive(5)
    assert header == {"do": "fit", "text": "åß"}
    assert np.array_equal(np.frombuffer(found.view(), dtype="<f4"), model)
    assert empty.size == 0 and bytes(empty.view()) == b""


def test_what_was_sent_cannot_be_changed_by_either_side(ends: tuple[Channel, Channel]) -> None:
    near, far = ends
    mine = Shared.make(8)
    with mine.view() as view:
        view[:] = b"original"
    near.send({}, [mine])
    _, (found,) = far.receive(5)
    for one in (mine, found):
        assert one.view().readonly
        with pytest.raises(OSError):
            os.pwrite(one.fileno(), b"x", 0)
        with pytest.raises(OSError):
            os.ftruncate(one.fileno(), 0)
    assert bytes(found.view()) == b"original"


def test_memory_is_not_sealed_while_somebody_may_write_to_it() -> None:
    shared = Shared.make(4)
    view = shared.view()
    with pytest.raises(LocalError, match="released"):
        shared.seal()
    view.release()
    shared.seal()


def test_memory_lives_as_long_as_a_view_of_it() -> None:
    shared = Shared.of(b"abcd")
    view = shared.view()
    shared.close()
    assert bytes(view) == b"abcd"
    with pytest.raises(LocalError, match="closed"):
        shared.view()


def unsealed(seals: int) -> int:
    descriptor = os.memfd_create("x", os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, 8)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    return descriptor


@pytest.mark.parametrize(
    "seals", [0, fcntl.F_SEAL_WRITE, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW]
)
def test_memory_that_its_sender_may_change_or_shrink_is_refused(raw: tuple[Channel, socket.socket], seals: int) -> None:
    near, far = raw
    socket.send_fds(far, [(2).to_bytes(4, "little") + (1).to_bytes(4, "little") + b"{}"], [unsealed(seals)])
    with pytest.raises(RemoteError, match="sealed"):
        near.receive(5)


def test_a_descriptor_of_a_file_is_refused(raw: tuple[Channel, socket.socket], tmp_path: Path) -> None:
    near, far = raw
    with open(tmp_path / "file", "wb") as file:
        socket.send_fds(far, [(2).to_bytes(4, "little") + (1).to_bytes(4, "little") + b"{}"], [file.fileno()])
    with pytest.raises(RemoteError, match="another kind"):
        near.receive(5)


@pytest.mark.parametrize("announced", [0, 2])
def test_as_many_descriptors_as_announced(raw: tuple[Channel, socket.socket], announced: int) -> None:
    near, far = raw
    one = Shared.of(b"x")
    open_before = len(os.listdir("/proc/self/fd"))
    socket.send_fds(far, [(2).to_bytes(4, "little") + announced.to_bytes(4, "little") + b"{}"], [one.fileno()])
    with pytest.raises(RemoteError, match="announced"):
        near.receive(5)
    assert len(os.listdir("/proc/self/fd")) == open_before


def test_too_many_descriptors_are_refused_and_closed(raw: tuple[Channel, socket.socket]) -> None:
    near, far = raw
    one = Shared.of(b"x")
    open_before = len(os.listdir("/proc/self/fd"))
    socket.send_fds(far, [(2).to_bytes(4, "little") + (40).to_bytes(4, "little") + b"{}"], [one.fileno()] * 40)
    with pytest.raises(RemoteError):
        near.receive(5)
    assert len(os.listdir("/proc/self/fd")) == open_before


def test_an_announced_size_is_checked_before_anything_is_read(raw: tuple[Channel, socket.socket]) -> None:
    near, far = raw
    far.sendall((1 << 31).to_bytes(4, "little") + bytes(4))
    with pytest.raises(RemoteError, match="at most"):
        near.receive(5)


@pytest.mark.parametrize("data", [b"[]", b"1", b"{", b"\xff", b"[" * 100_000])
def test_a_header_is_a_json_object(raw: tuple[Channel, socket.socket], data: bytes) -> None:
    near, far = raw
    threading.Thread(target=far.sendall, args=(len(data).to_bytes(4, "little") + bytes(4) + data,)).start()
    with pytest.raises(RemoteError, match="JSON"):
        near.receive(5)


def test_the_end_and_a_silence_are_told_apart(ends: tuple[Channel, Channel]) -> None:
    near, far = ends
    with pytest.raises(TimeoutError):
        near.receive(0.01)
    near.send({"n": 1})
    near.close()
    assert far.receive(5)[0] == {"n": 1}
    with pytest.raises(EOFError):
        far.receive(5)
    with pytest.raises(EOFError):
        far.send({})


def test_a_message_that_breaks_off_is_no_message(raw: tuple[Channel, socket.socket]) -> None:
    near, far = raw
    far.sendall((10).to_bytes(4, "little") + bytes(4) + b'{"a"')
    far.shutdown(socket.SHUT_WR)
    with pytest.raises(EOFError):
        near.receive(5)


def test_a_header_may_be_larger_than_the_sockets_buffer(ends: tuple[Channel, Channel]) -> None:
    near, far = ends
    text = "x" * 3_000_000
    threading.Thread(target=near.send, args=({"text": text},)).start()
    assert far.receive(30)[0]["text"] == text
    with pytest.raises(ValueError, match="at most"):
        near.send({"text": "x" * (1 << 23)})


def test_messages_of_several_threads_do_not_mix(ends: tuple[Channel, Channel]) -> None:
    near, far = ends

    def say(number: int) -> None:
        for _ in range(50):
            near.send({"number": number, "text": str(number) * 5000}, [Shared.of(bytes([number]) * 10)])

    threads = [threading.Thread(target=say, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(200):
        header, (found,) = far.receive(30)
        assert header["text"] == str(header["number"]) * 5000
        assert bytes(found.view()) == bytes([header["number"]]) * 10
    for thread in threads:
        thread.join()


@given(data=st.binary(max_size=200))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_a_message_or_refused(data: bytes) -> None:
    near, far = Channel.pair()
    far.sendall(data)
    far.close()
    try:
        header, found = near.receive(5)
        assert json.loads(data[8 : 8 + int.from_bytes(data[:4], "little")]) == header and not found
    except (RemoteError, EOFError):
        pass
    finally:
        near.close()
