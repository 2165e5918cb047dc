"""Imports point one way; read from the source, so that lazy and type-checking imports count too."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAY_IMPORT = {
    "wardround": set[str](),
    "strategies": {"wardround"},
    "client": {"strategies", "wardround"},
    "server": {"strategies", "wardround"},
    "simulations": {"server", "client", "strategies", "wardround"},
}
MOUNTS_EVERYTHING = ROOT / "wardround" / "cli.py"
NEVER_IN_THE_AGENT = {"flwr", "torch", "opacus", "ray"}


def imported_names(source: str) -> Iterator[str]:
    """Dotted names of everything that `source` imports, wherever in the file it does; for
    `from a import b` also `a.b`, since b may be a module."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports are not used"
            module = node.module or ""
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name | ast.Attribute)
            and (node.func.id if isinstance(node.func, ast.Name) else node.func.attr) in {"import_module", "__import__"}
            and node.args
            and isinstance(node.args[0], ast.Constant)
        ):
            yield str(node.args[0].value)


def role_of(name: str) -> str | None:
    """The role folder that a dotted name lies in; None for a third party's."""
    first, *rest = name.split(".")
    if first != "wardround":
        return None
    return rest[0] if rest and rest[0] in MAY_IMPORT else "wardround"


def wrong_way(role: str, source: str) -> list[str]:
    """The imports of `source`, a file of `role`, that point the wrong way."""
    names = sorted(set(imported_names(source)))
    return [n for n in names if (other := role_of(n)) and other != role and other not in MAY_IMPORT[role]]


def modules(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))  # rglob enters no link, so not those of an editable install


@pytest.mark.parametrize("role", MAY_IMPORT)
def test_imports_point_one_way(role: str) -> None:
    found = modules(role)
    assert found
    wrong = {
        str(path.relative_to(ROOT)): names
        for path in found
        if path != MOUNTS_EVERYTHING and (names := wrong_way(role, path.read_text()))
    }
    assert not wrong


@pytest.mark.parametrize(
    ("role", "source"),
    [
        ("client", "import wardround.server"),
        ("client", "from wardround import server"),
        ("client", "def f():\n    from wardround.server.rounds import loop"),
        ("client", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import wardround.server"),
        ("client", "import importlib\nimportlib.import_module('wardround.simulations')"),
        ("server", "from wardround.client.guard import guard"),
        ("strategies", "from wardround.client import trainer"),
        ("wardround", "import wardround.strategies.rules"),
    ],
)
def test_an_import_that_points_the_wrong_way_is_found(role: str, source: str) -> None:
    assert wrong_way(role, source)


@pytest.mark.parametrize(
    ("role", "source"),
    [
        ("client", "from wardround import plan, strategies"),
        ("simulations", "import wardround.server\nimport wardround.client\nimport torch"),
        ("wardround", "from wardround.plan import Plan\nimport servers"),
    ],
)
def test_an_import_that_points_the_right_way_is_not_reported(role: str, source: str) -> None:
    assert not wrong_way(role, source)


OF_THE_AGENT = ("client/guard", "client/agent", "client/link", "client/enrolment", "wardround/link")


@pytest.mark.parametrize("folder", OF_THE_AGENT)
def test_the_agent_side_names_neither_flower_nor_torch(folder: str) -> None:
    """Not even lazily: the agent process is the one that holds the keys."""
    found = modules(folder)
    assert found
    heavy = {
        str(path.relative_to(ROOT)): names
        for path in found
        if (names := NEVER_IN_THE_AGENT & {n.split(".")[0] for n in imported_names(path.read_text())})
    }
    assert not heavy


def loaded_by(statements: str) -> set[str]:
    """The modules that a fresh interpreter has loaded after `statements`."""
    program = f"{statements}\nimport sys; print(' '.join(sys.modules))"
    return set(
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    )


def test_loading_the_agent_side_loads_neither_flower_nor_torch() -> None:
    """Nor through anything that it imports."""
    names = [
        ".".join(("wardround", *path.relative_to(ROOT).with_suffix("").parts))
        .replace("wardround.wardround.", "wardround.")
        .removesuffix(".__init__")
        for folder in OF_THE_AGENT
        for path in modules(folder)
    ]
    loaded = loaded_by("\n".join(f"import {name}" for name in names))
    assert "wardround.client.guard" in loaded
    assert not (NEVER_IN_THE_AGENT | {"tenseal"}) & loaded  # TenSEAL only where a run needs it


@pytest.mark.parametrize("role", ["wardround", "wardround.plan", "wardround.strategies"])
def test_loading_the_shared_core_loads_nothing_heavy(role: str) -> None:
    assert not (NEVER_IN_THE_AGENT | {"plotly", "sklearn", "pyarrow"}) & loaded_by(f"import {role}")
