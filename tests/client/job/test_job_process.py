import contextlib
import dataclasses
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.client.job.job_world import PLAN, SITE, SIZE, Place, evaluation, mark_of, model, running_with, training
from wardround.client.data.encoding import encode_table
from wardround.client.data.files import read_table
from wardround.client.data.splits import split_rows
from wardround.client.job.confinement import available
from wardround.client.job.job_process import JobProcess
from wardround.client.job.limits import JobLimits
from wardround.client.trainer.bundle import load_task
from wardround.client.trainer.torch_trainer import TorchTrainer
from wardround.errors import LocalError
from wardround.local_channel import Channel
from wardround.orders import Split
from wardround.plan import Plan, parse_plan


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def in_this_process(place: Place, plan: Plan) -> TorchTrainer:
    data = dataclasses.replace(plan.data, path=str(place.table))
    encoded = encode_table(data, read_table(data, place.table))
    return TorchTrainer(load_task(plan), plan, split_rows(plan, SITE, encoded.rows, encoded.patients))


@pytest.mark.parametrize("confined", [True, False])
def test_a_job_does_what_its_trainer_does(place: Place, confined: bool) -> None:
    plan = place.plan()
    trainer = in_this_process(place, plan)
    with place.job(plan, confined=confined) as job:
        facts = job.describe()
        assert (facts.rows, facts.train, facts.patients) == (40, len(trainer.data.train), None)
        found, expected = job.fit(training(plan), model()), trainer.fit(training(plan), model())
        np.testing.assert_array_equal(found.update, expected.update)
        assert found.num_examples == expected.num_examples
        np.testing.assert_array_equal(found.tally.counts, expected.tally.counts)
        for split in Split:
            counted = job.evaluate(evaluation(plan, split), model())
            np.testing.assert_array_equal(counted.counts, trainer.evaluate(evaluation(plan, split), model()).counts)


def test_an_update_cannot_be_changed_and_outlives_the_job(place: Place) -> None:
    plan = place.plan()
    with place.job(plan) as job:
        found = job.fit(training(plan), model())
    assert not found.update.flags.writeable
    with pytest.raises(ValueError):
        found.update.flags.writeable = True
    assert np.isfinite(found.update).all() and found.update.any()


def test_statistics_are_counted(place: Place) -> None:
    plan = place.plan('data.standardize="federated"')
    with place.job(plan) as job:
        np.testing.assert_array_equal(job.statistics().counts, in_this_process(place, plan).statistics().counts)


def test_patients_are_counted_before_any_code_of_the_plan_runs(place: Place) -> None:
    text = place.table.read_text().splitlines()
    lines = [f"{line},{'who' if number == 0 else number % 13}" for number, line in enumerate(text)]
    place.table.write_text("\n".join(lines) + "\n")
    plan = place.hostile_plan("nothing", {}, 'data.patient="who"', "data.test=0", "data.validation=0")
    with place.job(plan) as job:
        assert job.describe().patients == 13
        assert "ATTACK" not in place.log.read_text()
        job.fit(training(plan), model())
        assert place.outcome() == {"got": "harmless"}


def test_a_process_that_has_run_the_plans_code_does_not_count_rows(place: Place) -> None:
    """How many there are decides what is charged."""
    plan = place.hostile_plan("lie_about_numbers", {"fields": {"rows": 5, "train": 5}})
    with place.job(plan) as job:
        job.fit(training(plan), model())
        assert job.describe().rows == 40


def test_a_table_as_parquet(place: Place) -> None:
    import pyarrow.csv
    import pyarrow.parquet

    table = place.folder / "patients.pq"
    pyarrow.parquet.write_table(pyarrow.csv.read_csv(place.table), table)
    for confined in (True, False):
        made = JobProcess(place.plan(), SITE, table, "parquet", folder=place.jobs, log=place.log, confined=confined)
        with contextlib.closing(made) as job:
            assert job.describe().rows == 40


def test_a_plan_that_hides_rows_is_trained_privately(place: Place) -> None:
    settings = ("clip_norm=1.0", "noise_multiplier=1.0", "delta=1e-3", "public_sizes=true", "research_delta=true")
    plan = place.plan('privacy.unit="row"', *(f"privacy.{one}" for one in settings))
    with place.job(plan) as job:
        first, second = job.fit(training(plan), model()), job.fit(training(plan), model())
    assert first.tally.n == second.tally.n == 0
    assert not np.array_equal(first.update, second.update)  # noise is drawn from the system


