"""The folder of a red-team grid: what it is a grid of, a line for each finished run, and the reports."""

import json
from pathlib import Path
from typing import Any

from wardround.durable_file import extend_file, replace_file
from wardround.errors import LocalError
from wardround.simulations.redteam.cells import CellResult
from wardround.simulations.redteam.red_team import Grid

__all__ = ["ResultsFolder", "write_table"]

_GRID, _CELLS, _TABLE, _REPORT = "grid.json", "cells.jsonl", "redteam.json", "redteam.html"


class ResultsFolder:
    """Results as they come; a grid that was interrupted is completed in the same folder."""

    def __init__(self, path: Path, done: list[CellResult], length: int) -> None:
        self.path, self.done, self.added = path, done, 0
        self._length = length

    @classmethod
    def open(cls, path: Path, grid: Grid) -> "ResultsFolder":
        """A new or empty folder, or one with results of the same plan and number of attackers.

        Raises LocalError for any other; it is left as it is.
        """
        key = {
            "plan_digest": grid.plan.digest,
            "attackers": grid.attackers,
            "num_byzantine": grid.num_byzantine,
            "metric": grid.metric,
        }
        try:
            if not path.exists() or not any(path.iterdir()):
                path.mkdir(parents=True, exist_ok=True)
                replace_file(path / _GRID, json.dumps(key).encode() + b"\n")
                return cls(path, [], 0)
            if not (path / _GRID).exists() or json.loads((path / _GRID).read_bytes()) != key:
                raise LocalError(
                    f"{path}: exists, and holds no results of this plan, {grid.attackers} attackers and {grid.metric}"
                )
            data = (path / _CELLS).read_bytes() if (path / _CELLS).exists() else b""
        except OSError as error:
            raise LocalError(f"{error.filename or path}: {error.strerror}; nothing was changed") from None
        except ValueError:
            raise LocalError(f"{path / _GRID}: expected what wardround wrote") from None
        done, length = _results(data)
        return cls(path, done, length)

    @property
    def report(self) -> Path:
        return self.path / _REPORT

    def add(self, result: CellResult) -> None:
        """Keep one more result, durably."""
        line = json.dumps(result.to_json(), separators=(",", ":")).encode() + b"\n"
        try:
            self._length = extend_file(self.path / _CELLS, self._length, line)
        except OSError as error:
            raise LocalError(f"{error.filename or self.path}: {error.strerror}; earlier results are kept") from None
        self.added += 1

    def finish(self, table: dict[str, Any]) -> None:
        """Write redteam.json and redteam.html."""
        write_table(self.path, table)


def write_table(folder: Path, table: dict[str, Any]) -> None:
    """Write redteam.json and redteam.html into `folder`."""
    from wardround.simulations.report.redteam import render_redteam

    try:
        replace_file(folder / _TABLE, json.dumps(table, indent=1).encode() + b"\n")
        replace_file(folder / _REPORT, render_redteam(table).encode())
    except OSError as error:
        raise LocalError(f"{error.filename or folder}: {error.strerror}") from None


def _results(data: bytes) -> tuple[list[CellResult], int]:
    """The whole lines at the start of `data`, and where the last of them ends."""
    found: list[CellResult] = []
    at = 0
    while (end := data.find(b"\n", at)) >= 0:
        try:
            found.append(CellResult(**json.loads(data[at:end])))
        except (ValueError, TypeError):
            break
        at = end + 1
    return found, at
