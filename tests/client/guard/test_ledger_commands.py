import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from wardround.client.guard.ledger import Ledger
from wardround.client.guard.ledger_commands import app
from wardround.errors import LocalError, WardroundError
from wardround.plan_privacy import Relation, Unit
from wardround.strategies.privacy.books import JobCharge
from wardround.strategies.privacy.events import Gaussian

CAPS = ("--epsilon", "3", "--delta", "1e-5")


def run(*arguments: object) -> str:
    """Standard output of a command that works; raises what it raises, which the program shows in one line."""
    result = CliRunner().invoke(app, ["ledger", *map(str, arguments)], terminal_width=160)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def refused(*arguments: object) -> str:
    with pytest.raises(WardroundError) as caught:
        run(*arguments)
    return str(caught.value)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "patients.csv"
    path.write_text("age\n50\n")
    return path


@pytest.fixture
def path(tmp_path: Path, data: Path) -> Path:
    (tmp_path / "ledgers").mkdir()
    path = tmp_path / "ledgers" / "clinic.ledger"
    run("create", path, "--name", "clinic", *CAPS, "--data", data)
    return path


def reserve(path: Path, job: str = "run-1", started: int = 2) -> None:
    event = Gaussian(noise_std=20.0, sensitivity=1.0, relation=Relation.ADD_REMOVE)
    charge = JobCharge(
        job=job,
        plan_digest="0123456789abcdef",
        unit=Unit.PATIENT,
        once=(),
        per_round=(event,),
        rounds=5,
        whole=False,
        delta=1e-6,
    )
    ledger = Ledger.open(path)
    ledger.reserve(charge)
    for number in range(started):
        ledger.start_round(job, 1 + number)


def shown(path: Path) -> dict[str, Any]:
    table: dict[str, Any] = json.loads(run("show", path, "--json"))
    return table


def test_create_makes_a_ledger_that_takes_jobs_of_any_relation(path: Path, data: Path) -> None:
    account = Ledger.open(path).account()
    assert (account.books.epsilon, account.books.delta) == (3.0, 1e-5)
    assert (account.books.unit, account.books.relation) == (Unit.PATIENT, Relation.REPLACE_ONE)
    assert account.digests == (hashlib.sha256(data.read_bytes()).hexdigest(),)


def test_create_says_which_population_it_made(tmp_path: Path, data: Path) -> None:
    path = tmp_path / "ward.ledger"
    told = run("create", path, "--name", "ward", *CAPS, "--data", data, "--unit", "row", "--relation", "add-remove")
    assert told == f"{path}: population {Ledger.open(path).population}, epsilon 3 at delta 1e-05\n"


def test_create_refuses_a_second_ledger_of_the_same_data(path: Path, data: Path) -> None:
    other = path.with_name("again.ledger")
    told = refused("create", other, "--name", "again", *CAPS, "--data", data, "--disjoint", "they are not")
    assert "population clinic has these data already, and their spending" in told
    assert not other.exists()


def test_create_refuses_a_ledger_beside_another_without_the_reason_why_they_are_disjoint(
    path: Path, tmp_path: Path
) -> None:
    data = tmp_path / "others.csv"
    data.write_text("age\n60\n")
    other = path.with_name("ward.ledger")
    command = ("create", other, "--name", "ward", *CAPS, "--data", data)
    assert "has ledgers of clinic: expected --disjoint with the reason" in refused(*command)
    assert not other.exists()
    run(*command, "--disjoint", "another building", "--by", "Ada")
    for one, name in ((path, "ward"), (other, "clinic")):
        (found,) = shown(one)["disjoint"]
        assert (found["name"], found["by"], found["reason"]) == (name, "Ada", "another building")


def test_create_refuses_a_name_by_which_it_would_not_be_found(tmp_path: Path, data: Path) -> None:
    told = refused("create", tmp_path / "clinic.json", "--name", "clinic", *CAPS, "--data", data)
    assert "expected a name that ends in .ledger" in told


def test_create_refuses_caps_that_are_none(tmp_path: Path, data: Path) -> None:
    told = refused(
        "create", tmp_path / "x.ledger", "--name", "x", "--epsilon", "inf", "--delta", "1e-5", "--data", data
    )
    assert "expected a finite epsilon above 0" in told


def test_show_tells_the_caps_what_is_spent_and_left_every_book_and_every_job(path: Path) -> None:
    reserve(path)
    told = run("show", path)
    ledger = Ledger.open(path)
    assert "cap     epsilon 3 at delta 1e-05 for every patient, replace-one" in told
    assert f"spent   {ledger.spent().epsilon:.4g} at delta" in told
    assert f"left    {ledger.remaining():.4g}" in told
    for word in (
        "basic composition",
        "Gaussian DP",
        "RDP of order",
        "run-1",
        "0123456789",
        "2 of 5",
        "open ones count in full",
    ):
        assert word in told


