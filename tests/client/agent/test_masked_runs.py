"""Secure aggregation through the agents' runs: the server gets the sum, whoever is killed in between."""

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from flwr.app import Context, Message

from tests.client.agent.site_world import NOW, RUN, SIZE, FakeJob, World, plan_text
from tests.grid_of_apps import GridOfApps
from wardround import _flower
from wardround.client.agent.member_pins import MemberPins
from wardround.client.agent.site_run import SiteRun
from wardround.errors import LocalError, RemoteError
from wardround.file_store import FileStore
from wardround.identity import Authority
from wardround.link.messages import Call, Fault
from wardround.link.signing_inputs import call_digest
from wardround.orders import Order, OrderKind, SiteId, digest
from wardround.signing_key import SigningKey, fingerprint_of
from wardround.state_store import MemoryStore
from wardround.strategies.secagg.masking import Masking
from wardround.strategies.secagg.plan_terms import parameters_of
from wardround.strategies.secagg.server_epoch import Federation
from wardround.tally import MeansSpec

NAMES = ("Hospital A", "Hospital B", "Hospital C")
SETTINGS = (
    'protection.mode="masking"',
    'cohort.weighting="uniform"',
    "clipping.clip_norm=4.0",
    "protection.colluding=0",
    "protection.dropout=0.33",
    "simulation.sites=3",
)
LOSS = MeansSpec(names=("loss",))


class Hospitals:
    """Three sites, each behind its own `SiteRun`, and the server's `Masking`. `tamper` sees what reaches a site."""

    settings: ClassVar[tuple[str, ...]] = SETTINGS
    kind: ClassVar[type[Masking]] = Masking

    def __init__(self, path: Path) -> None:
        first = World.make(path / NAMES[0], NAMES[0], NAMES[1:])
        self.worlds = [first, *(World.make(path / name, name, beside=first) for name in NAMES[1:])]
        for world in self.worlds:
            self.plan = world.offer(plan_text(*self.settings))
            world.pin_all()
            world.approve(world.data())
        self.jobs = [FakeJob() for _ in NAMES]
        self.runs = [self.run_of(index) for index in range(len(NAMES))]
        self.tamper: Callable[[int, Message], bool] = lambda index, message: True
        self.grid = GridOfApps(self._deliver, len(NAMES), {})
        authority = Authority(first.authority)
        federation = Federation(
            run=RUN,
            plan=bytes.fromhex(self.plan.digest),
            parameters=parameters_of(self.plan),
            authority=authority,
            revocations=authority.revocations(first.folder.read("revocations.der"), NOW),
            store=MemoryStore(),
            random=lambda size: bytes(size),
        )
        specs = {OrderKind.FIT: LOSS, OrderKind.EVALUATE: LOSS, OrderKind.STATISTICS: MeansSpec()}
        self.masking = self.kind(self.plan, federation, first.server, specs=specs, now=lambda: NOW)
        self.nodes = {SiteId(name): 100 + index for index, name in enumerate(NAMES)}

    def run_of(self, index: int) -> SiteRun:
        return SiteRun(self.worlds[index].folder, RUN, lambda *about: self.jobs[index], now=lambda: NOW)

    def restart(self, index: int) -> None:
        """As a kill and a start do: nothing is handed over but what is on disk."""
        self.runs[index].close()
        self.jobs[index] = FakeJob()
        self.runs[index] = self.run_of(index)

    def collect(self, round_: int) -> list[tuple[tuple[SiteId, ...], np.ndarray]]:
        model = np.full(SIZE, round_, dtype="<f4").tobytes()
        order = Order(
            run_id=RUN, plan_digest=self.plan.digest, kind=OrderKind.FIT, round=round_, model_digest=digest(model)
        )
        self.masking.open(self.grid, self.nodes)
        return [
            (one.members, np.concatenate(list(one.vector.chunks())))
            for one in self.masking.collect(self.grid, order, model)
        ]

    def _deliver(self, message: Message, context: Context) -> Message:
        index = message.metadata.dst_node_id - 100
        if not self.tamper(index, message):
            return _flower.gone_reply(message, "no answer")
        kind, model = message.metadata.message_type, None
        order = b"" if kind == _flower.PROTOCOL else _flower.read_order(message)
        if order:
            model = _flower.read_model(message)
        protocol, spec = _flower.read_protocol(message), _flower.read_spec(message)
        about = (RUN, kind, order, protocol, spec, None if model is None else bytes.fromhex(digest(model)))
        call = Call(
            run=RUN,
            kind=kind,
            order=order,
            protocol=protocol,
            spec=spec,
            model=None if model is None else memoryview(model),
        )
        reply = self.runs[index].answer(call, call_digest(*about))
        if reply.fault is not Fault.NONE:
            return _flower.error_reply(message, RemoteError(reply.reason))
        return _flower.reply(message, bytes(reply.frame))


