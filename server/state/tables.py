"""The tables of the database. What must hold however many ask at once is a constraint here.

Texts that are JSON are kept as text, since neither database is asked about what is in them. The names of constraints
are the same on both databases. `migrations/` makes the same tables; a test compares the two.
"""

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    UniqueConstraint,
)

from wardround.server.state.column_types import BigId, UtcTime, Words

__all__ = [
    "METADATA",
    "accounts",
    "certificates",
    "cosignatures",
    "events",
    "first_models",
    "invitations",
    "models",
    "participations",
    "plan_files",
    "plans",
    "releases",
    "run_sites",
    "runs",
    "sessions",
    "settings",
    "sites",
]

METADATA = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)

accounts = Table(
    "accounts",
    METADATA,
    Column("id", Words, primary_key=True),
    Column("name", Words, nullable=False),
    Column("password_hash", Words, nullable=False),
    Column("role", Words, nullable=False),
    Column("created", UtcTime, nullable=False),
    Column("disabled", UtcTime),
    UniqueConstraint("name"),
)

sessions = Table(
    "sessions",
    METADATA,
    Column("token_hash", LargeBinary, primary_key=True),
    Column("account_id", Words, ForeignKey("accounts.id"), nullable=False),
    Column("created", UtcTime, nullable=False),
    Column("expires", UtcTime, nullable=False),
    Column("last_seen", UtcTime, nullable=False),
    Index(None, "account_id"),
)

invitations = Table(
    "invitations",
    METADATA,
    Column("id", Words, primary_key=True),
    Column("token_hash", LargeBinary, nullable=False),
    Column("site", Words, nullable=False),
    Column("created", UtcTime, nullable=False),
    Column("created_by", Words, nullable=False),
    Column("expires", UtcTime, nullable=False),
    Column("used_at", UtcTime),
    Column("used_by_fingerprint", Words),
    Column("withdrawn", UtcTime),
    UniqueConstraint("token_hash"),
    CheckConstraint("(used_at IS NULL) = (used_by_fingerprint IS NULL)", name="used_by"),
    CheckConstraint("used_at IS NULL OR withdrawn IS NULL", name="used_or_withdrawn"),
)

sites = Table(
    "sites",
    METADATA,
    Column("name", Words, primary_key=True),
    Column("signing_public", LargeBinary, nullable=False),
    Column("fingerprint", Words, nullable=False),
    Column("state", Words, nullable=False),
    Column("joined", UtcTime, nullable=False),
    Column("revoked_at", UtcTime),
    Column("last_seen", UtcTime),
    Column("software", Words, nullable=False),
    UniqueConstraint("fingerprint"),
    CheckConstraint("state IN ('active', 'revoked')", name="state"),
    CheckConstraint("(state = 'revoked') = (revoked_at IS NOT NULL)", name="revoked_at"),
)

certificates = Table(
    "certificates",
    METADATA,
    Column("kind", Words, primary_key=True),
    Column("serial", Words, primary_key=True),
    Column("site", Words, ForeignKey("sites.name"), nullable=False),
    Column("der", LargeBinary, nullable=False),
    Column("not_after", UtcTime, nullable=False),
    Column("revoked_at", UtcTime),
    CheckConstraint("kind IN ('tls', 'identity')", name="kind"),
    Index(None, "site"),
)

plans = Table(
    "plans",
    METADATA,
    Column("digest", Words, primary_key=True),
    Column("name", Words, nullable=False),
    Column("toml", Words, nullable=False),
    Column("created", UtcTime, nullable=False),
    Column("created_by", Words, nullable=False),
)

plan_files = Table(
    "plan_files",
    METADATA,
    Column("plan_digest", Words, ForeignKey("plans.digest"), primary_key=True),
    Column("path", Words, primary_key=True),
    Column("sealed", LargeBinary, nullable=False),
)

