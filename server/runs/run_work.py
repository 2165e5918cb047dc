"""The work of one run at the server: the rounds that are missing, the final test, the model, what is written down."""

import hashlib
import itertools
import json
import logging
import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from flwr.serverapp import Grid

from wardround.clock import utc_now
from wardround.errors import LocalError, MissingExtraError, WardroundError
from wardround.file_store import FileStore
from wardround.identity import Authority
from wardround.orders import Split
from wardround.plan import Plan, parse_plan
from wardround.plan_privacy import Disclosure
from wardround.plan_sections import Standardize
from wardround.server.report.page import render
from wardround.server.report.run import ReportedRun
from wardround.server.runs.agreed_statistics import agreed
from wardround.server.runs.begun_tries import BegunTries
from wardround.server.runs.counted_specs import counted_specs
from wardround.server.runs.deployable import check_deployable
from wardround.server.runs.enough import enough
from wardround.server.runs.model_card import model_card, software_versions
from wardround.server.runs.model_file import ModelFile, encode_model
from wardround.server.runs.record_line import record_table
from wardround.server.runs.run_directory import RunDirectory
from wardround.server.runs.sealed_release import RELEASED_FILE, SealedRelease
from wardround.server.runs.sealed_store import SealedStore
from wardround.server.runs.site_claims import site_meter
from wardround.server.runs.tensor_file import decode_arrays
from wardround.server.runs.worker_messages import Ended, Start
from wardround.server.state.blob_store import BlobStore
from wardround.server.state.vault import Vault
from wardround.signing_key import SigningKey
from wardround.state_store import StateStore
from wardround.strategies.federated import FederatedStrategy, PrivacyMeter, SitesAwayError
from wardround.strategies.he.homomorphic import Homomorphic
from wardround.strategies.plain import Plain
from wardround.strategies.privacy.build import build_central
from wardround.strategies.protection import Protection
from wardround.strategies.records import RoundRecord, RunState
from wardround.strategies.rules.build import build_rule
from wardround.strategies.secagg.masking import Masking
from wardround.strategies.secagg.plan_terms import parameters_of
from wardround.strategies.secagg.server_epoch import Federation
from wardround.tally import decode_spec
from wardround.vector import F32, Layout, TensorSpec

__all__ = ["RunWork", "how_it_ends"]

_STATE, _TEST = "server-state", "test.json"
_TEST_BEGUN = "test/begun"
_FIRST_WAIT_S, _MOST_WAIT_S, _MOST_DOUBLINGS = 0.1, 5.0, 10
"""Before all sites are asked again for their first statistics, on top of the deadline for them."""
_log = logging.getLogger("wardround")

Json = dict[str, Any]


