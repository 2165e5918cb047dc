"""docs/plan.md is what the declarations say."""

import dataclasses
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, get_args

import pytest

from wardround.decoding import fields_of
from wardround.plan import Plan
from wardround.plan_reference import reference

DOCS = Path(__file__).resolve().parent.parent / "docs"


def test_the_page_is_current() -> None:
    current = (DOCS / "plan.md").read_text(encoding="utf-8")
    assert current == reference() + "\n", "run: python -m wardround.plan_reference > docs/plan.md"


def keys(cls: Any) -> set[str]:
    """Every key below `cls`, found without the code under test."""
    found: set[str] = set()
    for name, (_, hint) in fields_of(cls).items():
        found.add(name)
        for option in (hint, *get_args(hint)):
            if dataclasses.is_dataclass(option):
                found |= keys(option)
    return found - {"code_files", "folder"}


def test_every_key_is_on_the_page() -> None:
    page = reference()
    assert len(keys(Plan)) > 60
    assert not [name for name in keys(Plan) if f"| `{name}` |" not in page]


def test_every_key_is_documented() -> None:
    for line in reference().splitlines():
        if line.startswith("| `"):
            assert len(line.rstrip("| ").split(" | ")[-1]) > 2, line


@pytest.mark.parametrize("group", ["wardround.tasks", "wardround.datasets", "wardround.partitions"])
def test_every_registered_name_of_ours_has_a_section(group: str) -> None:
    page = (DOCS / "tasks-and-data.md").read_text(encoding="utf-8")
    ours = [entry.name for entry in entry_points(group=group) if entry.value.startswith("wardround.")]
    assert ours
    assert not [name for name in ours if f"\n### `{name}`\n" not in page]


def test_the_glossary_is_in_order() -> None:
    lines = (DOCS / "glossary.md").read_text(encoding="utf-8").splitlines()
    words = [line.split("|")[1].strip() for line in lines if line.startswith("| ")][1:]
    assert len(words) > 20
    assert words == sorted(words)
