"""What the planner learns: measured against predicted, whether that drifts, which devices are leased.

Expand, then contract: old code runs on the new schema during a rolling deploy, so this migration only adds.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "hosts",
        sa.Column("flash_attention", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        schema="planner",
    )
    op.add_column("plans", sa.Column("algorithm", sa.String(), nullable=True), schema="planner")
    op.create_table(
        "leases",
        sa.Column("lease_id", sa.Uuid(), nullable=False),
        sa.Column("host_id", sa.String(), nullable=True),
        sa.Column("device_kind", sa.String(), nullable=True),
        sa.Column("device_indexes", postgresql.ARRAY(sa.Integer()), nullable=True),
        sa.Column("released_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("lease_id", name=op.f("pk_leases")),
        schema="planner",
    )
    op.create_table(
        "measurements",
        sa.Column("attempt_id", sa.Uuid(), nullable=False),
        sa.Column("quantity", sa.String(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("group", sa.String(), nullable=False),
        sa.Column("predicted", sa.Float(), nullable=False),
        sa.Column("measured", sa.Float(), nullable=False),
        sa.Column("plan", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column("measured_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("attempt_id", "quantity", name=op.f("pk_measurements")),
        schema="planner",
    )
    op.create_index("ix_measurements_group", "measurements", ["group", "quantity", "measured_at"], schema="planner")
    op.create_table(
        "drifts",
        sa.Column("group", sa.String(), nullable=False),
        sa.Column("quantity", sa.String(), nullable=False),
        sa.Column("above", sa.Float(), nullable=False),
        sa.Column("below", sa.Float(), nullable=False),
        sa.Column("alarmed", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("group", "quantity", name=op.f("pk_drifts")),
        schema="planner",
    )
