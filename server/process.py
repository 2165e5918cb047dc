"""The server's process: one event loop for the link to the sites, the HTTPS port for people, and the runs."""

import asyncio
import json
import signal
from base64 import b64encode
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

from wardround.audit.log import AuditLog
from wardround.clock import utc_now
from wardround.errors import RemoteError, WardroundError
from wardround.evidence_identity import RESERVED_SERVER_NAME
from wardround.link.messages import Notice
from wardround.orders import SiteId
from wardround.plain_text import plain_text
from wardround.server.api.app import make_api
from wardround.server.api.json_log import Log, adopt_standard_logging, json_log
from wardround.server.api.listener import HttpsListener
from wardround.server.api.services import Services
from wardround.server.audit.auditor import Auditor
from wardround.server.audit.heads import Heads
from wardround.server.link.hub import Hub
from wardround.server.open_files import WANTED, allow_open_files
from wardround.server.pki.endpoints import handle_renewal
from wardround.server.pki.enrolment import Enrolment, ServerAddress
from wardround.server.pki.server_certificate import ServerCertificate
from wardround.server.pki.signing_certificate import signing_certificate
from wardround.server.runs.cosigning import CoSigning
from wardround.server.runs.run_state import END_EVENTS
from wardround.server.runs.supervisor import Supervisor
from wardround.server.state.certificates import Certificates
from wardround.server.state.database import Database
from wardround.server.state.events import Events
from wardround.server.state.folder import StateFolder
from wardround.server.state.keyring import Keyring
from wardround.server.state.sessions import Sessions
from wardround.server.state.sites import Sites, SiteState
from wardround.server.state.vault import Vault

__all__ = ["serve"]

_HOUSEKEEPING = timedelta(hours=1)
_AUDIT_S = 1.0
_SHOWN_AFTER = frozenset({"round.done", *(f"run.{event}" for event in END_EVENTS)})
"""The kinds of events after which sites are shown the head of the audit log."""
_KEPT_AFTER_THE_END = timedelta(days=365)
"""Of certificates: a site that asks for another every hour makes the table no longer than that."""


def serve(path: Path, secret: bytes) -> None:
    """Run the server of the state folder `path`, which `secret` opens, until SIGTERM or SIGINT.

    Raises LocalError where the folder, the secret, the database or a port is not to be had.
    """
    log = json_log()
    adopt_standard_logging(log)
    files = allow_open_files()
    if files < WANTED:
        log.warning("few open files are allowed; see ulimit -n", allowed=files, wanted=WANTED)
    folder = StateFolder.open(path)
    with folder.lock():
        keyring = folder.keyring(secret)
        database = Database.open(folder.database_url)
        try:
            with database.hold():
                database.migrate()
                asyncio.run(_Server(folder, keyring, database, log).run())
        finally:
            database.close()


