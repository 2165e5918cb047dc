"""A group of five and its server on files, in one process that is killed anywhere and goes on from what it stored.

    kill_schedules.py points STEP BROKEN FOLDER              killed before each STEP-th write of any store in turn
    kill_schedules.py kill KILLS SEED BROKEN FOLDER          killed at random times, until its rounds are done

BROKEN is `whole`, or what a member's store forgets: `record`, what it keeps of a round, or `all`, its counter too. What
members send is written down first, so that the one who reads it sees what a peer would have seen. A program of its own,
since it forks: pytest's process has threads. It prints one JSON object.
"""

import hashlib
import json
import os
import random
import signal
import sys
import time
import traceback
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from tests.strategies.secagg.simulated_group import (
    NOW,
    SCALARS,
    SERVER_KEY,
    SIZE,
    SMALL,
    SimulatedGroup,
    expected_sum,
    name_of,
    update_of,
)
from wardround.errors import LocalError, RemoteError
from wardround.file_store import FileStore
from wardround.strategies.secagg.client_epoch import ClientEpoch
from wardround.strategies.secagg.client_round import ClientRound
from wardround.strategies.secagg.messages import decode, encode
from wardround.strategies.secagg.phases import MemberEpochPhase, MemberRoundPhase, Outgoing, ServerRoundPhase
from wardround.strategies.secagg.round_setting import RoundSetting
from wardround.strategies.secagg.sealed_state import SealedState
from wardround.strategies.secagg.server_epoch import ServerEpoch
from wardround.strategies.secagg.server_round import ServerRound
from wardround.strategies.secagg.wire import Record

ROUNDS = 2


class Writes:
    """Counts the writes of all stores of a process, and ends it before the n-th."""

    def __init__(self, last: int | None) -> None:
        self.last, self.done = last, 0

    def __call__(self) -> None:
        if self.done == self.last:
            os.kill(os.getpid(), signal.SIGKILL)
        self.done += 1


class Store:
    """A FileStore whose writes are counted, and of which some are forgotten."""

    def __init__(self, folder: Path, writes: Writes, broken: str) -> None:
        self._store, self._writes, self._broken = FileStore(folder), writes, broken

    def get(self, key: str) -> bytes | None:
        return self._store.get(key)

    def put(self, key: str, value: bytes) -> None:
        self._writes()
        if self._broken == "whole" or not key.endswith(("/round", "/m1")):
            self._store.put(key, value)

    def advance(self, key: str, to: int) -> None:
        self._writes()
        if self._broken != "all" or "/round/" not in key:
            self._store.advance(key, to)


class World:
    """Members and server as they stand on disk; `play` goes on until so many rounds have a sum."""

    def __init__(self, folder: Path, writes: Writes, broken: str) -> None:
        self.folder = folder
        self.group = SimulatedGroup(SMALL)
        self.members = {}
        for name, mine in self.group.memberships.items():
            store = Store(folder / name, writes, broken)
            state = SealedState(store, bytes(32), os.urandom)
            self.members[name] = replace(mine, state=state, random=os.urandom)
        self.server = Store(folder / "server", writes, "whole")
        self.federation = replace(self.group.federation, store=self.server, random=os.urandom)
        self.epochs: dict[str, ClientEpoch] = {}
        self.rounds: dict[str, ClientRound] = {}

    def number(self, key: str) -> int:
        """A number of the server's that was never given before."""
        number = int(self.server.get(key) or b"-1") + 1
        self.server.put(key, str(number).encode())
        return number

    def say(self, line: str) -> None:
        with open(self.folder / "said", "a") as said:
            said.write(line + "\n")

    def take(self, name: str, answers: list[Outgoing], about: str) -> list[Record]:
        """What a member sends, written down before anybody has it."""
        for one in answers:
            data = encode(one.message)
            self.say(f"{type(one.message).__name__} {about} {name} {hashlib.sha256(data).hexdigest()}")
        return [decode(encode(one.message)) for one in answers]

    def agree(self) -> ServerEpoch:
        """The epoch that all are in, or else a new one."""
        epoch = ServerEpoch.resume(self.federation)
        if epoch is not None and self.joined(epoch):
            return epoch
        epoch = ServerEpoch(self.federation, self.number("epochs"))
        for name, mine in self.members.items():
            self.epochs[name] = ClientEpoch.begin(mine, epoch.epoch, NOW)
            for message in self.take(name, self.epochs[name].outgoing(), f"{epoch.epoch} -"):
                epoch.receive(name, message, NOW)
        waiting = epoch.close()
        while waiting:
            one = waiting.pop(0)
            assert one.receiver is not None
            answers = self.epochs[one.receiver].receive(one.message, NOW)
            for message in self.take(one.receiver, answers, f"{epoch.epoch} -"):
                waiting += epoch.receive(one.receiver, message, NOW)
        assert self.joined(epoch)
        return epoch

    def joined(self, epoch: ServerEpoch) -> bool:
        for name, mine in self.members.items():
            found = ClientEpoch.resume(mine)
            if found is None or found.epoch != epoch.epoch:
                return False
            if found.phase is MemberEpochPhase.SIGNED:
                found.receive(epoch.outgoing()[0].message, NOW)
            if found.phase is not MemberEpochPhase.READY or found.agreement.cohort != epoch.cohort:
                return False
            self.epochs[name] = found
            self.rounds[name] = ClientRound(mine, found.agreement)
        return True

    def play(self) -> None:
        epoch = self.agree()
        setting = RoundSetting(
            cohort=epoch.cohort, committee=0, size=SIZE, scalars=SCALARS, signing_key=SERVER_KEY, store=self.server
        )
        while int(self.server.get("sums") or b"0") < ROUNDS:
            machine = ServerRound.resume(setting)
            if machine is None:
                self.group.server = epoch
                machine = ServerRound.begin(setting, self.group.descriptor(self.number(f"rounds {epoch.epoch}")))
            self.round(epoch, machine)

    def round(self, epoch: ServerEpoch, machine: ServerRound) -> None:
        about = f"{epoch.epoch} {machine._start.descriptor.round}"
        start = machine._start
        while machine.phase not in (ServerRoundPhase.DONE, ServerRoundPhase.ABORTED):
            for name, mine in self.rounds.items():
                answers: list[Outgoing] = []
                with suppress(LocalError, RemoteError):  # it sits this one out
                    answers = mine.receive(start, NOW)
                    if mine.phase is MemberRoundPhase.STARTED and machine.phase is ServerRoundPhase.MASKS:
                        answers = mine.mask(*update_of(name, start.descriptor.round), model=start.descriptor.model)
                for message in self.take(name, answers, about):
                    if machine.phase is ServerRoundPhase.MASKS:
                        with suppress(RemoteError):  # of a second update, if a member has sent one
                            machine.receive(name, message, NOW)
            waiting = machine.close() or machine.outgoing()
            while waiting:
                one = waiting.pop(0)
                assert one.receiver is not None
                with suppress(RemoteError):
                    answers = self.rounds[one.receiver].receive(decode(encode(one.message)), NOW)
                    for message in self.take(one.receiver, answers, about):
                        waiting += machine.receive(one.receiver, message, NOW)
            machine.close()  # which is nothing to do where it is done
        for result in machine.results:
            names = [name_of(member) for member in result.members]
            exact = (result.vector.tolist(), result.scalars.tolist()) == expected_sum(names, start.descriptor.round)
            self.say(f"sum {about} {len(names)} {exact}")
        if machine.phase is ServerRoundPhase.DONE:
            self.server.put("sums", str(int(self.server.get("sums") or b"0") + 1).encode())
        machine.end()