@pytest.fixture
def hospitals(tmp_path: Path) -> Hospitals:
    return Hospitals(tmp_path)


def expected(round_: int) -> np.ndarray:
    return np.full(SIZE, (1 - round_) / 2)


def test_the_server_gets_the_sum_and_no_frame_of_a_site(hospitals: Hospitals) -> None:
    for round_ in (1, 2):
        ((members, vector),) = hospitals.collect(round_)
        assert set(members) == set(NAMES)
        np.testing.assert_allclose(vector, expected(round_), atol=1e-3)


@pytest.mark.parametrize("at", range(1, 6))
def test_a_site_that_is_killed_between_any_two_messages_goes_on(hospitals: Hospitals, at: int) -> None:
    seen = [0]

    def kill(index: int, message: Message) -> bool:
        if index == 1:
            seen[0] += 1
            if seen[0] == at:
                hospitals.restart(1)
        return True

    hospitals.tamper = kill
    ((members, vector),) = hospitals.collect(1)
    assert set(members) == set(NAMES)
    np.testing.assert_allclose(vector, expected(1), atol=1e-3)
    ((members, _),) = hospitals.collect(2)
    assert set(members) == set(NAMES)


def test_a_site_that_vanishes_after_it_sent_is_made_up_for(hospitals: Hospitals) -> None:
    hospitals.tamper = lambda index, message: index != 2 or message.metadata.message_type != _flower.PROTOCOL
    hospitals.collect(1)  # its epoch never begins without it
    hospitals.tamper = lambda index, message: True
    ((members, _),) = hospitals.collect(2)
    assert set(members) == set(NAMES)


def test_a_member_whose_key_is_not_accepted_is_refused_by_every_site(hospitals: Hospitals) -> None:
    stranger = SigningKey(bytes(31) + b"\x01")
    for world in hospitals.worlds[:2]:
        pins = MemberPins(world.folder)
        old = pins.pinned()[NAMES[2]]
        pins.accept(
            NAMES[2], fingerprint_of(stranger.public), by="IT", now=NOW, instead_of=old
        )  # what a lying server would need
    assert hospitals.collect(1) == []
    assert all("fit" not in job.asked for job in hospitals.jobs)


def test_a_plain_order_gets_nothing_from_a_protected_run(hospitals: Hospitals) -> None:
    world, run = hospitals.worlds[0], hospitals.runs[0]
    reply = run.answer(*world.train(hospitals.plan))
    assert reply.fault is Fault.REFUSED and len(reply.frame) == 0
    assert "fit" not in hospitals.jobs[0].asked


def test_a_busy_pin_store_is_waited_for(hospitals: Hospitals) -> None:
    world, slept = hospitals.worlds[0], list[float]()
    store = FileStore(world.folder.path / "pins")

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        store.close()

    assert set(MemberPins(world.folder, sleep).pinned()) == set(NAMES[1:]) and len(slept) == 1
    with FileStore(world.folder.path / "pins"), pytest.raises(LocalError, match="open in another process"):
        MemberPins(world.folder, lambda seconds: None).pinned()
