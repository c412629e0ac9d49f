"""Which stream each message of an outbox was published to.

Revision ID: 0010
Revises: 0009
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

SERVICES = ("planner", "scheduler", "runner", "surgery", "dataset", "evaluator", "gateway")


def upgrade() -> None:
    for service in SERVICES:
        op.add_column("outbox", sa.Column("stream_born_at", sa.DateTime(timezone=True), nullable=True), schema=service)


def downgrade() -> None:
    raise NotImplementedError
