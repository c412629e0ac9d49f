"""A job keeps the trace in which it was submitted; a role `grafana`, where there is one, may read what dashboards ask for.

Revision ID: 0015
Revises: 0013
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0015"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    column = sa.Column("trace", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'"), nullable=False)
    op.add_column("jobs", column, schema="scheduler")
    # Table by table: what holds tokens, secrets or people's data is not Grafana's.
    op.execute("""
        DO $$ BEGIN IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'grafana') THEN
            GRANT USAGE ON SCHEMA gateway, runner, planner TO grafana;
            GRANT SELECT ON gateway.jobs, gateway.events, gateway.steps, runner.attempts, runner.checkpoints,
                planner.measurements TO grafana;
        END IF; END $$
    """)


def downgrade() -> None:
    raise NotImplementedError
