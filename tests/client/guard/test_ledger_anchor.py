import errno
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from wardround.client.guard.ledger import Ledger, LedgerError
from wardround.client.guard.ledger_anchor import AnchorUnavailableError, FileAnchor, Grace, Head
from wardround.errors import LocalError
from wardround.plan_privacy import Relation, Unit
from wardround.strategies.privacy.books import JobCharge
from wardround.strategies.privacy.events import Gaussian

ROUND = Gaussian(noise_std=20.0, sensitivity=1.0, relation=Relation.ADD_REMOVE)
CHARGE = JobCharge(
    job="run-1",
    plan_digest="digest",
    unit=Unit.PATIENT,
    once=(),
    per_round=(ROUND,),
    rounds=20,
    whole=False,
    delta=1e-6,
)


class MemoryAnchor:
    """An anchor that can be out of reach, for reading, for writing or both."""

    def __init__(self) -> None:
        self.head: Head | None = None
        self.readable = self.writable = True

    def get(self) -> Head | None:
        if not self.readable:
            raise AnchorUnavailableError("out of reach")
        return self.head

    def put(self, index: int, digest: str) -> None:
        if not self.writable:
            raise AnchorUnavailableError("out of reach")
        assert self.head is None or index >= self.head[0], "an anchor never goes back"
        self.head = index, digest


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2030, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "population.ledger"


def create(
    path: Path, anchor: MemoryAnchor | FileAnchor | None, grace: Grace | None = None, now: Clock | None = None
) -> Ledger:
    return Ledger.create(
        path,
        name="clinic",
        unit=Unit.PATIENT,
        relation=Relation.ADD_REMOVE,
        epsilon=3.0,
        delta=1e-5,
        digest="data",
        anchor=anchor,
        grace=grace,
        now=now or Clock(),
    )


def test_every_line_is_anchored_before_its_call_returns(path: Path) -> None:
    anchor = MemoryAnchor()
    ledger = create(path, anchor)
    assert anchor.head == ledger.head
    ledger.reserve(CHARGE)
    assert anchor.head == ledger.head
    for number in (1, 2):
        ledger.start_round("run-1", number)
        assert anchor.head == ledger.head == (2 + number, ledger.head[1])
    ledger.admit_data("more")
    ledger.close("run-1")
    assert anchor.head == ledger.head


def test_a_line_is_durable_before_it_is_anchored(path: Path) -> None:
    """Never the other way round: an anchor that is ahead of its file would lock an honest site out."""
    anchor, seen = MemoryAnchor(), list[bool]()
    ledger = create(path, anchor)
    put = anchor.put

    def check(index: int, digest: str) -> None:
        lines = path.read_bytes().splitlines()
        seen.append(len(lines) == index and digest.encode() in lines[-1])
        put(index, digest)

    anchor.put = check  # type: ignore[method-assign]
    ledger.reserve(CHARGE)
    ledger.start_round("run-1", 1)
    assert seen == [True, True]


@pytest.mark.parametrize("kept", [1, 2, 3, 4])
def test_a_rolled_back_file_refuses_every_job(path: Path, kept: int) -> None:
    anchor = MemoryAnchor()
    ledger = create(path, anchor)
    ledger.reserve(CHARGE)
    for number in (1, 2, 3):
        ledger.start_round("run-1", number)
    before = anchor.head
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:kept]))
    with pytest.raises(
        LedgerError, match=f"expected at least the 5 lines that are anchored, got {kept}: an older copy"
    ):
        Ledger.open(path, anchor=anchor)
    with pytest.raises(LedgerError):
        ledger.reserve(CHARGE)
    with pytest.raises(LedgerError):
        ledger.start_round("run-1", 9)
    with pytest.raises(LedgerError):
        ledger.close("run-1")
    assert anchor.head == before
    assert len(path.read_bytes().splitlines()) == kept


