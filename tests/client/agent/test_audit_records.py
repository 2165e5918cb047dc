"""What a site writes down of itself, and that it takes no part while the server's history is another."""

import json
import os
from pathlib import Path

import pytest

from tests.client.agent.site_world import NOW, RUN, FakeJob, World
from tests.client.agent.test_agent import Site
from tests.client.agent.test_site_run import PRIVATE
from wardround.audit.head import Extension, Head, sign_head
from wardround.audit.log import LOG_FILE
from wardround.audit.record import Record, chained, first_hash, stamp
from wardround.audit.verify import verify_log
from wardround.client.agent.member_pins import MemberPins
from wardround.client.agent.plan_store import PlanStore
from wardround.client.agent.server_heads import ServerHeads
from wardround.client.agent.site_log import audit_folder, open_log
from wardround.client.agent.site_run import SiteRun
from wardround.errors import LocalError
from wardround.identity import Authority
from wardround.link.messages import Fault, Notice

LOG = b"L" * 16


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World.make(tmp_path)


def records(world: World) -> list[Record]:
    """Everything in the site's log, which is whole."""
    found: list[Record] = []
    with (audit_folder(world.folder) / LOG_FILE).open("rb") as file:
        verify_log(file, Authority(world.authority), each=found.append)
    return [one for one in found if not one.kind.startswith("log.")]


def kinds(world: World) -> list[str]:
    return [one.kind for one in records(world)]


def test_a_run_from_the_data_to_its_end_is_written_down(world: World) -> None:
    site = Site(world)
    site.ready()
    call, digest = world.train(PlanStore(world.folder).plan(RUN))
    reply = site.agent.call(call)
    site.end()
    site.look_and_wait()
    site.agent.seal()
    assert kinds(world) == ["plan.offered", "data.added", "plan.approved", "run.ready", "round.answered", "run.ended"]
    offered, added, approved, _, answered, _ = records(world)
    assert offered.subject == approved.subject == answered.subject == RUN
    assert approved.detail["by"] == "IT" and approved.detail["data_digest"] == added.detail["sha256"]
    assert reply.frame_digest is not None
    assert answered.detail["call"] == digest.hex() and answered.detail["reply"] == reply.frame_digest.hex()
    assert (answered.detail["kind"], answered.detail["round"]) == ("train", 1)


def test_what_is_charged_is_written_down_once(world: World) -> None:
    job = FakeJob()
    site = Site(world, job)
    site.agent._run_of = lambda run: SiteRun(
        world.folder, run, lambda *about: job, audit=site.agent.audit, now=lambda: NOW
    )
    site.offer(*PRIVATE)
    world.approve(world.data(epsilon=3.0))
    site.agent.look()
    site.approval()
    call = world.train(PlanStore(world.folder).plan(RUN))[0]
    assert site.agent.call(call).fault is Fault.NONE
    assert site.agent.call(call).fault is Fault.NONE  # again: the same reply
    (charged,) = (one for one in records(world) if one.kind == "budget.charged")
    assert (charged.subject, charged.detail["round"]) == (RUN, 1)
    (made,) = (one for one in records(world) if one.kind == "budget.made")
    assert made.detail["epsilon"] == 3.0


def test_the_same_refusal_fills_no_disk(world: World) -> None:
    site = Site(world)
    site.offer()
    call = world.train(PlanStore(world.folder).plan(RUN))[0]
    for _ in range(50):
        assert site.agent.call(call).fault is Fault.NOT_READY
    (refused,) = (one for one in records(world) if one.kind == "call.refused")
    assert refused.detail["fault"] == "not_ready" and "is not approved here" in refused.detail["reason"]


def test_a_server_that_finds_ever_new_ways_to_be_refused_fills_no_disk(world: World) -> None:
    site = Site(world)
    site.offer()
    for number in range(1100):
        assert site.agent.call(world.call(f"kind {number}", key=world.server)[0]).fault is Fault.NOT_READY
    assert kinds(world).count("call.refused") == 1000 and kinds(world).count("refusals.unlisted") == 1


