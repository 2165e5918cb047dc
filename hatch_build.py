"""Editable installs: let the root folders be sub-packages of `wardround`.

The wheel is assembled from the `sources` table in pyproject.toml and never uses links. For
`pip install -e .` this hook makes five directory links, all git-ignored:

    wardround/server -> server      (likewise client, strategies, simulations)
    .dev/wardround   -> wardround   (the one directory that the editable `.pth` names)

so Python, mypy, pyright, Jedi and coverage resolve `wardround.server` as plain files, without an import
hook, and no bare `server` or `client` lands on `sys.path`.
"""

import os
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SUBPACKAGES = ("server", "client", "strategies", "simulations")


def link(target: Path, at: Path) -> None:
    """Point directory `at` to `target`: a symlink, or a junction on Windows."""
    if at.exists():
        return
    at.parent.mkdir(exist_ok=True)
    if sys.platform == "win32":
        import _winapi  # a junction, unlike a symlink, needs no privilege

        _winapi.CreateJunction(str(target), str(at))
    else:
        at.unlink(missing_ok=True)  # a dangling link does not exist(), yet is in the way
        at.symlink_to(os.path.relpath(target, at.parent), target_is_directory=True)


class EditableLinks(BuildHookInterface[Any]):
    """Make the links when, and only when, the build is an editable one."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version != "editable":
            return
        root = Path(self.root)
        for name in SUBPACKAGES:
            link(root / name, root / "wardround" / name)
        link(root / "wardround", root / ".dev" / "wardround")
