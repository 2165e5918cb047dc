"""The heads of the audit log that sites have co-signed."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "cosignatures",
        sa.Column("site", sa.Text(), nullable=False),
        sa.Column("log", sa.Text(), nullable=False),
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("cosigned", sa.Text(), nullable=False),
        sa.Column("certificate", sa.LargeBinary(), nullable=False),
        sa.CheckConstraint("seq > 0", name=op.f("ck_cosignatures_seq")),
        sa.ForeignKeyConstraint(["site"], ["sites.name"], name=op.f("fk_cosignatures_site")),
        sa.PrimaryKeyConstraint("site", "log", "seq", name=op.f("pk_cosignatures")),
    )
