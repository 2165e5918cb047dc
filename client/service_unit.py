"""The agent's systemd unit: as little as an agent needs, and what the confinement of its jobs is made of."""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from wardround.systemd_unit import Setting, Unit, owner_of, program

__all__ = ["MADE_BY", "NAME", "agent_unit"]

NAME, MADE_BY = "wardround-client", "wardround client service"
_MOST_BYTES = 1 << 22

_EVERYWHERE = (
    Setting(
        name="Restart",
        value="on-failure",
        why="Goes on with every run where it was. One that the server will not have any more asks no more often.",
    ),
    Setting(name="RestartSec", value="30"),
    Setting(
        name="KillMode",
        value="mixed",
        why="The agent ends its jobs itself, within 15 s; what is left then is killed.",
    ),
    Setting(name="TimeoutStopSec", value="30"),
    Setting(
        name="OOMPolicy",
        value="continue",
        why="A job that takes too much memory is killed by the kernel; the agent stays.",
    ),
    Setting(name="UMask", value="0077", why="What it writes is its own; what it holds in memory reaches no disk."),
    Setting(name="LimitCORE", value="0"),
    Setting(name="NoNewPrivileges", value="yes", why="No program that is started gains rights."),
    Setting(
        name="RestrictAddressFamilies",
        value="AF_INET AF_INET6 AF_UNIX AF_NETLINK",
        why="The network, channels to jobs, and what a look-up of names asks the kernel.",
    ),
    Setting(
        name="SystemCallFilter",
        value="~@clock @cpu-emulation @debug @module @obsolete @raw-io @reboot @swap",
        why="Calls that neither the agent nor what confines a job makes; @mount and @privileged it does make.",
    ),
    Setting(name="SystemCallErrorNumber", value="EPERM"),
    Setting(name="SystemCallArchitectures", value="native"),
    Setting(name="LockPersonality", value="yes"),
    Setting(name="RestrictRealtime", value="yes"),
    Setting(name="RestrictSUIDSGID", value="yes"),
)
_OF_THE_SYSTEM = (
    Setting(
        name="CapabilityBoundingSet",
        value="",
        why="No capability. In a namespace of its own a job's launcher has those that it needs.",
    ),
    Setting(name="PrivateDevices", value="yes", why="No disk, camera or graphics card; jobs have none either."),
    Setting(
        name="PrivateTmp", value="yes", why="A /tmp of its own: the agent tries there whether jobs can be confined."
    ),
    Setting(name="ProtectHome", value="read-only", why="Not hidden: tables, or the Python of jobs, may lie there."),
    Setting(name="ProtectKernelModules", value="yes", why="What belongs to the kernel is not its business."),
    Setting(name="ProtectKernelLogs", value="yes"),
    Setting(name="ProtectControlGroups", value="yes"),
    Setting(name="ProtectClock", value="yes"),
)


def agent_unit(state: Path, options: Sequence[str], *, user: bool, writable: Sequence[Path] = ()) -> Unit:
    """The unit of the site in `state`; `options` are those of `client start`, `writable` more folders that it writes.

    What is left out, and why, is in docs/install.md. Raises LocalError for a folder that no service can have.
    """
    anchors = [path for path in _anchor_folders(state) if path not in writable]
    return Unit(
        name=NAME,
        description="wardround client: the agent of a hospital",
        command=(*program(), "client", "start", "--state", str(state), *options),
        user=None if user else owner_of(state),
        state=state,
        writable=(*writable, *dict.fromkeys(anchors)),
        environment_file="%h/.config/wardround/client.env" if user else "/etc/wardround/client.env",
        settings=_EVERYWHERE if user else (*_EVERYWHERE, *_OF_THE_SYSTEM),
        made_by=MADE_BY,
    )


def _anchor_folders(state: Path) -> Iterator[Path]:
    """Where heads of ledgers are kept besides. Read as it lies there: root, who installs, opens no site of others."""
    for path in sorted((state / "data").glob("*.json")):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            with os.fdopen(descriptor, "rb") as file:
                anchor = json.loads(file.read(_MOST_BYTES) or b"")["anchor"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            continue  # an agent that cannot read it says so
        if isinstance(anchor, str) and Path(anchor).is_absolute():
            yield Path(anchor).parent
