"""What sites have signed of models, and the models that were released."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "participations",
        sa.Column("run_id", sa.Text(), nullable=False),
        sa.Column("site", sa.Text(), nullable=False),
        sa.Column("model_sha256", sa.LargeBinary(), nullable=False),
        sa.Column("rounds", sa.Integer(), nullable=True),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("signature", sa.LargeBinary(), nullable=False),
        sa.CheckConstraint("rounds >= 0", name=op.f("ck_participations_rounds")),
        sa.ForeignKeyConstraint(
            ["run_id", "site"], ["run_sites.run_id", "run_sites.site"], name=op.f("fk_participations_run_id_site")
        ),
        sa.PrimaryKeyConstraint("run_id", "site", name=op.f("pk_participations")),
    )
    op.create_table(
        "releases",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("manifest", sa.LargeBinary(), nullable=False),
        sa.Column("plan", sa.LargeBinary(), nullable=False),
        sa.Column("certificate", sa.LargeBinary(), nullable=False),
        sa.Column("signature", sa.LargeBinary(), nullable=False),
        sa.Column("sha256", sa.LargeBinary(), nullable=False),
        sa.CheckConstraint("number > 0", name=op.f("ck_releases_number")),
        sa.ForeignKeyConstraint(
            ["name", "version"], ["models.name", "models.version"], name=op.f("fk_releases_name_version")
        ),
        sa.PrimaryKeyConstraint("name", "version", "number", name=op.f("pk_releases")),
    )
