"""Names for rows that nobody can guess."""

import secrets

__all__ = ["new_id"]


def new_id() -> str:
    """128 bits from the operating system, hex."""
    return secrets.token_hex(16)
