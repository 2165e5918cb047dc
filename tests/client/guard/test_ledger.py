import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from wardround.client.guard.ledger import BudgetError, Ledger, LedgerError
from wardround.errors import LocalError
from wardround.plan_privacy import Relation, Unit
from wardround.strategies.privacy.accounting import epsilon_of
from wardround.strategies.privacy.books import JobCharge
from wardround.strategies.privacy.events import Event, Gaussian, PoissonGaussian

ADD_REMOVE, REPLACE_ONE = Relation.ADD_REMOVE, Relation.REPLACE_ONE


def gaussian(noise: float, count: int = 1) -> Gaussian:
    return Gaussian(noise_std=noise, sensitivity=1.0, relation=ADD_REMOVE, count=count)


def charge(
    job: str = "run-1", noise: float = 20.0, rounds: int = 20, *, once: Sequence[Event] = (), whole: bool = False
) -> JobCharge:
    return JobCharge(
        job=job,
        plan_digest="digest",
        unit=Unit.PATIENT,
        once=tuple(once),
        per_round=(gaussian(noise),),
        rounds=rounds,
        whole=whole,
        delta=1e-6,
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "population.ledger"


@pytest.fixture
def ledger(path: Path) -> Ledger:
    return create(path)


def create(path: Path, epsilon: float = 3.0, relation: Relation = ADD_REMOVE, unit: Unit = Unit.PATIENT) -> Ledger:
    return Ledger.create(
        path, name="clinic", unit=unit, relation=relation, epsilon=epsilon, delta=1e-5, digest="data-1"
    )


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_new_ledger_has_spent_nothing_and_keeps_its_constants(ledger: Ledger, path: Path) -> None:
    spent = ledger.spent()
    assert (spent.epsilon, spent.cap_epsilon, spent.cap_delta) == (0.0, 3.0, 1e-5)
    assert (spent.unit, spent.relation) == (Unit.PATIENT, ADD_REMOVE)
    assert 2.7 < ledger.remaining() < 3.0
    again = Ledger.open(path)
    assert (again.population, again.name) == (ledger.population, "clinic")
    assert len(ledger.population) == 32
    assert again.account() == ledger.account()
    assert again.account().digests == ("data-1",)


def test_two_populations_have_different_ids(tmp_path: Path) -> None:
    assert create(tmp_path / "a.ledger").population != create(tmp_path / "b.ledger").population


def test_a_reservation_counts_in_full_until_it_is_closed(ledger: Ledger) -> None:
    ledger.reserve(charge(rounds=20))
    full = ledger.spent()
    books = {standing.book: standing.epsilon for standing in full.books}
    basic = epsilon_of([gaussian(20.0, 20)], 1e-6).epsilon
    assert books["basic composition"] == basic
    assert books["Gaussian DP"] == pytest.approx(epsilon_of([gaussian(20.0, 20)], 2.5e-6).epsilon)
    assert full.epsilon == min(books.values())
    for number in (1, 2, 3):
        ledger.start_round("run-1", number)
        assert ledger.spent() == full
    ledger.close("run-1")
    after = {standing.book: standing.epsilon for standing in ledger.spent().books}
    assert after["Gaussian DP"] == pytest.approx(epsilon_of([gaussian(20.0, 3)], 2.5e-6).epsilon)
    assert after["basic composition"] == basic


def test_every_attempt_at_a_round_is_charged(ledger: Ledger) -> None:
    ledger.reserve(charge(rounds=3))
    for number in (1, 1, 2):
        ledger.start_round("run-1", number)
    with pytest.raises(BudgetError, match="may not begin round 3: it has begun all that it reserved of 3 rounds"):
        ledger.start_round("run-1", 3)
    assert ledger.account().jobs["run-1"].started == (1, 1, 2)


def test_a_job_that_fits_no_book_is_refused_and_nothing_is_written(ledger: Ledger, path: Path) -> None:
    ledger.reserve(charge("small"))
    before = path.read_bytes()
    with pytest.raises(BudgetError) as caught:
        ledger.reserve(charge("large", noise=2.0))
    message = str(caught.value)
    asked = epsilon_of([gaussian(2.0, 20)], 7.5e-7).epsilon
    assert f"job large asks for epsilon {asked:.4g} at delta 7.5e-07, and of epsilon 3, delta 1e-05" in message
    assert f"for population clinic at most {ledger.remaining():.4g} is left" in message
    assert "basic composition" in message
    assert path.read_bytes() == before
    assert "large" not in ledger.account().jobs


def test_a_job_that_has_reserved_nothing_may_begin_nothing(ledger: Ledger) -> None:
    """What deleting the line that reserves comes to."""
    with pytest.raises(LocalError, match="expected a job that has reserved, got 'run-1'"):
        ledger.start_round("run-1", 1)
    with pytest.raises(LocalError, match="expected a job that has reserved"):
        ledger.close("run-1")


def test_a_ledger_whose_reserve_line_was_deleted_is_refused(ledger: Ledger, path: Path) -> None:
    ledger.reserve(charge())
    ledger.start_round("run-1", 1)
    kept = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(kept[0] + kept[2])
    with pytest.raises(LedgerError, match="line 2:"):
        Ledger.open(path)


def test_a_chain_that_is_whole_but_has_no_reserve_line_is_refused(ledger: Ledger, path: Path) -> None:
    """Hashes can be made by anyone who has the file; what the lines say must still follow."""
    ledger.reserve(charge())
    ledger.start_round("run-1", 1)
    entries = [{k: v for k, v in line.items() if k not in ("prev", "hash")} for line in lines(path)]
    write_chain(path, [entries[0], entries[2]])
    with pytest.raises(LedgerError, match="line 2: expected a round that is reserved, got run-1"):
        Ledger.open(path)


def write_chain(path: Path, entries: Sequence[dict[str, object]]) -> None:
    previous, text = "0" * 64, ""
    for entry in entries:
        body = json.dumps({"prev": previous, **entry})[:-1]
        previous = hashlib.sha256(body.encode()).hexdigest()
        text += f'{body},"hash":"{previous}"}}\n'
    path.write_text(text)


@pytest.mark.parametrize(
    ("number", "change", "why"),
    [
        (1, {"entry": "reserve"}, "expected a ledger of version 1"),
        (1, {"ledger": {"v": 2}}, "expected a ledger of version 1"),
        (1, {"ledger": None}, "expected the first line of a ledger"),
        (2, {"entry": "open"}, "expected an entry of reserve, start, close"),
        (2, {"entry": "raise the cap"}, "expected an entry of"),
        (2, {"charge": {}}, "charge: expected exactly the keys"),
        (2, {"cost": {}}, "expected an entry of this program"),
        (2, {"cost": {"once": {"rdp": []}, "per_round": {}, "accountant": ""}}, "expected a cost at 3 orders, got 0"),
        (2, {"anchored": -1}, "expected the number of an anchored line"),
        (2, {"anchored": "1"}, "expected the number of an anchored line"),
        (3, {"job": "other"}, "expected a round that is reserved, got other, round 1"),
        (3, {"round": -1}, "expected a round of at least 0"),
        (3, {"round": True}, "expected a round of at least 0"),
        (4, {"job": "other"}, "expected an open job, got other"),
    ],
)
def test_a_whole_chain_that_does_not_make_sense_is_refused_with_the_line(
    ledger: Ledger, path: Path, number: int, change: dict[str, object], why: str
) -> None:
    ledger.reserve(charge())
    ledger.start_round("run-1", 1)
    ledger.close("run-1")
    entries = [{k: v for k, v in line.items() if k not in ("prev", "hash")} for line in lines(path)]
    write_chain(path, entries)
    Ledger.open(path)
    entries[number - 1] |= change
    write_chain(path, entries)
    with pytest.raises(LedgerError, match=f"line {number}: {why}"):
        Ledger.open(path)


@pytest.mark.parametrize("bad", [-1.0, "1", True])
def test_a_cost_that_is_none_is_refused(ledger: Ledger, path: Path, bad: object) -> None:
    ledger.reserve(charge())
    entries = [{k: v for k, v in line.items() if k not in ("prev", "hash")} for line in lines(path)]
    entries[1]["cost"]["once"]["gaussian"] = bad  # type: ignore[index]
    write_chain(path, entries)
    with pytest.raises(LedgerError, match="line 2: expected a cost of at least 0"):
        Ledger.open(path)


def test_a_job_goes_on_after_a_crash_with_the_rounds_that_it_has_left(ledger: Ledger, path: Path) -> None:
    ledger.reserve(charge(rounds=3))
    ledger.start_round("run-1", 1)
    spent = ledger.spent()
    again = Ledger.open(path)
    size = path.stat().st_size
    again.reserve(charge(rounds=3))
    assert path.stat().st_size == size
    assert again.spent() == spent
    again.start_round("run-1", 2)
    again.start_round("run-1", 3)
    with pytest.raises(BudgetError):
        again.start_round("run-1", 4)


def test_a_job_that_asks_for_something_else_under_its_name_is_refused(ledger: Ledger) -> None:
    ledger.reserve(charge())
    with pytest.raises(LocalError, match="job run-1 has reserved something else; take a new name"):
        ledger.reserve(charge(rounds=21))
    ledger.close("run-1")
    with pytest.raises(LocalError, match="job run-1 is closed; take a new name"):
        ledger.reserve(charge())
    with pytest.raises(BudgetError, match="may not begin round 1: it is closed"):
        ledger.start_round("run-1", 1)


def test_closing_twice_is_once(ledger: Ledger, path: Path) -> None:
    ledger.reserve(charge())
    ledger.close("run-1")
    size = path.stat().st_size
    ledger.close("run-1")
    assert path.stat().st_size == size


def test_what_closing_frees_another_job_may_take(ledger: Ledger) -> None:
    ledger.reserve(charge("first", noise=8.0, rounds=25))
    with pytest.raises(BudgetError):
        ledger.reserve(charge("second", noise=8.0, rounds=25))
    ledger.start_round("first", 1)
    ledger.close("first")
    ledger.reserve(charge("second", noise=8.0, rounds=22))


def test_what_is_released_before_the_first_round_is_spent_from_the_reservation_on_and_begins_once(
    ledger: Ledger,
) -> None:
    ledger.reserve(charge(once=[gaussian(10.0)], rounds=2))
    ledger.start_round("run-1", 0)
    with pytest.raises(
        BudgetError, match="may not begin round 0: it has begun all that it reserved of what is released"
    ):
        ledger.start_round("run-1", 0)
    ledger.start_round("run-1", 1)
    ledger.start_round("run-1", 2)
    with pytest.raises(BudgetError):
        ledger.start_round("run-1", 3)
    ledger.reserve(charge("no round", once=[gaussian(10.0)]))
    ledger.close("no round")
    cost = ledger.account().jobs["no round"].spent
    assert cost.gaussian == pytest.approx(1 / 100)


def test_a_job_without_anything_before_the_first_round_has_no_round_0(ledger: Ledger) -> None:
    ledger.reserve(charge())
    with pytest.raises(BudgetError, match="may not begin round 0"):
        ledger.start_round("run-1", 0)
    with pytest.raises(LocalError, match="expected a round of at least 0, got -1"):
        ledger.start_round("run-1", -1)


def test_a_job_that_counts_as_a_whole_costs_all_of_it_from_the_first_round_on(ledger: Ledger) -> None:
    ledger.reserve(charge(noise=5.0, whole=True))
    full = ledger.account().total
    ledger.start_round("run-1", 1)
    ledger.close("run-1")
    assert ledger.account().total == full
    assert full.gaussian == pytest.approx(1 / 25)


def test_a_job_without_privacy_ends_the_budget_for_ever(ledger: Ledger, path: Path) -> None:
    ledger.reserve(charge("before"))
    ledger.record_unprotected("clear", "digest", "the board said so")
    assert math.isinf(ledger.spent().epsilon)
    assert ledger.remaining() == 0.0
    why = r"job clear ran without differential privacy.*infinite for ever"
    with pytest.raises(BudgetError, match=why):
        ledger.reserve(charge("after", noise=1e6))
    with pytest.raises(BudgetError, match=why):
        ledger.start_round("before", 1)
    size = path.stat().st_size
    ledger.record_unprotected("clear", "digest", "the board said so")
    assert path.stat().st_size == size
    with pytest.raises(BudgetError):
        Ledger.open(path).reserve(charge("later", noise=1e6))


def test_changed_data_inherit_the_spending(ledger: Ledger) -> None:
    ledger.reserve(charge())
    spent = ledger.spent()
    ledger.admit_data("data-2")
    ledger.admit_data("data-1")
    assert ledger.account().digests == ("data-1", "data-2")
    assert ledger.spent() == spent


def test_a_declaration_that_populations_are_disjoint_is_in_both_ledgers(tmp_path: Path) -> None:
    here, there = create(tmp_path / "a.ledger"), create(tmp_path / "b.ledger")
    here.declare_disjoint(there, by="Ada", reason="other hospital, other city")
    for one, other in ((here, there), (there, here)):
        (found,) = one.account().disjoint
        assert (found.population, found.by, found.reason) == (other.population, "Ada", "other hospital, other city")
    before = here.head
    here.declare_disjoint(there, by="Ada", reason="again")
    assert here.head == before


def test_a_declaration_that_a_crash_left_in_one_ledger_is_completed(tmp_path: Path) -> None:
    here, there = create(tmp_path / "a.ledger"), create(tmp_path / "b.ledger")
    before = (tmp_path / "b.ledger").read_bytes()
    here.declare_disjoint(there, by="Ada", reason="other hospital")
    (tmp_path / "b.ledger").write_bytes(before)
    Ledger.open(tmp_path / "a.ledger").declare_disjoint(
        Ledger.open(tmp_path / "b.ledger"), by="Ada", reason="other hospital"
    )
    assert len(here.account().disjoint) == 1
    assert len(Ledger.open(tmp_path / "b.ledger").account().disjoint) == 1


@pytest.mark.parametrize(("by", "reason"), [("", "because"), ("Ada", " "), ("Ada", "x" * 1001)])
def test_a_declaration_without_a_name_or_a_reason_is_refused(tmp_path: Path, by: str, reason: str) -> None:
    here, there = create(tmp_path / "a.ledger"), create(tmp_path / "b.ledger")
    with pytest.raises(LocalError, match=r"expected a (name|reason) of 1 to 1000 letters"):
        here.declare_disjoint(there, by=by, reason=reason)
    assert here.account().disjoint == there.account().disjoint == ()


def test_a_population_is_not_disjoint_from_itself(ledger: Ledger, path: Path) -> None:
    with pytest.raises(LocalError, match="expected another population"):
        ledger.declare_disjoint(Ledger.open(path), by="Ada", reason="because")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"unit": Unit.ROW}, "expected a job that hides a patient"),
        ({"unit": Unit.CLIENT}, "expected a job that hides a patient"),
        (
            {"per_round": (replace(gaussian(20.0), relation=REPLACE_ONE),)},
            "expected a job whose relation bounds add-remove",
        ),
    ],
)
def test_a_job_that_says_nothing_about_this_population_is_refused(
    ledger: Ledger, change: dict[str, object], why: str
) -> None:
    with pytest.raises(LocalError, match=f"job run-1: {why}"):
        ledger.reserve(replace(charge(), **change))  # type: ignore[arg-type]
    assert ledger.account().jobs == {}


