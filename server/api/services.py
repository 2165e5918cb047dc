"""What the routes use: the tables, the enrolment, the runs, and who is attached. The process puts it together."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol, Self

from wardround.clock import utc_now
from wardround.orders import SiteId
from wardround.server.pki.enrolment import Enrolment
from wardround.server.runs.releasing import Releasing
from wardround.server.state.accounts import Accounts
from wardround.server.state.blob_store import BlobStore
from wardround.server.state.certificates import Certificates
from wardround.server.state.current_models import CurrentModels
from wardround.server.state.database import Database
from wardround.server.state.events import Events
from wardround.server.state.first_models import FirstModels
from wardround.server.state.invitations import Invitations
from wardround.server.state.models import Models
from wardround.server.state.plans import Plans
from wardround.server.state.releases import Releases
from wardround.server.state.run_sites import RunSites
from wardround.server.state.runs import Runs
from wardround.server.state.sessions import Sessions
from wardround.server.state.settings import Settings
from wardround.server.state.sites import Sites
from wardround.server.state.vault import Vault
from wardround.signing_key import SigningKey, fingerprint_of

__all__ = ["Presence", "RunControl", "RunProgress", "Services"]


class RunProgress(Protocol):
    """What a run is doing now."""

    @property
    def round(self) -> int: ...
    @property
    def rounds(self) -> int: ...
    @property
    def doing(self) -> str: ...
    @property
    def asked(self) -> tuple[SiteId, ...]: ...
    @property
    def answered(self) -> tuple[SiteId, ...]: ...
    @property
    def since(self) -> datetime | None: ...
    @property
    def restarts(self) -> int: ...


class RunControl(Protocol):
    """Who makes runs go. Called in the server's loop; LocalError where a run is in no state for it."""

    async def start(self, run_id: str) -> None: ...
    async def pause(self, run_id: str) -> None: ...
    async def resume(self, run_id: str) -> None: ...
    async def stop(self, run_id: str) -> None: ...
    def progress(self, run_id: str) -> RunProgress | None: ...


class Presence(Protocol):
    """Who knows which sites are attached now."""

    def present(self) -> frozenset[SiteId]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """Everything that a route may use.

    `runs_folder` holds the run directories by run id; `fingerprint` is that of the key that the server signs with,
    which sites compare by telephone.
    """

    name: str
    fingerprint: str
    accounts: Accounts
    sessions: Sessions
    invitations: Invitations
    sites: Sites
    certificates: Certificates
    plans: Plans
    first_models: FirstModels
    runs: Runs
    run_sites: RunSites
    models: Models
    events: Events
    settings: Settings
    blobs: BlobStore
    runs_folder: Path
    enrolment: Enrolment
    control: RunControl
    presence: Presence
    current_models: CurrentModels
    releases: Releases
    releasing: Releasing
    clock: Callable[[], datetime] = utc_now
    random: Callable[[int], bytes] = os.urandom

    @classmethod
    def of(
        cls,
        database: Database,
        vault: Vault,
        *,
        name: str,
        runs_folder: Path,
        models_folder: Path,
        enrolment: Enrolment,
        control: RunControl,
        presence: Presence,
        signing: SigningKey,
        signing_certificate: bytes,
        identity_authority: bytes,
        clock: Callable[[], datetime] = utc_now,
        random: Callable[[int], bytes] = os.urandom,
    ) -> Self:
        """With the repositories of `database`.

        `signing` is the key that releases are signed with, `signing_certificate` and `identity_authority` (DER) say
        that it is the server's.
        """
        plans, blobs = Plans(database, vault), BlobStore(models_folder, vault)
        return cls(
            name=name,
            fingerprint=fingerprint_of(signing.public),
            accounts=Accounts(database),
            sessions=Sessions(database),
            invitations=Invitations(database),
            sites=Sites(database),
            certificates=Certificates(database),
            plans=plans,
            first_models=FirstModels(database),
            runs=Runs(database),
            run_sites=RunSites(database),
            models=Models(database),
            events=Events(database),
            settings=Settings(database),
            blobs=blobs,
            runs_folder=runs_folder,
            enrolment=enrolment,
            control=control,
            presence=presence,
            current_models=CurrentModels(database),
            releases=Releases(database),
            releasing=Releasing(
                database,
                plans,
                blobs,
                key=signing,
                certificate=signing_certificate,
                authority=identity_authority,
                runs_folder=runs_folder,
                clock=clock,
            ),
            clock=clock,
            random=random,
        )
