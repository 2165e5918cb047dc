"""A network for each party on this machine: addresses of its own, and at the hospitals no way in.

Each party is in a network namespace, on one switch. A hospital's firewall has no inbound rule: it lets nothing in but
answers to what was begun inside. Needs root, iproute2 and nftables.
"""

import os
import subprocess
from collections.abc import Sequence
from types import TracebackType
from typing import Self

__all__ = ["Network"]

_SUBNET = "10.77.0"
_NO_WAY_IN = (
    "table inet firewall { chain input { type filter hook input priority 0; policy drop; "
    "iif lo accept; ct state established,related accept; }; }"
)


class Network:
    """The namespaces of `server` and `hospitals`, which are there inside a `with`."""

    def __init__(self, server: str, hospitals: Sequence[str]) -> None:
        self._parties = [server, *hospitals]
        self._server, self._made = server, list[str]()
        self._prefix = f"wr{os.getpid()}"

    def address(self, party: str) -> str:
        return f"{_SUBNET}.{1 + self._parties.index(party)}"

    def command(self, party: str, command: Sequence[str]) -> list[str]:
        """`command`, to be run in the network of `party`."""
        return ["ip", "netns", "exec", self._namespace(party), *command]

    def cut(self, party: str) -> None:
        """Pull the party's cable at the switch: what is sent is lost, and nobody is told."""
        self._set(party, "down")

    def mend(self, party: str) -> None:
        """Put the party's cable back."""
        self._set(party, "up")

    def __enter__(self) -> Self:
        try:
            switch = self._add("switch")
            _run("ip", "-n", switch, "link", "add", "br0", "type", "bridge", "forward_delay", "0")
            _run("ip", "-n", switch, "link", "set", "br0", "up")
            for number, party in enumerate(self._parties):
                namespace, port = self._add(party), f"port{number}"
                _run("ip", "-n", switch, "link", "add", port, "type", "veth", "peer", "eth0", "netns", namespace)
                _run("ip", "-n", switch, "link", "set", port, "master", "br0", "up")
                _run("ip", "-n", namespace, "address", "add", f"{self.address(party)}/24", "dev", "eth0")
                for device in ("lo", "eth0"):
                    _run("ip", "-n", namespace, "link", "set", device, "up")
                if party != self._server:
                    self._close(party)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._made:
            subprocess.run(["ip", "netns", "del", self._made.pop()], check=False)

    def _close(self, party: str) -> None:
        """Let nothing in but answers to what `party` itself began."""
        self._in(party, "nft", _NO_WAY_IN)

    def _set(self, party: str, state: str) -> None:
        _run("ip", "-n", self._namespace("switch"), "link", "set", f"port{self._parties.index(party)}", state)

    def _in(self, party: str, *command: str) -> None:
        _run(*self.command(party, command))

    def _namespace(self, name: str) -> str:
        return f"{self._prefix}-{name}"

    def _add(self, name: str) -> str:
        namespace = self._namespace(name)
        _run("ip", "netns", "add", namespace)
        self._made.append(namespace)
        return namespace


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}; this needs root, iproute2 and nftables")
