"""What a server may offer, and what it cannot make a site write."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.client.agent.site_world import NOW, PLAN, RUN, World
from wardround.client.agent.offer import check_run_name, decode_offer
from wardround.client.agent.plan_store import Decision, Outcome, PlanStore, RunState, Verdict
from wardround.errors import LocalError, RemoteError


def numbered(number: int) -> str:
    """An id as servers make them."""
    return f"{number:032x}"


CODE = PLAN.replace('name = "tabular-classifier"\nmodel = "logistic"', 'code = "code"\nentry = "mine:Task"')


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World.make(tmp_path)


def body(table: dict[str, Any]) -> bytes:
    return json.dumps(table).encode()


def test_an_offer_is_kept_once_and_its_plan_is_the_offered_one(world: World) -> None:
    plans = PlanStore(world.folder)
    offer = decode_offer(body(world.offer_table()))
    assert plans.put(offer, NOW) and not plans.put(offer, NOW)
    assert plans.runs() == [RUN] and plans.find(RUN[:5]) == RUN
    assert plans.plan(RUN).digest == offer.plan_digest


def test_code_is_kept_where_the_plan_says_and_is_in_the_digest(world: World) -> None:
    table = world.offer_table(CODE, code={"mine.py": b"class Task: ...\n", "deep/er/x.txt": b"x"})
    plans = PlanStore(world.folder)
    plans.put(decode_offer(body(table)), NOW)
    plan = plans.plan(RUN)
    assert [name for name, _ in plan.code_files] == ["deep/er/x.txt", "mine.py"]
    (plans.code_folder(RUN) / "code" / "mine.py").write_text("class Task: evil\n")
    with pytest.raises(RemoteError, match="plan digest differs from the offered one"):
        plans.plan(RUN)


@pytest.mark.parametrize("folder", ["code/deep", ".", "other", None])
def test_code_in_another_folder_than_the_plans_is_found_out(world: World, folder: str | None) -> None:
    table = world.offer_table(CODE, code={"mine.py": b"class Task: ...\n"}) | {"code_folder": folder}
    if folder is None:
        table["code"] = {}
    plans = PlanStore(world.folder)
    plans.put(decode_offer(body(table)), NOW)
    with pytest.raises(RemoteError, match=r"expected code where the plan says|a folder at .*bundle/code"):
        plans.plan(RUN)


def test_code_that_no_plan_names_is_found_out(world: World) -> None:
    """It would lie beside what was approved, and be in no digest."""
    table = world.offer_table() | {"code_folder": "code", "code": {"mine.py": ""}}
    plans = PlanStore(world.folder)
    plans.put(decode_offer(body(table)), NOW)
    with pytest.raises(RemoteError, match="expected code where the plan says"):
        plans.plan(RUN)


def test_an_offer_is_taken_without_reading_its_plan(world: World) -> None:
    """Python's TOML reader takes minutes for such a key; whoever wants to see the plan is told what is wrong."""
    plans = PlanStore(world.folder)
    plans.put(decode_offer(body(world.offer_table() | {"plan": "a." * 150_000 + "a = 1\n"})), NOW)
    with pytest.raises(RemoteError, match="keys of at most 16 dots"):
        plans.plan(RUN)


def test_what_is_wrong_with_a_plan_is_said_in_letters_alone(world: World) -> None:
    plans = PlanStore(world.folder)
    plans.put(decode_offer(body(world.offer_table() | {"plan": PLAN + '"\\u001b[2J" = 1\n'})), NOW)
    with pytest.raises(RemoteError, match="expected a known key") as caught:
        plans.plan(RUN)
    assert str(caught.value).isprintable()


