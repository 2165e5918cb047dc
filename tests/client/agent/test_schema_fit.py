"""Plans and schemas that do not mean the same are refused before any data are read."""

import pytest

from tests.client.data.tables import schema_of
from tests.client.data.test_image_rows import PLAN, SCHEMA
from wardround.client.agent.schema_fit import check_fit, misfits
from wardround.client.data.schema import DataSchema, parse_schema
from wardround.errors import LocalError
from wardround.plan import parse_plan
from wardround.plan_sections import Data

AGE = '{ name = "age", range = [0, 120], unit = "a" }'


def data(columns: str = AGE, target: str = '{ name = "sex", classes = ["f", "m"] }', more: str = "") -> Data:
    text = f'name = "x"\nrounds = 1\n[task]\nname = "tabular-classifier"\n[data]\nsource = "csv"\npath = "x"\n{more}\n'
    return parse_plan(f"{text}target = {target}\ncolumns = [{columns}]\n[simulation]\nsites = 2\n").data


def test_what_goes_together() -> None:
    columns = f'{AGE}, {{ name = "crea", unit = "mg / dl", range = [0, 10] }}, {{ name = "smoker" }}'
    assert list(misfits(data(columns, more='patient = "mrn"'), schema_of())) == []
    smoker = '{ name = "smoker", type = "category", categories = ["no", "yes"] }'
    assert list(misfits(data(smoker), schema_of())) == []


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ('{ name = "mrn" }', "column 'mrn': is an identifier in the schema"),
        ('{ name = "note" }', "column 'note': expected a column of the schema"),
        ('{ name = "crea", unit = "µmol/l" }', "unit mismatch: expected 'µmol/l', as the plan has it, got 'mg/dl'"),
        ('{ name = "smoker", unit = "a" }', "unit mismatch: expected 'a', as the plan has it, got none"),
        ('{ name = "crea", range = [40, 1200] }', r"expected a range that meets the plan's \[40, 1200\].*another unit"),
        ('{ name = "admitted" }', "expected number, integer or boolean for the plan's number, got date"),
        ('{ name = "sex" }', "expected number, integer or boolean for the plan's number, got category"),
        (
            '{ name = "crea", type = "category", categories = ["1", "2"] }',
            "expected category, boolean or integer for the plan's category, got number",
        ),
        (
            '{ name = "smoker", type = "category", categories = ["never", "often"] }',
            "expected a true and a false category",
        ),
    ],
)
def test_what_does_not_is_said(columns: str, expected: str) -> None:
    target = '{ name = "sex", classes = ["f", "m"] }'
    if '"sex"' in columns:
        target = '{ name = "smoker", classes = ["no", "yes"] }'
    with pytest.raises(LocalError, match=expected) as caught:
        check_fit(data(columns, target), schema_of(), "ehr")
    assert str(caught.value).startswith("data ehr: ")


def test_a_target_is_checked_as_an_input_is() -> None:
    with pytest.raises(LocalError, match="'mrn': is an identifier"):
        check_fit(data(target='{ name = "mrn", classes = ["a", "b"] }'), schema_of(), "ehr")
    with pytest.raises(LocalError, match=r"expected the plan's categories only, got 'm' in the schema too"):
        check_fit(data(target='{ name = "sex", classes = ["f", "x"] }'), schema_of(), "ehr")
    with pytest.raises(LocalError, match="unit mismatch"):
        check_fit(data(target='{ name = "crea", range = [0, 5], unit = "g" }'), schema_of(), "ehr")


def test_a_plans_patient_is_the_schemas() -> None:
    dropped = schema_of().encode().replace('"identifier_use":"hash"', '"identifier_use":"drop"')
    without = DataSchema.decode(dropped.replace('"patient":"mrn",', "").replace(',"patient":"mrn"', ""))
    for schema, name, expected in (
        (without, "mrn", 'identifier_use = "hash"'),
        (schema_of(), "admitted", "expected the plan's patient to be the schema's, 'mrn'"),
        (schema_of(), "who", "expected a column of the schema"),
    ):
        with pytest.raises(LocalError, match=expected):
            check_fit(data(more=f'patient = "{name}"'), schema, "ehr")


def test_images_and_tables_are_told_apart() -> None:
    images, plan = parse_schema(SCHEMA.encode()), parse_plan(PLAN).data
    assert list(misfits(plan, images)) == []
    with pytest.raises(LocalError, match="expected images, as the plan needs, got a table"):
        check_fit(plan, schema_of(), "ehr")
    with pytest.raises(LocalError, match="expected a table, as the plan needs, got images"):
        check_fit(data(), images, "ehr")
    with pytest.raises(LocalError, match=r"expected images of shape \(1, 4, 6\)"):
        check_fit(plan, parse_schema(SCHEMA.replace("[1, 4, 6]", "[3, 4, 6]").encode()), "ehr")
