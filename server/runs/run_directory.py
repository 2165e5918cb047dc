"""The run directory: what a run is made from, its progress, and what it leaves.

    run.json                          which run this is; its presence makes the folder a run directory
    plan.toml, code/                  the plan and its code bundle
    audit.jsonl                       who was quarantined and released, when and why (audit_log.py)
    groups.json                       who is in which group of secure aggregation (simulated_protection.py)
    metrics.jsonl                     a line per round (record_line.py)
    checkpoints/round-000001.safetensors
    model.safetensors, model-card.md, results.json, report.html
    .wardround-lock                   held by the process that writes

With a vault, as at a server, checkpoints and the model are sealed for their path in the server's state folder, and
plan.toml is the plan as it was given; its code, which a server never runs, is not here. What stays readable are figures
about rounds: norms and verdicts of contributions, counts of evaluations, who took part. The folder is for its owner
alone.

The stored plan is the given one, except that its code bundle is `code` and a relative data path is
rewritten to be relative to the run directory (as plan.toml's relative paths always are). So a run uses
the plan in `RunDirectory.plan`; run.json has both digests.

A round is durable in two steps: its line, then its checkpoint. The checkpoint is what counts: a line
beyond the last checkpoint, or torn, is cut when the directory is opened, and the round is done again.
Of a run that has ended, `discard_models` takes every file that holds a model away.
"""

import fcntl
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from wardround import __version__
from wardround.durable_file import (
    TEMPORARY,
    extend_file,
    remove_leftovers,
    replace_file,
    sync_folder,
)
from wardround.errors import LocalError
from wardround.orders import Statistics
from wardround.plan import Plan
from wardround.server.runs.audit_log import AUDIT_FILE, AuditLog
from wardround.server.runs.checkpoint import Checkpoint, SiteArrays, decode_checkpoint, encode_checkpoint
from wardround.server.runs.model_file import ModelFile, encode_model
from wardround.server.runs.record_line import decode_lines, encode_line
from wardround.server.runs.run_info import (
    INFO_FILE,
    PLAN_FILE,
    RunInfo,
    check_stored_plan,
    encode_info,
    read_info,
    read_stored_plan,
)
from wardround.server.state.vault import Vault
from wardround.strategies.records import RoundRecord, RunState
from wardround.vector import F32, Layout

__all__ = [
    "GROUPS_FILE",
    "METRICS_FILE",
    "MODEL_FILE",
    "BusyError",
    "RunDirectory",
    "check_free",
    "first_suspicions",
    "kept_rounds",
    "read_lines",
]

GROUPS_FILE = "groups.json"
METRICS_FILE = "metrics.jsonl"
MODEL_FILE = "model.safetensors"
_CODE, _CHECKPOINTS, _LOCK = "code", "checkpoints", ".wardround-lock"
_CHECKPOINT_NAME = re.compile(r"round-(\d{6,})\.safetensors")
_KEEP_LAST = 3


def kept_rounds(rounds: Iterable[int], best: int, keep_every: int | None, clean: Iterable[int] = ()) -> set[int]:
    """The rounds whose checkpoints stay: the last three, the best, every `keep_every`-th, and the `clean` ones."""
    rounds = sorted(rounds)
    kept = {best, *clean, *rounds[-_KEEP_LAST:]}
    return {r for r in rounds if r in kept or (keep_every and r % keep_every == 0)}


