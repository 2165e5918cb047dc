"""Homomorphic aggregation through the agents' runs: kills, audit lines, and a machine without TenSEAL."""

from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from tests.client.agent.site_world import NOW, RUN, SIZE, FakeJob, World, plan_text
from tests.client.agent.test_agent import Site
from tests.client.agent.test_masked_runs import NAMES, SETTINGS, Hospitals, expected
from wardround import extras
from wardround.audit.log import AuditLog
from wardround.client.agent.approval import check_approval
from wardround.client.agent.plan_store import PlanStore
from wardround.client.agent.site_log import open_log
from wardround.client.agent.site_run import SiteRun, finish_run
from wardround.errors import LocalError, MissingExtraError
from wardround.link.limits import ciphertext_bytes
from wardround.link.messages import Fault
from wardround.strategies.he import key_ceremony
from wardround.strategies.he.homomorphic import Homomorphic
from wardround.strategies.secagg.masking import Masking

BFV = (
    'protection.mode="bfv"',
    'cohort.weighting="uniform"',
    "clipping.clip_norm=4.0",
    "protection.min_survivors=2",
    "protection.min_roster=2",
)


class EncryptingHospitals(Hospitals):
    """The same three sites, whose updates are encrypted; `audit` is the log of each."""

    settings: ClassVar[tuple[str, ...]] = (*SETTINGS[1:3], *BFV, "simulation.sites=3")
    kind: ClassVar[type[Masking]] = Homomorphic

    def __init__(self, path: Path) -> None:
        self.audit: dict[int, AuditLog] = {}
        super().__init__(path)

    def run_of(self, index: int) -> SiteRun:
        log = self.audit.setdefault(index, open_log(self.worlds[index].folder))
        return SiteRun(self.worlds[index].folder, RUN, lambda *about: self.jobs[index], audit=log, now=lambda: NOW)

    def kinds(self, index: int) -> list[str]:
        """What the site has written down of keys and sums, the oldest first."""
        lines = (self.worlds[index].folder.path / "audit" / "log.jsonl").read_text(encoding="utf-8").splitlines()
        return [
            kind for line in lines if (kind := line.split('"kind":"')[1].split('"')[0]).startswith(("key.", "sum."))
        ]


@pytest.fixture
def hospitals(tmp_path: Path) -> EncryptingHospitals:
    return EncryptingHospitals(tmp_path)


def test_the_server_gets_the_sum_and_every_use_of_a_key_is_written_down(hospitals: EncryptingHospitals) -> None:
    for round_ in (1, 2):
        ((members, vector),) = hospitals.collect(round_)
        assert set(members) == set(NAMES)
        np.testing.assert_allclose(vector, expected(round_), atol=1e-3)
    used = [hospitals.kinds(index) for index in range(3)]
    assert sorted(kinds[0] for kinds in used) == ["key.accepted", "key.accepted", "key.dealt"]
    assert sum(kinds.count("sum.opened") for kinds in used) == 4  # two of them in each round
    for index, run in enumerate(hospitals.runs):
        run.close()
        finish_run(hospitals.worlds[index].folder, RUN, "finished", audit=hospitals.audit[index], now=lambda: NOW)
        finish_run(hospitals.worlds[index].folder, RUN, "finished", audit=hospitals.audit[index], now=lambda: NOW)
        assert hospitals.kinds(index) == [*used[index], "key.erased"]
        assert not (hospitals.worlds[index].folder.path / "runs" / RUN).exists()


@pytest.mark.parametrize("at", range(1, 9))
def test_a_site_that_is_killed_between_any_two_messages_goes_on(hospitals: EncryptingHospitals, at: int) -> None:
    seen = [0]

    def kill(index: int, message: object) -> bool:
        if index == 1:
            seen[0] += 1
            if seen[0] == at:
                hospitals.restart(1)
        return True

    hospitals.tamper = kill
    for round_ in (1, 2):
        ((members, vector),) = hospitals.collect(round_)
        assert set(members) == set(NAMES)
        np.testing.assert_allclose(vector, expected(round_), atol=1e-3)
    assert seen[0] >= 8
    assert "sum.forged" not in hospitals.kinds(1) and "key.erased" not in hospitals.kinds(1)


# -- a machine without TenSEAL, or with one that does not do --------------------------------------------


def offered(tmp_path: Path) -> World:
    world = World.make(tmp_path)
    world.offer(plan_text(*BFV))
    world.pin_all()
    return world


def take_tenseal_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == "tenseal" else object())


def test_without_tenseal_a_plan_that_needs_it_is_not_approved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = offered(tmp_path)
    plans = PlanStore(world.folder)

    def check() -> None:
        check_approval(
            plans.plan(RUN),
            plans.offer(RUN),
            world.data(),
            site=world.folder.name,
            fingerprint=world.folder.fingerprint,
            pinned={one.name: one.fingerprint for one in plans.offer(RUN).sites},
            has_ledger=False,
            unprotected=False,
        )

    check()
    take_tenseal_away(monkeypatch)
    with pytest.raises(MissingExtraError, match=r"this needs wardround\[he\]: pip install"):
        check()


def test_without_tenseal_a_run_is_not_prepared_and_no_data_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, job = offered(tmp_path), FakeJob()
    world.approve(world.data())
    take_tenseal_away(monkeypatch)
    with pytest.raises(MissingExtraError, match=r"this needs wardround\[he\]"):
        SiteRun(world.folder, RUN, lambda *about: job, now=lambda: NOW).prepare()
    assert job.asked == []


def test_a_tenseal_that_does_not_do_is_found_before_data_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, job = offered(tmp_path), FakeJob()
    world.approve(world.data())

    def drifted(*about: object) -> None:
        raise LocalError("tenseal 9: expected what the seeded form of BFV needs")

    monkeypatch.setattr(key_ceremony, "check_form", drifted)
    with pytest.raises(LocalError, match="tenseal 9"):
        SiteRun(world.folder, RUN, lambda *about: job, now=lambda: NOW).prepare()
    assert job.asked == []


def test_the_coordinator_is_told_that_the_site_cannot_and_its_own_log_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World.make(tmp_path)
    site = Site(world)
    site.offer(*BFV)
    world.pin_all()
    world.approve(world.data())
    take_tenseal_away(monkeypatch)
    site.look_and_wait()
    told, outcome = site.approval(), PlanStore(world.folder).outcome(RUN)
    assert told["verdict"] == "denied" and "tenseal" not in told["reason"]
    assert outcome is not None and "this needs wardround[he]" in outcome.reason
    assert site.job.asked == []
    site.agent.close()


# -- the room of a call ----------------------------------------------------------------------------------


def test_a_sum_to_open_has_room_where_such_a_plan_is_approved(tmp_path: Path) -> None:
    world = World.make(tmp_path)
    site = Site(world)
    site.offer(*BFV)
    assert site.agent.sum_bytes(RUN) == 0
    world.pin_all()
    world.approve(world.data())
    site.look_and_wait()
    assert site.approval()["verdict"] == "approved"
    most = (1 << 26) + ciphertext_bytes(4 * SIZE)
    assert site.agent.sum_bytes(RUN) == ciphertext_bytes(4 * SIZE) and site.agent.sum_bytes("f" * 32) == 0
    assert site.agent.room(RUN, most, 0) is None
    refusal = site.agent.room(RUN, most + 1, 0)
    assert refusal is not None and refusal.fault is Fault.REFUSED
    site.end()
    assert site.agent.sum_bytes(RUN) == 0
    site.agent.close()
