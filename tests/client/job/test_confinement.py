"""A malicious plan in a confined job, and, so that these tests can fail, in one that is not."""

import contextlib
import ctypes
import errno
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.client.job.job_world import Place, mark_of, model, running_with, training
from wardround.client.job import launched_job
from wardround.client.job.confinement import available
from wardround.client.job.launch import Launch
from wardround.client.job.launched_job import LaunchedJob, environment_of
from wardround.client.job.limits import JobLimits
from wardround.errors import LocalError

REFUSED = {"FileNotFoundError", "PermissionError", "OSError", "ProcessLookupError", "ConnectionRefusedError"}
LIMITS = JobLimits(
    call_s=120.0, memory_bytes=3 << 30, scratch_bytes=16 << 20, file_bytes=64 << 20, processes=100, open_files=64
)


@pytest.fixture(scope="module", autouse=True)
def _confinement_is_there() -> None:
    assert available() is None, "these tests need a system that can confine a job: see docs/job.md"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def services(place: Place) -> Iterator[dict[str, Any]]:
    """Services of this machine, which greet whoever connects."""
    inet = socket.create_server(("127.0.0.1", 0))
    abstract, path = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
    abstract.bind("\0" + mark_of(place.folder))
    path.bind(str(place.folder / "service"))
    for one in (abstract, path):
        one.listen()

    def serve(server: socket.socket) -> None:
        while True:
            try:
                sock, _ = server.accept()
            except OSError:
                return
            with sock:
                sock.sendall(b"hello")

    servers = [inet, abstract, path]
    threads = [threading.Thread(target=serve, args=(one,), daemon=True) for one in servers]
    for thread in threads:
        thread.start()
    yield {"port": inet.getsockname()[1], "abstract": mark_of(place.folder), "path": str(place.folder / "service")}
    for one in servers:
        one.shutdown(socket.SHUT_RDWR)
        one.close()
    for thread in threads:
        thread.join()


