"""Runs: starting, seeing and steering them."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from pathlib import Path as FilePath
from typing import Annotated, Any

from fastapi import FastAPI, Path, Query, Request
from fastapi.responses import FileResponse
from pydantic import Field

from wardround.identity import site_name
from wardround.orders import SiteId
from wardround.plain_text import plain_text
from wardround.plan import Plan
from wardround.server.api.admission import session_of
from wardround.server.api.answers import Digest, Form, Name, Refusal, file_of, refusals
from wardround.server.api.plan_routes import read_plan
from wardround.server.api.services import RunProgress, Services
from wardround.server.runs.deployable import check_sites
from wardround.server.runs.evidence import evidence_of_site, evidence_of_sites
from wardround.server.runs.run_directory import read_lines
from wardround.server.state.events import Event
from wardround.server.state.runs import ENDED, Run
from wardround.server.state.sites import SiteState

__all__ = ["add_run_routes"]

_MOST_SITES = 10_000
_MOST_WAIT_S = 30.0
_LOOK_EVERY_S = 1.0
_MOST_EVENTS, _MOST_LINES = 500, 500

_RunName = Annotated[
    str, Path(pattern=r"^([0-9]{1,9}|[0-9a-f]{32})$", description="The number of a run, or its whole id.")
]


class StartRun(Form):
    plan: Digest
    sites: Annotated[list[Name], Field(max_length=_MOST_SITES)] | None = Field(
        None, description="The sites; absent: all that take part."
    )


class RunSiteShown(Form):
    site: str
    verdict: str
    reason: str
    units: int | None
    decided: datetime | None
    present: bool
    fingerprint: str


class ProgressShown(Form):
    doing: str
    asked: list[str]
    answered: list[str]
    since: datetime | None
    restarts: int


class ModelRef(Form):
    name: str
    version: int


class RunShown(Form):
    id: str
    number: int
    name: str
    plan: str = Field(description="The digest of its plan.")
    state: str
    reason: str
    round: int = Field(description="Rounds that are done.")
    rounds: int = Field(description="Rounds of the plan.")
    created: datetime
    created_by: str
    started: datetime | None
    ended: datetime | None


class RunWhole(RunShown):
    sites: list[RunSiteShown]
    progress: ProgressShown | None
    report: bool = Field(description="Whether there is a report.")
    model: ModelRef | None


class EventShown(Form):
    id: int
    at: datetime
    kind: str
    subject: str
    who: str
    detail: dict[str, Any]


class News(Form):
    run: RunWhole
    events: list[EventShown]


def add_run_routes(app: FastAPI, services: Services) -> None:
    """The routes on runs."""

    @app.get("/api/v1/runs", responses=refusals(401, 403), tags=["runs"])
    def runs() -> list[RunShown]:
        """Every run, by number."""
        plans = {plan.digest: plan.toml for plan in services.plans.list()}
        return [_shown(run, read_plan(plans[run.plan_digest])) for run in services.runs.list()]

    @app.post("/api/v1/runs", status_code=201, responses=refusals(401, 403, 404, 409), tags=["runs"])
    async def start(body: StartRun, request: Request) -> RunWhole:
        """Start a run: its sites are asked, and it begins when all have approved."""
        by = session_of(request.scope).account.name
        run = await asyncio.to_thread(_create, services, body, by)
        await services.control.start(run.id)
        return await asyncio.to_thread(_whole, services, run.id)

    @app.get("/api/v1/runs/{run}", responses=refusals(401, 403, 404), tags=["runs"])
    def show(run: _RunName) -> RunWhole:
        """A run, and where each of its sites stands."""
        return _whole(services, _find(services, run).id)

    def steered(action: str, steer: Callable[[str], Awaitable[None]]) -> None:
        async def route(run: _RunName, request: Request) -> RunWhole:
            found = await asyncio.to_thread(_find, services, run)
            await steer(found.id)
            by = session_of(request.scope).account.name
            await asyncio.to_thread(_note, services, f"run.{action}_asked", found, by)
            return await asyncio.to_thread(_whole, services, found.id)

        app.add_api_route(
            f"/api/v1/runs/{{run}}/{action}",
            route,
            methods=["POST"],
            responses=refusals(401, 403, 404, 409),
            response_model=RunWhole,
            tags=["runs"],
            name=action,
            description=_STEERING[action],
        )

    steered("pause", services.control.pause)
    steered("resume", services.control.resume)
    steered("stop", services.control.stop)

    @app.get("/api/v1/runs/{run}/events", responses=refusals(401, 403, 404), tags=["runs"])
    async def events(
        run: _RunName,
        after: Annotated[int, Query(ge=0, lt=1 << 53, description="The last event that is known.")] = 0,
        wait_s: Annotated[float, Query(ge=0, le=_MOST_WAIT_S, description="How long to wait for a new one.")] = 0.0,
    ) -> News:
        """What has happened in a run, in order; answers as soon as there is something new, or the run has ended."""
        found = await asyncio.to_thread(_find, services, run)
        end = time.monotonic() + wait_s
        while True:
            happened = await asyncio.to_thread(
                lambda: services.events.list(after=after, run_id=found.id, most=_MOST_EVENTS)
            )
            whole = await asyncio.to_thread(_whole, services, found.id)
            left = end - time.monotonic()
            if happened or left <= 0 or whole.state in ENDED:
                return News(run=whole, events=[_event(one) for one in happened])
            await asyncio.sleep(min(_LOOK_EVERY_S, left))

    @app.get("/api/v1/runs/{run}/rounds", responses=refusals(401, 403, 404), tags=["runs"])
    def rounds(run: _RunName, after: Annotated[int, Query(ge=0, lt=1 << 31)] = 0) -> list[dict[str, Any]]:
        """The records of the rounds after `after`, at most 500, as in a run's metrics.jsonl."""
        found = _find(services, run)
        lines = read_lines(_folder(services, found))
        return [line for line in lines if after < line["round"] <= found.round][:_MOST_LINES]

    @app.get("/api/v1/runs/{run}/evidence", responses=refusals(401, 403, 404, 409), tags=["runs"])
    def evidence(
        run: _RunName, site: Annotated[Name | None, Query(description="Only this site, round by round.")] = None
    ) -> list[dict[str, Any]]:
        """What was noted about a run's sites; nothing before the first round is done."""
        found = _find(services, run)
        folder = _folder(services, found)
        if not read_lines(folder):
            return []
        return evidence_of_sites(folder) if site is None else evidence_of_site(folder, site)

    @app.get(
        "/api/v1/runs/{run}/report",
        responses=file_of("text/html") | refusals(401, 403, 404),
        response_class=FileResponse,
        tags=["runs"],
    )
    def report(run: _RunName) -> FileResponse:
        """The report of a run that has ended, one page of HTML, to be stored: it is not shown under this address."""
        found = _find(services, run)
        path = _folder(services, found) / "report.html"
        if not path.is_file():
            raise Refusal(404, f"run {found.number}: there is no report yet; it is written when the run ends")
        return FileResponse(path, media_type="text/html", filename=f"run-{found.number}-report.html")


