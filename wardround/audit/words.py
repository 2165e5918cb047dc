"""What a verification has found, in lines for a person."""

from wardround.audit.bundle import Bundle
from wardround.audit.record import minute
from wardround.audit.verify import Verified

__all__ = ["bundle_lines", "log_lines"]


def log_lines(log: Verified) -> list[str]:
    """Of a log without a fault."""
    lines = [
        f"log         of {log.name}, {log.log.hex()}",
        f"records     {log.records}, from {minute(log.begun)} to {minute(log.ended)}; none changed, missing or moved",
        f"signed      the first {log.sealed} by the owner's key, which the authority certifies",
    ]
    return lines + [f"remark      {text}" for text in log.remarks]


def bundle_lines(bundle: Bundle) -> list[str]:
    """Of a bundle without a fault."""
    lines = log_lines(bundle.log)
    for site, head in sorted(bundle.sites.items()):
        lines.append(f"co-signed   by {site}: the first {head.seq} records, as they were on {minute(head.time)}")
    if bundle.against:
        lines.append(f"compared    {bundle.against} heads from other bundles fit")
    lines += [f"remark      {text}" for text in bundle.remarks]
    return [*lines, "verified"]
