"""The token with which a Prometheus reads the metrics, and nothing else. The server keeps its SHA-256."""

import base64
import hashlib
import hmac

from wardround.server.api.services import Services
from wardround.server.state.settings import SCRAPE_TOKEN

__all__ = ["is_scrape_token", "new_scrape_token"]


def new_scrape_token(services: Services) -> str:
    """A new token, which replaces the one before."""
    token = base64.urlsafe_b64encode(services.random(32)).decode().rstrip("=")
    services.settings.put(SCRAPE_TOKEN, _hash(token))
    return token


def is_scrape_token(services: Services, token: str) -> bool:
    """Whether this is the token."""
    kept = services.settings.get(SCRAPE_TOKEN)
    return kept is not None and hmac.compare_digest(kept, _hash(token))


def _hash(token: str) -> str:
    return hashlib.sha256(b"wardround scrape token 1\0" + token.encode()).hexdigest()
