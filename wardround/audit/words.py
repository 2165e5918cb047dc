"""What a verification has found, in lines for a person."""

from wardround.audit.bundle import Bundle
from wardround.audit.record import minute
from wardround.audit.verify import Verified
from wardround.plain_text import in_groups

__all__ = ["bundle_lines", "log_lines"]


def log_lines(log: Verified) -> list[str]:
    """Of a log without a fault."""
    lines = [
        f"log         of {log.name}, {log.log.hex()}",
        f"key         {in_groups(log.key)}",
        f"records     {log.records}, from {minute(log.begun)} to {minute(log.ended)}; none changed or moved, none "
        "missing up to here",
        f"signed      the first {log.sealed} by the owner's key, which the authority certifies",
    ]
    return lines + [f"remark      {text}" for text in log.remarks]


def bundle_lines(bundle: Bundle) -> list[str]:
    """Of a bundle without a fault."""
    lines = log_lines(bundle.log)
    for site, head in sorted(bundle.sites.items()):
        lines.append(f"co-signed   by {site!r}: the first {head.seq} records, as they were on {minute(head.time)}")
        lines += [f"  its key   {in_groups(key)}" for key in bundle.keys[site]]
    for one in bundle.compared:
        heads = "1 head that" if one.heads == 1 else f"{one.heads} heads that"
        lines.append(f"compared    {heads} {one.name!r} kept, and all fit ({one.where})")
    lines.append(f"authority   {in_groups(bundle.authority)}")
    lines += [f"remark      {text}" for text in bundle.remarks]
    return [*lines, "verified"]