def test_what_a_site_keeps_between_rounds_outlives_its_process(place: Place) -> None:
    """As the local statistics of BatchNorm do; here it is how often it was trained."""
    plan = place.hostile_plan("keep_count", {})
    with place.job(plan) as job:
        assert job.state() == b""
        job.fit(training(plan), model())
        first = job.state()
        job.interrupt()
        job.restore(first)
        job.fit(training(plan), model())
        second = job.state()
    assert first and second and first != second
    with place.job(plan) as other:
        other.restore(first)
        other.fit(training(plan), model())
        assert other.state() == second


NORMED = """
from torch import nn
from wardround.client.trainer.tasks.tabular import TabularClassifier

class Normed(TabularClassifier):
    def model(self, seed):
        return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
"""


def normed_plan(place: Place) -> Plan:
    """A plan with a task of its own, whose sites keep the statistics of BatchNorm."""
    code = place.folder / "bundle" / "code"
    code.mkdir(parents=True, exist_ok=True)
    (code / "normed.py").write_text(NORMED)
    text = PLAN.replace('name = "tabular-classifier"', 'code = "code"\nentry = "normed:Normed"')
    return parse_plan(text, folder=code.parent).override(('training.batch_norm="local"',))


def own_jobs() -> list[int]:
    """The processes of jobs that this one has started."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    found = []
    for one in running_with("wardround.client.job"):
        above: int | None = one
        while above is not None and above != os.getpid():
            above = parents.get(above)
        if above is not None:
            found.append(one)
    return found


@pytest.mark.parametrize("confined", [True, False])
def test_local_batch_norm_survives_that_the_job_is_killed(place: Place, confined: bool) -> None:
    plan = normed_plan(place)
    trainer = in_this_process(place, plan)
    start = np.linspace(-0.5, 0.5, trainer.workspace.model.layout.size, dtype=np.float32)
    with place.job(plan, confined=confined) as job:
        for round in (1, 2, 3):
            found, expected = job.fit(training(plan, round), start), trainer.fit(training(plan, round), start)
            np.testing.assert_array_equal(found.update, expected.update)
            counted = job.evaluate(evaluation(plan), start)
            np.testing.assert_array_equal(counted.counts, trainer.evaluate(evaluation(plan), start).counts)
            [process] = own_jobs()
            os.kill(process, signal.SIGKILL)
            with pytest.raises(LocalError, match="ended without an answer"):
                job.evaluate(evaluation(plan), start)
        assert job.state()
        assert own_jobs() == []


def test_a_job_that_crashed_is_started_again(place: Place) -> None:
    plan = place.hostile_plan("crash", {})
    with place.job(plan) as job:
        assert job.describe().rows == 40
        for _ in range(2):
            with pytest.raises(LocalError, match="Hospital A: the job ended without an answer"):
                job.fit(training(plan), model())
        assert job.describe().rows == 40


@pytest.mark.parametrize("confined", [True, False])
def test_an_endless_job_is_ended_at_the_deadline_and_leaves_nothing(place: Place, confined: bool) -> None:
    plan = place.hostile_plan("leave_behind_and_go_on", {"mark": mark_of(place.folder)})
    with place.job(plan, confined=confined, limits=JobLimits(call_s=6.0)) as job:
        with pytest.raises(LocalError, match="gave no answer in time"):
            job.fit(training(plan), model())
        assert running_with(mark_of(place.folder)) == []
        assert job.describe().rows == 40


def test_the_deadline_of_the_plan_holds_for_its_orders(place: Place) -> None:
    plan = place.hostile_plan("stop_reading", {}, "cohort.deadline_s=2.0")
    with place.job(plan) as job, pytest.raises(LocalError, match="gave no answer in time"):
        job.fit(training(plan), model())


def test_a_job_that_does_not_read_is_ended_as_well(place: Place) -> None:
    """The order does not fit in what the kernel keeps for who does not read."""
    plan = place.hostile_plan("stop_reading", {}, "cohort.deadline_s=2.0")
    order = training(plan)
    long = dataclasses.replace(order, order=dataclasses.replace(order.order, run_id="r" * 700_000))
    with place.job(plan) as job, pytest.raises(LocalError, match="gave no answer in time"):
        job.fit(long, model())


def test_an_answer_in_drops_does_not_move_the_deadline(place: Place) -> None:
    plan = place.hostile_plan("answer_in_drops", {})
    with place.job(plan) as job:
        job.describe()
        job._limits = JobLimits(call_s=3.0)
        with pytest.raises(LocalError, match="no answer in time"):
            job.fit(training(plan), model())


def test_a_job_that_exits_is_told_from_one_that_answers(place: Place) -> None:
    plan = place.hostile_plan("exit_at_once", {})
    with place.job(plan) as job, pytest.raises(LocalError, match="ended without an answer"):
        job.fit(training(plan), model())


def test_another_thread_ends_a_job_that_works(place: Place) -> None:
    plan = place.hostile_plan("endless", {})
    with place.job(plan, limits=JobLimits(call_s=600.0)) as job:
        failed: list[str] = []

        def ask() -> None:
            try:
                job.fit(training(plan), model())
            except LocalError as error:
                failed.append(str(error))

        asking = threading.Thread(target=ask)
        job.describe()
        asking.start()
        job.interrupt()
        while asking.is_alive():
            job.interrupt()
            asking.join(0.2)
        assert len(failed) == 1 and ("was ended" in failed[0] or "cannot be started" in failed[0])


@pytest.mark.parametrize("end", [JobProcess.interrupt, JobProcess.close])
def test_a_job_may_be_ended_just_before_its_answer_is_waited_for(
    place: Place, end: Callable[[JobProcess], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is taken away under the thread that asks: it learns that the job was ended."""
    receive = Channel.receive
    with place.job(place.plan()) as job:
        ending = threading.Thread(target=end, args=(job,))

        def wait_first(channel: Channel, timeout_s: float | None = None) -> Any:
            ending.start()
            ending.join(2.0)  # it may not be done, if it has to wait for this one
            return receive(channel, timeout_s)

        monkeypatch.setattr(Channel, "receive", wait_first)
        with pytest.raises(LocalError, match="the job was ended"):
            job.describe()
        ending.join()


