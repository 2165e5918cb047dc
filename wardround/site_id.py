"""The name of a site, apart from what is done with it: whoever only knows names need not load numbers."""

from typing import NewType

__all__ = ["SiteId"]

SiteId = NewType("SiteId", str)
