"""What stands between the sites of a simulation and its server, by the plan: nothing, masks, or their bookkeeping."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from wardround.client.guard.encrypting_member import member_of
from wardround.client.guard.member import Member
from wardround.errors import LocalError
from wardround.orders import OrderKind, SiteId
from wardround.plan import Plan
from wardround.plan_simulation import Cryptography
from wardround.server.runs.counted_specs import counted_specs
from wardround.server.runs.run_directory import GROUPS_FILE, RunDirectory
from wardround.simulations.accounted_sums import AccountedSums, in_clear
from wardround.simulations.identities import make_identities
from wardround.simulations.participants import Participants
from wardround.simulations.shared_masking import SharedMasking
from wardround.strategies.he.homomorphic import Homomorphic
from wardround.strategies.plain import Plain
from wardround.strategies.protection import Protection
from wardround.strategies.records import RoundRecord, RunState
from wardround.strategies.secagg.masking import Masking
from wardround.strategies.secagg.messages import Group, GroupTable, decode
from wardround.strategies.secagg.parameters import MAX_COMMITTEE
from wardround.strategies.secagg.server_epoch import Federation
from wardround.tally import TallySpec

__all__ = ["SimulatedProtection", "counted", "simulated_protection"]


def counted(plan: Plan, participants: Participants) -> dict[OrderKind, TallySpec]:
    """What sites count in answer to each kind of order."""
    return counted_specs(plan, None if participants.task is None else participants.task.tally_spec)


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedProtection:
    """The server's side, and a member for each site where masks are real; `guarded` is the plan that guards go by.

    An `Observer`: it keeps the group table of a run in its directory, for the run to go on with.
    """

    server: Protection
    guarded: Plan
    members: Mapping[SiteId, Member] = field(default_factory=dict)
    directory: RunDirectory | None = None
    federation: Federation | None = None

    def round_done(self, record: RoundRecord, state: RunState) -> None:
        """Write the group table down once it is drawn."""
        if self.federation is None or self.directory is None or (self.directory.path / GROUPS_FILE).exists():
            return
        stored = self.federation.store.get(f"secagg-server/{self.federation.run}/table")
        table = None if stored is None else decode(stored)
        if isinstance(table, GroupTable):
            names = [list(group.names) for group in table.groups]
            self.directory.write_text(GROUPS_FILE, json.dumps({"groups": names}, ensure_ascii=False) + "\n")


def simulated_protection(
    plan: Plan, participants: Participants, directory: RunDirectory | None, run_id: str
) -> SimulatedProtection:
    """By `plan`; a run that is continued has new keys and a new epoch, but the same groups."""
    if not plan.protection.on:
        return SimulatedProtection(server=Plain(plan), guarded=plan)
    sites, specs = tuple(participants.trainers), counted(plan, participants)
    if plan.simulation.cryptography is Cryptography.ACCOUNTING:
        sites = tuple(site for site in sites if site not in plan.cohort.without)
        return SimulatedProtection(server=AccountedSums(plan, sites, specs), guarded=in_clear(plan))
    lines = [] if directory is None else directory.lines()
    epochs = [line["protection"]["epoch"] for line in lines if line.get("protection")]
    table = _kept_table(directory, run_id)
    identities = make_identities(
        plan, sites, run=run_id, now=datetime.now(UTC), table=table, epoch=max(epochs, default=None)
    )
    members = {site: member_of(plan, membership) for site, membership in identities.members.items()}
    server: Protection
    if plan.protection.homomorphic:
        server = Homomorphic(plan, identities.federation, identities.server, specs=specs)
    elif plan.cohort_size <= MAX_COMMITTEE:
        server = Masking(plan, identities.federation, identities.server, specs=specs)
    else:
        server = SharedMasking(plan, identities, members, specs=specs, table=table)
    return SimulatedProtection(
        server=server,
        guarded=plan,
        members=members,
        directory=directory,
        federation=identities.federation,
    )


def _kept_table(directory: RunDirectory | None, run_id: str) -> GroupTable | None:
    if directory is None or not (directory.path / GROUPS_FILE).exists():
        return None
    path = directory.path / GROUPS_FILE
    try:
        names = json.loads(path.read_bytes())["groups"]
        return GroupTable(run=run_id, groups=tuple(Group(names=tuple(group)) for group in names))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LocalError(f"{path}: expected the groups of this run ({error}); restore the file") from None