class _Server:
    """The parts, and what goes from one to another."""

    def __init__(self, folder: StateFolder, keyring: Keyring, database: Database, log: Log) -> None:
        self._folder, self._log = folder, log
        settings = folder.settings
        self._sites, self._sessions, self._events = Sites(database), Sessions(database), Events(database)
        self._certificates = Certificates(database)
        self._enrolment = Enrolment(
            database,
            keyring,
            ServerAddress.of(settings),
            authority=folder.tls_authority(),
            identity_authority=folder.identity_authority(),
            on_revocations=self._revoked,
        )
        self._certificate = ServerCertificate(folder.tls_authority(), keyring.tls_authority, (settings.host,))
        self._hub = Hub(self._enrolment.gate, on_notice=self._noticed, on_presence=self._present)
        self._supervisor = Supervisor(self._hub, folder, keyring, database, revocations=self._enrolment.revocations)
        services = Services.of(
            database,
            Vault(keyring.data_key),
            name=settings.name,
            runs_folder=folder.runs,
            models_folder=folder.models,
            enrolment=self._enrolment,
            control=self._supervisor,
            presence=self._hub,
            signing=keyring.signing,
            signing_certificate=signing_certificate(folder, keyring),
            identity_authority=folder.identity_authority(),
        )
        self._cosigning = CoSigning(
            database, services.plans, authority=folder.identity_authority(), clock=services.clock
        )
        self._listener = HttpsListener(make_api(services, log=log), self._certificate.current, log=log)
        self._audit_log = AuditLog.open(
            folder.audit,
            name=RESERVED_SERVER_NAME,
            key=keyring.signing,
            certificate=signing_certificate(folder, keyring),
        )
        self._auditor = Auditor(self._audit_log, self._events)
        self._heads = Heads(
            database,
            self._audit_log,
            self._hub,
            authority=folder.identity_authority(),
            public=keyring.signing.public,
            clock=services.clock,
        )
        self._run_sites = services.run_sites
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Open the ports, go on with the runs, and stay until a signal."""
        self._loop, stopped = asyncio.get_running_loop(), asyncio.Event()
        for one in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(one, stopped.set)
        settings = self._folder.settings
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._end_tasks)
            grpc_port = await self._hub.start(settings.bind, settings.grpc_port, self._certificate.current)
            stack.push_async_callback(self._hub.stop)
            await self._supervisor.open()
            stack.push_async_callback(self._supervisor.close)
            https_port = await self._listener.start(settings.bind, settings.https_port)
            stack.push_async_callback(self._listener.stop)
            self._spawn(self._keep_house())
            self._events.add("server.started", now=utc_now(), subject=settings.name)
            self._spawn(self._audit())
            stack.push_async_callback(self._heads.close)
            self._log.info("listening", address=settings.bind, https_port=https_port, grpc_port=grpc_port)
            await stopped.wait()
            self._log.info("stopping")
        self._events.add("server.stopped", now=utc_now(), subject=settings.name)
        try:
            self._auditor.catch_up()
        except WardroundError as error:  # the next start does it
            self._log.error("the audit log cannot be written", reason=str(error))

    # -- what sites say, and are told -----------------------------------------------------------------

    async def _noticed(self, site: SiteId, notice: Notice) -> None:
        try:
            if notice.kind == "approval":
                await self._supervisor.noticed(site, notice)
            elif notice.kind == "participation":
                await asyncio.to_thread(self._cosigning.take, site, notice)
            elif notice.kind == "cosigned":
                if await asyncio.to_thread(self._heads.take, site, notice):
                    self._heads.tell([site])
            elif notice.kind == "renew":
                body = await asyncio.to_thread(handle_renewal, self._enrolment, site, notice.body)
                self._spawn(self._tell(site, Notice(kind="certificate", body=body)))
            else:
                self._log.info("a notice was ignored", site=site, kind=plain_text(notice.kind, 80))
        except RemoteError as error:
            self._log.warning("a notice was refused", site=site, kind=notice.kind, reason=str(error))

    def _present(self, site: SiteId, attached: bool) -> None:
        self._log.info("attached" if attached else "detached", site=site)
        self._spawn(self._greet(site, attached))

    async def _greet(self, site: SiteId, attached: bool) -> None:
        await asyncio.to_thread(self._sites.seen, site, utc_now())
        if attached:
            await self._tell(site, _revocations(await asyncio.to_thread(self._enrolment.revocations)))
            self._heads.forget(site)
            self._heads.tell([site])

    async def _tell(self, site: SiteId, notice: Notice) -> None:
        try:
            await self._hub.notify(site, notice)
        except WardroundError as error:
            self._log.warning("a site could not be told", site=site, kind=notice.kind, reason=str(error))

    def _revoked(self, der: bytes) -> None:
        """A new revocation list, from any thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(lambda: self._spawn(self._spread()))

    async def _spread(self) -> None:
        """Tell everybody the newest list, whatever came in between, and cut off who is not of the federation now."""
        newest = await asyncio.to_thread(self._enrolment.revocations)
        active = {site.name for site in await asyncio.to_thread(self._sites.list) if site.state is SiteState.ACTIVE}
        for site in self._hub.present():
            if site in active:
                self._spawn(self._tell(site, _revocations(newest)))
            else:
                self._hub.drop(site, "revoked")
        await self._supervisor.renewed(newest)

    # -- the rest -------------------------------------------------------------------------------------

    async def _audit(self) -> None:
        """Every event into the audit log, and its new head to the sites of each run that has come further."""
        failed = ""
        while True:
            try:
                done = await asyncio.to_thread(self._auditor.catch_up)
                runs = {one.run_id for one in done if one.kind in _SHOWN_AFTER and one.run_id is not None}
                for run in runs:
                    sites = await asyncio.to_thread(self._run_sites.list, run)
                    self._heads.tell(one.site for one in sites)
                failed = ""
            except WardroundError as error:  # nothing is lost: the events are in the database
                if str(error) != failed:
                    failed = str(error)
                    self._log.error("the audit log cannot be written (yet)", reason=failed)
            await asyncio.sleep(_AUDIT_S)

    async def _keep_house(self) -> None:
        while True:
            try:
                await asyncio.to_thread(self._sessions.tidy, utc_now())
                await asyncio.to_thread(self._certificates.tidy, utc_now() - _KEPT_AFTER_THE_END)
                await asyncio.to_thread(self._enrolment.revocations)  # a list that is old is made again, and told
            except WardroundError as error:
                self._log.error("housekeeping failed", reason=str(error))
            await asyncio.sleep(_HOUSEKEEPING.total_seconds())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._log.error("a task failed", error=f"{type(error).__name__}: {error}")

    async def _end_tasks(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _revocations(der: bytes) -> Notice:
    return Notice(kind="revocations", body=json.dumps({"crl": b64encode(der).decode()}).encode())
