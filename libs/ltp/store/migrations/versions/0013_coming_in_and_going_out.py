"""What comes in from others: pushed metrics, and the OpenAI API's files and jobs.

Revision ID: 0013
Revises: 0012
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

_JSONB = postgresql.JSONB(astext_type=sa.Text())
_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    _points()
    _openai()


def _points() -> None:
    op.create_table(
        "points",
        sa.Column("seq", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("project", sa.String(), nullable=False),
        sa.Column("run", sa.String(), nullable=False),
        sa.Column("worker", sa.String(), nullable=False),
        sa.Column("step", sa.BigInteger(), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("value", sa.Float(), nullable=False),
        sa.Column("at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("project", "run", "worker", "step", "key", name=op.f("pk_points")),
        schema="gateway",
    )
    op.create_index("ix_points_run", "points", ["project", "run", "seq"], schema="gateway")
    op.create_table(
        "reports",
        sa.Column("project", sa.String(), nullable=False),
        sa.Column("run", sa.String(), nullable=False),
        sa.Column("report", _JSONB, nullable=False),
        sa.Column("reported_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("project", "run", name=op.f("pk_reports")),
        schema="gateway",
    )


def _openai() -> None:
    op.create_table(
        "files",
        sa.Column("file_id", sa.Uuid(), nullable=False),
        sa.Column("project", sa.String(), nullable=False),
        sa.Column("filename", sa.String(), nullable=False),
        sa.Column("purpose", sa.String(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("deleted_at", _TIME, nullable=True),
        sa.PrimaryKeyConstraint("file_id", name=op.f("pk_files")),
        schema="gateway",
    )
    op.create_table(
        "tunings",
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("project", sa.String(), nullable=False),
        sa.Column("body", _JSONB, nullable=False),
        sa.Column("recipe", _JSONB, nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("problem", _JSONB, nullable=True),
        sa.Column("created_at", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_tunings")),
        schema="gateway",
    )


def downgrade() -> None:
    raise NotImplementedError
