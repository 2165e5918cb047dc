"""What was offered to a site, and what its administrator decided: one folder for each run.

    offer.json      as it came, without the plan and its code
    plan.toml       the plan
    bundle/         where the plan's relative paths start: its code lies below
    decision.json   the administrator's decision, for this run and this digest, signed by the site's key
    outcome.json    what became of it: what the agent found when it prepared the run, and how the run ended

The folder appears whole, under another name first. Commands write decisions, the agent writes the rest.
"""

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wardround.client.agent.offer import MemberFacts, Offer, check_run_name
from wardround.client.agent.site_folder import SiteFolder
from wardround.client.agent.site_log import note
from wardround.durable_file import TEMPORARY, replace_file, sync_folder
from wardround.errors import LocalError, RemoteError
from wardround.link.signing_inputs import decision_bytes
from wardround.plain_text import plain_text
from wardround.signing_key import check_signature

if TYPE_CHECKING:
    from wardround.plan import Plan

__all__ = ["DamagedError", "Decision", "Outcome", "PlanStore", "RunState", "StoredOffer", "Verdict"]


_LOCK = "plans.lock"
_MOST_UNDECIDED = 100
"""Offers that wait; with what the link bounds each to (1 MiB), it is what a server can lay down here."""
_ENDED_KEPT = 100
"""Of the runs that ended before anybody decided on them."""


class DamagedError(LocalError):
    """A file of a run cannot be read any more: only a person can help."""


class Verdict(StrEnum):
    APPROVED = "approved"
    DENIED = "denied"


