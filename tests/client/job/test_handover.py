"""The code of a plan runs in a process that never had the table: what it finds there, and that it trains alike."""

import json
import os
import signal
import subprocess
import sys
import threading
from base64 import b64encode
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.client.job.job_world import PLAN, SITE, Place, evaluation, model, training
from tests.client.job.test_job_process import own_jobs
from wardround.client.data.schema import parse_schema
from wardround.client.data.site_data import Rows, SiteData
from wardround.client.data.table_rules import TableRules
from wardround.client.data.validation import hash_of_id
from wardround.client.job.handover import PIECES, RowsSpec, packed, unpacked
from wardround.client.job.job_process import JobProcess
from wardround.client.job.limits import JobLimits
from wardround.client.job.messages import Describe, Export, Exported, Load, Take
from wardround.client.job.work import Work
from wardround.errors import LocalError, RemoteError
from wardround.local_channel import Shared
from wardround.orders import Split
from wardround.plan import Plan, parse_plan

KEY = b"key-of-the-site-0123456789abcdef"
ROWS = 4000
TEXTS = ["mrn-of-", "column-in-no-schema-", "key-of-the-site-", b64encode(KEY).decode()[:14]]
"""Each is followed by a digit where it is data, and by something else where it is what is looked for."""
OWN_CODE = """
from wardround.client.trainer.tasks.tabular import TabularClassifier as Own
"""


def schema(use: str) -> str:
    return f"""
{'patient = "mrn"' if use == "hash" else ""}
[[columns]]
name = "mrn"
type = "text"
identifier = true
identifier_use = "{use}"
[[columns]]
name = "age"
type = "integer"
[[columns]]
name = "dose"
type = "number"
[[columns]]
name = "sick"
type = "category"
categories = ["no", "yes"]
"""


def rules(use: str) -> TableRules:
    gone = (hash_of_id(KEY, "mrn-of-3"),) if use == "hash" else ()
    return TableRules(schema=parse_schema(schema(use).encode()).encode(), key=KEY, withdrawn=gone)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    made = Place(tmp_path)
    rows = [
        f"mrn-of-{n // 2},column-in-no-schema-{n},{20 + n % 70},{n % 10},{'yes' if n % 3 == 0 else 'no'}"
        for n in range(ROWS)
    ]
    made.table.write_text("\n".join(["mrn,note,age,dose,sick", *rows]) + "\n")
    return made


@pytest.mark.parametrize("use", ["hash", "drop"])
def test_code_of_a_plan_finds_nothing_in_its_memory_but_the_columns_of_the_plan(place: Place, use: str) -> None:
    wanted = {"texts": [*TEXTS, "made-here-"], "make": ["made-here-", 7]}
    found = place.attack("search_own_memory", wanted, rules=lambda: rules(use))["got"]
    assert found.pop("made-here-") > 0
    assert found == dict.fromkeys(TEXTS, 0)


ONE_PROCESS = """
import json, sys
from pathlib import Path
from tests.client.job import hostile, test_handover as world
from wardround.client.job.messages import Describe
from wardround.client.job.work import Work
from wardround.plan import parse_plan
plan = parse_plan(world.PLAN)
table = Path(sys.argv[1])
work = Work(table.parent, table.open("rb"))
work.answer(Describe(plan=plan.to_toml(), digest=plan.digest, code_files=(), site=world.SITE, table="t", format="csv",
                     rules=world.rules(sys.argv[2])), ())
print(json.dumps(hostile.search_own_memory({"texts": world.TEXTS})))
"""