def first_suspicions(lines: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Site → the first round in which its contribution was refused or flagged, from lines of metrics.jsonl."""
    found: dict[str, int] = {}
    for line in lines:
        for one in line["evidence"]:
            if one["verdict"] == "refused" or one.get("flags"):
                found = dict.fromkeys(one["members"], line["round"]) | found
    return found


def read_lines(folder: Path) -> list[dict[str, Any]]:
    """The whole lines of metrics.jsonl, also while another process adds to it."""
    try:
        return decode_lines((folder / METRICS_FILE).read_bytes())[0]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise LocalError(f"{folder / METRICS_FILE}: cannot be read ({error.strerror})") from None


class BusyError(LocalError):
    """Another process holds the run directory."""


class RunDirectory:
    """An open run directory, locked until `close`. An `Observer`: it keeps what each round made.

    Make one with `create` or `open`. `plan` is the plan to run, `info` says which run this is, `rounds`
    how many are durable. `site_arrays`, when set, is asked after every round for what stays at the sites.
    """

    def __init__(
        self,
        path: Path,
        plan: Plan,
        info: RunInfo,
        lock: int,
        *,
        keep_every: int | None = None,
        vault: Vault | None = None,
    ) -> None:
        self.path, self.plan, self.info, self._vault = path, plan, info, vault
        self.rounds, self._length = 0, 0
        self.suspicions: dict[str, int] = {}
        """Site → the first round in which it was suspicious; the checkpoint before is kept for `run replay`."""
        self.site_arrays: Callable[[], SiteArrays] | None = None
        self.audit = AuditLog(path)
        self._lock, self._keep_every = lock, keep_every

    @classmethod
    def create(
        cls,
        path: str | Path,
        plan: Plan,
        engine: Mapping[str, Any],
        *,
        run_id: str | None = None,
        created: datetime | None = None,
        keep_every: int | None = None,
        origin: Mapping[str, Any] | None = None,
        vault: Vault | None = None,
    ) -> "RunDirectory":
        """Start a run in `path`, a new or empty folder; its parents are made.

        `run_id` and `created` are drawn and read from the clock when absent. With a `vault` the folder is called by
        the run's id. Raises LocalError when the folder has content or cannot be written; what was there stays, and
        nothing of ours is left.
        """
        path = Path(path)
        fresh = not path.exists()
        check_free(path)
        with _writing(path, "nothing was kept"):
            path.mkdir(parents=True, exist_ok=True, mode=0o777 if vault is None else 0o700)
        lock = _lock(path)
        try:
            check_free(path)  # another process may have been first
        except LocalError:
            os.close(lock)
            raise
        try:
            with _writing(path, "nothing was kept"):
                sync_folder(path.parent)  # what the run counts in it must not go with its name
                stored = _store_plan(path, plan) if vault is None else plan
                info = RunInfo(
                    run_id=run_id or secrets.token_hex(16),
                    plan_digest=stored.digest,
                    source_digest=plan.digest,
                    version=__version__,
                    created=(created or datetime.now(UTC)).isoformat(timespec="seconds"),
                    engine=dict(engine),
                    origin=None if origin is None else dict(origin),
                )
                (path / _CHECKPOINTS).mkdir(exist_ok=True)
                if vault is None:
                    read_stored_plan(path, info)
                else:
                    replace_file(path / PLAN_FILE, plan.to_toml().encode())
                replace_file(path / INFO_FILE, encode_info(info))
        except BaseException:
            _discard(path, whole=fresh)
            os.close(lock)
            raise
        return cls(path, stored, info, lock, keep_every=keep_every, vault=vault)

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        keep_every: int | None = None,
        vault: Vault | None = None,
        plan: Plan | None = None,
        ended_after: int | None = None,
    ) -> "RunDirectory":
        """Continue the run in `path`: lock it, check its plan, repair what a kill left behind.

        `plan` is the run's where its code is not in the folder. `ended_after` is the last round of a run that has
        ended, whose checkpoints may have been discarded: all rounds until then are durable without. Raises LocalError
        when there is no run, another process holds it, or a file was changed from outside.
        """
        path = Path(path)
        info = read_info(path)
        lock = _lock(path)
        try:
            stored = read_stored_plan(path, info) if plan is None else check_stored_plan(path, info, plan)
            run = cls(path, stored, info, lock, keep_every=keep_every, vault=vault)
            with _writing(path, "what it holds was kept"):
                run._repair(ended_after)
        except BaseException:
            os.close(lock)
            raise
        return run

    def close(self) -> None:
        """Let another process continue the run."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def __enter__(self) -> "RunDirectory":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def latest(self) -> Checkpoint | None:
        """The checkpoint of the last durable round; None before the first."""
        return self.checkpoint(self.rounds) if self.rounds else None

    def checkpoint(self, round_number: int) -> Checkpoint:
        """The checkpoint of a round that was kept. Raises LocalError for another, or a damaged or foreign file."""
        path = self._checkpoint_path(round_number)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise LocalError(f"{path}: cannot be read ({error.strerror})") from None
        if self._vault is not None:
            data = self._vault.open(self._label(f"{_CHECKPOINTS}/{path.name}"), data)
        checkpoint = decode_checkpoint(data, str(path))
        if (checkpoint.run_id, checkpoint.plan_digest) != (self.info.run_id, self.info.plan_digest):
            raise LocalError(f"{path}: expected a checkpoint of run {self.info.run_id}, got one of another run")
        return checkpoint

    def lines(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl, one per durable round."""
        return read_lines(self.path)

    def round_done(self, record: RoundRecord, state: RunState) -> None:
        """Make a round durable: when this returns, the run continues from here even after a power cut.

        Raises ValueError unless it is the next round, LocalError when it cannot be written; the rounds before stay.
        """
        if not record.round == state.round == self.rounds + 1:
            raise ValueError(f"expected round {self.rounds + 1}, got record {record.round} and state {state.round}")
        sites = self.site_arrays() if self.site_arrays is not None else {}
        checkpoint = Checkpoint(run_id=self.info.run_id, plan_digest=self.info.plan_digest, state=state, sites=sites)
        with self._writing():
            self.audit.quarantined(record.reputation, record.round)
            length = extend_file(self.path / METRICS_FILE, self._length, encode_line(record))
            self._store(f"{_CHECKPOINTS}/{_checkpoint_name(state.round)}", encode_checkpoint(checkpoint))
            self._length = length
            self.rounds = state.round
            suspicious = (site for line in record.report.lines if line.suspicious for site in line.members)
            self.suspicions = dict.fromkeys(suspicious, record.round) | self.suspicions
            self._prune(state.best_round)

    def adopt(self, lines: Iterable[Mapping[str, Any]], checkpoint: Checkpoint) -> None:
        """Begin where another run was after `checkpoint`, with the `lines` of its rounds until then.

        Raises ValueError unless this run has no round yet and there is a line for each.
        """
        lines = list(lines)
        if self.rounds or not 0 < checkpoint.state.round == len(lines):
            raise ValueError(f"expected a new run and {checkpoint.state.round} lines, got {len(lines)}")
        own = replace(checkpoint, run_id=self.info.run_id, plan_digest=self.info.plan_digest)
        text = "".join(json.dumps(line, separators=(",", ":"), ensure_ascii=False) + "\n" for line in lines)
        with self._writing():
            self._length = extend_file(self.path / METRICS_FILE, 0, text.encode())
            self._store(f"{_CHECKPOINTS}/{_checkpoint_name(len(lines))}", encode_checkpoint(own))
        self.rounds, self.suspicions = len(lines), first_suspicions(lines)

    def discard_models(self) -> None:
        """Delete every checkpoint and the model; durable on return. From then on `open` needs `ended_after`."""
        with _writing(self.path, "what is left of the run's models was kept"):
            for round_number in self._checkpoint_rounds():
                self._checkpoint_path(round_number).unlink()
            (self.path / MODEL_FILE).unlink(missing_ok=True)
            sync_folder(self.path / _CHECKPOINTS)
            sync_folder(self.path)

    def kept(self) -> list[int]:
        """The rounds whose checkpoints are there, in order."""
        return self._checkpoint_rounds()

    def write_model(self, layout: Layout, model: F32, *, round: int, statistics: Statistics | None) -> None:
        """Write model.safetensors: `model`, shape (layout.size,), as it was after `round`."""
        released = ModelFile(
            layout=layout,
            model=model,
            round=round,
            run_id=self.info.run_id,
            plan_digest=self.info.plan_digest,
            statistics=statistics,
        )
        self.write_bytes(MODEL_FILE, encode_model(released))

    def write_text(self, name: str, text: str) -> None:
        """Write a file of the run directory, UTF-8; whole or not at all."""
        self.write_bytes(name, text.encode())

    def write_bytes(self, name: str, data: bytes) -> None:
        """Write a file of the run directory; whole or not at all. Raises LocalError when it cannot be written.

        With a vault the model is sealed, and nothing else.
        """
        if (
            not name
            or name != Path(name).name
            or name in (INFO_FILE, PLAN_FILE, METRICS_FILE, AUDIT_FILE, _CODE, _CHECKPOINTS, _LOCK)
        ):
            raise ValueError(f"expected the plain name of a file that is not the run's own, got {name!r}")
        with self._writing():
            if name == MODEL_FILE:
                self._store(name, data)
            else:
                replace_file(self.path / name, data)

    def _store(self, name: str, data: bytes) -> None:
        """Write what holds a model."""
        if self._vault is None:
            replace_file(self.path / name, data)
        else:
            self._vault.seal_file(self._label(name), data, self.path / name)

    def _label(self, name: str) -> str:
        return f"runs/{self.info.run_id}/{name}"

    def _checkpoint_path(self, round_number: int) -> Path:
        return self.path / _CHECKPOINTS / _checkpoint_name(round_number)

    def _checkpoint_rounds(self) -> list[int]:
        matches = (_CHECKPOINT_NAME.fullmatch(name) for name in os.listdir(self.path / _CHECKPOINTS))
        return sorted(int(match[1]) for match in matches if match)

    def _repair(self, ended_after: int | None) -> None:
        remove_leftovers(self.path)
        remove_leftovers(self.path / _CHECKPOINTS)
        self.rounds = max(self._checkpoint_rounds(), default=0) if ended_after is None else ended_after
        adopted = 0 if self.info.origin is None else self.info.origin["from_round"] - 1
        if self.rounds < adopted:
            raise LocalError(
                f"{self.path}: expected rounds 1 to {adopted} of the run that it repeats, got {self.rounds}; its "
                "making was interrupted: delete it and replay again"
            )
        latest = self.latest() if ended_after is None else None
        path = self.path / METRICS_FILE
        data = path.read_bytes() if path.exists() else b""
        lines, ends = decode_lines(data)
        if len(lines) < self.rounds:
            raise LocalError(
                f"{path}: expected the lines of rounds 1 to {self.rounds} (there is a checkpoint, or the run ended "
                f"after them), got {len(lines)} whole ones; restore the file, or start a new run"
            )
        self._length = ends[self.rounds - 1] if self.rounds else 0
        self.suspicions = first_suspicions(lines[: self.rounds])
        self.audit.repair(self.rounds)
        if self._length < len(data):
            extend_file(path, self._length, b"")
        if latest is not None:
            self._prune(latest.state.best_round)

    def _prune(self, best: int) -> None:
        rounds = self._checkpoint_rounds()
        clean = {first - 1 for first in self.suspicions.values()}
        for round_number in set(rounds) - kept_rounds(rounds, best, self._keep_every, clean):
            self._checkpoint_path(round_number).unlink()

    def _writing(self) -> AbstractContextManager[None]:
        kept = f"rounds 1 to {self.rounds} are kept" if self.rounds else "no round was finished"
        again = "continue with --resume" if self._vault is None else "resume the run"
        return _writing(self.path, f"{kept}; put that right and {again}")


def check_free(path: Path) -> None:
    """Raise LocalError for a `path` that is not new, empty, or what an interrupted `create` left."""
    if not path.exists():
        return
    with _writing(path, "nothing was changed"):
        names = {name for name in os.listdir(path) if not name.startswith(TEMPORARY)}
    interrupted = _LOCK in names and names <= {_LOCK, PLAN_FILE, _CODE, _CHECKPOINTS}
    if names and not (interrupted and not any(path.glob(f"{_CHECKPOINTS}/*"))):
        raise LocalError(f"{path}: exists; use --resume to continue it, or another --out")


def _checkpoint_name(round_number: int) -> str:
    return f"round-{round_number:06d}.safetensors"


def _lock(path: Path) -> int:
    with _writing(path, "nothing was changed"):
        descriptor = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
            raise BusyError(f"{path}: another process is writing this run; wait for it or stop it") from None
        raise LocalError(f"{path}: cannot be locked ({error.strerror}); use a file system with locks") from None
    return descriptor


def _store_plan(path: Path, plan: Plan) -> Plan:
    """Write plan.toml and code/; the plan that they decode to."""
    task, data = plan.task, plan.data
    if task.code is not None:
        source, task = plan.folder / task.code, replace(task, code=_CODE)
        shutil.rmtree(path / _CODE, ignore_errors=True)  # of an interrupted `create`
        (path / _CODE).mkdir()
        for name, _ in plan.code_files:
            copy = path / _CODE / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            replace_file(copy, (source / name).read_bytes())
        for folder, _, _ in os.walk(path / _CODE):
            sync_folder(Path(folder))
    if data.path is not None and not Path(data.path).is_absolute():
        target = (plan.folder / data.path).resolve()
        data = replace(data, path=Path(os.path.relpath(target, path.resolve())).as_posix())
    stored = replace(plan, folder=path, task=task, data=data)
    replace_file(path / PLAN_FILE, stored.to_toml().encode())
    return stored


def _discard(path: Path, *, whole: bool) -> None:
    """Remove what a failed `create` made: the folder too when it is ours."""
    if whole:
        shutil.rmtree(path, ignore_errors=True)
        return
    for name in (_CODE, _CHECKPOINTS):
        shutil.rmtree(path / name, ignore_errors=True)
    for name in (INFO_FILE, PLAN_FILE, _LOCK):
        (path / name).unlink(missing_ok=True)


@contextmanager
def _writing(path: Path, kept: str) -> Iterator[None]:
    """Turn a failing system call into one line that says what was kept."""
    try:
        yield
    except OSError as error:
        raise LocalError(f"{error.filename or path}: {error.strerror}; {kept}") from error