def test_a_rolled_back_file_that_has_grown_again_is_refused(path: Path) -> None:
    """Without the anchor it would pass: its chain is whole."""
    anchor = MemoryAnchor()
    ledger = create(path, anchor)
    ledger.reserve(CHARGE)
    ledger.start_round("run-1", 1)
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:2]))
    forked = Ledger.open(path)
    forked.admit_data("some")
    forked.admit_data("more")
    with pytest.raises(LedgerError, match="line 3: expected the line that is anchored, got another"):
        Ledger.open(path, anchor=anchor)


def test_the_ledger_of_another_population_is_refused(path: Path, tmp_path: Path) -> None:
    anchor = MemoryAnchor()
    create(path, anchor)
    path.unlink()
    create(path, None)
    with pytest.raises(LedgerError, match="line 1: expected the line that is anchored"):
        Ledger.open(path, anchor=anchor)
    path.unlink()
    with pytest.raises(LedgerError, match="expected an anchor that is new"):
        create(path, anchor)


@pytest.mark.parametrize("lines", [1, 3])
def test_an_anchor_that_a_crash_left_behind_is_mended_by_the_next_call(path: Path, lines: int) -> None:
    anchor = MemoryAnchor()
    ledger = create(path, anchor)
    ledger.reserve(CHARGE)
    behind = anchor.head
    for number in range(lines):
        ledger.start_round("run-1", 1 + number)
    anchor.head = behind
    again = Ledger.open(path, anchor=anchor)
    assert anchor.head == (2 + lines, again.head[1])
    again.start_round("run-1", 9)
    assert anchor.head == again.head


def test_an_anchor_that_was_lost_refuses_every_job(path: Path) -> None:
    """Else whoever deletes it could restore any older copy."""
    anchor = MemoryAnchor()
    ledger = create(path, anchor)
    ledger.reserve(CHARGE)
    ledger.start_round("run-1", 1)
    anchor.head = None
    with pytest.raises(LedgerError, match="expected an anchor of line 3 or later, got none"):
        ledger.start_round("run-1", 2)


def test_a_ledger_that_had_no_anchor_gets_one(path: Path) -> None:
    create(path, None).reserve(CHARGE)
    anchor = MemoryAnchor()
    ledger = Ledger.open(path, anchor=anchor)
    assert anchor.head == ledger.head


@pytest.mark.parametrize(("readable", "writable"), [(False, False), (True, False)])
@pytest.mark.parametrize("lines", [0, 1, 4])
def test_jobs_go_on_without_the_anchor_for_as_many_lines_as_the_policy_allows(
    path: Path, readable: bool, writable: bool, lines: int
) -> None:
    anchor = MemoryAnchor()
    ledger = create(path, anchor, Grace(max_unanchored=lines))
    ledger.reserve(CHARGE)
    anchor.readable, anchor.writable = readable, writable
    for number in range(lines):
        ledger.start_round("run-1", 1 + number)
    for _ in range(3):
        with pytest.raises(LedgerError, match=f"lines would not be anchored, and the policy allows {lines}"):
            ledger.start_round("run-1", 9)
    with pytest.raises(LedgerError, match="would not be anchored"):
        Ledger.open(path, anchor=anchor, grace=Grace(max_unanchored=lines)).start_round("run-1", 9)
    anchor.readable = anchor.writable = True
    ledger.start_round("run-1", 9)
    assert anchor.head == ledger.head


def test_an_anchor_that_fails_after_the_line_stops_the_release_and_the_line_counts(path: Path) -> None:
    anchor = MemoryAnchor()
    ledger = create(path, anchor)
    ledger.reserve(CHARGE)
    anchor.writable = False
    with pytest.raises(LedgerError, match="1 lines would not be anchored"):
        ledger.start_round("run-1", 1)
    assert ledger.account().jobs["run-1"].started == (1,)


def test_jobs_go_on_without_the_anchor_for_as_long_as_the_policy_allows(path: Path) -> None:
    anchor, clock = MemoryAnchor(), Clock()
    ledger = create(path, anchor, Grace(max_unanchored=100, max_age_s=3600), clock)
    ledger.reserve(CHARGE)
    anchor.readable = anchor.writable = False
    clock.now += timedelta(days=9)  # nothing is unanchored yet
    ledger.start_round("run-1", 1)
    clock.now += timedelta(minutes=59)
    ledger.start_round("run-1", 2)
    clock.now += timedelta(minutes=2)
    with pytest.raises(LedgerError, match="not anchored for 3660 s, and the policy allows 3600"):
        ledger.start_round("run-1", 3)


