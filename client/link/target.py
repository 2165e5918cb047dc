"""Where agents attach."""

from wardround.errors import LocalError

__all__ = ["split_target"]


def split_target(target: str) -> tuple[str, int]:
    """Host and port of `host:port` or `[address]:port`. Raises LocalError for anything else."""
    host, separator, port = target.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not separator or not bare or (":" in bare and bare is host) or not port.isdecimal() or not 0 < int(port) < 65536:
        raise LocalError(f"server: expected an address like fl.example.org:8444, got {target!r}")
    return bare, int(port)
