"""Where a request comes from, as far as requests are counted by it."""

from ipaddress import IPv6Address, IPv6Network, ip_address

__all__ = ["THIS_MACHINE", "network_of"]

THIS_MACHINE = "this machine"
_HOST_BITS = 64


def network_of(address: str) -> str:
    """An IPv4 address; the /64 of an IPv6 address, which one machine may have whole; THIS_MACHINE for loopback."""
    try:
        found = ip_address(address)
    except ValueError:
        return address
    if isinstance(found, IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped
    if found.is_loopback:
        return THIS_MACHINE
    if isinstance(found, IPv6Address):
        return str(IPv6Network((int(found) >> _HOST_BITS << _HOST_BITS, _HOST_BITS)))
    return str(found)
