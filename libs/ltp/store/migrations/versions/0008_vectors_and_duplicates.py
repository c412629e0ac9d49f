"""Vectors by model and text, what was embedded, searches for duplicates, and leak checks."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

SCHEMA = "dataset"
JSONB = postgresql.JSONB(astext_type=sa.Text())
TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "vector_cache",
        sa.Column("model_key", sa.String(), nullable=False),
        sa.Column("text_key", sa.LargeBinary(), nullable=False),
        sa.Column("vector", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("model_key", "text_key", name=op.f("pk_vector_cache")),
        schema=SCHEMA,
    )
    op.create_table(
        "embeddings",
        sa.Column("embedding_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("part", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("model_key", sa.String()),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("dimension", sa.Integer()),
        sa.Column("rows", sa.Integer()),
        sa.Column("texts", sa.Integer()),
        *(
            sa.Column(c, sa.Integer(), server_default="0", nullable=False)
            for c in ("done", "cached", "empty", "truncated")
        ),
        sa.Column("index", sa.String()),
        *_end("embedding_id", "embeddings"),
        schema=SCHEMA,
    )
    op.create_index("ix_embeddings_name", "embeddings", ["name"], schema=SCHEMA)
    op.create_index("ix_embeddings_version", "embeddings", ["version"], schema=SCHEMA)
    op.create_table(
        "dedups",
        sa.Column("dedup_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("against", JSONB, nullable=False),
        sa.Column("method", sa.String(), nullable=False),
        sa.Column("part", sa.String(), nullable=False),
        sa.Column("model", sa.String()),
        sa.Column("thresholds", JSONB, nullable=False),
        sa.Column("floor", JSONB),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("progress", sa.Float(), server_default="0", nullable=False),
        sa.Column("rows", sa.Integer()),
        sa.Column("removals", sa.Integer()),
        sa.Column("applied", JSONB, server_default="[]", nullable=False),
        *_end("dedup_id", "dedups"),
        schema=SCHEMA,
    )
    op.create_index("ix_dedups_name", "dedups", ["name"], schema=SCHEMA)
    op.create_table(
        "leak_checks",
        sa.Column("check_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("against", JSONB, nullable=False),
        sa.Column("ask", JSONB, nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("rows", sa.Integer()),
        sa.Column("evaluation_rows", sa.Integer()),
        sa.Column("compared_vectors", sa.Boolean()),
        sa.Column("leaks", sa.Integer()),
        sa.Column("found", JSONB, server_default="[]", nullable=False),
        *_end("check_id", "leak_checks"),
        schema=SCHEMA,
    )
    op.create_index("ix_leak_checks_name", "leak_checks", ["name"], schema=SCHEMA)
    op.create_index("ix_leak_checks_version", "leak_checks", ["version"], schema=SCHEMA)


def _end(key: str, table: str) -> tuple[sa.Column | sa.PrimaryKeyConstraint, ...]:
    return (
        sa.Column("problem", JSONB),
        sa.Column("created_at", TIME, server_default=sa.text("now()"), nullable=False),
        sa.Column("ended_at", TIME),
        sa.PrimaryKeyConstraint(key, name=op.f(f"pk_{table}")),
    )


def downgrade() -> None:
    for table in ("leak_checks", "dedups", "embeddings", "vector_cache"):
        op.drop_table(table, schema=SCHEMA)
