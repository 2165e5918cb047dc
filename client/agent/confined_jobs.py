"""The jobs of a site's runs: processes, confined where the system can, else by the site's leave only."""

import logging
import sys
import threading
from pathlib import Path

from wardround.client.agent.data_registry import DataSet
from wardround.client.agent.policy_file import PolicyFile
from wardround.client.agent.site_folder import SiteFolder
from wardround.client.agent.site_job import SiteJob
from wardround.client.agent.withdrawals import Withdrawals
from wardround.client.data.table_rules import TableRules
from wardround.client.job.confinement import available
from wardround.client.job.job_process import JobProcess
from wardround.client.job.limits import JobLimits
from wardround.errors import LocalError
from wardround.orders import SiteId
from wardround.plan import Plan

__all__ = ["ConfinedJobs"]

_log = logging.getLogger("wardround")


class ConfinedJobs:
    """A `JobMaker` for the site of `folder`. `python` has wardround[job]; each job may use what `limits` allow.

    Where this system cannot confine a job, it is refused, unless `allow_unconfined` or the site's policy allows it;
    then that is logged each time.
    """

    __slots__ = ("_allow", "_folder", "_limits", "_lock", "_python", "_why")

    def __init__(
        self,
        folder: SiteFolder,
        *,
        python: Path | None = None,
        allow_unconfined: bool = False,
        limits: JobLimits | None = None,
    ) -> None:
        self._folder, self._allow, self._limits = folder, allow_unconfined, limits
        self._python = sys.executable if python is None else str(python)
        self._lock = threading.Lock()
        self._why: list[str | None] = []

    def __call__(self, run: str, plan: Plan, data: DataSet) -> SiteJob:
        """The job of a run. Its process is started when it is asked something first."""
        why = self._why_not()
        if why is not None:
            if not self._allow and not PolicyFile(self._folder).read().allow_unconfined_jobs:
                raise LocalError(
                    f"jobs cannot be confined here ({why}); see docs/job.md, or allow it: wardround client policy set "
                    "--allow-unconfined-jobs"
                )
            _log.warning(
                "JOBS ARE NOT CONFINED (%s): the plan's code can reach the network and this site's keys; allowed by "
                "allow_unconfined_jobs",
                why,
                extra={"run": run},
            )
        folder = self._folder.folder("jobs")
        return JobProcess(
            plan,
            SiteId(self._folder.name),
            Path(data.path),
            data.format,
            folder=folder,
            log=folder / f"{run}.log",
            confined=why is None,
            hidden=(self._folder.path,),
            python=self._python,
            limits=self._limits,
            open_table=data.open_unchanged,  # the run is charged for the rows that were registered
            rules=lambda: self._rules(data),
        )

    def _rules(self, data: DataSet) -> TableRules:
        """What holds for the table now: whoever has withdrawn meanwhile is in no later process of the job."""
        if data.schema is None:
            return TableRules()
        kept = Withdrawals(self._folder)
        return TableRules(schema=data.schema, key=kept.key(), withdrawn=kept.hashes(data.population))

    def _why_not(self) -> str | None:
        """Why a job cannot be confined; None where it can. Tried once."""
        with self._lock:
            if not self._why:
                self._why.append(available(self._python))
            return self._why[0]