class RunState(StrEnum):
    """What became of a run that was decided on, at this site."""

    READY = "ready"
    """The data fit, and the server was told."""
    UNFIT = "unfit"
    """It was approved, but cannot be run here; `reason` says why, and the server was told that it is denied."""
    ENDED = "ended"


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Of one administrator, on one run of one plan; `data` and `data_digest` are what an approval binds it to.

    `unprotected`: that a run without privacy ends the budget of its data is known and wanted.
    """

    verdict: Verdict
    plan_digest: str
    by: str
    at: str
    reason: str = ""
    data: str = ""
    data_digest: str = ""
    unprotected: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """`model` is the SHA-256, hex, of what came of a run that has ended, by the server's word; empty for none."""

    state: RunState
    reason: str = ""
    units: int | None = None
    model: str = ""
    told: str = ""
    """What the server is told of a run that cannot be run here; empty: only that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredOffer:
    """An offer as it is kept."""

    run: str
    plan_digest: str
    code_folder: str | None
    size: int
    tensors: tuple[int, ...]
    sites: tuple[MemberFacts, ...]
    received: str


class PlanStore:
    """The plans that were offered to the site of `folder`."""

    __slots__ = ("_folder",)

    def __init__(self, folder: SiteFolder) -> None:
        self._folder = folder

    def put(self, offer: Offer, now: datetime) -> bool:
        """Keep an offer; durable on return. False for one that is here already.

        Raises RemoteError for a run that was offered with another plan, model or cohort, and where too many wait.
        """
        target = self._path(offer.run)
        stored = StoredOffer(
            run=offer.run,
            plan_digest=offer.plan_digest,
            code_folder=offer.code_folder,
            size=offer.size,
            tensors=offer.tensors,
            sites=offer.sites,
            received=now.isoformat(timespec="seconds"),
        )
        if target.exists():
            known = self.offer(offer.run)
            if replace(known, received=stored.received) != stored:
                raise RemoteError(
                    f"run {offer.run}: expected the offer as it came first, got another plan, model or cohort under "
                    "its name; a changed plan needs a new run"
                )
            return False
        if self._make_room() >= _MOST_UNDECIDED:
            raise RemoteError(
                f"run {offer.run}: expected at most {_MOST_UNDECIDED} offers that wait for a decision, got one more; "
                "deny some (wardround client plan list, plan deny), then the coordinator must start this run again"
            )
        temporary = target.with_name(TEMPORARY + target.name)
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(mode=0o700)
            _write_new(temporary / "offer.json", json.dumps(asdict(stored), ensure_ascii=False).encode())
            _write_new(temporary / "plan.toml", offer.plan.encode())
            bundle = temporary / "bundle"
            bundle.mkdir(mode=0o700)
            if offer.code_folder is not None:
                code = bundle / offer.code_folder
                code.mkdir(mode=0o700, parents=True, exist_ok=True)
                for name, data in offer.code.items():
                    (code / name).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                    _write_new(code / name, data)
            for place in [temporary, *(path for path in temporary.rglob("*") if path.is_dir())]:
                sync_folder(place)
            os.rename(temporary, target)
            sync_folder(target.parent)
        except OSError as error:
            raise LocalError(f"{target}: cannot be written ({error.strerror}); the offer is not kept") from None
        return True

    def _make_room(self) -> int:
        """How many offers wait for a decision. Of those that ended undecided, all but the newest are deleted."""
        waiting, ended = 0, list[tuple[int, Path]]()
        for one in list(os.scandir(self._folder.folder("plans"))):
            place = Path(one.path)
            if one.name.startswith(TEMPORARY):  # of a kill
                shutil.rmtree(place, ignore_errors=True)
            elif not os.path.lexists(place / "decision.json"):
                try:
                    ended.append(((place / "outcome.json").stat().st_mtime_ns, place))
                except OSError:
                    waiting += 1
        for _, place in sorted(ended)[:-_ENDED_KEPT]:
            try:
                gone = place.rename(place.with_name(TEMPORARY + place.name))
            except OSError as error:
                raise LocalError(f"{place}: cannot be deleted ({error.strerror})") from None
            shutil.rmtree(gone, ignore_errors=True)
        return waiting

    def knows(self, run: str) -> bool:
        """Whether it was offered."""
        return self._path(run).exists()

    def names(self) -> list[str]:
        """The runs that were offered, in no order."""
        return [
            one.name
            for one in os.scandir(self._folder.folder("plans"))
            if not one.name.startswith(TEMPORARY) and one.is_dir(follow_symlinks=False)
        ]

    def runs(self) -> list[str]:
        """The runs that were offered, the oldest first."""
        received = {name: self.offer(name).received for name in self.names()}
        return sorted(received, key=lambda name: (received[name], name))

    def open_runs(self) -> Iterator[str]:
        """The runs that have not ended here."""
        for run in self.runs():
            outcome = self.outcome(run)
            if outcome is None or outcome.state is not RunState.ENDED:
                yield run

    def find(self, name: str) -> str:
        """The run whose id begins with `name`. Raises LocalError unless there is exactly one.

        Ids are the server's choice, so that a longer start is no surer than a short one: every other run counts.
        """
        found = [run for run in self.runs() if name and run.startswith(name)]
        if len(found) != 1:
            got = f"{len(found)} that begin so" if found else "none"
            raise LocalError(f"{plain_text(name, 80)}: expected the id of an offered run, or its start, got {got}")
        return found[0]

    def offer(self, run: str) -> StoredOffer:
        table = self._table(run, "offer.json")
        if table is None:
            raise LocalError(f"run {plain_text(run, 80)}: expected one that was offered")
        try:
            sites = tuple(MemberFacts(**one) for one in table.pop("sites"))
            return StoredOffer(**{**table, "tensors": tuple(table.pop("tensors")), "sites": sites})
        except (TypeError, KeyError) as error:
            raise self._damaged(run, "offer.json", error) from None

    def plan(self, run: str) -> "Plan":
        """The plan that was offered. Raises RemoteError unless its digest is the one that was named."""
        from wardround.plan import PlanError, parse_plan

        place = self._path(run)
        try:
            plan = parse_plan(self._folder.read(f"plans/{run}/plan.toml").decode(), folder=place / "bundle")
        except PlanError as error:
            words = plain_text(str(error), 500)
            raise RemoteError(f"run {run}: expected a plan that this version understands ({words})") from None
        except UnicodeDecodeError:
            raise RemoteError(f"run {run}: expected a plan in UTF-8") from None
        offer = self.offer(run)
        if plan.task.code != offer.code_folder:  # no file lies here that is not in the digest
            raise RemoteError(f"run {run}: expected code where the plan says, got it in another folder")
        if plan.digest != offer.plan_digest:
            raise RemoteError(
                f"run {run}: plan digest differs from the offered one: expected {offer.plan_digest[:12]}, got "
                f"{plan.digest[:12]}; it is damaged, or another version of wardround reads it otherwise"
            )
        return plan

    def decision(self, run: str) -> Decision | None:
        """What was decided. Raises DamagedError for what this site has not signed for this run, such as a copy."""
        table = self._table(run, "decision.json")
        if table is None:
            return None
        try:
            self._check_signed(run, table)
            return Decision(**{**table, "verdict": Verdict(table["verdict"])})
        except (TypeError, KeyError, ValueError) as error:
            raise self._damaged(run, "decision.json", error) from None

    def decide(self, run: str, decision: Decision) -> None:
        """Keep a decision, durably, and tell the agent. Raises LocalError for a run that has ended or was decided.

        Two administrators at once come one after another: what one has denied, the other does not approve.
        """
        with self._folder.alone(_LOCK):
            self._decide(run, decision)

    def _decide(self, run: str, decision: Decision) -> None:
        outcome = self.outcome(run)
        try:
            known = self.decision(run)
        except DamagedError:  # a decision that is none is made again
            known = None
        if outcome is not None and outcome.state is RunState.ENDED:
            raise LocalError(f"run {run}: has ended; nothing is left to decide")
        if known is not None and known.verdict is Verdict.DENIED:
            raise LocalError(f"run {run}: was denied on {known.at[:10]}; the coordinator must start another run")
        if outcome is not None and outcome.state is RunState.UNFIT:
            raise LocalError(f"run {run}: could not be run here ({outcome.reason}); the coordinator must start another")
        if known is not None and decision.verdict is Verdict.APPROVED:
            raise LocalError(f"run {run}: is approved already, with data {known.data!r}; deny it to take that back")
        note(
            self._folder,
            f"plan.{decision.verdict}",
            run,
            plan=decision.plan_digest,
            by=decision.by,
            reason=decision.reason,
            data=decision.data,
            data_digest=decision.data_digest,
            unprotected=decision.unprotected,
        )
        table, key = {**asdict(decision), "verdict": decision.verdict.value}, self._folder.signing_key
        signed = decision_bytes(key.public, run, _canonical(table))
        self._write(run, "decision.json", table | {"signature": key.sign(signed).hex()})
        self._folder.touch()

    def _check_signed(self, run: str, table: dict[str, Any]) -> None:
        """Take the signature out of `table`. Raises DamagedError unless it is this site's of the rest."""
        try:
            signature, public = bytes.fromhex(str(table.pop("signature", ""))), self._folder.signing_key.public
            check_signature(public, signature, decision_bytes(public, run, _canonical(table)), "decision.json")
        except (RemoteError, ValueError):
            raise DamagedError(
                f"{self._path(run) / 'decision.json'}: expected what this site has decided on this run, got a changed "
                "decision, or one of another site or run; decide again: wardround client plan approve, or plan deny"
            ) from None

    def outcome(self, run: str) -> Outcome | None:
        table = self._table(run, "outcome.json")
        if table is None:
            return None
        try:
            return Outcome(**{**table, "state": RunState(table["state"])})
        except (TypeError, KeyError, ValueError) as error:
            raise self._damaged(run, "outcome.json", error) from None

    def note(self, run: str, outcome: Outcome) -> None:
        """Keep what became of a run, durably."""
        self._write(run, "outcome.json", {**asdict(outcome), "state": outcome.state.value})

    def code_folder(self, run: str) -> Path:
        """Where the plan's relative paths start."""
        return self._path(run) / "bundle"

    def _path(self, run: str) -> Path:
        return self._folder.folder("plans") / check_run_name(run)

    def _table(self, run: str, name: str) -> dict[str, Any] | None:
        path = self._path(run) / name
        if not path.exists():
            return None
        try:
            table = json.loads(self._folder.read(f"plans/{run}/{name}"))
        except (ValueError, RecursionError) as error:
            raise self._damaged(run, name, error) from None
        if not isinstance(table, dict):
            raise self._damaged(run, name, ValueError("no table"))
        return table

    def _write(self, run: str, name: str, table: dict[str, Any]) -> None:
        self._folder.write(f"plans/{check_run_name(run)}/{name}", json.dumps(table, ensure_ascii=False).encode())

    def _damaged(self, run: str, name: str, error: Exception) -> DamagedError:
        return DamagedError(f"{self._path(run) / name}: is damaged ({plain_text(str(error))}); restore it from a copy")


def _canonical(table: dict[str, Any]) -> bytes:
    return json.dumps(table, sort_keys=True, ensure_ascii=False).encode()


def _write_new(path: Path, data: bytes) -> None:
    replace_file(path, data, mode=0o600)
