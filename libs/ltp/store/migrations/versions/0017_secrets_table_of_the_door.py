"""The table of stored secrets, as migration 0018 of the branch `wt/door` makes it: delete this file when that one is merged.

Revision ID: 0017s
Revises: 0017
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0017s"
down_revision = "0017"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)
_NOW = sa.text("now()")


def upgrade() -> None:
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