def test_nothing_is_started_once_it_is_closed(place: Place) -> None:
    with place.job(place.plan()) as job:
        job.close()
        with pytest.raises(LocalError, match="was ended"):
            job.describe()


def test_the_folder_is_empty_afterwards_but_for_the_log(place: Place) -> None:
    with place.job(place.plan(), confined=False) as job:
        job.describe()
        assert len(list(place.jobs.glob("job-*"))) == 1
    assert [one.name for one in place.jobs.iterdir()] == ["run.log"]
    assert place.log.stat().st_mode & 0o777 == 0o600


def test_the_log_is_bounded(place: Place) -> None:
    plan = place.hostile_plan("fill_log", {"size": 8 << 20})
    with place.job(plan, limits=JobLimits(call_s=60.0, log_bytes=1 << 20)) as job:
        job.fit(training(plan), model())
    assert (1 << 20) <= place.log.stat().st_size < (1 << 20) + 100
    assert place.log.read_bytes().endswith(b"(the log is full)\n")


def test_an_environment_of_its_own(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SITE_PASSWORD", "secret")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for confined in (True, False):
        found = place.attack("environment", {}, confined=confined)["got"]
        assert found.keys() <= {
            "PATH",
            "HOME",
            "TMPDIR",
            "LANG",
            "LC_CTYPE",
            "USER",
            "OMP_NUM_THREADS",
            "MKL_NUM_THREADS",
            "OMP_WAIT_POLICY",
        }
        assert found["OMP_NUM_THREADS"] == "1"
        assert found["OMP_WAIT_POLICY"] == "PASSIVE"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda text: text.replace("age,", "years,"), "expected a column 'age'"),
        (lambda text: text.replace("20,0,yes", "200,0,yes"), "column 'age': expected values from 0 to 100"),
        (lambda text: "", "empty file"),
    ],
)
def test_data_that_do_not_fit_are_refused_with_the_reason(
    place: Place, change: Callable[[str], str], expected: str
) -> None:
    place.table.write_text(change(place.table.read_text()))
    with place.job(place.plan()) as job, pytest.raises(LocalError, match=expected):
        job.describe()


def test_a_changed_code_bundle_is_refused(place: Place) -> None:
    plan = place.hostile_plan("nothing", {})
    with (plan.folder / "code" / "hostile.py").open("a") as file:
        file.write("# one more line\n")
    with place.job(plan) as job, pytest.raises(LocalError, match="changed since the plan was loaded"):
        job.fit(training(plan), model())
    assert "ATTACK" not in place.log.read_text()


def test_an_interpreter_that_is_none_is_named(place: Place) -> None:
    for confined in (True, False):
        with place.job(place.plan(), confined=confined, python="/no/such/python") as job:
            with pytest.raises(LocalError, match="/no/such/python"):
                job.describe()
    reason = available("/no/such/python")
    assert reason is not None and "/no/such/python" in reason


