"""The plan: everything that the parties of a federation agree on before anything runs.

A plan is a TOML file, decoded into frozen dataclasses. Its digest is what a site approves and what
every message refers to.
"""

import hashlib
import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tomli_w

from wardround.decoding import PlanError, check_bounds, decode, encode, fields_of, key
from wardround.path_below import is_below
from wardround.plan_privacy import Privacy
from wardround.plan_protection import Protection
from wardround.plan_robust import OFF, Robust
from wardround.plan_sections import (
    Clipping,
    Cohort,
    Data,
    Evaluation,
    Select,
    ServerOptimizer,
    TaskSection,
    Training,
    Weighting,
)
from wardround.plan_simulation import Simulation
from wardround.registry import load, names, nearest

__all__ = ["CHECKS", "MOST_LETTERS", "Plan", "PlanError", "load_plan", "parse_plan"]

CHECKS = "wardround.plan_checks"
"""Group of what is checked beyond single sections, registered since it lies in packages that this one does not import.

Each is called with a plan, raises PlanError, or returns sentences that `wardround plan check` shows.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is to be done, frozen. Build one with `load_plan` or `parse_plan`.

    `code_files` is the code bundle: (path inside the bundle, SHA-256) for every file, sorted; it is
    read from disk by `load_plan` and is no key of the TOML file. `folder` is where relative paths
    start; it is no part of the digest.
    """

    name: str = key(doc="a short name, for people")
    version: int = key(1, doc="version of the plan format", ge=1, le=1)
    seed: int = key(0, doc="seed of everything that is random and needs no secrecy", ge=0, lt=2**63)
    rounds: int = key(doc="training rounds", ge=1)
    task: TaskSection = key(doc="what is learned")
    data: Data = key(doc="where the rows come from and what they mean")
    cohort: Cohort = key(Cohort, doc="who takes part in a round")
    training: Training = key(Training, doc="what each site does")
    clipping: Clipping = key(Clipping, doc="bounds on what a site sends")
    privacy: Privacy = key(Privacy, doc="differential privacy")
    protection: Protection = key(Protection, doc="what hides an update from the server")
    robust: Robust = key(Robust, doc="what protects the model from bad updates")
    server_optimizer: ServerOptimizer = key(ServerOptimizer, doc="how the averaged update changes the model")
    evaluation: Evaluation = key(Evaluation, doc="how the model is judged while it trains")
    simulation: Simulation = key(Simulation, doc="the federation that one machine plays")
    code_files: tuple[tuple[str, str], ...] = ()
    folder: Path = Path()

    def __post_init__(self) -> None:
        check_bounds(self)
        if not self.name.strip() or not self.name.isprintable() or len(self.name) > 100:
            raise PlanError("name", "a name of at most 100 letters on one line", self.name)
        if (self.task.flower_app is not None) != (self.data.source == "app"):
            raise PlanError("data.source", '"app" exactly when task.flower_app is set', self.data.source)
        self._check_cohort()
        judged = self.evaluation.patience is not None or self.evaluation.select is Select.BEST
        if judged and self.data.validation == 0 and self.data.source != "app":
            raise PlanError("data.validation", "more than 0, since evaluation steers this training", 0.0)
        weights, target = self.training.class_weights, self.data.target
        if weights and (target is None or not target.classes):
            raise PlanError("training.class_weights", "nothing, since the target has no classes", weights)
        if target is not None and weights and weights != "balanced" and len(weights) != len(target.classes):
            raise PlanError("training.class_weights", f"{len(target.classes)} numbers, one per class", weights)

    def _check_cohort(self) -> None:
        sites, cohort = self.simulation.sites, self.cohort
        if cohort.size is not None and cohort.size > sites:
            raise PlanError("cohort.size", f"at most the federation's {sites} sites (simulation.sites)", cohort.size)
        if cohort.min_replies is not None and cohort.min_replies > self.cohort_size:
            raise PlanError("cohort.min_replies", f"at most the cohort of {self.cohort_size}", cohort.min_replies)

        if cohort.without and len(cohort.without) >= sites:
            raise PlanError("cohort.without", f"fewer than all {sites} sites", cohort.without)
        left = sites - len(cohort.without)
        if cohort.size is not None and cohort.size > left:
            raise PlanError("cohort.size", f"at most the {left} sites that are left (cohort.without)", cohort.size)

        loses = self.simulation.dropout > 0 or (self.simulation.stragglers.fraction > 0 and cohort.deadline_s)
        if loses and cohort.min_replies is None and not self.protection.on:
            raise PlanError("cohort.min_replies", "a number, since simulation.dropout or stragglers lose sites")
        if self.evaluation.sites is not None and self.evaluation.sites > sites:
            raise PlanError("evaluation.sites", f"at most the federation's {sites} sites", self.evaluation.sites)

    @property
    def cohort_size(self) -> int:
        """How many sites are drawn for a round."""
        return self.cohort.size or self.simulation.sites - len(self.cohort.without)

    @property
    def contributions(self) -> int:
        """How many vectors the server sees of a round at most: each group's sum under masking, else every site's."""
        return self.protection.groups if self.protection.on else self.cohort_size

    @property
    def weighting(self) -> Weighting:
        """How updates are weighted: a robust rule takes no site's word for its number of examples."""
        return self.cohort.weighting if self.robust.rule == OFF else Weighting.UNIFORM

    def validates(self, round_number: int) -> bool:
        """Whether the model is judged on the sites' validation rows after this round: each `every` rounds, and last."""
        every = self.evaluation.every
        if not every or self.data.validation == 0 or not 1 <= round_number <= self.rounds:
            return False
        return round_number % every == 0 or round_number == self.rounds

    def canonical(self) -> bytes:
        """The plan's canonical form: JSON with sorted keys and every key that has a value."""
        table = encode(self)
        del table["folder"]
        return json.dumps(table, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical form, which includes the digest of every file of the code bundle; hex."""
        return hashlib.sha256(self.canonical()).hexdigest()

    @property
    def code_digest(self) -> str:
        """SHA-256 of the code bundle alone: of the path and the digest of each of its files; hex."""
        files = json.dumps(self.code_files, separators=(",", ":"), ensure_ascii=False).encode()
        return hashlib.sha256(b"wardround code bundle 1\0" + files).hexdigest()

    def override(self, settings: Iterable[str]) -> "Plan":
        """This plan with `section.key=value` settings applied.

        A value is TOML, or else text; an empty one takes the key out of the plan. Raises `PlanError`.
        """
        table = {name: value for name, value in encode(self).items() if name in PLAN_KEYS}
        for setting in settings:
            path, equals, text = setting.partition("=")
            if not equals:
                raise PlanError(path, "a setting of the form section.key=value", setting)
            _assign(table, path.strip(), _toml_value(text.strip()))
        return parse_plan(table, folder=self.folder)

    def to_toml(self) -> str:
        """The plan as TOML text that decodes to the same plan; every value spelled out."""
        return tomli_w.dumps({name: value for name, value in encode(self).items() if name in PLAN_KEYS})


def _toml_value(text: str) -> Any:
    if not text:
        return None
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return text


def _assign(table: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split(".")
    for parent in parents:
        child = table.setdefault(parent, {})
        if not isinstance(child, dict):
            raise PlanError(path, f"a key of a table, which {parent} is not")
        table = child
    table[last] = value


def _decode_plan(table: Mapping[str, Any]) -> Plan:
    for reserved in ("code_files", "folder"):
        if reserved in table:
            raise PlanError(reserved, f"a known key{nearest(reserved, PLAN_KEYS)}")
    return decode(Plan, table)


PLAN_KEYS = tuple(name for name in fields_of(Plan) if name not in ("code_files", "folder"))


def parse_plan(
    text: str | Mapping[str, Any],
    *,
    folder: Path | None = None,
    code_files: tuple[tuple[str, str], ...] | None = None,
) -> Plan:
    """The plan in TOML `text` (or an already parsed table); `folder` is where its relative paths start.

    `code_files` is the code bundle, as `Plan.code_files`, where it is not in `folder`. Raises `PlanError` for anything
    that is not understood.
    """
    if isinstance(text, str):
        table: Mapping[str, Any] = _toml(text)
    else:
        table = text
    folder = folder or Path()
    plan = _decode_plan(table)
    files = _code_files(plan.task.code, folder) if code_files is None else code_files
    plan = replace(plan, folder=folder, code_files=files)
    for check in names(CHECKS):
        load(CHECKS, check)(plan)
    return plan


MOST_LETTERS = 4 << 20
"""Of a plan with every value spelled out. Peers may send 1 MiB: link and API see to that."""
_LONG_KEY = re.compile(r"""(?:\.[ \t]*(?:[A-Za-z0-9_-]+|"(?:[^"\\\n]|\\.)*"|'[^'\n]*')[ \t]*){17}""")

