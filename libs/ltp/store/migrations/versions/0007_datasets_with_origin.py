"""Datasets know where they came from and how long they stay; names have a project, projects a quota."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

SCHEMA = "dataset"
JSONB = postgresql.JSONB(astext_type=sa.Text())


def upgrade() -> None:
    op.alter_column("datasets", "source_sha256", nullable=True, schema=SCHEMA)
    for column in (
        sa.Column("source", sa.String()),
        sa.Column("format", sa.String()),
        sa.Column("evidence", sa.String()),
        sa.Column("duplicates", sa.Integer()),
        sa.Column("size_bytes", sa.BigInteger()),
        sa.Column("parents", JSONB),
        sa.Column("reason", sa.String()),
        sa.Column("provenance", JSONB),
        sa.Column("deleted_at", sa.DateTime(timezone=True)),
    ):
        op.add_column("datasets", column, schema=SCHEMA)
    op.create_index("ix_datasets_name", "datasets", ["name", "uploaded_at"], schema=SCHEMA)
    op.create_table(
        "names",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("project", sa.String(), server_default=sa.text("'default'"), nullable=False),
        sa.Column("personal", JSONB, server_default=sa.text("'[]'"), nullable=False),
        sa.Column("keep_days", sa.Integer()),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_names")),
        schema=SCHEMA,
    )
    op.create_table(
        "quotas",
        sa.Column("project", sa.String(), nullable=False),
        sa.Column("quota_bytes", sa.BigInteger()),
        sa.PrimaryKeyConstraint("project", name=op.f("pk_quotas")),
        schema=SCHEMA,
    )


def downgrade() -> None:
    op.drop_table("quotas", schema=SCHEMA)
    op.drop_table("names", schema=SCHEMA)
    op.drop_index("ix_datasets_name", table_name="datasets", schema=SCHEMA)
    for name in (
        "deleted_at", "provenance", "reason", "parents", "size_bytes", "duplicates", "evidence", "format", "source",
    ):  # fmt: skip
        op.drop_column("datasets", name, schema=SCHEMA)
    op.alter_column("datasets", "source_sha256", nullable=False, schema=SCHEMA)
