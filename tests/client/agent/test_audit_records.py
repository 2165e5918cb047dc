"""What a site writes down of itself, and that it takes no part while the server's history is another."""

import json
import os
from datetime import datetime, timedelta
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


def shown(
    world: World, first: int, count: int, fork: str = "a", *, forks_at: int = 10**6, length: int = 0, at: datetime = NOW
) -> Notice:
    """The head of a log of `count` records, from its first `first` on; from record `forks_at` it is another."""
    digests = [digest(number, fork if number >= forks_at else "a") for number in range(1, count + 1)]
    hashes = [first_hash(LOG)]
    for one in digests:
        hashes.append(chained(hashes[-1], one))
    head = sign_head(world.server, LOG, count, hashes[-1], stamp(at))
    found = Extension(
        head=head, first=first, start=hashes[first], digests=tuple(digests[first:]), length=length or count
    )
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
    assert known(world).seq == 9  # by the log; the file is behind
    again = Site(world)
    again.agent.notice(shown(world, 5, 9))
    assert known(world).seq == 9 and json.loads(again.sent[-1].body)["cosigned"]["head"]["seq"] == 9


def test_a_kill_between_the_log_and_the_head_does_not_let_another_history_in(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site(world)
    site.agent.notice(shown(world, 5, 5))
    with monkeypatch.context() as patch, pytest.raises(OSError, match="killed"):

        def killed(*about: object, **more: object) -> None:
            raise OSError("killed")

        patch.setattr(type(world.folder), "write", killed)
        site.agent.notice(shown(world, 5, 9))
    again = Site(world)
    again.agent.notice(shown(world, 5, 9, "b", forks_at=7))
    assert "differs" in json.loads(again.sent[-1].body) and ServerHeads(world.folder).differs


BROKEN: list[bytes | None] = [b"", b"[]", b'{"seq": 3}', b"\xff", b"[" * 100_000, None]


def damage(world: World, name: str, data: bytes | None) -> None:
    place = audit_folder(world.folder) / name
    if data is None:
        place.unlink(missing_ok=True)
    else:
        place.write_bytes(data)
        os.chmod(place, 0o600)


@pytest.mark.parametrize("data", BROKEN)
def test_what_was_signed_is_known_from_the_log_where_the_file_is_gone(world: World, data: bytes | None) -> None:
    """Or who takes the file away could be shown another history."""
    site = Site(world)
    site.agent.notice(shown(world, 5, 9))
    damage(world, "server-head.json", data)
    assert known(world).seq == 9
    site.agent.notice(shown(world, 9, 9))
    assert json.loads((audit_folder(world.folder) / "server-head.json").read_text())["seq"] == 9
    damage(world, "server-head.json", data)
    site.agent.notice(shown(world, 5, 12, "b", forks_at=8))
    assert ServerHeads(world.folder).differs and kinds(world).count("head.cosigned") == 1
    damage(world, "server-head.json", data)
    ServerHeads(world.folder).accept(open_log(world.folder), by="IT")
    assert ServerHeads(world.folder).known() is None
    site.agent.notice(shown(world, 5, 13, "b", forks_at=8))
    assert known(world).seq == 13


@pytest.mark.parametrize("data", BROKEN[:-1])
def test_a_damaged_difference_is_named_and_can_be_accepted(world: World, data: bytes) -> None:
    site = Site(world)
    site.agent.notice(shown(world, 5, 5))
    damage(world, "server-differs.json", data)
    heads = ServerHeads(world.folder)
    with pytest.raises(LocalError, match=r"server-differs\.json: is damaged"):
        heads.difference()
    assert heads.accept(open_log(world.folder), by="IT").known.seq == 5
    assert not heads.differs and kinds(world)[-1] == "restore.accepted"


def test_the_first_part_of_a_long_log_is_no_other_history(world: World) -> None:
    """A server whose word on what this site has signed was lost begins further back, and cannot show all at once."""
    site = Site(world)
    site.agent.notice(shown(world, 5, 30))
    for _ in range(2):
        site.agent.notice(shown(world, 5, 10, length=40))
        answer = json.loads(site.sent[-1].body)
        assert answer["cosigned"]["head"]["seq"] == 30 and "differs" not in answer
    site.agent.notice(shown(world, 10, 40))
    assert known(world).seq == 40 and not ServerHeads(world.folder).differs


def test_a_server_that_only_says_that_it_has_more_is_not_believed_for_ever(world: World) -> None:
    site = Site(world)
    site.agent.notice(shown(world, 5, 30))
    for _ in range(3):
        site.agent.notice(shown(world, 5, 10, length=40))
    assert not ServerHeads(world.folder).differs
    site.agent.notice(shown(world, 5, 10, length=40))
    assert json.loads(site.sent[-1].body)["differs"] == "it has 10 records, and had 30"


def test_a_flood_of_heads_fills_no_disk(world: World) -> None:
    site = Site(world)
    site.agent.notice(shown(world, 5, 5))
    for number in range(50):  # the same, signed anew
        site.agent.notice(shown(world, 5, 5, at=NOW + timedelta(seconds=number)))
        assert json.loads(site.sent[-1].body)["cosigned"]["head"]["seq"] == 5
    assert kinds(world).count("head.cosigned") == 1
    for count in range(6, 206):
        site.agent.notice(shown(world, count - 1, count))
    assert 100 < kinds(world).count("head.cosigned") < 130
    assert not ServerHeads(world.folder).differs
    later = NOW + timedelta(seconds=5)
    _, wrong = ServerHeads(world.folder).take(shown(world, 5, 300).body, site.agent.audit, later)
    assert not wrong and known(world).seq == 300


def test_a_server_that_shows_no_heads_any_more_is_noticed(world: World) -> None:
    heads = Site(world).agent._heads
    log = open_log(world.folder)
    day = timedelta(days=1)
    assert not heads.are_missing(NOW) and not heads.are_missing(NOW + day / 2)
    assert heads.are_missing(NOW + day) and not heads.are_missing(NOW + day)
    heads.take(shown(world, 5, 5).body, log, NOW + day)
    assert not heads.are_missing(NOW + 2 * day) and heads.are_missing(NOW + 3 * day)


def test_a_server_that_shows_what_is_known_or_gaps_for_ever_is_noticed(world: World) -> None:
    heads, log = Site(world).agent._heads, open_log(world.folder)
    heads.take(shown(world, 5, 5).body, log, NOW)
    assert not heads.are_missing(NOW)
    for hour in range(1, 24):
        for notice in (shown(world, 7, 9), shown(world, 5, 5)):
            heads.take(notice.body, log, NOW + timedelta(hours=hour))
        assert not heads.are_missing(NOW + timedelta(hours=hour))
    assert heads.are_missing(NOW + timedelta(days=1)) and not heads.differs


def test_an_agent_says_that_no_heads_come_any_more(world: World, caplog: pytest.LogCaptureFixture) -> None:
    site = Site(world)
    site.ready()
    call = world.train(PlanStore(world.folder).plan(RUN))[0]
    site.agent.call(call)
    site.agent._now = lambda: NOW + timedelta(days=2)
    site.agent.call(call)
    assert "has shown no head of its audit log for a day" in caplog.text


def test_a_kill_while_a_restore_is_accepted_leaves_what_can_be_accepted_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site(world)
    site.agent.notice(shown(world, 5, 9))
    site.agent.notice(shown(world, 5, 12, "b", forks_at=8))
    real = Path.unlink

    def killed(path: Path, missing_ok: bool = False) -> None:
        if path.name == "server-head.json":
            raise KeyboardInterrupt
        real(path, missing_ok=missing_ok)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "unlink", killed)
        ServerHeads(world.folder).accept(open_log(world.folder), by="IT")
    site.agent.notice(shown(world, 5, 12, "b", forks_at=8))
    assert ServerHeads(world.folder).differs
    ServerHeads(world.folder).accept(open_log(world.folder), by="IT")
    site.agent.notice(shown(world, 5, 12, "b", forks_at=8))
    assert known(world).seq == 12 and not ServerHeads(world.folder).differs
