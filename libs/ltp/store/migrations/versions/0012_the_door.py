"""The door: tokens, owners of nouns, and stored secrets.

Revision ID: 0012
Revises: 0011
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

_JSONB = postgresql.JSONB(astext_type=sa.Text())
_TIME = sa.DateTime(timezone=True)
_NOW = sa.text("now()")


def upgrade() -> None:
    _identity()
    _secrets()


def _identity() -> None:
    op.create_table(
        "tokens",
        sa.Column("token_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("prefix", sa.String(), nullable=False),
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("project", sa.String(), nullable=True),
        sa.Column("scopes", _JSONB, nullable=True),
        sa.Column("created_by", sa.String(), nullable=False),
        sa.Column("created_at", _TIME, nullable=False, server_default=_NOW),
        sa.Column("expires_at", _TIME, nullable=True),
        sa.Column("last_used_at", _TIME, nullable=True),
        sa.Column("revoked_at", _TIME, nullable=True),
        sa.PrimaryKeyConstraint("token_id", name=op.f("pk_tokens")),
        sa.UniqueConstraint("digest", name=op.f("uq_tokens_digest")),
        schema="gateway",
    )
    op.create_table(
        "owners",
        sa.Column("noun", sa.String(), nullable=False),
        sa.Column("project", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("noun", name=op.f("pk_owners")),
        schema="gateway",
    )
    for name in ("project", "actor"):
        op.add_column("events", sa.Column(name, sa.String(), nullable=True), schema="gateway")
    op.create_index("ix_events_project", "events", ["project", "seq"], schema="gateway")
    # What is there already belongs to the project it was submitted in, datasets to the default one.
    op.execute(
        "INSERT INTO gateway.owners (noun, project) "
        "SELECT job_id::text, coalesce(options->>'project', 'default') FROM gateway.jobs "
        "UNION SELECT dataset_id::text, 'default' FROM gateway.datasets "
        "UNION SELECT 'dataset:' || name, 'default' FROM gateway.datasets ON CONFLICT DO NOTHING"
    )
    op.execute(
        "UPDATE gateway.events e SET project = coalesce(j.options->>'project', 'default') "
        "FROM gateway.jobs j WHERE j.job_id = e.job_id"
    )


def _secrets() -> None:
    op.execute(sa.schema.CreateSchema("security", if_not_exists=True))
    op.create_table(
        "secrets",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("project", sa.String(), nullable=False),
        sa.Column("ciphertext", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", _TIME, nullable=False, server_default=_NOW),
        sa.Column("changed_at", _TIME, nullable=False, server_default=_NOW),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_secrets")),
        schema="security",
    )


def downgrade() -> None:
    raise NotImplementedError
