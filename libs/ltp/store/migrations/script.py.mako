"""${message}

Expand, then contract: old code runs on the new schema during a rolling deploy, so this migration only adds.
Drop what nobody reads any more one release later. Take locks briefly: add columns nullable or with a constant
default, build indexes on big tables CONCURRENTLY in a migration of their own.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
${imports if imports else ""}

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = None
depends_on = None


def upgrade() -> None:
    ${upgrades if upgrades else "pass"}
