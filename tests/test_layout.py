"""One distribution, one import package: nothing generic may be installed at the top level of site-packages.

What the wheel contains and whether it works alone is checked by tools/check_wheel.py.
"""

import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution, entry_points, files, version
from importlib.util import find_spec
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import wardround

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
OUR_ENTRY_POINTS = [
    (group, name) for group, names in PYPROJECT["project"]["entry-points"].items() for name in sorted(names)
]


def test_installs_one_top_level_name() -> None:
    tops = {f.parts[0] for f in files("wardround") or [] if f.suffix == ".py"}
    assert tops <= {"wardround"}


@pytest.mark.parametrize("name", ["server", "client", "strategies", "simulations"])
def test_role_folder_is_a_sub_package_and_its_code_is_at_the_root(name: str) -> None:
    spec = find_spec(f"wardround.{name}")
    assert spec is not None
    assert spec.origin is not None
    assert Path(spec.origin).resolve() == ROOT / name / "__init__.py"


def test_versions_agree() -> None:
    assert wardround.__version__ == version("wardround") == PYPROJECT["project"]["version"]


def test_every_package_has_an_init() -> None:
    roots = [ROOT / name for name in ("wardround", "server", "client", "strategies", "simulations")]
    folders = {path.parent for root in roots for path in root.rglob("*.py")}
    assert not [folder for folder in folders if not (folder / "__init__.py").is_file()]


@pytest.mark.parametrize(("group", "name"), OUR_ENTRY_POINTS)
def test_built_in_entry_point_loads(group: str, name: str) -> None:
    (entry,) = entry_points(group=group, name=name)
    assert callable(entry.load())


def test_constraints_are_exact_and_carry_no_address() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert lines
    for line in lines:
        name, _, exact = line.partition("==")
        assert name, line
        assert exact, line
        assert not set(line) & set("/@+;#* <>"), line
    assert "torch==2.13.0" in lines


def test_everything_that_is_installed_for_us_has_its_exact_version_in_the_constraints() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    constrained: dict[str, str] = {canonicalize_name(n): v for n, _, v in (line.partition("==") for line in lines) if v}
    installed = dict(_installed_for("wardround", frozenset(PYPROJECT["project"]["optional-dependencies"])))
    assert {"torch", "flwr", "numpy"} <= set(installed)
    assert {name: (v, constrained.get(name)) for name, v in installed.items() if constrained.get(name) != v} == {}


def _installed_for(root: str, extras: frozenset[str]) -> Iterator[tuple[str, str]]:
    """Name and public version of every installed distribution that `root` with `extras` leads to."""
    pending, seen = [(root, extras)], set[tuple[str, frozenset[str]]]()
    while pending:
        name, wanted = pending.pop()
        if (name, wanted) in seen:
            continue
        seen.add((name, wanted))
        try:
            found = distribution(name)
        except PackageNotFoundError:  # of an extra that is not installed here
            continue
        if name != root:
            yield name, found.version.partition("+")[0]
        for text in found.requires or []:
            needs = Requirement(text)
            if not needs.marker or any(needs.marker.evaluate({"extra": e}) for e in ("", *wanted)):
                pending.append((canonicalize_name(needs.name), frozenset(needs.extras)))


def test_makefile_does_not_choose_a_package_index() -> None:
    for name in ("Makefile", ".ci/run", "constraints.txt", "pyproject.toml"):
        text = (ROOT / name).read_text()
        assert "index-url" not in text
        assert "find-links" not in text
