"""A plan, a table and jobs for tests; a plan may be a malicious one (`hostile`)."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from wardround.client.job.job_process import JobProcess
from wardround.client.job.limits import JobLimits
from wardround.orders import EvalJob, FitJob, Order, OrderKind, SiteId, Split
from wardround.plan import Plan, parse_plan
from wardround.vector import F32

__all__ = ["PLAN", "SITE", "SIZE", "Place", "evaluation", "mark_of", "model", "running_with", "training"]

SITE = SiteId("Hospital A")
SIZE = 6
"""Parameters of the plan's model: a logistic regression on two columns, two classes."""

PLAN = """
name = "tiny"
rounds = 3
[task]
name = "tabular-classifier"
model = "logistic"
[data]
source = "csv"
path = "elsewhere.csv"
target = { name = "sick", classes = ["no", "yes"] }
columns = [{ name = "age", range = [0, 100] }, { name = "dose", range = [0, 10] }]
[training]
batch_size = 8
[simulation]
sites = 2
"""
HOSTILE = '[task]\ncode = "code"\nentry = "hostile:task"\n'


class Place:
    """Folders of a site below `folder`, with a table of 40 rows and a secret key. Twice is once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = folder / "state"
        self.jobs = self.state / "jobs"
        self.jobs.mkdir(parents=True, mode=0o700, exist_ok=True)
        self.key = self.state / "signing-key"
        self.key.write_text("the site's key", encoding="ascii")
        self.key.chmod(0o600)
        self.table = folder / "patients.csv"
        rows = [f"{20 + number},{number % 10},{'yes' if number % 3 == 0 else 'no'}" for number in range(40)]
        self.table.write_text("\n".join(["age,dose,sick", *rows]) + "\n", encoding="utf-8")
        self.table.chmod(0o600)
        self.log = self.jobs / "run.log"

    def plan(self, *settings: str) -> Plan:
        return parse_plan(PLAN).override(settings)

    def hostile_plan(self, attack: str, details: dict[str, Any], *settings: str) -> Plan:
        """A plan whose code attacks when it is loaded."""
        code = self.folder / "bundle" / "code"
        code.mkdir(parents=True, exist_ok=True)
        shutil.copy(Path(__file__).with_name("hostile.py"), code)
        text = PLAN.replace('[task]\nname = "tabular-classifier"\n', HOSTILE)
        plan = parse_plan(text, folder=code.parent).override(settings)
        return replace(plan, task=replace(plan.task, options={"attack": attack, "details": json.dumps(details)}))

    @contextmanager
    def job(self, plan: Plan, *, confined: bool = True, **options: Any) -> Iterator[JobProcess]:
        limits = options.pop("limits", None) or JobLimits(call_s=60.0)
        made = JobProcess(
            plan,
            SITE,
            self.table,
            "csv",
            folder=self.jobs,
            log=self.log,
            confined=confined,
            limits=limits,
            **{"hidden": (self.state,), **options},
        )
        try:
            yield made
        finally:
            made.close()

    def outcome(self) -> dict[str, Any]:
        """What the attack said of itself, in the log of the job."""
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.startswith("ATTACK ")]
        assert lines, self.log.read_text(errors="replace")[-2000:]
        found: dict[str, Any] = json.loads(lines[-1].removeprefix("ATTACK "))
        return found

    def attack(self, name: str, details: dict[str, Any], *, confined: bool = True, **options: Any) -> dict[str, Any]:
        """Run an attack, then train: what the attack says that it got."""
        plan = self.hostile_plan(name, details)
        with self.job(plan, confined=confined, **options) as job:
            result = job.fit(training(plan), model())
            assert result.update.shape == (SIZE,)
        return self.outcome()


def model() -> F32:
    return np.linspace(-0.1, 0.1, SIZE, dtype=np.float32)


def training(plan: Plan, round: int = 1) -> FitJob:
    order = Order(run_id="run", plan_digest=plan.digest, kind=OrderKind.FIT, round=round)
    return FitJob(order=order, site=SITE, seed=7)


def evaluation(plan: Plan, split: Split = Split.TEST) -> EvalJob:
    order = Order(run_id="run", plan_digest=plan.digest, kind=OrderKind.EVALUATE, round=1, split=split)
    return EvalJob(order=order, site=SITE)


def mark_of(path: Path) -> str:
    """An argument by which a process is known that belongs to this test."""
    return f"mark-of-{path.name}-{abs(hash(str(path)))}"


def running_with(mark: str) -> list[int]:
    """The processes of this machine that have `mark` among their arguments."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                arguments = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if mark.encode() in arguments:
                found.append(int(entry.name))
    return found
