"""The server's systemd unit: a process that listens, writes its state, and does nothing else."""

from collections.abc import Sequence
from pathlib import Path

from wardround.server.state.folder import STATE_FILE, decode_settings
from wardround.systemd_unit import Setting, Unit, owner_of, program

__all__ = ["MADE_BY", "NAME", "server_unit"]

NAME, MADE_BY = "wardround-server", "wardround server service"
_HOMES = ("/home", "/root", "/run/user")
_FIRST_FREE_PORT = 1024

_EVERYWHERE = (
    Setting(name="Restart", value="on-failure", why="Goes on with every run where it was."),
    Setting(name="RestartSec", value="5"),
    Setting(
        name="KillMode",
        value="mixed",
        why="The server ends the workers of its runs itself; what is left then is killed, which loses nothing.",
    ),
    Setting(name="TimeoutStopSec", value="60"),
    Setting(name="OOMPolicy", value="continue", why="A worker that takes too much memory is killed, and begun again."),
    Setting(name="LimitNOFILE", value="16384", why="A connection of a stranger is an open file until it is refused."),
    Setting(name="UMask", value="0077", why="What it writes is its own; what it holds in memory reaches no disk."),
    Setting(name="LimitCORE", value="0"),
    Setting(name="NoNewPrivileges", value="yes", why="No program that is started gains rights."),
    Setting(
        name="RestrictAddressFamilies",
        value="AF_INET AF_INET6 AF_UNIX AF_NETLINK",
        why="The network, channels to workers, and what a look-up of names asks the kernel.",
    ),
    Setting(name="RestrictNamespaces", value="yes", why="It runs nobody's code, and confines nothing."),
    Setting(
        name="SystemCallFilter",
        value="~@clock @cpu-emulation @debug @module @mount @obsolete @raw-io @reboot @swap",
        why="Calls that it never makes.",
    ),
    Setting(name="SystemCallErrorNumber", value="EPERM"),
    Setting(name="SystemCallArchitectures", value="native"),
    Setting(name="LockPersonality", value="yes"),
    Setting(name="RestrictRealtime", value="yes"),
    Setting(name="RestrictSUIDSGID", value="yes"),
)
_OF_THE_SYSTEM = (
    Setting(name="PrivateDevices", value="yes", why="No devices, no /tmp of others, no processes of others."),
    Setting(name="PrivateTmp", value="yes"),
    Setting(name="ProtectProc", value="invisible"),
    Setting(name="ProtectKernelTunables", value="yes", why="What belongs to the kernel is not its business."),
    Setting(name="ProtectKernelModules", value="yes"),
    Setting(name="ProtectKernelLogs", value="yes"),
    Setting(name="ProtectControlGroups", value="yes"),
    Setting(name="ProtectClock", value="yes"),
    Setting(name="ProtectHostname", value="yes"),
)


def server_unit(state: Path, secret: tuple[str, Path], *, user: bool) -> Unit:
    """The unit of the server in `state`; `secret` is the option that opens its keys, and its file.

    Raises LocalError for a folder that is no state, or that no service can have.
    """
    settings = decode_settings((state / STATE_FILE).read_bytes(), str(state / STATE_FILE))
    command = (*program(), "server", "start", "--state", str(state), secret[0], str(secret[1]))
    paths = (state, secret[1], Path(command[0]))
    in_homes = any(path.is_relative_to(home) for path in paths for home in _HOMES)
    low = any(0 < port < _FIRST_FREE_PORT for port in (settings.https_port, settings.grpc_port))
    capability = "CAP_NET_BIND_SERVICE" if low else ""
    rights = [Setting(name="CapabilityBoundingSet", value=capability, why="To listen below 1024." if low else "None.")]
    if low:
        rights.append(Setting(name="AmbientCapabilities", value=capability))
    home = Setting(
        name="ProtectHome",
        value="read-only" if in_homes else "yes",
        why="Not hidden: something that it needs lies there." if in_homes else "The homes of people.",
    )
    return Unit(
        name=NAME,
        description="wardround server: the coordinator of a federation",
        command=command,
        user=None if user else owner_of(state),
        state=state,
        after=() if settings.database is None else ("postgresql.service",),
        environment_file="%h/.config/wardround/server.env" if user else "/etc/wardround/server.env",
        settings=_EVERYWHERE if user else _settings(rights, home),
        made_by=MADE_BY,
    )


def _settings(rights: Sequence[Setting], home: Setting) -> Sequence[Setting]:
    return (*_EVERYWHERE, *rights, home, *_OF_THE_SYSTEM)