def test_an_interpreter_without_what_a_job_needs_is_named(place: Place) -> None:
    bare = str(Path(sys.base_prefix) / "bin" / "python3")
    with place.job(place.plan(), python=bare) as job, pytest.raises(LocalError, match=r"lacks wardround.*\[job\]"):
        job.describe()


def test_an_unconfined_job_is_logged_at_every_start(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    with place.job(place.plan(), confined=False) as job:
        job.describe()
        job.interrupt()
        job.describe()
    assert [record.levelname for record in caplog.records if "NOT confined" in record.getMessage()] == ["WARNING"] * 2


def test_a_plan_with_a_flower_app_is_refused(place: Place) -> None:
    code = place.folder / "bundle" / "app"
    code.mkdir(parents=True)
    (code / "app.py").write_text("app = None\n")
    text = 'name = "f"\nrounds = 1\n[task]\ncode = "app"\nflower_app = "app:app"\nflower_initial = "app:app"\n'
    plan = parse_plan(text + '[data]\nsource = "app"\n[simulation]\nsites = 2\n', folder=code.parent)
    with place.job(plan) as job, pytest.raises(LocalError, match="a Flower app reads data by itself"):
        job.describe()


# -- a job that lies: none of this is believed, and the next job is an honest one's equal --------------


def answers(*headers: dict[str, Any]) -> list[Any]:
    return [pytest.param("answer_otherwise", {"header": header}, id=str(header)[:60]) for header in headers]


@pytest.mark.parametrize(
    ("attack", "details"),
    [
        ("speak_nonsense", {"data": "GET / HTTP/1.1\r\n\r\n" * 10}),
        ("speak_nonsense", {"data": "\0\0\0\0\0\0\0\0"}),
        ("send_unsealed", {}),
        ("send_file", {}),
        ("send_many_descriptors", {}),
        ("send_huge_pages", {}),
        *answers(
            {},
            {"is": "counted", "spec": "{}"},
            {"is": ["loaded"]},
            {"is": "described", "rows": 1, "train": 1, "patients": None},
            {"is": "fitted", "num_examples": 1, "spec": '{"kind": "means"}'},
        ),
        ("answer_otherwise", {"header": [1, 2]}),
    ],
)
def test_a_malformed_answer_ends_the_job(place: Place, attack: str, details: dict[str, Any]) -> None:
    plan = place.hostile_plan(attack, details)
    with place.job(plan) as job:
        with pytest.raises(LocalError, match="broke the protocol"):
            job.fit(training(plan), model())
        assert job.describe().rows == 40


MOST_STATE = 4 * SIZE + (1 << 20)


@pytest.mark.parametrize(
    "sizes",
    [
        {"Fit": [0, 4]},
        {"Fit": [0, 4 * SIZE + 4]},
        {"Fit": [1, 8]},
        {"Fit": [2, MOST_STATE + 1]},
        {"Evaluate": [0, 0]},
    ],
)
def test_memory_of_another_size_is_refused(place: Place, sizes: dict[str, list[int]]) -> None:
    plan = place.hostile_plan("lie_about_sizes", {"sizes": sizes})
    with place.job(plan) as job, pytest.raises(LocalError, match=r"broke the protocol: expected .* bytes"):
        job.fit(training(plan), model())
        job.evaluate(evaluation(plan), model())


@pytest.mark.parametrize(
    "fields",
    [
        {"num_examples": -1},
        {"num_examples": True},
        {"num_examples": 1e6},
        {"num_examples": 1 << 70},
        {"num_examples": 41},
        {"spec": '{"kind": "classification", "classes": 1000, "bins": 65536}'},
        {"spec": '{"kind": "means", "names": ["loss", "more"]}'},
        {"spec": None},
    ],
)
def test_numbers_out_of_their_bounds_are_refused(place: Place, fields: dict[str, Any]) -> None:
    plan = place.hostile_plan("lie_about_numbers", {"fields": fields})
    with place.job(plan) as job, pytest.raises(LocalError, match="broke the protocol"):
        job.fit(training(plan), model())


def test_a_confession_is_one_short_printable_line(place: Place) -> None:
    plan = place.hostile_plan("answer_otherwise", {"header": {"is": "failed", "text": "\x1b[2J\n" + "x" * 100_000}})
    with place.job(plan) as job, pytest.raises(LocalError) as caught:
        job.fit(training(plan), model())
    assert str(caught.value).isprintable() and len(str(caught.value)) <= 1000