@pytest.fixture
def victim(place: Place) -> Iterator["subprocess.Popen[bytes]"]:
    """A process of the same user, with a secret in its environment and a file open, as an agent has."""
    with place.key.open() as key:
        process = subprocess.Popen(
            [sys.executable, "-c", "import sys; print(flush=True); sys.stdin.read()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={"SECRET": "of the agent"},
            pass_fds=(key.fileno(),),
        )
    assert process.stdout is not None and process.stdin is not None
    process.stdout.read(1)
    yield process
    process.stdin.close()
    process.stdout.close()
    process.kill()
    process.wait()


def attacks_on(place: Place, services: dict[str, Any], pid: int) -> dict[str, dict[str, Any]]:
    """Every attack that must fail, by name."""
    key, state = str(place.key), str(place.state)
    return {
        "connect": {"port": services["port"]},
        "connect_elsewhere": {},
        "connect_to_host": {},
        "connect_netlink": {},
        "connect_abstract": {"name": services["abstract"]},
        "connect_by_path": {"path": services["path"]},
        "io_uring": {},
        "read": {"path": key},
        "read by another way": {"path": f"/proc/{pid}/root{key}"},
        "read of a parent": {"path": f"/proc/{os.getpid()}/root{key}"},
        "read through the first process": {"path": f"/proc/1/root{key}"},
        "read the accounts": {"path": "/etc/shadow"},
        "search": {"name": place.key.name},
        "open_files_of_others": {"name": place.key.name},
        "trace": {"pid": pid},
        "trace its parent": {"pid": 1},
        "read_memory": {"pid": pid},
        "read_memory of its parent": {"pid": 1},
        "read_the_table": {"path": str(place.table), "holds": "age,dose,sick"},
        "take_off_cover": {"path": state},
        "take_off_cover of all": {"path": "/"},
        "take_off_cover_as_root": {"path": state},
        "take_off_cover_in_child": {},
        "make_writable": {"path": "/"},
        "write": {"path": str(place.table)},
        "write to its Python": {"path": os.path.realpath(sys.executable)},
        "write to the key": {"path": key},
        "fill_disk": {"size": 32 << 20},
        "fill_memory_files": {"size": 128 << 20},
        "kill": {"pid": pid},
    }


def test_a_malicious_job_gets_nothing(
    place: Place, services: dict[str, Any], victim: "subprocess.Popen[bytes]"
) -> None:
    wanted = attacks_on(place, services, victim.pid)
    found = place.attack("several", wanted, limits=LIMITS)["got"]
    assert found.keys() == wanted.keys()
    for name, result in found.items():
        assert result.get("refused") in REFUSED, f"{name}: {result}"
    assert victim.poll() is None
    assert place.table.read_text().startswith("age,dose,sick")
    assert place.key.read_text() == "the site's key"


def test_the_same_succeeds_where_it_is_not_confined(
    place: Place, services: dict[str, Any], victim: "subprocess.Popen[bytes]"
) -> None:
    wanted = attacks_on(place, services, victim.pid)
    these = (
        "connect",
        "connect_abstract",
        "connect_by_path",
        "read",
        "read by another way",
        "read_memory",
        "write to the key",
        "kill",
    )
    found = place.attack("several", {name: wanted[name] for name in these}, confined=False, limits=LIMITS)["got"]
    assert found["read"] == found["read by another way"] == {"got": "the site's key"}
    assert found["connect"] == found["connect_abstract"] == found["connect_by_path"] == {"got": "hello"}
    assert "of the agent" in found["read_memory"]["got"]
    assert found["write to the key"] == {"got": "written"} and found["kill"] == {"got": "killed"}
    assert victim.wait() < 0
    place.key.write_text("the site's key")


def test_namespaces_hold_without_the_filter_of_system_calls(
    place: Place, services: dict[str, Any], victim: "subprocess.Popen[bytes]", monkeypatch: pytest.MonkeyPatch
) -> None:
    """Either of the two is enough for these."""
    program = "from wardround.client.job import launcher as l; l.forbid_system_calls = lambda: None; l.main()"
    monkeypatch.setattr(launched_job, "_LAUNCHER", ("-I", "-B", "-c", program))
    wanted = attacks_on(place, services, victim.pid)
    for passes in ("connect_to_host", "connect_netlink", "io_uring"):  # these need the filter
        del wanted[passes]
    found = place.attack("several", wanted, limits=LIMITS)["got"]
    for name, result in found.items():
        assert result.get("refused") in REFUSED, f"{name}: {result}"
    assert found["connect"]["errno"] == errno.ENETUNREACH
    assert found["take_off_cover_as_root"] == {"refused": "OSError", "errno": errno.ENOSPC, "at": "unshare"}
    assert victim.poll() is None


def test_mounts_are_locked_in_namespaces_of_its_own(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it could make such a namespace after all: with neither the filter nor the bound on their number."""
    program = (
        "from wardround.client.job import launcher as l; l.forbid_system_calls = lambda: None; "
        "l._Start._forbid_more_namespaces = lambda self: None; l.main()"
    )
    monkeypatch.setattr(launched_job, "_LAUNCHER", ("-I", "-B", "-c", program))
    for path in ("/job", "/usr"):
        found = place.attack("take_off_cover_as_root", {"path": path})
        assert (found["at"], found["errno"]) == ("umount", errno.EINVAL), found


def test_there_is_no_place_to_write_but_its_own_folder(place: Place) -> None:
    assert place.attack("write_anywhere", {}) == {"got": []}


def test_signals_reach_none_but_its_own_processes(place: Place, victim: "subprocess.Popen[bytes]") -> None:
    """kill(-1) is every process that it may signal. Not tried without confinement, for the sake of this machine."""
    assert place.attack("kill_all", {}) == {"refused": "ProcessLookupError", "errno": 3}
    assert victim.poll() is None


def test_it_is_first_of_no_process_that_it_could_tamper_with(place: Place) -> None:
    assert place.attack("parents", {}) == {"got": [1, 2]}


def test_a_fork_bomb_goes_out(place: Place) -> None:
    plan = place.hostile_plan("fork_bomb", {})
    with place.job(plan, limits=LIMITS) as job, contextlib.suppress(LocalError):
        job.fit(training(plan), model())  # what is left of it may not be able to train
    assert place.outcome() == {"refused": "BlockingIOError", "errno": 11}


def test_memory_is_bounded(place: Place) -> None:
    assert place.attack("take_memory", {"size": 4 << 30}, limits=LIMITS) == {"refused": "MemoryError", "errno": None}


@pytest.mark.parametrize("confined", [True, False])
def test_nothing_is_left_behind(place: Place, confined: bool) -> None:
    mark = mark_of(place.folder)
    plan = place.hostile_plan("leave_behind", {"mark": mark})
    with place.job(plan, confined=confined) as job:
        job.fit(training(plan), model())
        assert place.outcome() == {"got": "left"}
        _until(lambda: running_with(mark) != [])  # what was left is a process of its own, which has yet to begin
        (left,) = running_with(mark)
        assert Path(f"/proc/{left}/oom_score_adj").read_text() == "1000\n"  # it ends before the agent, not after
    assert running_with(mark) == []


@pytest.mark.parametrize("confined", [True, False])
def test_nothing_outlives_an_agent_that_is_killed(place: Place, confined: bool) -> None:
    """The agent is another process here; SIGKILL gives it no time to end anything."""
    mark = mark_of(place.folder) + "-agent"
    program = f"""
import sys
from pathlib import Path
from tests.client.job.job_world import Place, model, training
place = Place(Path({str(place.folder)!r}))
plan = place.hostile_plan("leave_behind_and_go_on", {{"mark": {mark!r}}})
with place.job(plan, confined={confined}) as job:
    job.describe()
    print("described", flush=True)
    job.fit(training(plan), model())
"""
    root = Path(__file__).parents[3]
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, cwd=root, env={**os.environ, "PYTHONPATH": str(root)}
    ) as agent:
        assert agent.stdout is not None and agent.stdout.readline() == b"described\n"
        _until(lambda: running_with(mark) != [])
        agent.kill()
    _until(lambda: running_with(mark) == [])
    _until(lambda: not any(place.jobs.glob("job-*")))


def _until(holds: Any) -> None:
    """Wait until it holds; the test's own time limit is what a person would wait."""
    event = threading.Event()
    for _ in range(600):
        if holds():
            return
        event.wait(0.1)
    raise AssertionError("it did not come to hold within a minute")


# -- without the plan's code: what a job finds when it begins -------------------------------------------


def run(place: Place, program: str, **changes: Any) -> tuple[int | None, str]:
    """What a Python program prints as a job, and its exit code."""
    root = place.jobs / "here"
    root.mkdir(exist_ok=True)
    table = os.open(place.table, os.O_RDONLY)
    wanted = Launch(
        **{
            "python": sys.executable,
            "arguments": ("-I", "-B", "-c", program),
            "environment": environment_of(str(root), confined=True),
            "confined": True,
            "root": str(root),
            "limits": LIMITS,
            "table": table,
            "hidden": (str(place.state),),
            **changes,
        }
    )
    try:
        job = LaunchedJob.start(wanted, log=place.log, timeout_s=60.0)
    finally:
        os.close(table)
    try:
        return job.wait(60.0), place.log.read_text()
    finally:
        job.end()


STATUS = """
import ctypes, json, os, resource, socket
libc = ctypes.CDLL(None)
def open_ones():
    for one in range(4096):
        try:
            os.fstat(one)
        except OSError:
            continue
        yield one
print(json.dumps({
    "descriptors": list(open_ones()),
    "user": os.getuid(), "group": os.getgid(), "groups": os.getgroups(),
    "no_new_privs": libc.prctl(39, 0, 0, 0, 0), "seccomp": libc.prctl(21, 0, 0, 0, 0),
    "bounding": [one for one in range(41) if libc.prctl(23, one, 0, 0, 0) != 0],
    "folder": os.getcwd(), "in_it": sorted(os.listdir()), "root": sorted(os.listdir("/")),
    "table": os.pread(4, 100, 0).decode().splitlines()[0],
    "host": socket.gethostname(), "processes": resource.getrlimit(resource.RLIMIT_NPROC),
    "proc": sorted(os.listdir("/proc")), "etc": sorted(os.listdir("/etc")), "dev": sorted(os.listdir("/dev")),
}))
"""


def test_what_a_job_finds(place: Place) -> None:
    code, printed = run(place, STATUS)
    assert code == 0, printed
    found = json.loads(printed)
    assert found["descriptors"] == [0, 1, 2, 4]
    assert (found["user"], found["group"]) == (1000, 1000)
    assert 0 not in found["groups"]
    assert found["no_new_privs"] == 1 and found["seccomp"] == 2 and found["bounding"] == []
    assert found["folder"] == "/job" and found["in_it"] == ["shm", "tmp"]
    assert found["table"] == "age,dose,sick"
    assert found["host"] == "job"
    assert found["processes"] == [LIMITS.processes, LIMITS.processes]
    assert found["proc"] == ["cpuinfo", "meminfo"]
    assert not {"shadow", "hosts", "ssl", "ssh"} & set(found["etc"])
    assert found["dev"] == ["full", "null", "random", "shm", "urandom", "zero"]
    assert not {"home", "run", "srv", "var", "mnt", "media", "boot"} & set(found["root"])


def test_the_sites_folder_is_covered_where_it_lies_in_what_a_job_sees(place: Place, tmp_path: Path) -> None:
    """As a folder within the job's Python would; `hidden` covers it, empty and read-only."""
    import wardround

    seen = Path(str(wardround.__file__)).resolve().parent / "link"
    program = f"import os; print(os.listdir({str(seen)!r}))"
    assert "messages.py" in run(place, program)[1]
    assert "PermissionError" in run(place, program, hidden=(str(seen),))[1]


def test_a_folder_that_is_covered_may_be_named_by_a_link(place: Place, tmp_path: Path) -> None:
    """The link need not be among what the job sees."""
    import wardround

    seen = Path(str(wardround.__file__)).resolve().parent / "link"
    link = tmp_path / "state"
    link.symlink_to(seen)
    assert "PermissionError" in run(place, f"import os; print(os.listdir({str(seen)!r}))", hidden=(str(link),))[1]


def test_no_table_has_a_name_that_could_be_opened(place: Place) -> None:
    other = place.folder / "other.csv"
    other.write_text("another patient")
    assert "FileNotFoundError" in run(place, f"open({str(other)!r})")[1]
    assert "FileNotFoundError" in run(place, f"open({str(place.table)!r})")[1]


def test_a_set_user_id_program_gives_it_nothing(place: Place) -> None:
    program = "import os; os.execv('/usr/bin/su', ['su', '-c', 'id -u'])"
    code, printed = run(place, program)
    assert code != 0 and "uid=0" not in printed and printed.strip() != "0"


def test_what_cannot_be_started_is_said(place: Place) -> None:
    with pytest.raises(LocalError, match="no-such-python"):
        run(place, "pass", python="/no-such-python")
    (place.jobs / "here").rmdir() if (place.jobs / "here").exists() else None
    with pytest.raises(LocalError, match="a job cannot be started"):
        run(place, "pass", root="/no/such/root")


def test_as_root_of_a_container_that_has_one_user() -> None:
    program = "from wardround.client.job.confinement import available; print(available())"
    found = subprocess.run(
        ["unshare", "-Ur", sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert found.stdout == "None\n"


def test_where_the_system_forbids_it_the_setting_is_named() -> None:
    program = "from wardround.client.job.confinement import available; print(available())"
    script = f"echo 0 > /proc/sys/user/max_user_namespaces && exec {sys.executable} -c '{program}'"
    found = subprocess.run(["unshare", "-Ur", "sh", "-c", script], capture_output=True, text=True, check=True)
    assert "sysctl user.max_user_namespaces is 0" in found.stdout and "docs/job.md" in found.stdout


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything; test_as_an_ordinary_user runs this as one")
def test_an_agents_memory_is_closed_to_its_user() -> None:
    program = "import sys; {}; print(flush=True); sys.stdin.read()"
    protect = "from wardround.client.job.namespaces import undumpable; undumpable()"
    for line, expected in (("pass", None), (protect, PermissionError)):
        with subprocess.Popen(
            [sys.executable, "-c", program.format(line)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as agent:
            assert agent.stdout is not None and agent.stdin is not None
            agent.stdout.readline()
            if expected is None:
                assert Path(f"/proc/{agent.pid}/environ").read_bytes()
            else:
                for name in ("environ", "maps"):
                    with pytest.raises(expected):
                        Path(f"/proc/{agent.pid}/{name}").read_bytes()
                assert ctypes.CDLL(None, use_errno=True).ptrace(ctypes.c_long(16), agent.pid, None, None) == -1
            agent.stdin.close()


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="this is how root tries it as an ordinary user, which this already is")
def test_as_an_ordinary_user() -> None:
    """All of this file as a user without any right. An interpreter where only root gets to is shown to it."""
    here = Path(__file__).resolve()
    script = """
set -e
closed=$1; shift
if [ -n "$closed" ]; then
    mkdir -p "$HOME/kept"; mount --bind "$PREFIX" "$HOME/kept"
    mount -t tmpfs -o mode=755 tmpfs "$closed"
    mkdir -p "$PREFIX"; mount --move "$HOME/kept" "$PREFIX"
fi
exec setpriv --reuid 4242 --regid 4242 --clear-groups --bounding-set=-all --no-new-privs "$@"
"""
    prefix = Path(sys.base_prefix).resolve()
    closed = [one for one in reversed(prefix.parents) if not one.stat().st_mode & 0o001]
    with tempfile.TemporaryDirectory() as folder:
        os.chown(folder, 4242, 4242)
        ran = subprocess.run(
            [
                *("unshare", "--mount", "sh", "-c", script, "sh", str(closed[0]) if closed else ""),
                *(sys.executable, "-B", "-m", "pytest", "-q", "-p", "no:cacheprovider"),
                *("--basetemp", f"{folder}/tests", str(here)),
            ],
            cwd=here.parents[3],
            env={"PATH": os.environ["PATH"], "HOME": folder, "PREFIX": str(prefix), "LANG": "C.UTF-8"},
            capture_output=True,
            text=True,
            check=False,
        )
    assert ran.returncode == 0, ran.stdout[-4000:] + ran.stderr[-2000:]
    assert " passed, 1 skipped" in ran.stdout
