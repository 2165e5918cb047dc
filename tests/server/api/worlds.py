"""A server's services on a new database, with runs and sites that do what a test says."""

import hashlib
import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import httpx
from starlette.types import ASGIApp

from tests.server.state.state_folders import authorities, keyring
from wardround.errors import LocalError
from wardround.orders import SiteId
from wardround.plan import parse_plan
from wardround.server.api.app import make_api
from wardround.server.api.json_log import json_log
from wardround.server.api.passwords import Passwords
from wardround.server.api.permissions import ROLES, Permission
from wardround.server.api.services import Services
from wardround.server.pki.enrolment import Enrolment, ServerAddress
from wardround.server.pki.tls_authority import make_tls_authority
from wardround.server.runs.supervisor import Progress
from wardround.server.state.database import Database, sqlite_url
from wardround.server.state.vault import Vault
from wardround.signing_key import SigningKey
from wardround.tally import encode_spec, parse_spec

__all__ = ["PASSWORD", "PLAN", "FakeRuns", "World", "first_model", "make_world"]