_HEADING = re.compile(r"^[ \t]*\[.*", re.MULTILINE)
_MOST_DOTS = 1 << 16
"""In all headings: as many as `[[data.columns]]` that fit into the bytes, and more."""


def _toml(text: str) -> dict[str, Any]:
    """The table in `text`, whose author need not be trusted: Python's reader takes quadratic time for a long key, and
    about as much for many tables that each make others."""
    if len(text) > MOST_LETTERS:
        raise PlanError("", f"at most {MOST_LETTERS} letters", len(text))
    if (found := _LONG_KEY.search(text)) is not None:
        raise PlanError("", "keys of at most 16 dots", found[0])
    if (dots := sum(one.count(".") for one in _HEADING.findall(text))) > _MOST_DOTS:
        raise PlanError("", f"at most {_MOST_DOTS} dots in the headings of tables", dots)
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: not TOML, or a number of thousands of digits
        raise PlanError("", f"TOML ({error})") from None


def load_plan(path: str | Path) -> Plan:
    """The plan in the TOML file `path`, with its code bundle's files digested.

    Raises `PlanError` when the file cannot be read or does not fit.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise PlanError("", f"a readable plan file at {path} ({reason})") from None
    return parse_plan(text, folder=path.parent)


def _code_files(code: str | None, folder: Path) -> tuple[tuple[str, str], ...]:
    if code is None:
        return ()
    root = folder / code
    if not root.is_dir():
        raise PlanError("task.code", f"a folder at {root}")
    found: list[tuple[str, str]] = []
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root)
        if path.is_symlink():  # what it points to could change, or grow, without changing the digest
            raise PlanError("task.code", f"plain files, but {path} is a link")
        if path.is_file() and "__pycache__" not in name.parts:
            if not is_below(name.as_posix()):  # no site would take it
                raise PlanError("task.code", "names of printable letters without backslashes", name.as_posix())
            try:
                found.append((name.as_posix(), hashlib.sha256(path.read_bytes()).hexdigest()))
            except OSError as error:
                raise PlanError("task.code", f"readable files, but {path} is not ({error.strerror})") from None
    return tuple(found)