class RunWork:
    """The run of `start`, opened: its directory is locked until `close`.

    `told` is given the line of every round once that is durable. `newest` gives the newest revocation list, DER. Raises
    LocalError for what does not fit, BusyError where another process is at work on the run.
    """

    def __init__(
        self,
        start: Start,
        *,
        told: Callable[[Json], None],
        newest: Callable[[], bytes],
        clock: Callable[[], datetime] = utc_now,
        wait: Callable[[float], None] = time.sleep,
    ) -> None:
        self._start, self._told, self._newest, self._clock, self._wait = start, told, newest, clock, wait
        self._layout = Layout(tuple(TensorSpec(name=name, shape=shape) for name, shape in start.layout))
        self._vault = Vault(start.data_key)
        self._blobs = BlobStore(Path(start.models), self._vault)
        self._resumed: tuple[int, ...] = ()
        self._released: SealedRelease | None = None
        """Of a run that has ended, with its model sealed."""
        self._known = b""
        self._opened = ExitStack()
        try:
            self._plan = self._read_plan()
            self.directory = self._opened.enter_context(self._open_directory())
            store = self._opened.enter_context(FileStore(self.directory.path / _STATE))
            self._store: StateStore = SealedStore(store, self._vault, f"runs/{start.run_id}/{_STATE}")
            self._tries = BegunTries(self._store)
            self._protection = self._build_protection()
            self._strategy = self._build_strategy()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let another process continue the run."""
        self._opened.close()

    @property
    def homomorphic(self) -> bool:
        """Whether sites send ciphertexts."""
        return self._plan.protection.homomorphic

    def enough(self, kind: str, group: str, asked: int) -> int:
        """How many of `asked` sites have to answer before those that are away are not waited for."""
        return enough(self._plan, kind, group, asked)

    def lines_after(self, round_number: int) -> list[Json]:
        """The lines of the durable rounds after `round_number`."""
        return self.directory.lines()[round_number : self.directory.rounds]

    def run(self, grid: Grid, paused: Callable[[], bool]) -> Ended:
        """Run the rounds that are missing, and finish; `paused` is asked before each round and before the end.

        A run whose model was sealed has ended, whatever a kill left to do: nothing is asked any more. A run that cannot
        go on has failed, with the reason; one whose files cannot be written is paused, since that can be put right.
        What is no WardroundError passes through.
        """
        try:
            if self._released is not None:
                return self._concluded(self._released)
            state = self._begin(grid, paused)
            if state is None:
                return Ended(state="paused", round=0)
            while state.round < self._plan.rounds and not state.stopped:
                if paused():
                    return Ended(state="paused", round=state.round)
                self._renew()
                state = self._strategy.advance(grid, state)
            if paused():
                return Ended(state="paused", round=state.round)
            return self._finish(grid, state)
        except WardroundError as error:
            ended = how_it_ends(error, self.directory.rounds)
            if ended.state == "failed":
                self.write_down(stopped=str(error))
            return ended

    def halted(self, reason: str) -> Ended:
        """How a run ends that a person has stopped."""
        self.write_down(stopped=reason)
        return Ended(state="stopped", reason=reason, round=self.directory.rounds)

    def write_down(self, *, stopped: str) -> None:
        """The report of a run that ends without a released model, if any of its rounds is finished."""
        try:
            if self.directory.rounds:
                self._write_report(self.directory.lines(), 0, stopped, None)
        except WardroundError as error:  # how the run ended is what matters
            _log.warning("the report could not be written: %s", error)

    # -- opening ----------------------------------------------------------------------------------

    def _read_plan(self) -> Plan:
        start = self._start
        plan = parse_plan(start.plan_toml, folder=Path(start.folder), code_files=start.code_files)
        if plan.digest != start.plan_digest:
            raise LocalError(
                f"run {start.run_id}: expected the plan {start.plan_digest[:12]} that was approved, got "
                f"{plan.digest[:12]}; it was changed, or another version of wardround reads it in another way"
            )
        check_deployable(plan)
        return plan

    def _open_directory(self) -> RunDirectory:
        start, path = self._start, Path(self._start.folder)
        if (path / "run.json").exists():
            self._released = SealedRelease.read(path)
            ended_after = None if self._released is None else self._released.rounds
            directory = RunDirectory.open(path, vault=self._vault, plan=self._plan, ended_after=ended_after)
            self._resumed = (directory.rounds + 1,)
            return directory
        made = datetime.fromisoformat(start.created)
        engine = {"link": "wardround.link.v1"}
        return RunDirectory.create(path, self._plan, engine, run_id=start.run_id, created=made, vault=self._vault)

    def _build_protection(self) -> Protection:
        plan, start = self._plan, self._start
        if not plan.protection.on:
            return Plain(plan)
        self._known = start.revocations
        authority = Authority(start.identity_authority)
        federation = Federation(
            run=start.run_id,
            plan=bytes.fromhex(plan.digest),
            parameters=parameters_of(plan),
            authority=authority,
            revocations=authority.revocations(start.revocations, self._clock()),
            store=self._store,
            random=os.urandom,
        )
        specs = counted_specs(plan, decode_spec(start.spec.encode()))
        kind = Homomorphic if plan.protection.homomorphic else Masking
        return kind(plan, federation, SigningKey(start.signing_secret), specs=specs, now=self._clock)

    def _build_strategy(self) -> FederatedStrategy:
        plan, tensors = self._plan, [tensor.size for tensor in self._layout.tensors]
        central = build_central(plan, tensors, self._store) if plan.privacy.per_client else None
        meter: PrivacyMeter | None = None if central is None else central.record
        if plan.privacy.per_example:
            units = {one.name: one.units for one in self._start.sites if one.name not in plan.cohort.without}
            meter = site_meter(plan, units, lambda: max(self._tries.begun, self.directory.rounds + 1))
        return FederatedStrategy(
            plan,
            run_id=self._start.run_id,
            protection=self._protection,
            rule=(None if central is None else central.rule) or build_rule(plan.robust),
            num_parameters=self._layout.size,
            observers=[self.directory, self],
            plan_digest=plan.digest,
            central=central,
            meter=meter,
            attempts=self._tries.begin if plan.protection.on and central is None else None,
        )

    def round_done(self, record: RoundRecord, state: RunState) -> None:
        """Tell of a round that the directory has made durable."""
        self._told(record_table(record))

    def _renew(self) -> None:
        """Hold members to the newest revocation list."""
        newest = self._newest()
        if isinstance(self._protection, Masking) and newest and newest != self._known:
            found = Authority(self._start.identity_authority).revocations(newest, self._clock())
            self._protection.renew(found)
            self._known = newest

    # -- the run ----------------------------------------------------------------------------------

    def _begin(self, grid: Grid, paused: Callable[[], bool]) -> RunState | None:
        """Where the run stands; None where it was paused while it waited for sites that are away at its start."""
        checkpoint = self.directory.latest()
        if checkpoint is not None:
            return self.directory.audit.applied(checkpoint.state)
        state = RunState(round=0, model=self._first_model())
        if self._plan.data.standardize is Standardize.FEDERATED:
            return self._agreed(grid, state, paused)
        return state

    def _agreed(self, grid: Grid, state: RunState, paused: Callable[[], bool]) -> RunState | None:
        """`state` with the statistics that the sites agree on, who are asked until all of them are there."""
        for tries in itertools.count():
            if paused():
                return None
            try:
                return agreed(self.directory, self._strategy, grid, state)
            except SitesAwayError as error:
                _log.warning("run %s has not begun: %s; its sites are asked again", self._start.run_id, error)
                self._wait(min(_MOST_WAIT_S, _FIRST_WAIT_S * 2.0 ** min(tries, _MOST_DOUBLINGS)))
        return None

    def _first_model(self) -> F32:
        """The first model, shape (d,), from the file that the coordinator's computer made."""
        where = "the first model"
        tensors = decode_arrays(self._blobs.get(self._start.first_blob), where)
        try:
            return self._layout.flatten(tensors)
        except (KeyError, ValueError, TypeError) as error:
            raise LocalError(f"{where}: expected the tensors of its layout ({error})") from None

    def _finish(self, grid: Grid, state: RunState) -> Ended:
        tested, untested = self._tested(grid, state)
        released = self._strategy.released(state)
        number = state.best_round if released is state.best_model else state.round
        if self._plan.protection.sealed_model:
            return self._concluded(self._seal(state, released, number, untested))
        blob, sha256 = self._release(state, released, number)
        self._write_report(self.directory.lines(), number, state.stopped, tested)
        return Ended(
            state="finished",
            reason="; ".join(filter(None, (state.stopped, untested))),
            round=state.round,
            blob=blob,
            sha256=sha256,
            released_round=number,
            metrics={} if tested is None else _numbers(tested["metrics"]),
        )

    def _seal(self, state: RunState, model: F32, number: int, untested: str) -> SealedRelease:
        """Seal the model to the members, and note all that is to be told of the end, without which it begins anew.

        The note is durable before anything that holds the model goes.
        """
        if not isinstance(self._protection, Homomorphic):
            raise RuntimeError("a model is sealed to the members of homomorphic aggregation")
        sealed = self._protection.seal(self._encoded(state, model, number))
        released = SealedRelease(
            blob=self._blobs.put(sealed),
            sha256=hashlib.sha256(sealed).hexdigest(),
            rounds=state.round,
            released_round=number,
            stopped=state.stopped,
            untested=untested,
        )
        self.directory.write_text(RELEASED_FILE, released.encode())
        return released

    def _concluded(self, released: SealedRelease) -> Ended:
        """How the run whose sealed model is `released` has ended: its report written, its other models deleted."""
        path = self.directory.path / _TEST
        tested = _read_json(path) if path.exists() else None
        self._write_report(self.directory.lines(), released.released_round, released.stopped, tested)
        self.directory.discard_models()
        return Ended(
            state="finished",
            reason="; ".join(filter(None, (released.stopped, released.untested))),
            round=self.directory.rounds,
            blob=released.blob,
            sha256=bytes.fromhex(released.sha256),
            released_round=released.released_round,
            metrics={} if tested is None else _numbers(tested["metrics"]),
        )

    def _tested(self, grid: Grid, state: RunState) -> tuple[Json | None, str]:
        """What the sites counted on their test rows, asked for once; else why the model is untested, if it should be.

        A run that has its model does not fail for want of a test.
        """
        plan, path = self._plan, self.directory.path / _TEST
        if not plan.data.test or (plan.privacy.on and plan.privacy.evaluation is Disclosure.OFF):
            return None, ""
        if path.exists():
            return _read_json(path), ""
        if plan.protection.on:
            if self._store.get(_TEST_BEGUN) is not None:  # two sums over one model may tell single sites
                return None, "untested: the test was broken off, and is not asked for again under secure aggregation"
            self._store.put(_TEST_BEGUN, b"1")
        try:
            found = self._strategy.evaluate(grid, state, Split.TEST)
        except LocalError as error:
            if _is_of_the_machine(error):
                raise
            return None, f"untested: {error}"
        tested = {
            "n": found.total.n,
            "metrics": _numbers(found.total.metrics()),
            "untested": [f"{one.site}: {one.reason}" for one in found.absences],
        }
        self.directory.write_text(_TEST, json.dumps(tested, ensure_ascii=False) + "\n")
        return tested, ""

    def _release(self, state: RunState, model: F32, number: int) -> tuple[str, bytes]:
        """The released model's name in the folder of models, and the SHA-256 of its file; made once."""
        path = self.directory.path / RELEASED_FILE
        if path.exists():
            kept = _read_json(path)
            return str(kept["blob"]), bytes.fromhex(kept["sha256"])
        data = self._encoded(state, model, number)
        blob, sha256 = self._blobs.put(data), hashlib.sha256(data)
        self.directory.write_text(RELEASED_FILE, json.dumps({"blob": blob, "sha256": sha256.hexdigest()}) + "\n")
        return blob, sha256.digest()

    def _encoded(self, state: RunState, model: F32, number: int) -> bytes:
        """model.safetensors."""
        return encode_model(
            ModelFile(
                layout=self._layout,
                model=np.ascontiguousarray(model),
                round=number,
                run_id=self._start.run_id,
                plan_digest=self._plan.digest,
                statistics=state.statistics,
            )
        )

    def _write_report(self, lines: list[Json], released_round: int, stopped: str, tested: Json | None) -> None:
        """model-card.md, where a model is released, and report.html."""
        if released_round:
            card = model_card(
                self._plan,
                self.directory.info,
                lines,
                released_round=released_round,
                stopped=stopped,
                untested=() if tested is None else tested["untested"],
                versions=software_versions(),
                deployed=True,
                tested=tested,
            )
            self.directory.write_text("model-card.md", card)
        run = ReportedRun(
            plan=self._plan,
            info=self.directory.info,
            lines=lines,
            released_round=released_round,
            stopped=stopped,
            resumed=self._resumed,
            versions=software_versions(),
            deployed=True,
            tested=tested,
        )
        try:
            self.directory.write_text("report.html", render(run))
        except MissingExtraError as error:
            _log.warning("no report was written: %s", error)


def how_it_ends(error: WardroundError, rounds: int) -> Ended:
    """What `error`, after so many durable rounds, makes of a run."""
    return Ended(state="paused" if _is_of_the_machine(error) else "failed", reason=str(error), round=rounds)


def _is_of_the_machine(error: BaseException) -> bool:
    """Whether a failing system call is behind `error`: a full disk, say."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and not isinstance(seen, ConnectionError | TimeoutError):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def _read_json(path: Path) -> Json:
    try:
        return dict(json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError) as error:
        raise LocalError(f"{path}: expected what wardround wrote ({error}); restore it") from None


def _numbers(metrics: Any) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items() if value is not None and np.isfinite(value)}
