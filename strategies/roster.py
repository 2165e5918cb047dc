"""The sites behind the nodes of a Flower Grid, by the names that they give."""

import time

from flwr.serverapp import Grid

from wardround import _flower
from wardround.errors import RemoteError
from wardround.orders import SiteId
from wardround.plain_text import plain_text

__all__ = ["find_sites"]


def find_sites(grid: Grid, expected: int, timeout_s: float = 120.0) -> dict[SiteId, int]:
    """Site → node id of every node on `grid`, sorted by site, once `expected` nodes are there.

    Asks each node once for its site's name. Raises RemoteError when too few come in `timeout_s`, when two nodes
    claim one name, or when a node does not say.
    """
    deadline = time.monotonic() + timeout_s
    while len(nodes := list(grid.get_node_ids())) < expected:
        if time.monotonic() > deadline:
            raise RemoteError(f"expected {expected} sites within {timeout_s:g} s, got {len(nodes)}")
        time.sleep(0.2)
    content = _flower.pack_order(b"hello")
    found: dict[SiteId, int] = {}
    for reply in grid.send_and_receive(_flower.requests(content, nodes, _flower.HELLO, "0"), timeout=timeout_s):
        node = reply.metadata.src_node_id
        if reply.has_error():
            raise RemoteError(f"node {node} did not give its site's name: {reply.error.reason}")
        site = SiteId(_flower.read_hello(reply))
        if plain_text(site, 255) != site or len(site.encode()) > 255:
            raise RemoteError(
                f"node {node}: expected a site's name of at most 255 printable bytes, got {plain_text(site)!r}"
            )
        if site in found:
            raise RemoteError(f"expected every site once, got two nodes that call themselves {site!r}")
        found[site] = node
    if len(found) < expected:
        raise RemoteError(f"expected {expected} sites to answer, got {len(found)}")
    return dict(sorted(found.items()))
