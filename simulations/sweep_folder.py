"""The folder of a sweep: a run directory for each value and seed, sweep.json as far as it is, and the page."""

import json
from pathlib import Path
from typing import Any

from wardround.durable_file import replace_file
from wardround.errors import LocalError
from wardround.simulations.sweep import Sweep, SweepResult, table_of_sweep

__all__ = ["SweepFolder"]

_TABLE, _REPORT = "sweep.json", "sweep.html"
_SAME = ("plan", "digest", "key")


class SweepFolder:
    """Results as they come; a sweep that was interrupted is completed in the same folder."""

    def __init__(self, path: Path, sweep: Sweep, done: list[SweepResult]) -> None:
        self.path, self.done = path, done
        self._sweep = sweep

    @classmethod
    def open(cls, path: Path, sweep: Sweep) -> "SweepFolder":
        """A new or empty folder, or one with runs of the same plan and key. Raises LocalError for any other."""
        try:
            if not path.exists() or not any(path.iterdir()):
                path.mkdir(parents=True, exist_ok=True)
                found = cls(path, sweep, [])
                found._write()
                return found
            table = json.loads((path / _TABLE).read_bytes()) if (path / _TABLE).exists() else {}
            done = [SweepResult(**{k: v for k, v in run.items() if k != "folder"}) for run in table.get("runs", ())]
        except OSError as error:
            raise LocalError(f"{error.filename or path}: {error.strerror}; nothing was changed") from None
        except (ValueError, TypeError, AttributeError):
            raise LocalError(f"{path / _TABLE}: expected what wardround wrote") from None
        now = table_of_sweep(sweep, [])
        if any(table.get(name) != now[name] for name in _SAME):
            raise LocalError(f"{path}: exists, and holds no sweep of {sweep.key} for this plan; use another --out")
        return cls(path, sweep, done)

    @property
    def report(self) -> Path:
        return self.path / _REPORT

    def add(self, result: SweepResult) -> None:
        """Keep one more result, durably."""
        self.done = [one for one in self.done if (one.value, one.seed) != (result.value, result.seed)] + [result]
        self._write()

    def finish(self, results: list[SweepResult]) -> dict[str, Any]:
        """Write sweep.json and sweep.html of all `results`; the table that they show."""
        from wardround.simulations.report.sweep import render_sweep

        self.done = results
        table = self._write()
        self._replace(self.report, render_sweep(table))
        return table

    def _write(self) -> dict[str, Any]:
        table = table_of_sweep(self._sweep, self.done)
        self._replace(self.path / _TABLE, json.dumps(table, indent=1, allow_nan=False) + "\n")
        return table

    def _replace(self, path: Path, text: str) -> None:
        try:
            replace_file(path, text.encode())
        except OSError as error:
            raise LocalError(f"{error.filename or path}: {error.strerror}; what was there is kept") from None
