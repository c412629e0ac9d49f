"""The life of jobs: options, pauses, failures by cause, hosts with labels, leases with fencing tokens.

Revision ID: 0002
Revises: 0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_JSONB = postgresql.JSONB(astext_type=sa.Text())
_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    _jobs()
    _hosts()
    _leases()
    op.add_column(
        "attempts", sa.Column("stop_wanted", sa.Boolean(), nullable=False, server_default="false"), schema="runner"
    )
    op.add_column("attempts", sa.Column("stop_passed", sa.String(), nullable=True), schema="runner")
    op.drop_column("attempts", "stop_asked", schema="runner")


def _jobs() -> None:
    for column in (
        sa.Column("options", _JSONB, nullable=False, server_default=sa.text("'{}'")),
        sa.Column("pause_requested", sa.Boolean(), nullable=False, server_default=sa.text("false")),
        sa.Column("attempt_id", sa.Uuid(), nullable=True),
        sa.Column("awaiting_plan", sa.Boolean(), nullable=False, server_default=sa.text("false")),
        sa.Column("not_before", _TIME, nullable=True),
        sa.Column("failures", _JSONB, nullable=False, server_default=sa.text("'{}'")),
        sa.Column("avoid", _JSONB, nullable=False, server_default=sa.text("'[]'")),
        sa.Column("checkpoint_step", sa.Integer(), nullable=True),
    ):
        op.add_column("jobs", column, schema="scheduler")
    for column in (
        sa.Column("options", _JSONB, nullable=False, server_default=sa.text("'{}'")),
        sa.Column("requested", sa.String(), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=False, server_default=sa.text("0")),
        sa.Column("checkpoint_step", sa.Integer(), nullable=True),
    ):
        op.add_column("jobs", column, schema="gateway")


def _hosts() -> None:
    for column in (
        sa.Column("memory_bytes", sa.BigInteger(), nullable=False, server_default=sa.text("0")),
        sa.Column("labels", _JSONB, nullable=False, server_default=sa.text("'{}'")),
        sa.Column("cordoned", sa.Boolean(), nullable=False, server_default=sa.text("false")),
        sa.Column("lost_at", _TIME, nullable=True),
    ):
        op.add_column("hosts", column, schema="scheduler")


def _leases() -> None:
    op.execute(sa.schema.CreateSequence(sa.Sequence("lease_fence", schema="scheduler")))
    fence = sa.Column(
        "fence", sa.BigInteger(), nullable=False, server_default=sa.text("nextval('scheduler.lease_fence')")
    )
    wants = sa.Column("wants", _JSONB, nullable=False, server_default=sa.text("'{}'"))
    leaving = sa.Column("leaving", sa.Boolean(), nullable=False, server_default=sa.text("false"))
    for column in (fence, wants, leaving):
        op.add_column("leases", column, schema="scheduler")
    op.create_unique_constraint(op.f("uq_leases_fence"), "leases", ["fence"], schema="scheduler")
    op.drop_constraint(op.f("uq_leases_work_id"), "leases", schema="scheduler")
    held = sa.text("released_at IS NULL")
    op.create_index(
        "uq_leases_work_held", "leases", ["work_id"], unique=True, schema="scheduler", postgresql_where=held
    )
    op.create_table(
        "leased_devices",
        sa.Column("lease_id", sa.Uuid(), nullable=False),
        sa.Column("host_id", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("index", sa.Integer(), nullable=False),
        sa.Column("released_at", _TIME, nullable=True),
        sa.PrimaryKeyConstraint("lease_id", "host_id", "kind", "index", name=op.f("pk_leased_devices")),
        schema="scheduler",
    )
    op.create_index(
        "uq_leased_devices_held",
        "leased_devices",
        ["host_id", "kind", "index"],
        unique=True,
        schema="scheduler",
        postgresql_where=held,
    )
    # What is held while the platform is upgraded stays held.
    op.execute(
        "INSERT INTO scheduler.leased_devices (lease_id, host_id, kind, index, released_at) "
        "SELECT lease_id, host_id, device_kind, unnest(device_indexes), released_at FROM scheduler.leases"
    )


def downgrade() -> None:
    raise NotImplementedError
