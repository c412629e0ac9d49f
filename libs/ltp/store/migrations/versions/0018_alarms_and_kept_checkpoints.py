"""Alarms of running attempts, and which checkpoints are kept.

Revision ID: 0018
Revises: 0017
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

_JSONB = postgresql.JSONB(astext_type=sa.Text())
_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "alarms",
        sa.Column("alarm_id", sa.Uuid(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("run_id", sa.Uuid(), nullable=False),
        sa.Column("attempt_id", sa.Uuid(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("rule", sa.String(), nullable=False),
        sa.Column("severity", sa.String(), nullable=False),
        sa.Column("message", sa.String(), nullable=False),
        sa.Column("hint", sa.String(), nullable=False),
        sa.Column("evidence", _JSONB, nullable=False),
        sa.Column("step", sa.Integer(), nullable=True),
        sa.Column("raised_at", _TIME, server_default=sa.text("now()"), nullable=False),
        sa.Column("cleared_at", _TIME, nullable=True),
        sa.PrimaryKeyConstraint("alarm_id", name=op.f("pk_alarms")),
        schema="runner",
    )
    op.create_index(op.f("ix_alarms_job_id"), "alarms", ["job_id"], schema="runner")
    op.create_index(
        "ix_alarms_open",
        "alarms",
        ["attempt_id", "rule"],
        unique=True,
        schema="runner",
        postgresql_where=sa.text("cleared_at IS NULL"),
    )
    kept = (
        sa.Column("pinned", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("value", sa.Float(), nullable=True),
        sa.Column("settled", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("removal_wanted", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("removed_at", _TIME, nullable=True),
        sa.Column("removed_for", sa.String(), nullable=True),
    )
    for column in kept:
        op.add_column("checkpoints", column, schema="runner")
    # What was written before was exported before, or its export is unfinished work, which keeps it too.
    op.execute("UPDATE runner.checkpoints SET settled = true")
    op.add_column(
        "attempts", sa.Column("steps", sa.Integer(), server_default=sa.text("0"), nullable=False), schema="runner"
    )
    op.add_column("attempts", sa.Column("keep", _JSONB, nullable=True), schema="runner")


def downgrade() -> None:
    for name in ("removed_for", "removed_at", "removal_wanted", "settled", "value", "pinned"):
        op.drop_column("checkpoints", name, schema="runner")
    for name in ("keep", "steps"):
        op.drop_column("attempts", name, schema="runner")
    op.drop_table("alarms", schema="runner")