def test_what_was_looked_at_is_what_is_approved(world: World) -> None:
    """By the start of its id: a run whose id is that start cannot be offered, and one that begins so too is another."""
    plans = PlanStore(world.folder)
    plans.put(decode_offer(body(world.offer_table())), NOW)
    assert plans.find("0123") == RUN
    with pytest.raises(RemoteError, match="expected an id of 32 hexadecimal digits"):
        decode_offer(body(world.offer_table(PLAN.replace("rounds = 3", "rounds = 4"), run="0123")))
    plans.put(decode_offer(body(world.offer_table(run="0123" + "f" * 28))), NOW)
    with pytest.raises(LocalError, match="0123: expected the id of an offered run, or its start, got 2 that begin so"):
        plans.find("0123")
    assert plans.find(RUN) == RUN


@pytest.mark.parametrize("name", ["", "4", RUN + "0"])
def test_a_name_that_is_no_start_of_an_id_finds_nothing(world: World, name: str) -> None:
    world.offer()
    with pytest.raises(LocalError, match="got none"):
        PlanStore(world.folder).find(name)


@pytest.mark.parametrize(
    "path",
    ["../x", "/etc/passwd", "a/../../x", "a//b", "./a", "", ".", "a/.", "a\x00b", "a\nb", "a\\b", "x" * 300, "a/" * 20],
)
def test_a_path_that_leaves_the_bundle_is_refused(world: World, path: str) -> None:
    table = world.offer_table(CODE, code={"mine.py": b""})
    table["code"][path] = ""
    with pytest.raises(RemoteError, match="offer"):
        decode_offer(body(table))


def test_a_plan_that_cannot_be_written_is_refused_and_not_kept(world: World) -> None:
    table = world.offer_table() | {"plan": PLAN + "# \ud800\n"}
    with pytest.raises(RemoteError, match="offer"):
        decode_offer(body(table))


