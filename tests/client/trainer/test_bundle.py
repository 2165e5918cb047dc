import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from wardround.client.trainer.bundle import load_from_bundle, load_task
from wardround.errors import LocalError
from wardround.plan import Plan, PlanError, parse_plan

TASK = """
from dataclasses import dataclass
from pieces.width import width

@dataclass
class Minimal:
    plan: object
    tally_spec = "spec"
    def model(self, seed): return [width() + seed]
    def loss(self, outputs, batch): ...
    def tally(self, outputs, batch): ...
    def predict(self, outputs): ...
    def output_names(self): return ("y",)
"""
FILES = {
    "task.py": TASK,
    "pieces/__init__.py": "",
    "pieces/width.py": "from .number import NUMBER\ndef width():\n    import extra\n    return NUMBER + extra.more()\n",
    "pieces/number.py": "NUMBER = 40\n",
    "extra.py": "def more():\n    from pieces import number\n    return number.NUMBER // 20\n",
    "json.py": "dumps = 'of the bundle'\n",
    "words.txt": "ward round\n",
}

MakePlan = Callable[..., Plan]


@pytest.fixture
def make_plan(tmp_path: Path) -> MakePlan:
    def make(files: dict[str, str] = FILES, folder: str = "code", **task: object) -> Plan:
        for name, text in files.items():
            path = tmp_path / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        table = {
            "name": "bundle",
            "rounds": 1,
            "task": {"code": folder, "entry": "task:Minimal", **task},
            "data": {"source": "arrays", "target": {"name": "y", "range": [0.0, 1.0]}},
        }
        return parse_plan(table, folder=tmp_path)

    return make


def test_a_task_is_made_from_the_bundle_with_imports_in_every_direction(make_plan: MakePlan) -> None:
    plan = make_plan()
    task: Any = load_task(plan)
    assert task.model(0) == [42]
    assert task.plan is plan
    assert task.output_names() == ("y",)


def test_a_registered_task_is_made_by_its_name() -> None:
    table = {"source": "arrays", "target": {"name": "y", "classes": ["no", "yes"]}}
    options = {"name": "tabular-classifier", "model": "logistic", "options": {"inputs": 3}}
    task = load_task(parse_plan({"name": "x", "rounds": 1, "task": options, "data": table}))
    assert sum(p.numel() for p in task.model(0).parameters()) == 8


def test_nothing_outside_is_shadowed_and_two_bundles_do_not_meet(make_plan: MakePlan) -> None:
    first, second = make_plan(), make_plan({**FILES, "pieces/number.py": "NUMBER = 80\n"}, folder="other")
    one: Any = load_task(first)
    two: Any = load_task(second)
    assert [one.model(0), two.model(0), one.model(1)] == [[42], [84], [43]]
    assert (
        load_from_bundle(replace(first, task=replace(first.task, entry="json:dumps")), "task.entry") == "of the bundle"
    )
    import json

    assert callable(json.dumps)
    assert not {"task", "pieces", "extra"} & set(sys.modules)


def test_inside_a_bundle_its_own_module_is_found_first(make_plan: MakePlan) -> None:
    plan = make_plan(
        {"m.py": "import json, os.path\nfound = json.dumps\njoin = os.path.join\n", "json.py": "dumps = 1\n"}
    )
    assert load_from_bundle(replace(plan, task=replace(plan.task, entry="m:found")), "task.entry") == 1


def test_only_the_bytes_of_the_digest_are_ever_imported(make_plan: MakePlan, tmp_path: Path) -> None:
    task: Any = load_task(make_plan())
    (tmp_path / "code" / "extra.py").write_text("def more():\n    return 'tampered'\n")  # imported at the first call
    assert task.model(0) == [42]


@pytest.mark.parametrize("name", ["task.py", "extra.py", "words.txt"])
def test_a_file_that_changed_after_the_plan_was_loaded_is_refused(
    make_plan: MakePlan, tmp_path: Path, name: str
) -> None:
    plan = make_plan()
    load_task(plan)
    path = tmp_path / "code" / name
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(LocalError, match=f"{name} changed since the plan was loaded: expected SHA-256"):
        load_task(plan)
    path.unlink()
    with pytest.raises(LocalError, match=f"expected {name} in .* as the plan's digest says"):
        load_task(plan)


def test_a_file_that_was_added_later_cannot_be_imported(make_plan: MakePlan, tmp_path: Path) -> None:
    plan = make_plan()
    (tmp_path / "code" / "late.py").write_text("x = 1\n")
    with pytest.raises(PlanError, match=r"plan\.task\.entry: expected a module of"):
        load_from_bundle(replace(plan, task=replace(plan.task, entry="late:x")), "task.entry")


def test_a_bundle_reads_its_own_data_as_digested(make_plan: MakePlan) -> None:
    source = "import pkgutil\nWORDS = pkgutil.get_data(__package__, 'words.txt').decode().split()\n"
    plan = make_plan({**FILES, "reader.py": source})
    assert load_from_bundle(replace(plan, task=replace(plan.task, entry="reader:WORDS")), "task.entry") == [
        "ward",
        "round",
    ]


@pytest.mark.parametrize(
    ("files", "entry", "message"),
    [
        ({}, "tasks:Minimal", r"plan\.task\.entry: expected a module of .*; did you mean 'task'\?, got 'tasks'"),
        ({}, "task:Minimum", r"expected an attribute of 'task'; did you mean 'Minimal'\?, got 'Minimum'"),
        ({}, "task", r"plan\.task\.entry: expected module:attribute, got 'task'"),
        ({}, "../task:Minimal", "expected module:attribute"),
        ({}, "pieces.width:width", r"plan\.task\.entry: pieces\.width:width\(plan\) failed: TypeError: .* argument"),
        (
            {"a.py": "import nowhere_at_all\n"},
            "a:b",
            r"ModuleNotFoundError: No module named 'nowhere_at_all' \(a\.py, line 1\)",
        ),
        ({"a.py": "x = 1\ny = (\n"}, "a:b", r"importing 'a' failed: SyntaxError"),
        (
            {"a.py": "class T:\n    def __init__(self, plan):\n        1 / 0\n"},
            "a:T",
            r"ZeroDivisionError: .*\(a\.py, line 3\)",
        ),
        ({"a.py": "def t(plan):\n    return 3\n"}, "a:t", r"expected a Task, but a:t has no 'tally_spec'"),
        (
            {"task.py": TASK.replace("predict", "foretell")},
            "task:Minimal",
            "expected a Task, but task:Minimal has no 'predict'",
        ),
    ],
)
def test_what_does_not_fit_is_said_in_one_line(
    make_plan: MakePlan, files: dict[str, str], entry: str, message: str
) -> None:
    with pytest.raises(LocalError, match=message) as caught:
        load_task(make_plan({**FILES, **files}, entry=entry))
    assert "\n" not in str(caught.value)