def run(folder: Path, last: int | None, broken: str, delay_s: float | None = None) -> bool:
    """Whether a process went on to the end; it is killed before write number `last`, or after a while."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            writes = Writes(last)
            World(folder, writes, broken).play()
            (folder / "writes").write_text(str(writes.done))
            code = 0
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(code)
    if delay_s is not None:
        time.sleep(delay_s)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise SystemExit("a process failed")
    return os.WIFEXITED(status)


def found_in(folder: Path) -> Counter[str]:
    """What was said by members and server of one schedule."""
    said: dict[str, list[str]] = {}
    found = Counter[str]()
    for line in (folder / "said").read_text().splitlines():
        kind, *rest = line.split()
        if kind == "sum":
            found["sums"] += 1
            found["wrong"] += rest[-1] != "True"
        else:
            said.setdefault(" ".join((kind, *rest[:-1])), []).append(rest[-1])
    found["messages"] = len(said)
    found["again"] = sum(len(digests) > 1 for digests in said.values())
    found["different"] = sum(len(set(digests)) > 1 for digests in said.values())
    return found


def points(step: int, broken: str, folder: Path) -> Counter[str]:
    (folder / "whole").mkdir(parents=True)
    assert run(folder / "whole", None, "whole")
    total = found_in(folder / "whole")
    last = int((folder / "whole" / "writes").read_text())
    for at in range(0, last, step):
        here = folder / str(at)
        here.mkdir()
        assert not run(here, at, broken)
        assert run(here, None, broken)
        total += found_in(here)
        total["points"] += 1
    return total


def kill(kills: int, seed: int, broken: str, folder: Path) -> Counter[str]:
    """Schedules until there were so many kills, each within the time that an undisturbed process took last."""
    rng, total, whole_s = random.Random(seed), Counter[str](), 0.0  # noqa: S311
    while total["kills"] < kills:
        here = folder / str(total["schedules"])
        here.mkdir(parents=True)
        while True:
            delay_s = rng.uniform(0, whole_s) if whole_s and rng.random() < 0.9 else None
            begun, before = time.perf_counter(), (here / "said").exists()
            if run(here, None, broken, delay_s):
                break
            total["kills"] += 1
        if delay_s is None and not before:
            whole_s = time.perf_counter() - begun
        total += found_in(here)
        total["schedules"] += 1
    return total


if __name__ == "__main__":
    what, number, *rest = sys.argv[1:]
    if what == "points":
        print(json.dumps(points(int(number), rest[0], Path(rest[1]))))
    else:
        print(json.dumps(kill(int(number), int(rest[0]), rest[1], Path(rest[2]))))