@pytest.mark.parametrize(
    ("epsilon", "delta"), [(0.0, 1e-5), (math.nan, 1e-5), (math.inf, 1e-5), (1.0, 0.0), (1.0, 1.0)]
)
def test_caps_that_are_none_make_no_ledger(path: Path, epsilon: float, delta: float) -> None:
    with pytest.raises(LocalError, match="expected"):
        Ledger.create(
            path, name="clinic", unit=Unit.ROW, relation=ADD_REMOVE, epsilon=epsilon, delta=delta, digest="data"
        )
    assert not path.exists()


def test_a_ledger_is_never_made_anew(ledger: Ledger, path: Path) -> None:
    ledger.reserve(charge())
    with pytest.raises(LedgerError, match="expected no file"):
        create(path, epsilon=1000.0)
    assert Ledger.open(path).spent() == ledger.spent()


def test_what_was_charged_does_not_depend_on_the_accountant_that_reads_it(
    ledger: Ledger, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampled = PoissonGaussian(noise_std=2.0, sensitivity=1.0, relation=ADD_REMOVE, rate=0.01, count=50)
    ledger.reserve(replace(charge(), per_round=(sampled,)))
    spent = ledger.spent()
    monkeypatch.setattr("wardround.strategies.privacy.books.epsilon_of", None)
    monkeypatch.setattr("wardround.strategies.privacy.books.rdp_of", None)
    assert Ledger.open(path).spent() == spent


def test_verify_finds_a_charge_that_is_less_than_its_cost(ledger: Ledger, path: Path) -> None:
    ledger.reserve(charge())
    ledger.verify()
    entries = [{k: v for k, v in line.items() if k not in ("prev", "hash")} for line in lines(path)]
    entries[1]["cost"]["per_round"]["gaussian"] = 1e-9  # type: ignore[index]
    write_chain(path, entries)
    with pytest.raises(LedgerError, match="job run-1 was charged less than it costs"):
        Ledger.open(path).verify()


def test_an_infinite_cost_is_written_in_plain_json(ledger: Ledger, path: Path) -> None:
    sampled = PoissonGaussian(noise_std=2.0, sensitivity=1.0, relation=ADD_REMOVE, rate=0.01, count=50)
    ledger.reserve(replace(charge(), per_round=(sampled,)))
    assert "Infinity" not in path.read_text()
    assert math.isinf(Ledger.open(path).account().total.gaussian)
