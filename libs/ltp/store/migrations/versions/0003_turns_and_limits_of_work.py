"""Priority, project and owner of work, the limits of queues and projects, and who works; indexes that fit each statement's order.

The old index on open work is dropped: only performance ever rested on it.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

READY = "state = 'queued' AND (wants IS NULL OR placement IS NOT NULL OR cancel_requested)"
UNPLACED = "state = 'queued' AND wants IS NOT NULL AND placement IS NULL AND NOT cancel_requested"
OPEN = "state IN ('queued', 'running')"
OVER = "state IN ('done', 'failed', 'cancelled')"
INDEXES = {
    "ix_work_ready": (["kind", "sort_at", "id"], READY),
    "ix_work_lane": (["kind", "queue", "project", "sort_at"], READY),
    "ix_work_unplaced": (["queue", "project", "sort_at"], UNPLACED),
    "ix_work_first": (["queue", "priority", "sort_at"], "state = 'queued'"),
    "ix_work_owner": (["queue", "owner", "priority", "sort_at"], OPEN),
    "ix_work_running": (["kind"], "state = 'running'"),
    "ix_work_ended": (["ended_at"], OVER),
    "ix_work_dead": (["queue"], "state = 'failed'"),
    "ix_work_untold": (["id"], "state = 'failed' AND NOT told"),
}


def upgrade() -> None:
    for column in (
        sa.Column("priority", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("project", sa.String(), server_default=sa.text("'default'"), nullable=False),
        sa.Column("owner", sa.String(), server_default=sa.text("'default'"), nullable=False),
        sa.Column("deaths", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("told", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("claimed_at", sa.DateTime(timezone=True), nullable=True),
    ):
        op.add_column("work", column, schema="queue")
    op.create_table(
        "limits",
        sa.Column("scope", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("max_running", sa.Integer(), nullable=True),
        sa.Column("max_devices", sa.Integer(), nullable=True),
        sa.Column("paused", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("restricts", sa.Boolean(), nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint("scope IN ('queue', 'project')", name=op.f("ck_limits_scope")),
        sa.PrimaryKeyConstraint("scope", "name", name=op.f("pk_limits")),
        schema="queue",
    )
    op.create_table(
        "workers",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("host", sa.String(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("concurrency", sa.Integer(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_workers")),
        schema="queue",
    )
    for name, (columns, where) in INDEXES.items():
        op.create_index(name, "work", columns, schema="queue", postgresql_where=sa.text(where))
    op.drop_index("ix_work_open", "work", schema="queue")
    # A row of work is rewritten three times in its life: dead versions at the head of an index slow each claim.
    op.execute(
        "ALTER TABLE queue.work SET (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.01,"
        " autovacuum_vacuum_threshold = 1000, autovacuum_analyze_scale_factor = 0.05)"
    )