@pytest.mark.parametrize("folder", ["../..", "/srv", "a/../../b", "..", "x/./y"])
def test_a_code_folder_outside_is_refused(world: World, folder: str) -> None:
    table = world.offer_table() | {"code_folder": folder}
    with pytest.raises(RemoteError, match=r"task\.code"):
        decode_offer(body(table))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("run", "../../x"),
        ("run", ".hidden"),
        ("run", "0123"),
        ("run", RUN + "0"),
        ("run", RUN.upper()),
        ("run", RUN + "\n"),
        ("run", ""),
        ("run", 5),
        ("plan_digest", "abc"),
        ("plan", None),
        ("size", -1),
        ("size", 7),
        ("size", 6.0),
        ("tensors", [4, True]),
        ("tensors", [-1, 7]),
        ("sites", []),
        ("sites", [{"name": "a\x1b[31m", "fingerprint": "0" * 64}]),
        ("sites", [{"name": "a", "fingerprint": "0" * 64}] * 2),
        ("sites", [{"name": "a", "fingerprint": ""}]),
        ("code", {"x.py": ""}),
        ("code_folder", 5),
        ("code", []),
    ],
)
def test_anything_else_is_refused(world: World, name: str, value: object) -> None:
    with pytest.raises(RemoteError):
        decode_offer(body(world.offer_table() | {name: value}))


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_in_one_line(data: bytes) -> None:
    with pytest.raises(RemoteError):
        decode_offer(data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@given(st.sampled_from(["run", "plan_digest", "plan", "code_folder", "code", "size", "tensors", "sites"]), JSON)
def test_any_field_of_another_form_is_refused_or_harmless(name: str, value: object) -> None:
    table: dict[str, Any] = {
        "run": RUN,
        "plan_digest": "0" * 64,
        "plan": PLAN,
        "code_folder": None,
        "code": {},
        "size": 6,
        "tensors": [6],
        "sites": [{"name": "a", "fingerprint": "0" * 64}],
    }
    try:
        offer = decode_offer(body(table | {name: value}))
    except RemoteError:
        return
    check_run_name(offer.run)
    assert offer.size == sum(offer.tensors)


def test_another_plan_under_the_name_of_a_known_run_is_refused(world: World) -> None:
    plans = PlanStore(world.folder)
    plans.put(decode_offer(body(world.offer_table())), NOW)
    changed = world.offer_table(PLAN.replace("rounds = 3", "rounds = 4"))
    with pytest.raises(RemoteError, match="needs a new run"):
        plans.put(decode_offer(body(changed)), NOW)
    with pytest.raises(RemoteError, match="needs a new run"):
        plans.put(decode_offer(body(world.offer_table() | {"size": 7, "tensors": [7]})), NOW)


def test_a_server_cannot_fill_the_disk_with_offers(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wardround.client.agent.plan_store._MOST_UNDECIDED", 2)
    plans = PlanStore(world.folder)
    for number in (1, 2):
        plans.put(decode_offer(body(world.offer_table(run=numbered(number)))), NOW)
    with pytest.raises(RemoteError, match=r"at most 2 offers .*deny some .wardround client plan list"):
        plans.put(decode_offer(body(world.offer_table(run=numbered(3)))), NOW)
    plans.decide(numbered(1), decision())
    assert plans.put(decode_offer(body(world.offer_table(run=numbered(3)))), NOW)


def test_nor_with_runs_that_end_before_anybody_has_decided(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """They do not keep new offers off; the newest stay to be seen, and whatever a person has decided on."""
    monkeypatch.setattr("wardround.client.agent.plan_store._MOST_UNDECIDED", 1)
    monkeypatch.setattr("wardround.client.agent.plan_store._ENDED_KEPT", 2)
    plans = PlanStore(world.folder)
    (world.folder.folder("plans") / ".tmp-killed" / "bundle").mkdir(parents=True)
    for number in range(5):
        run = numbered(number)
        assert plans.put(decode_offer(body(world.offer_table(run=run))), NOW)
        if number == 0:
            plans.decide(run, decision())
        plans.note(run, Outcome(state=RunState.ENDED))
        os.utime(world.folder.path / "plans" / run / "outcome.json", ns=(number, number))
    assert plans.put(decode_offer(body(world.offer_table(run=numbered(5)))), NOW)
    assert sorted(os.listdir(world.folder.path / "plans")) == [numbered(one) for one in (0, 3, 4, 5)]
    assert plans.find(numbered(4)) == numbered(4) and plans.decision(numbered(0)) == decision()


def decision(verdict: Verdict = Verdict.APPROVED) -> Decision:
    return Decision(verdict=verdict, plan_digest="0" * 64, by="IT", at=NOW.isoformat(), data="ehr")


def test_a_decision_is_made_once_but_an_approval_can_be_taken_back(world: World) -> None:
    world.offer()
    plans = PlanStore(world.folder)
    before = world.folder.changes()
    plans.decide(RUN, decision())
    assert plans.decision(RUN) == decision() and world.folder.changes() != before
    with pytest.raises(LocalError, match="is approved already"):
        plans.decide(RUN, decision())
    plans.decide(RUN, decision(Verdict.DENIED))
    with pytest.raises(LocalError, match="was denied"):
        plans.decide(RUN, decision())


def test_nothing_is_decided_on_a_run_that_is_over(world: World) -> None:
    world.offer()
    plans = PlanStore(world.folder)
    assert list(plans.open_runs()) == [RUN]
    plans.note(RUN, Outcome(state=RunState.ENDED, reason="over"))
    assert list(plans.open_runs()) == []
    with pytest.raises(LocalError, match="has ended"):
        plans.decide(RUN, decision())


@pytest.mark.parametrize("name", ["offer.json", "decision.json", "outcome.json"])
@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"verdict": 5, "state": 5}', b"[" * 5000])
def test_a_damaged_file_is_named(world: World, name: str, data: bytes) -> None:
    world.offer()
    world.folder.write(f"plans/{RUN}/{name}", data)
    plans = PlanStore(world.folder)
    read = {"offer.json": plans.offer, "decision.json": plans.decision, "outcome.json": plans.outcome}[name]
    with pytest.raises(LocalError, match=f"{name}: (is damaged|expected what this site has decided)"):
        read(RUN)