def test_leaving_the_anchor_out_is_no_way_around_it(path: Path) -> None:
    ledger = create(path, MemoryAnchor())
    ledger.reserve(CHARGE)
    bare = Ledger.open(path)
    assert bare.spent() == ledger.spent()
    with pytest.raises(LedgerError, match="lines would not be anchored"):
        bare.start_round("run-1", 1)


def test_what_is_no_job_needs_no_anchor_in_reach(path: Path) -> None:
    anchor = MemoryAnchor()
    ledger = create(path, anchor)
    ledger.reserve(CHARGE)
    anchor.readable = anchor.writable = False
    ledger.admit_data("more")
    ledger.close("run-1")
    assert ledger.account().jobs["run-1"].closed


def test_check_anchor_takes_every_line_of_the_chain_and_nothing_else(path: Path) -> None:
    ledger, heads = create(path, None), list[Head]()
    for number in range(4):
        heads.append(ledger.head)
        ledger.admit_data(f"data-{number}")
    for head in heads:
        ledger.check_anchor(*head)
    for index, digest in ((1, heads[1][1]), (0, heads[0][1]), (-1, heads[-1][1]), (99, heads[0][1])):
        with pytest.raises(LedgerError, match="anchored"):
            ledger.check_anchor(index, digest)


@pytest.mark.parametrize("grace", [{"max_unanchored": -1}, {"max_age_s": -1.0}, {"max_age_s": float("nan")}])
def test_a_grace_that_is_none_is_refused(grace: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected a grace of at least 0"):
        Grace(**grace)  # type: ignore[arg-type]


def test_a_file_keeps_the_head(tmp_path: Path) -> None:
    anchor = FileAnchor(tmp_path / "anchor")
    assert anchor.get() is None
    anchor.put(3, "abc")
    assert FileAnchor(tmp_path / "anchor").get() == (3, "abc")
    anchor.put(4, "def")
    assert anchor.get() == (4, "def")
    assert [one.name for one in tmp_path.iterdir()] == ["anchor"]


def test_a_file_anchor_that_cannot_be_written_keeps_the_head_before(tmp_path: Path) -> None:
    anchor = FileAnchor(tmp_path / "anchor")
    anchor.put(3, "abc")

    def failing(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", failing)
        with pytest.raises(AnchorUnavailableError, match="No space left on device"):
            anchor.put(4, "def")
    assert anchor.get() == (3, "abc")
    assert [one.name for one in tmp_path.iterdir()] == ["anchor"]


def test_a_file_anchor_whose_folder_is_gone_is_out_of_reach_and_not_new(tmp_path: Path) -> None:
    anchor = FileAnchor(tmp_path / "none" / "anchor")
    with pytest.raises(AnchorUnavailableError, match="its folder is not there"):
        anchor.get()
    with pytest.raises(AnchorUnavailableError):
        anchor.put(1, "abc")


@pytest.mark.parametrize(
    "content", ["", "{}", "[]", '{"index": "3", "hash": "abc"}', '{"index": 3, "hash": null}', "\0"]
)
def test_a_file_that_is_no_anchor_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "anchor").write_text(content)
    with pytest.raises(LocalError, match="expected the anchor of a ledger") as caught:
        FileAnchor(tmp_path / "anchor").get()
    assert not isinstance(caught.value, AnchorUnavailableError)


def test_a_ledger_with_a_file_anchor_finds_a_rollback(path: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    anchor = FileAnchor(tmp_path / "elsewhere" / "anchor")
    ledger = create(path, anchor)
    older = path.read_bytes()
    ledger.reserve(CHARGE)
    path.write_bytes(older)
    with pytest.raises(LedgerError, match="an older copy was restored"):
        Ledger.open(path, anchor=anchor)
