import numpy as np

from tests.sites_of_rows import fit_jobs, rows_plan, sites_of, trainers_of
from wardround.client.trainer.bundle import load_task
from wardround.client.trainer.flat_model import initial_vector
from wardround.simulations.executors.serial import Serial


def test_each_site_is_asked_in_order() -> None:
    plan = rows_plan()
    task, sites = load_task(plan), sites_of([9, 12])
    trainers, jobs, model = trainers_of(task, plan, sites), fit_jobs(sites), initial_vector(task, plan, 0)
    executor = Serial(trainers.__getitem__)
    assert executor.block_size == 1
    for result, job in zip(executor.fit(jobs, model), jobs, strict=True):
        assert np.array_equal(result.update, trainers[job.site].fit(job, model).update)
        assert result.num_examples == len(trainers[job.site].data.train)