first_models = Table(
    "first_models",
    METADATA,
    Column("plan_digest", Words, ForeignKey("plans.digest"), primary_key=True),
    Column("blob", Words, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("layout", Words, nullable=False),
    Column("spec", Words, nullable=False),
    CheckConstraint("size > 0", name="size"),
)

runs = Table(
    "runs",
    METADATA,
    Column("id", Words, primary_key=True),
    Column("number", Integer, nullable=False),
    Column("plan_digest", Words, ForeignKey("plans.digest"), nullable=False),
    Column("name", Words, nullable=False),
    Column("state", Words, nullable=False),
    Column("reason", Words, nullable=False),
    Column("created", UtcTime, nullable=False),
    Column("created_by", Words, nullable=False),
    Column("started", UtcTime),
    Column("ended", UtcTime),
    Column("round", Integer, nullable=False),
    UniqueConstraint("number"),
    CheckConstraint(
        "state IN ('waiting', 'ready', 'running', 'paused', 'stopping', 'finished', 'stopped', 'failed')", name="state"
    ),
    CheckConstraint("(ended IS NOT NULL) = (state IN ('finished', 'stopped', 'failed'))", name="ended"),
    CheckConstraint("round >= 0", name="round"),
)

run_sites = Table(
    "run_sites",
    METADATA,
    Column("run_id", Words, ForeignKey("runs.id"), primary_key=True),
    Column("site", Words, ForeignKey("sites.name"), primary_key=True),
    Column("verdict", Words, nullable=False),
    Column("reason", Words, nullable=False),
    Column("units", BigInteger),
    Column("signature", LargeBinary),
    Column("decided", UtcTime),
    CheckConstraint("verdict IN ('waiting', 'approved', 'denied')", name="verdict"),
    CheckConstraint("(verdict = 'waiting') = (decided IS NULL)", name="decided"),
    CheckConstraint("verdict = 'waiting' OR signature IS NOT NULL", name="signature"),
    Index(None, "site"),
)

models = Table(
    "models",
    METADATA,
    Column("name", Words, primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("run_id", Words, nullable=False),
    Column("plan_digest", Words, nullable=False),
    Column("blob", Words, nullable=False),
    Column("sha256", LargeBinary, nullable=False),
    Column("created", UtcTime, nullable=False),
    ForeignKeyConstraint(["run_id"], ["runs.id"]),
    ForeignKeyConstraint(["plan_digest"], ["plans.digest"]),
    UniqueConstraint("run_id"),
    CheckConstraint("version > 0", name="version"),
)

participations = Table(
    "participations",
    METADATA,
    Column("run_id", Words, primary_key=True),
    Column("site", Words, primary_key=True),
    Column("model_sha256", LargeBinary, nullable=False),
    Column("rounds", Integer),
    Column("at", UtcTime, nullable=False),
    Column("signature", LargeBinary, nullable=False),
    ForeignKeyConstraint(["run_id", "site"], ["run_sites.run_id", "run_sites.site"]),
    CheckConstraint("rounds >= 0", name="rounds"),
)

releases = Table(
    "releases",
    METADATA,
    Column("name", Words, primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("at", UtcTime, nullable=False),
    Column("manifest", LargeBinary, nullable=False),
    Column("plan", LargeBinary, nullable=False),
    Column("certificate", LargeBinary, nullable=False),
    Column("signature", LargeBinary, nullable=False),
    Column("sha256", LargeBinary, nullable=False),
    ForeignKeyConstraint(["name", "version"], ["models.name", "models.version"]),
    CheckConstraint("number > 0", name="number"),
)

cosignatures = Table(
    "cosignatures",
    METADATA,
    Column("site", Words, ForeignKey("sites.name"), primary_key=True),
    Column("log", Words, primary_key=True),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("cosigned", Words, nullable=False),
    Column("certificate", LargeBinary, nullable=False),
    CheckConstraint("seq > 0", name="seq"),
)

events = Table(
    "events",
    METADATA,
    Column("id", BigId, primary_key=True, autoincrement=True),
    Column("at", UtcTime, nullable=False),
    Column("kind", Words, nullable=False),
    Column("subject", Words, nullable=False),
    Column("run_id", Words),
    Column("who", Words, nullable=False),
    Column("detail", Words, nullable=False),
    Index(None, "run_id", "id"),
    sqlite_autoincrement=True,  # a number that was once given is not given again
)

settings = Table(
    "settings",
    METADATA,
    Column("key", Words, primary_key=True),
    Column("value", Words, nullable=False),
)