def test_a_reply_that_cannot_be_written_down_does_not_leave(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(world)
    site.ready()
    call = world.train(PlanStore(world.folder).plan(RUN))[0]

    def full(entries: object) -> None:
        raise LocalError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(site.agent.audit, "append", full)
        reply = site.agent.call(call)
    assert reply.fault is Fault.REFUSED and "audit log cannot be written" in reply.reason and not reply.frame
    assert site.agent.call(call).fault is Fault.NONE


def test_keys_that_are_accepted_and_removed_are_written_down(world: World) -> None:
    pins = MemberPins(world.folder)
    pins.accept("Hospital B", "ab" * 32, by="IT", now=NOW)
    pins.remove("Hospital B", by="IT", now=NOW)
    assert kinds(world) == ["member.accepted", "member.removed"]


def test_an_agent_does_not_start_on_a_log_that_was_changed(world: World) -> None:
    Site(world)
    path = audit_folder(world.folder) / LOG_FILE
    path.write_bytes(path.read_bytes() + b"{}\n")
    with pytest.raises(LocalError, match="was changed by somebody else"):
        Site(world)


# -- the server's heads -------------------------------------------------------------------------------


def digest(number: int, fork: str) -> bytes:
    return f"{fork}{number}".encode().ljust(32)


def shown(world: World, first: int, count: int, fork: str = "a", *, forks_at: int = 10**6) -> Notice:
    """The head of a log of `count` records, from its first `first` on; from record `forks_at` it is another."""
    digests = [digest(number, fork if number >= forks_at else "a") for number in range(1, count + 1)]
    hashes = [first_hash(LOG)]
    for one in digests:
        hashes.append(chained(hashes[-1], one))
    head = sign_head(world.server, LOG, count, hashes[-1], stamp(NOW))
    found = Extension(head=head, first=first, start=hashes[first], digests=tuple(digests[first:]))
    return Notice(kind="head", body=found.encode())


def known(world: World) -> Head:
    head = ServerHeads(world.folder).known()
    assert head is not None
    return head


def test_heads_that_follow_are_signed_and_kept(world: World) -> None:
    site = Site(world)
    for first, count in ((5, 5), (5, 9), (3, 12), (12, 12)):
        site.agent.notice(shown(world, first, count))
        assert known(world).seq == count
        answer = json.loads(site.sent[-1].body)
        assert site.sent[-1].kind == "cosigned" and answer["cosigned"]["head"]["seq"] == count
        assert "differs" not in answer
    assert kinds(world).count("head.cosigned") == 3


@pytest.mark.parametrize(
    ("notice", "why"),
    [((3, 6), "it has 6 records, and had 9"), ((5, 12, "b"), "its first 9 records are not those that were there")],
    ids=["behind", "another history"],
)
def test_a_site_takes_no_part_until_its_administrator_accepts(world: World, notice: tuple[int, int], why: str) -> None:
    site = Site(world)
    site.ready()
    call = world.train(PlanStore(world.folder).plan(RUN))[0]
    site.agent.notice(shown(world, 5, 9))
    site.agent.notice(shown(world, *notice, forks_at=8))
    assert known(world).seq == 9
    answer = json.loads(site.sent[-1].body)
    assert answer["cosigned"]["head"]["seq"] == 9 and answer["differs"] == why
    reply = site.agent.call(call)
    assert reply.fault is Fault.NOT_READY and "differs from what this site has seen" in reply.reason
    assert site.agent.room(RUN, 0, 0) is not None

    site.agent.close()
    again = Site(world)  # after a restart, too
    assert again.agent.call(call).fault is Fault.NOT_READY
    again.agent.notice(shown(world, *notice, forks_at=8))
    assert kinds(world).count("head.differs") == 1

    ServerHeads(world.folder).accept(open_log(world.folder), by="IT")
    again.agent.look()
    assert again.agent.call(call).fault is Fault.NONE
    again.agent.notice(shown(world, 9, 13, "b", forks_at=8))
    assert known(world).seq == 13
    assert [one for one in kinds(world) if one.split(".")[0] in ("head", "restore")] == [
        "head.cosigned",
        "head.differs",
        "restore.accepted",
        "head.cosigned",
    ]


def test_a_gap_is_answered_with_what_is_known_and_not_for_ever(world: World) -> None:
    site = Site(world)
    site.agent.notice(shown(world, 5, 5))
    for _ in range(3):
        site.agent.notice(shown(world, 7, 9))
        answer = json.loads(site.sent[-1].body)
        assert answer["cosigned"]["head"]["seq"] == 5 and "differs" not in answer
    site.agent.notice(shown(world, 7, 9))
    assert json.loads(site.sent[-1].body)["differs"] == "it leaves out records 6 to 7"


def test_a_kill_between_the_log_and_the_head_signs_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(world)
    site.agent.notice(shown(world, 5, 5))
    with monkeypatch.context() as patch, pytest.raises(OSError, match="killed"):

        def killed(*about: object, **more: object) -> None:
            raise OSError("killed")

        patch.setattr(type(world.folder), "write", killed)
        site.agent.notice(shown(world, 5, 9))
    assert known(world).seq == 5
    again = Site(world)
    again.agent.notice(shown(world, 5, 9))
    assert known(world).seq == 9 and json.loads(again.sent[-1].body)["cosigned"]["head"]["seq"] == 9


@pytest.mark.parametrize("name", ["server-head.json", "server-differs.json"])
@pytest.mark.parametrize("data", [b"", b"[]", b'{"seq": 3}', b"\xff", b"[" * 100_000])
def test_a_damaged_file_is_named(world: World, name: str, data: bytes) -> None:
    site = Site(world)
    site.agent.notice(shown(world, 5, 5))
    place = audit_folder(world.folder) / name
    place.write_bytes(data)
    os.chmod(place, 0o600)
    heads = ServerHeads(world.folder)
    with pytest.raises(LocalError, match=f"{name}: is damaged"):
        heads.known() if name == "server-head.json" else heads.difference()
