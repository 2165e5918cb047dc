"""docs/plan.md is what the declarations say."""

import dataclasses
from pathlib import Path
from typing import Any, get_args

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
