"""A real job's process with a schema: what it reads, refuses, and says of it."""

import contextlib
from pathlib import Path

import numpy as np
import pytest

from tests.client.data.test_image_rows import PLAN as IMAGE_PLAN
from tests.client.data.test_image_rows import SCHEMA as IMAGE_SCHEMA
from tests.client.data.test_image_rows import npy, png
from tests.client.job.job_world import SITE, Place, evaluation, model, training
from wardround.client.data.open_data import open_data
from wardround.client.data.schema import parse_schema
from wardround.client.data.table_rules import TableRules
from wardround.client.data.validation import hash_of_id
from wardround.client.job.job_process import JobProcess
from wardround.errors import LocalError
from wardround.orders import Split
from wardround.plan import parse_plan

SCHEMA = """
on_bad_rows = "refuse"
patient = "mrn"
[[columns]]
name = "mrn"
type = "text"
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
type = "category"
categories = ["no", "yes"]
"""
KEY = b"k" * 32


@pytest.fixture
def place(tmp_path: Path) -> Place:
    made = Place(tmp_path)
    header, *rows = made.table.read_text().splitlines()
    lines = [f"mrn,{header}", *(f"secret-{number // 2},{row}" for number, row in enumerate(rows))]
    made.table.write_text("\n".join(lines) + "\n")
    return made


def rules(text: str = SCHEMA, *withdrawn: str) -> TableRules:
    hashes = tuple(hash_of_id(KEY, one) for one in withdrawn)
    return TableRules(schema=parse_schema(text.encode()).encode(), key=KEY, withdrawn=hashes)


def test_a_job_reads_what_the_schema_gives_it(place: Place) -> None:
    plan = place.plan('data.patient="mrn"')
    with place.job(plan, rules=rules) as job:
        facts = job.describe()
        assert facts.rows == 40 and facts.patients is not None and facts.patients <= facts.train // 2
        assert job.fit(training(plan), model()).num_examples == facts.train


def test_bad_rows_refuse_the_data_with_counts_and_no_value(place: Place) -> None:
    place.table.write_text(place.table.read_text() + "secret-99,777,1,no\nsecret-99,50,1,perhaps\n")
    with place.job(place.plan(), rules=rules) as job, pytest.raises(LocalError) as caught:
        job.describe()
    text = str(caught.value)
    assert "expected no bad row, got 2 of 42" in text and "'age': out of its range in 1 row" in text
    assert "'sick': not one of its categories in 1 row" in text
    assert not any(word in text + place.log.read_text() for word in ("secret", "777", "perhaps"))


def test_bad_rows_may_be_dropped(place: Place) -> None:
    place.table.write_text(place.table.read_text() + "secret-99,777,1,no\n")
    text = SCHEMA.replace('"refuse"', '"drop"')
    with place.job(place.plan(), rules=lambda: rules(text)) as job:
        assert job.describe().rows == 40


def test_who_has_withdrawn_is_in_no_part(place: Place) -> None:
    plan = place.plan()
    with place.job(plan, rules=lambda: rules(SCHEMA, *(f"secret-{number}" for number in range(0, 20, 2)))) as job:
        facts = job.describe()
        assert facts.rows == 20
        assert sum(job.evaluate(evaluation(plan, split), model()).n for split in Split) == 20


def test_an_identifier_is_no_input_whatever_was_approved(place: Place) -> None:
    column = '{ name = "mrn", type = "category", categories = ["secret-1", "secret-2"] }'
    plan = place.plan(f"data.columns=[{column}]")
    with place.job(plan, rules=rules) as job, pytest.raises(LocalError, match="'mrn' is an identifier"):
        job.describe()


@pytest.mark.parametrize("confined", [True, False])
def test_a_folder_of_images(place: Place, confined: bool) -> None:
    folder = place.folder / "images"
    folder.mkdir()
    rows = []
    for number in range(24):
        pixels = np.full((1, 4, 6), 10 * number, dtype=np.uint8)
        name = f"{number}.png" if number % 2 else f"{number}.npy"
        (folder / name).write_bytes(png(pixels, b"\1\2\3\4") if number % 2 else npy(pixels))
        rows.append(f"{name},p{number % 7},{'no' if number % 3 else 'yes'}")
    labels = folder / "labels.csv"
    labels.write_text("\n".join(["file,who,finding", *rows]) + "\n")
    schema = parse_schema(IMAGE_SCHEMA.encode())
    plan = parse_plan(IMAGE_PLAN).override(('task.model="linear"', 'data.patient="who"'))
    made = JobProcess(
        plan,
        SITE,
        labels,
        "images",
        folder=place.jobs,
        log=place.log,
        confined=confined,
        hidden=(place.state,),
        open_table=lambda: open_data(labels, schema),
        rules=lambda: TableRules(schema=schema.encode(), key=KEY, withdrawn=(hash_of_id(KEY, "p3"),)),
    )
    with contextlib.closing(made) as job:
        facts = job.describe()
        assert facts.rows == 21 and facts.patients is not None and facts.patients <= 7
        update = job.fit(training(plan), np.zeros(2 * 24 + 2, dtype=np.float32)).update
        assert np.isfinite(update).all() and update.any()