def test_show_as_json_is_what_the_ledger_says(path: Path) -> None:
    reserve(path)
    table, ledger = shown(path), Ledger.open(path)
    assert table["cap"] == {"epsilon": 3.0, "delta": 1e-5}
    assert table["spent"]["epsilon"] == ledger.spent().epsilon
    assert table["remaining"] == ledger.remaining()
    assert [book["fits"] for book in table["books"]] == [True] * 5
    (job,) = table["jobs"]
    assert (job["job"], job["begun"], job["rounds"], job["closed"]) == ("run-1", 2, 5, False)
    assert job["accountant"] == "Gaussian DP"


def test_show_says_that_a_job_without_privacy_ended_the_budget(path: Path) -> None:
    Ledger.open(path).record_unprotected("clear", "digest", "the board\x1b[31m said so")
    told = run("show", path)
    assert "job clear ran without differential privacy" in told
    assert "\x1b[31m" not in told
    assert "spent   infinite" in told
    table = shown(path)
    assert (table["spent"]["epsilon"], table["remaining"]) == (None, 0.0)


def test_a_job_whose_name_looks_like_markup_is_shown_as_it_is(path: Path) -> None:
    reserve(path, "[red]run")
    assert "[red]run" in run("show", path)


def test_verify_tells_the_head_and_what_it_cannot_see(path: Path) -> None:
    reserve(path)
    lines, digest = Ledger.open(path).head
    told = run("verify", path)
    assert f"{lines} lines, all as they were written, the last is {digest}" in told
    assert "without --anchor an older copy of it would pass too" in told


def test_verify_names_the_line_that_was_changed(path: Path) -> None:
    reserve(path)
    path.write_text(path.read_text().replace('"round":2', '"round":3'))
    assert "line 4: expected what was written" in refused("verify", path)
    assert "line 4:" in refused("show", path)


def test_verify_with_the_anchor_finds_an_older_copy(tmp_path: Path, data: Path) -> None:
    path, anchor = tmp_path / "clinic.ledger", tmp_path / "away" / "anchor"
    anchor.parent.mkdir()
    run("create", path, "--name", "clinic", *CAPS, "--data", data, "--anchor", anchor)
    other = tmp_path / "ward.csv"
    other.write_text("1")
    told = run("verify", path, "--anchor", anchor)
    assert "older copy" not in told
    older = path.read_bytes()
    run("create", tmp_path / "w.ledger", "--name", "w", *CAPS, "--data", other, "--disjoint", "because", "--by", "Ada")
    run("verify", path, "--anchor", anchor)
    path.write_bytes(older)
    run("verify", path)
    assert "an older copy was restored" in refused("verify", path, "--anchor", anchor)


def test_an_anchor_beside_its_ledger_is_refused(path: Path) -> None:
    told = refused("verify", path, "--anchor", path.with_name("anchor"))
    assert "expected a folder other than the ledger's" in told


def test_declare_disjoint_is_in_both_ledgers(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "ward.ledger"
    Ledger.create(
        other, name="ward", unit=Unit.PATIENT, relation=Relation.ADD_REMOVE, epsilon=1.0, delta=1e-5, digest="other"
    )
    told = run("declare-disjoint", path, other, "--reason", "another city", "--by", "Ada")
    assert told == "clinic and ward are declared disjoint\n"
    assert shown(path)["disjoint"][0]["name"] == "ward"
    assert shown(other)["disjoint"][0] == {
        "population": Ledger.open(path).population,
        "name": "clinic",
        "by": "Ada",
        "reason": "another city",
    }
    assert "ward" in run("show", path)


def test_close_frees_what_a_job_never_began(path: Path) -> None:
    reserve(path)
    before = Ledger.open(path).account().total.gaussian
    assert run("close", path, "run-1").startswith("closed;")
    assert Ledger.open(path).account().total.gaussian == pytest.approx(before * 2 / 5)
    assert "expected a job that has reserved" in refused("close", path, "run-2")


def test_a_missing_ledger_is_an_error_in_words(tmp_path: Path) -> None:
    assert "cannot be opened (No such file or directory)" in refused("show", tmp_path / "none.ledger")


def test_a_user_without_a_name_must_give_one(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nameless() -> str:
        raise KeyError("uid")

    monkeypatch.setattr("getpass.getuser", nameless)
    other = path.with_name("w.ledger")
    Ledger.create(
        other, name="w", unit=Unit.PATIENT, relation=Relation.ADD_REMOVE, epsilon=1.0, delta=1e-5, digest="other"
    )
    with pytest.raises(LocalError, match="expected --by NAME"):
        run("declare-disjoint", path, other, "--reason", "because")


def test_the_commands_load_no_numpy_before_one_runs() -> None:
    program = "import wardround.client.guard.ledger_commands, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not {"numpy", "torch", "flwr"} & set(done.stdout.split())
