"""Everything that is needed to do the run again."""

from collections.abc import Iterator

from wardround.server.report.markup import Section, details, table, text
from wardround.server.report.run import ReportedRun
from wardround.server.report.wording import duration

__all__ = ["particulars"]

_MOST_CHARACTERS = 200_000


def particulars(run: ReportedRun) -> Section:
    """Run, versions, time and the whole plan."""
    plan = run.plan.to_toml()
    if len(plan) > _MOST_CHARACTERS:
        plan = plan[:_MOST_CHARACTERS] + "\n# (the rest is left out here; see plan.toml)\n"
    body = table(("run", ""), _rows(run))
    body += details(f"The plan: {run.plan.name}", f"<pre>{text(plan)}</pre>")
    if run.plan.code_files:
        body += details("Files of the code bundle", table(("file", "SHA-256"), run.plan.code_files))
    return Section(anchor="plan", title="The plan and the run", body=body)


def _rows(run: ReportedRun) -> Iterator[tuple[str, str]]:
    info = run.info
    yield "plan digest (SHA-256)", run.plan.digest if info is None else info.plan_digest
    if info is not None:
        if info.source_digest != info.plan_digest:
            yield "digest of the plan as it was given", info.source_digest
        yield "run", info.run_id
        yield "started", info.created
        yield "engine", info.computed_by
    yield "seed", str(run.plan.seed)
    yield "rounds", f"{len(run.lines)} of {run.plan.rounds}" + (f"; {run.stopped}" if run.stopped else "")
    if run.released_round:
        yield "released model", f"round {run.released_round}"
    if run.resumed:
        yield "continued before round", ", ".join(map(str, run.resumed))
    yield "time in rounds", duration(sum(line["seconds"] for line in run.lines))
    yield "CPU time in rounds", duration(sum(line["cpu_seconds"] for line in run.lines))
    simulated = [line["simulated_seconds"] for line in run.lines if line["simulated_seconds"] is not None]
    if any(simulated):
        yield "time on the simulated clock", duration(sum(simulated))
    yield "software", ", ".join(f"{name} {version}" for name, version in run.versions.items())
