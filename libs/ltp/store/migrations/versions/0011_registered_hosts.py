"""Registered hosts: how they are reached, what tests of the way found, and hosts that were never heard of.

Revision ID: 0011
Revises: 0010
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_JSONB = postgresql.JSONB(astext_type=sa.Text())
_TIME = sa.DateTime(timezone=True)
_NOW = sa.text("now()")


def upgrade() -> None:
    op.alter_column("hosts", "seen_at", nullable=True, schema="scheduler")
    op.add_column("hosts", sa.Column("removed_at", _TIME, nullable=True), schema="scheduler")
    reached_by = sa.Column("reached_by", sa.String(), nullable=False, server_default=sa.text("'local'"))
    op.add_column("hosts", reached_by, schema="scheduler")
    op.create_table(
        "hosts",
        sa.Column("host_id", sa.String(), nullable=False),
        sa.Column("access", _JSONB, nullable=False),
        sa.Column("secret", sa.String(), nullable=False),
        sa.Column("pinned_key", sa.String(), nullable=True),
        sa.Column("fingerprint", sa.String(), nullable=True),
        sa.Column("shown_fingerprint", sa.String(), nullable=True),
        sa.Column("root", sa.String(), nullable=True),
        sa.Column("interpreter", sa.String(), nullable=True),
        sa.Column("reached_at", _TIME, nullable=True),
        sa.Column("problem", _JSONB, nullable=True),
        sa.Column("changed_at", _TIME, nullable=False, server_default=_NOW),
        sa.PrimaryKeyConstraint("host_id", name=op.f("pk_hosts")),
        schema="runner",
    )
    op.create_table(
        "host_reports",
        sa.Column("report_id", sa.Uuid(), nullable=False),
        sa.Column("host_id", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("checks", _JSONB, nullable=False),
        sa.Column("started_at", _TIME, nullable=False, server_default=_NOW),
        sa.Column("ended_at", _TIME, nullable=True),
        sa.PrimaryKeyConstraint("report_id", name=op.f("pk_host_reports")),
        schema="runner",
    )
    op.create_index(op.f("ix_host_reports_host_id"), "host_reports", ["host_id"], schema="runner")


def downgrade() -> None:
    raise NotImplementedError
