"""The jobs of a site's runs, as the agent makes them."""

from pathlib import Path

import pytest

from tests.client.agent.site_world import RUN, World, write_table
from wardround.client.agent.confined_jobs import ConfinedJobs
from wardround.client.job.job_process import JobProcess
from wardround.client.job.limits import JobLimits
from wardround.errors import LocalError


def test_no_later_process_of_a_job_reads_a_table_that_has_changed(tmp_path: Path) -> None:
    """Privacy was charged for the rows as they were: a job that crashed may not go on with others."""
    world = World.make(tmp_path)
    plan, data = world.offer(), world.data()
    job = ConfinedJobs(world.folder, allow_unconfined=True)(RUN, plan, data)
    assert isinstance(job, JobProcess)
    try:
        assert job.describe().rows == data.rows
        job.interrupt()
        write_table(Path(data.path), rows=data.rows - 10, seed=2)
        with pytest.raises(LocalError, match="has changed since it was registered"):
            job.describe()
    finally:
        job.close()


def test_a_job_may_use_what_the_site_allows_and_what_is_usual_otherwise(tmp_path: Path) -> None:
    world = World.make(tmp_path)
    plan, data = world.offer(), world.data()
    for given, expected in ((JobLimits(processes=7), JobLimits(processes=7)), (None, JobLimits())):
        job = ConfinedJobs(world.folder, allow_unconfined=True, limits=given)(RUN, plan, data)
        assert isinstance(job, JobProcess) and job._limits == expected
        job.close()
