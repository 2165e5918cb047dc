"""Registered names: known without an import, refused with the nearest one."""

from importlib.metadata import EntryPoint

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround import registry
from wardround.errors import LocalError, MissingExtraError
from wardround.registry import load, names, nearest


@pytest.fixture
def entries(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {
        name: EntryPoint(name=name, value=value, group="wardround.things")
        for name, value in {
            "dumps": "json:dumps",
            "unpackaged": "no_such_package.module:thing",
            "broken": "wardround.no_such_module:thing",
        }.items()
    }
    monkeypatch.setattr(registry, "_entries", lambda group: found)


@pytest.mark.usefixtures("entries")
def test_load() -> None:
    import json

    assert names("wardround.things") == ("broken", "dumps", "unpackaged")
    assert load("wardround.things", "dumps") is json.dumps


@pytest.mark.usefixtures("entries")
def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(LocalError, match=r"^no thing is called 'dump'; did you mean 'dumps'\?$"):
        load("wardround.things", "dump")
    with pytest.raises(LocalError, match=r"^no thing is called 'x'; known: broken, dumps, unpackaged$"):
        load("wardround.things", "x")


@pytest.mark.usefixtures("entries")
def test_a_missing_dependency_is_not_a_bug_of_ours_and_a_bug_of_ours_is_no_missing_dependency() -> None:
    with pytest.raises(MissingExtraError, match=r"wardround\[simulation\].*'no_such_package' is missing"):
        load("wardround.things", "unpackaged")
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        load("wardround.things", "broken")


@given(st.text(), st.lists(st.text(min_size=1)))
def test_a_hint_names_only_what_is_known(name: str, known: list[str]) -> None:
    hint = nearest(name, known)
    assert hint == "" or any(word in hint for word in known)
    assert nearest(name, known, listing=False) in ("", hint)