_STEERING = {
    "pause": "Let a run finish the round at work, and then wait.",
    "resume": "Let a paused run go on.",
    "stop": "Let a run end after the round at work, with what it has.",
}


def _create(services: Services, body: StartRun, by: str) -> Run:
    stored = services.plans.get(body.plan)
    if stored is None:
        raise Refusal(404, f"there is no plan {body.plan[:12]}")
    if services.first_models.get(body.plan) is None:
        raise Refusal(409, f"plan {body.plan[:12]}: expected one with a first model; `wardround run start` makes it")
    sites = _sites(services, body.sites)
    check_sites(read_plan(stored.toml), len(sites))
    run = services.runs.create(
        plan_digest=body.plan, name=stored.name, sites=sites, created_by=by, now=services.clock()
    )
    _note(services, "run.created", run, by, {"plan": body.plan, "sites": list(sites)})
    return run


def _sites(services: Services, wanted: Sequence[str] | None) -> list[SiteId]:
    active = sorted(site.name for site in services.sites.list() if site.state is SiteState.ACTIVE)
    if wanted is None:
        return active
    try:
        sites = [site_name(one) for one in wanted]
    except ValueError as error:
        raise Refusal(422, f"sites: {error}") from None
    if len(set(sites)) != len(sites):
        raise Refusal(422, "sites: expected each site once")
    for site in sites:
        if site not in active:
            raise Refusal(
                409, f"expected sites that take part, got {plain_text(site)!r}; see `wardround server clients`"
            )
    return sorted(sites)


def _find(services: Services, name: str) -> Run:
    found = services.runs.get(name) if len(name) == 32 else services.runs.numbered(int(name))
    if found is None:
        raise Refusal(404, f"there is no run {name}; `wardround run list` shows them")
    return found


def _folder(services: Services, run: Run) -> FilePath:
    return services.runs_folder / run.id


def _note(services: Services, kind: str, run: Run, by: str, detail: dict[str, Any] | None = None) -> None:
    services.events.add(kind, now=services.clock(), subject=run.name, run_id=run.id, who=by, detail=detail)


def _shown(run: Run, plan: Plan) -> RunShown:
    return RunShown(
        id=run.id,
        number=run.number,
        name=run.name,
        plan=run.plan_digest,
        state=run.state,
        reason=run.reason,
        round=run.round,
        rounds=plan.rounds,
        created=run.created,
        created_by=run.created_by,
        started=run.started,
        ended=run.ended,
    )


def _whole(services: Services, run_id: str) -> RunWhole:
    run = services.runs.get(run_id)
    assert run is not None  # noqa: S101 (runs are not deleted)
    stored = services.plans.get(run.plan_digest)
    assert stored is not None  # noqa: S101 (a foreign key)
    present, keys = services.presence.present(), {site.name: site.fingerprint for site in services.sites.list()}
    model = services.models.of_run(run_id)
    return RunWhole(
        **_shown(run, read_plan(stored.toml)).model_dump(),
        sites=[
            RunSiteShown(
                site=one.site,
                verdict=one.verdict.value,
                reason=one.reason,
                units=one.units,
                decided=one.decided,
                present=one.site in present,
                fingerprint=keys.get(one.site, ""),
            )
            for one in services.run_sites.list(run_id)
        ],
        progress=_progress(services.control.progress(run_id)),
        report=(_folder(services, run) / "report.html").is_file(),
        model=None if model is None else ModelRef(name=model.name, version=model.version),
    )


def _progress(found: RunProgress | None) -> ProgressShown | None:
    if found is None:
        return None
    return ProgressShown(
        doing=found.doing,
        asked=list(found.asked),
        answered=list(found.answered),
        since=found.since,
        restarts=found.restarts,
    )


def _event(event: Event) -> EventShown:
    return EventShown(
        id=event.id, at=event.at, kind=event.kind, subject=event.subject, who=event.who, detail=dict(event.detail)
    )
