"""Withdrawals: hashes and never ids, for good, and rows that are used no more."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tests.client.agent.site_world import NOW, RUN, FakeJob, World, plan_text, write_table
from tests.client.agent.test_site_run import PRIVATE
from wardround.client.agent import data_registry, withdrawals
from wardround.client.agent.confined_jobs import ConfinedJobs
from wardround.client.agent.data_registry import DataRegistry, DataSet
from wardround.client.agent.departure import depart
from wardround.client.agent.site_folder import SiteFolder
from wardround.client.agent.site_job import SiteJob
from wardround.client.agent.site_log import open_log
from wardround.client.agent.site_run import SiteRun, finish_run
from wardround.client.agent.withdrawals import Withdrawals
from wardround.client.data.schema import parse_schema
from wardround.client.data.site_data import Rows, SiteData
from wardround.client.data.splits import split_rows
from wardround.client.data.validate_file import validate_file
from wardround.client.data.validation import hash_of_id
from wardround.client.job.job_process import JobProcess
from wardround.client.trainer.private_sample import Units
from wardround.errors import LocalError
from wardround.frames import decode_frame
from wardround.link.messages import Fault
from wardround.orders import SiteId
from wardround.plan import Plan, parse_plan
from wardround.plan_privacy import Unit
from wardround.strategies.privacy.secure_random import SecureRandom
from wardround.strategies.privacy.terms import site_terms

SCHEMA = """
patient = "id"
min_rows = 10
[[columns]]
name = "id"
type = "integer"
identifier = true
identifier_use = "hash"
[[columns]]
name = "age"
type = "integer"
range = [0, 100]
[[columns]]
name = "dose"
type = "number"
range = [0, 10]
[[columns]]
name = "sick"
type = "boolean"
"""


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World.make(tmp_path)


def register(
    world: World, text: str = SCHEMA, *, epsilon: float | None = None, name: str = "ehr", seed: int = 1
) -> DataSet:
    registry, schema = DataRegistry(world.folder), parse_schema(text.encode())
    path = write_table(world.path / f"{name}.csv", seed=seed)
    found = registry.add(path, name, NOW, schema=schema, report=validate_file(schema, path))
    if epsilon is not None:
        registry.make_ledger(found, epsilon=epsilon, delta=1e-5, unit=Unit.ROW, by="IT", disjoint=None)
    return found


def withdraw(world: World, *ids: str, population: str = "ehr") -> None:
    kept = Withdrawals(world.folder)
    kept.add(population, [hash_of_id(kept.key(), one) for one in ids])


def bind(world: World, *settings: str, epsilon: float | None = None) -> tuple[Plan, DataSet]:
    plan, data = world.offer(plan_text(*settings)), register(world, epsilon=epsilon)
    world.approve(data)
    return plan, data


# -- what is kept --------------------------------------------------------------------------------------


def test_hashes_are_kept_and_no_id(world: World) -> None:
    registry, data = DataRegistry(world.folder), register(world)
    key = registry.withdrawals.key()
    hashes = [hash_of_id(key, one) for one in ("patient-4711", " patient-4711 ", "patient-0815")]
    assert registry.withdraw(data, hashes) == 2 and registry.withdraw(data, hashes) == 0
    assert len(registry.withdrawals.hashes("ehr")) == 2 and registry.withdrawals.hashes("other") == ()
    for path in world.folder.path.rglob("*"):
        if path.is_file():
            assert b"patient-" not in path.read_bytes() and path.stat().st_mode & 0o077 == 0


def test_a_lost_or_damaged_key_is_not_replaced(world: World) -> None:
    withdraw(world, "1")
    (world.folder.path / "withdrawn" / "id-key").unlink()
    with pytest.raises(LocalError, match="hashed under it; restore it"):
        Withdrawals(world.folder).key()
    world.folder.write("withdrawn/id-key", b"short")
    with pytest.raises(LocalError, match="expected 32 bytes"):
        Withdrawals(world.folder).key()
    world.folder.write("withdrawn/ehr.json", b'{"version": 1, "hashes": ["zz"]}')
    with pytest.raises(LocalError, match="expected what was withdrawn"):
        Withdrawals(world.folder).hashes("ehr")


def test_a_key_that_another_process_made_meanwhile_is_kept(world: World) -> None:
    def slow(size: int) -> bytes:
        world.folder.write("withdrawn/id-key", b"o" * size)
        return b"m" * size

    assert Withdrawals(world.folder, slow).key() == b"o" * 32
    assert [path.name for path in (world.folder.path / "withdrawn").iterdir()] == ["id-key"]


def test_withdrawals_outlive_the_membership_in_a_federation(world: World) -> None:
    withdraw(world, "1")
    before = Withdrawals(world.folder).key()
    depart(world.folder, lambda: None, lambda: NOW)
    assert (world.folder.path / "withdrawn" / "id-key").read_bytes() == before
    assert (world.folder.path / "withdrawn" / "ehr.json").exists()


def test_data_sets_of_one_population_share_budget_and_withdrawals(world: World) -> None:
    text = 'population = "cardio"\n' + SCHEMA
    register(world, text, epsilon=3.0)
    second, registry = register(world, text, name="later", seed=2), DataRegistry(world.folder)
    assert registry.ledger_path("ehr") == registry.ledger_path("later")
    assert list(registry.ledgers()) == ["cardio"] and registry.has_ledger("later")
    with pytest.raises(LocalError, match="has a budget already"):
        registry.make_ledger(second, epsilon=9, delta=1e-5, unit=Unit.ROW, by="IT", disjoint="because")
    withdraw(world, "1", population="cardio")
    registry.purge("ehr")
    assert len(registry.withdrawals.hashes(second.population)) == 1
    registry.purge("later")
    assert registry.withdrawals.hashes("cardio") == () and list(registry.ledgers()) == ["cardio"]


def test_nobody_leaves_a_budget_behind_under_another_population(world: World) -> None:
    fresh = 'population = "fresh"\n' + SCHEMA
    register(world, epsilon=3.0)
    with pytest.raises(LocalError, match="belongs to 'ehr', with the budget"):
        register(world, fresh)
    with pytest.raises(LocalError, match="expected population 'ehr', whose budget and withdrawals are kept"):
        register(world, fresh, seed=2)


# -- rows ----------------------------------------------------------------------------------------------


def split(plan: Plan, withdrawn: list[int]) -> SiteData:
    rows = Rows(np.arange(60, dtype=np.float32).reshape(30, 2), np.arange(30, dtype=np.int64) % 2)
    mask = np.isin(np.arange(30), withdrawn)
    return split_rows(plan, SiteId("A"), rows, np.arange(30, dtype=np.int64) // 2, mask)


@pytest.mark.parametrize("settings", [(), PRIVATE])
def test_who_withdraws_moves_no_other_row(settings: tuple[str, ...]) -> None:
    plan = parse_plan(plan_text(*settings)).override(('data.patient="id"',))
    whole, left = split(plan, []), split(plan, [4, 5, 20])
    gone = {float(2 * row) for row in (4, 5, 20)}
    for before, after in ((whole.train, left.train), (whole.validation, left.validation), (whole.test, left.test)):
        assert [x for x in before.x[:, 0].tolist() if x not in gone] == after.x[:, 0].tolist()
    assert left.gone_rows == len(whole.train) - len(left.train)
    assert whole.patients is not None and left.patients is not None
    assert left.gone_patients == whole.patients.max() - left.patients.max()


@pytest.mark.parametrize("unit", ["row", "patient"])
def test_others_are_drawn_as_often_as_was_charged(unit: str) -> None:
    """Privacy is charged by the sampling rate: fewer rows must not mean that each is drawn more often."""
    text = plan_text(*(one for one in PRIVATE if "unit" not in one), f'privacy.unit="{unit}"', 'data.patient="id"')
    plan = parse_plan(text).override(("privacy.max_rows=2",) if unit == "patient" else ())
    whole, left = split(plan, []), split(plan, list(range(0, 20)))
    before, after = Units.of(plan, whole), Units.of(plan, left)
    assert len(before) == len(after) and len(after.rows) == len(left.train) < len(whole.train)
    terms = site_terms(plan, len(after))
    assert terms == site_terms(plan, len(before))
    drawn = np.concatenate([after.draw(terms, SecureRandom(bytes([number]) * 32)) for number in range(200)])
    assert set(drawn) <= set(range(len(left.train)))
    assert len(drawn) / 200 < 1.3 * terms.rate * len(left.train)


# -- runs ----------------------------------------------------------------------------------------------


def test_a_running_job_is_begun_again_before_its_next_order(world: World) -> None:
    plan, _ = bind(world)
    made: list[FakeJob] = []

    def jobs(run: str, plan: Plan, data: DataSet) -> SiteJob:
        made.append(FakeJob())
        return made[-1]

    run = SiteRun(world.folder, RUN, jobs, now=lambda: NOW)
    assert run.answer(*world.train(plan, 1)).fault is Fault.NONE
    assert run.answer(*world.train(plan, 2)).fault is Fault.NONE
    assert len(made) == 1
    withdraw(world, "3")
    assert run.answer(*world.train(plan, 3)).fault is Fault.NONE
    assert len(made) == 2 and made[0].closed and made[1].asked == ["describe", "fit"]


def test_a_withdrawal_changes_nothing_of_what_a_private_run_was_charged(world: World) -> None:
    plan, _ = bind(world, *PRIVATE, epsilon=10.0)
    run = SiteRun(world.folder, RUN, ConfinedJobs(world.folder, allow_unconfined=True), now=lambda: NOW)
    try:
        units = run.prepare()
        assert run.answer(*world.train(plan, 1)).fault is Fault.NONE
        ledger = DataRegistry(world.folder).ledger("ehr")
        assert ledger is not None
        charged = ledger.account().jobs[RUN].charge
        withdraw(world, *map(str, range(20)))
        assert run.answer(*world.train(plan, 2)).fault is Fault.NONE
        assert run.prepare() == units
        account = ledger.account().jobs[RUN]
        assert account.charge == charged and account.started == (1, 2)
    finally:
        run.close()


def test_a_real_job_reads_without_them_and_refuses_too_few(world: World) -> None:
    plan, data = bind(world)
    job = ConfinedJobs(world.folder, allow_unconfined=True)(RUN, plan, data)
    assert isinstance(job, JobProcess)
    try:
        whole = job.describe()
        job.interrupt()
        withdraw(world, *map(str, range(0, 60, 3)))
        left = job.describe()
        assert (whole.rows, left.rows, left.train) == (60, 40, whole.train)
        job.interrupt()
        withdraw(world, *map(str, range(55)))
        with pytest.raises(LocalError, match=r"expected at least 10 good rows \(min_rows\), got 4"):
            job.describe()
    finally:
        job.close()


def test_a_real_run_learns_from_fewer_rows(world: World) -> None:
    plan, _ = bind(world)
    run = SiteRun(world.folder, RUN, ConfinedJobs(world.folder, allow_unconfined=True), now=lambda: NOW)
    try:
        first = decode_frame(bytes(run.answer(*world.train(plan, 1)).frame))
        withdraw(world, *map(str, range(0, 60, 2)))
        second = decode_frame(bytes(run.answer(*world.train(plan, 2)).frame))
    finally:
        run.close()
    assert 0 < second.weight < first.weight


def test_a_schema_that_was_changed_needs_a_new_approval(world: World) -> None:
    bind(world)
    register(world, SCHEMA.replace("[0, 10]", "[0, 11]"))
    with pytest.raises(LocalError, match="have changed since the run was approved"):
        SiteRun(world.folder, RUN, lambda *_: FakeJob(), now=lambda: NOW).prepare()


def test_purging_waits_for_runs_and_takes_what_their_jobs_printed(world: World) -> None:
    bind(world, epsilon=3.0)
    registry = DataRegistry(world.folder)
    printed = world.folder.folder("jobs") / f"{RUN}.log"
    printed.write_text("a row")
    with pytest.raises(LocalError, match=f"expected no run that goes on with it, got {RUN}"):
        registry.purge("ehr")
    finish_run(world.folder, RUN, "ended", now=lambda: NOW)
    registry.purge("ehr")
    assert registry.get("ehr") is None and not printed.exists() and registry.has_budget("ehr")
    assert (world.path / "ehr.csv").exists()


# -- nobody who has withdrawn comes back under another description ---------------------------------------


def test_a_table_registered_again_without_whose_a_row_is_is_refused(world: World) -> None:
    data, registry = register(world), DataRegistry(world.folder)
    withdraw(world, "3")
    with pytest.raises(LocalError, match="expected a schema that says whose a row is"):
        registry.add(Path(data.path), "ehr", NOW)
    with pytest.raises(LocalError, match="expected a schema that says whose a row is"):
        register(world, SCHEMA.replace('patient = "id"\n', ""))
    with pytest.raises(LocalError, match=r"expected patient id of type integer, .* got id of type text"):
        register(world, SCHEMA.replace("integer", "text", 1))
    with pytest.raises(LocalError, match="got age of type integer"):
        register(world, SCHEMA.replace('patient = "id"', 'patient = "age"'))
    assert registry.find("ehr").binding == data.binding
    register(world, seed=2)


def test_a_job_of_a_table_without_a_schema_is_refused_once_somebody_has_withdrawn(world: World) -> None:
    plan, data = world.offer(), world.data()
    withdraw(world, "3")
    job = ConfinedJobs(world.folder, allow_unconfined=True)(RUN, plan, data)
    assert isinstance(job, JobProcess)
    try:
        with pytest.raises(LocalError, match="expected a schema that says whose a row is"):
            job.describe()
    finally:
        job.close()


def test_ids_of_one_population_have_one_type_before_anybody_withdraws(world: World) -> None:
    """As text 007 and as a whole number 7 are two hashes: who withdraws from one would train on in the other."""
    text = 'population = "cardio"\n' + SCHEMA
    register(world, text)
    with pytest.raises(LocalError, match="patient column of type integer, as 'ehr' of the same population has it"):
        register(world, text.replace("integer", "text", 1), name="later", seed=2)
    register(world, text, name="later", seed=2)


def test_a_purge_that_fails_halfway_leaves_no_data_without_their_withdrawals(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(world)
    withdraw(world, "3")
    registry = DataRegistry(world.folder)

    def full(folder: SiteFolder, kind: str, *about: object, **detail: object) -> None:
        if kind == "data.removed":
            raise LocalError("the disk is full")

    with monkeypatch.context() as patch, pytest.raises(LocalError, match="the disk is full"):
        patch.setattr(data_registry, "note", full)
        registry.purge("ehr")
    assert registry.get("ehr") is not None and len(registry.withdrawals.hashes("ehr")) == 1
    registry.purge("ehr")
    assert registry.get("ehr") is None and registry.withdrawals.hashes("ehr") == ()


def test_what_is_refused_is_not_written_down_as_withdrawn(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    data, registry = register(world), DataRegistry(world.folder)
    monkeypatch.setattr(withdrawals, "_MOST", 1)
    with pytest.raises(LocalError, match="at most 1 withdrawals"):
        registry.withdraw(data, ["00" * 32, "11" * 32])
    assert [one.kind for one in open_log(world.folder).newest_first() if one.kind.startswith("data.")] == ["data.added"]


def test_one_file_under_two_names_at_once_is_one_data_set(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    path, schema = write_table(world.path / "ehr.csv"), parse_schema(SCHEMA.encode())
    report, refused = validate_file(schema, path), list[str]()

    def second() -> None:
        try:
            DataRegistry(world.folder).add(path, "two", NOW, schema=schema, report=report)
        except LocalError as error:
            refused.append(str(error))

    other = threading.Thread(target=second)

    def slow(folder: SiteFolder, kind: str, subject: str = "", /, **detail: object) -> None:
        if subject == "one":
            other.start()
            other.join(0.3)  # it waits, or has added the file by then

    monkeypatch.setattr(data_registry, "note", slow)
    DataRegistry(world.folder).add(path, "one", NOW, schema=schema, report=report)
    other.join()
    assert [one.name for one in DataRegistry(world.folder).all()] == ["one"]
    assert "is registered as 'one' already" in refused[0]


@pytest.mark.parametrize("mode", [0o720, 0o702, 0o777])
def test_a_folder_from_which_others_could_take_withdrawals_and_policy_away_is_not_used(world: World, mode: int) -> None:
    place = world.folder.path
    place.chmod(mode)
    with pytest.raises(LocalError, match="expected a folder that others may not write to; chmod 700 it"):
        SiteFolder(place)
    place.chmod(0o700)
    SiteFolder(place)


def test_a_table_keeps_its_population_when_it_was_removed(world: World) -> None:
    data, registry = register(world), DataRegistry(world.folder)
    registry.withdraw(data, [hash_of_id(registry.withdrawals.key(), "3")], by="IT")
    registry.remove("ehr", by="IT")
    schema = parse_schema(SCHEMA.encode())
    report = validate_file(schema, Path(data.path))
    with pytest.raises(LocalError, match="belongs to population 'ehr', from which patients have withdrawn"):
        registry.add(Path(data.path), "later", NOW, schema=schema, report=report)
    with pytest.raises(LocalError, match="belongs to population 'ehr'"):
        registry.add(Path(data.path), "plain", NOW)
    with pytest.raises(LocalError, match="expected patient id of type integer"):
        register(world, SCHEMA.replace("integer", "text", 1))
    same = 'population = "ehr"\n' + SCHEMA
    with pytest.raises(LocalError, match="column of type integer, as 'ehr' has it"):
        register(world, same.replace("integer", "text", 1), name="later", seed=2)
    assert register(world, same, name="later", seed=2).population == "ehr"
    other = register(world, name="other", seed=3)
    assert registry.withdrawn_elsewhere(other) == [("ehr", 1)]
    registry.purge("later")
    assert registry.withdrawals.digests("ehr") == () and registry.withdrawals.populations() == []


def test_two_who_withdraw_at_once_are_both_kept(world: World) -> None:
    kept = Withdrawals(world.folder)
    kept.key()
    wait = threading.Barrier(8)

    def one(number: int) -> None:
        wait.wait()
        Withdrawals(world.folder).add("ehr", [f"{number:064x}"])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one, range(8)))
    assert len(kept.hashes("ehr")) == 8


def test_a_table_is_not_removed_while_a_run_goes_on(world: World) -> None:
    bind(world)
    with pytest.raises(LocalError, match=f"expected no run that goes on with it, got {RUN}"):
        DataRegistry(world.folder).remove("ehr")
    finish_run(world.folder, RUN, "ended", now=lambda: NOW)
    DataRegistry(world.folder).remove("ehr")


@pytest.mark.parametrize("what", ["schema", "gone"])
def test_data_that_are_not_those_of_the_approval_any_more_end_the_job(world: World, what: str) -> None:
    plan, _ = bind(world)
    made: list[FakeJob] = []

    def jobs(run: str, plan: Plan, data: DataSet) -> SiteJob:
        made.append(FakeJob())
        return made[-1]

    run = SiteRun(world.folder, RUN, jobs, now=lambda: NOW)
    assert run.answer(*world.train(plan, 1)).fault is Fault.NONE
    if what == "schema":
        register(world, SCHEMA.replace("[0, 10]", "[0, 11]"))
    else:
        (world.folder.path / "data" / "ehr.json").unlink()
    reply = run.answer(*world.train(plan, 2))
    assert reply.fault is Fault.REFUSED and "needs a new approval" in reply.reason
    assert run.answer(*world.train(plan, 2)).fault is Fault.REFUSED
    assert len(made) == 1 and made[0].closed and made[0].asked == ["describe", "fit"]