@pytest.mark.parametrize("use", ["hash", "drop"])
def test_in_the_process_that_reads_it_would_find_them(place: Place, use: str) -> None:
    """Why there are two."""
    asked = subprocess.run(
        [sys.executable, "-c", ONE_PROCESS, str(place.table), use],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(asked.stdout)
    assert found["column-in-no-schema-"] > 0 and found["mrn-of-"] > 0


def own_code(place: Place, *settings: str) -> Plan:
    code = place.folder / "bundle" / "code"
    code.mkdir(parents=True, exist_ok=True)
    (code / "own.py").write_text(OWN_CODE)
    text = PLAN.replace('name = "tabular-classifier"', 'code = "code"\nentry = "own:Own"')
    return parse_plan(text, folder=code.parent).override(settings)


@pytest.mark.parametrize("confined", [True, False])
def test_a_plan_with_code_trains_as_one_without(place: Place, confined: bool) -> None:
    patient = 'data.patient="mrn"'
    with (
        place.job(place.plan(patient), confined=confined, rules=lambda: rules("hash")) as one,
        place.job(own_code(place, patient), confined=confined, rules=lambda: rules("hash")) as two,
    ):
        assert one.describe() == two.describe()
        assert two.describe().rows == ROWS - 2
        for split in Split:
            counted = [job.evaluate(evaluation(job._plan, split), model()) for job in (one, two)]
            np.testing.assert_array_equal(counted[0].counts, counted[1].counts)


def test_its_update_is_the_same(place: Place) -> None:
    with place.job(plan := place.plan(), rules=lambda: rules("hash")) as job:
        expected = job.fit(training(plan), model())
    with place.job(plan := own_code(place), rules=lambda: rules("hash")) as job:
        for _ in range(2):
            found = job.fit(training(plan), model())
            np.testing.assert_array_equal(found.update, expected.update)
            assert found.num_examples == expected.num_examples
            [process] = own_jobs()  # the one that has read is gone
            os.kill(process, signal.SIGKILL)
            with pytest.raises(LocalError, match="ended without an answer"):
                job.fit(training(plan), model())


def test_who_withdraws_is_not_read_again_by_a_plan_with_code(place: Place) -> None:
    gone: list[str] = []
    made = rules("hash")

    def now() -> TableRules:
        return TableRules(schema=made.schema, key=KEY, withdrawn=tuple(hash_of_id(KEY, one) for one in gone))

    with place.job(plan := own_code(place), rules=now) as job:
        before = sum(job.evaluate(evaluation(plan, split), model()).n for split in Split)
        gone.append("mrn-of-7")
        job.interrupt()
        assert before - sum(job.evaluate(evaluation(plan, split), model()).n for split in Split) == 2


def test_rows_larger_than_a_file_of_a_job_are_handed_over(place: Place) -> None:
    """What bounds them is the memory: no code of the plan runs where they are read."""
    limits = JobLimits(call_s=60.0, file_bytes=10_000)
    with place.job(plan := own_code(place), rules=lambda: rules("hash"), limits=limits) as job:
        assert job.evaluate(evaluation(plan, Split.TRAIN), model()).n > 10_000 // 8


def test_a_job_that_is_closed_while_its_rows_are_handed_over_starts_nothing(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = JobProcess._replaced

    def closed_first(job: JobProcess, *arguments: Any) -> Any:
        job.close()
        return honest(job, *arguments)

    monkeypatch.setattr(JobProcess, "_replaced", closed_first)
    with place.job(plan := own_code(place), rules=lambda: rules("hash")) as job:
        with pytest.raises(LocalError, match="was ended"):
            job.fit(training(plan), model())
        assert own_jobs() == []


def test_a_job_that_is_closed_just_after_its_second_process_began(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = JobProcess._replaced

    def closed_then(job: JobProcess, *arguments: Any) -> Any:
        made = honest(job, *arguments)
        ending = threading.Thread(target=job.close)
        ending.start()
        ending.join()
        return made

    monkeypatch.setattr(JobProcess, "_replaced", closed_then)
    with place.job(plan := own_code(place), rules=lambda: rules("hash")) as job:
        with pytest.raises(LocalError, match="was ended"):
            job.fit(training(plan), model())
        assert own_jobs() == []


@pytest.mark.parametrize("patients", [None, np.array([0, 1, 0], dtype=np.int64)])
@pytest.mark.parametrize("kind", [np.int64, np.float32])
def test_rows_are_packed_and_unpacked(patients: Any, kind: Any) -> None:
    rows = Rows(np.arange(3 * 8, dtype=np.float32).reshape(3, 2, 2, 2), np.arange(3).astype(kind))
    none = Rows(rows.x[:0], rows.y[:0])
    data = SiteData(site=SITE, train=rows, validation=none, test=rows, patients=patients, gone_rows=2, gone_patients=1)
    spec, shared = packed(data)
    found = unpacked(SITE, RowsSpec.decode(json.loads(json.dumps(spec.encode()))), shared)
    for one, other in ((found.train, rows), (found.validation, none), (found.test, rows)):
        np.testing.assert_array_equal(one.x, other.x)
        np.testing.assert_array_equal(one.y, other.y)
        assert one.x.flags.writeable and one.y.dtype == kind
    if patients is None:
        assert found.patients is None
    else:
        np.testing.assert_array_equal(found.patients, patients)
    assert (found.gone_rows, found.gone_patients) == (2, 1)


def test_numbers_of_patients_tell_nothing_of_the_order_of_their_hashes() -> None:
    rows = Rows(np.zeros((6, 1), dtype=np.float32), np.zeros(6, dtype=np.int64))
    numbers = np.array([3, 1, 3, 0, 2, 1], dtype=np.int64)
    spec, shared = packed(SiteData(site=SITE, train=rows, validation=rows, test=rows, patients=numbers))
    found = unpacked(SITE, spec, shared).patients
    assert found is not None and found.tolist() == [0, 1, 0, 2, 3, 1]


def test_memory_of_another_size_is_refused() -> None:
    rows = Rows(np.zeros((3, 2), dtype=np.float32), np.zeros(3, dtype=np.int64))
    spec, shared = packed(SiteData(site=SITE, train=rows, validation=rows, test=rows))
    shared[2] = Shared.of(b"x" * 23)
    with pytest.raises(RemoteError, match="the size of the rows"):
        unpacked(SITE, spec, shared)


@pytest.mark.parametrize(("unit", "gone"), [("none", 0), ("row", 2)])
def test_how_many_have_withdrawn_is_told_only_where_privacy_depends_on_it(place: Place, unit: str, gone: int) -> None:
    private = ("clip_norm=1.0", "noise_multiplier=1.0", "delta=1e-4", "public_sizes=true", "research_delta=true")
    settings = ("data.test=0", "data.validation=0", 'data.patient="mrn"')
    hides = (f'privacy.unit="{unit}"', *(f"privacy.{one}" for one in private)) if unit != "none" else ()
    plan = place.plan(*settings, *hides)
    with place.table.open("rb") as table:
        work = Work(place.folder, table)
        asked = Describe(
            plan=plan.to_toml(),
            digest=plan.digest,
            code_files=(),
            site=SITE,
            table="t",
            format="csv",
            rules=rules("hash"),
        )
        work.answer(asked, ())
        answer, shared = work.answer(Export(), ())
    assert isinstance(answer, Exported) and len(shared) == PIECES
    assert answer.rows.gone_rows == gone


def test_the_process_that_has_read_loads_no_code(place: Place) -> None:
    plan = own_code(place)
    with place.table.open("rb") as table:
        work = Work(place.folder, table)
        files = plan.code_files
        asked = Describe(plan=plan.to_toml(), digest=plan.digest, code_files=files, site=SITE, table="t", format="csv")
        work.answer(asked, ())
        with pytest.raises(RemoteError, match="a process that has not read the table"):
            work.answer(Load(files={}), ())
        _, shared = work.answer(Export(), ())
        rows = RowsSpec(rows=(1, 0, 0), inputs=(2,), classes=True, patients=False, gone_rows=0, gone_patients=0)
        with pytest.raises(RemoteError, match="without a table"):
            work.answer(Take(plan=asked.plan, digest=asked.digest, code_files=files, site=SITE, rows=rows), shared)
