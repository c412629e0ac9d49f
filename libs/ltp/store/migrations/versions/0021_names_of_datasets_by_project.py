"""Names of datasets are each project's own.

What held for a name among all is copied to `dataset.titles`; `dataset.names` stays for services of the version before.

Revision ID: 0021
Revises: 0020
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None


def upgrade() -> None:
    default = sa.text("'default'")
    op.add_column(
        "datasets", sa.Column("project", sa.String(), server_default=default, nullable=False), schema="dataset"
    )
    op.add_column("leak_checks", sa.Column("project", sa.String(), nullable=True), schema="dataset")
    op.create_table(
        "titles",
        sa.Column("project", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("personal", postgresql.JSONB(), server_default=sa.text("'[]'"), nullable=False),
        sa.Column("keep_days", sa.Integer(), nullable=True),
        sa.PrimaryKeyConstraint("project", "name", name=op.f("pk_titles")),
        schema="dataset",
    )
    # The door's word on whose an id is keeps projects apart; where it has none, what the name was marked with.
    op.execute(
        "UPDATE dataset.datasets SET project = coalesce("
        "(SELECT owners.project FROM gateway.owners AS owners WHERE owners.noun = datasets.dataset_id::text), "
        "(SELECT names.project FROM dataset.names AS names WHERE names.name = datasets.name), 'default')"
    )
    op.execute(
        "INSERT INTO dataset.titles (project, name, personal, keep_days) "
        "SELECT DISTINCT datasets.project, names.name, names.personal, names.keep_days "
        "FROM dataset.datasets AS datasets JOIN dataset.names AS names ON names.name = datasets.name"
    )
    op.execute(
        "UPDATE dataset.leak_checks SET project = owners.project FROM gateway.owners AS owners "
        "WHERE owners.noun = leak_checks.check_id::text"
    )
    op.create_table(
        "titled_versions",
        sa.Column("project", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.Column("frozen_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("project", "name", "version", name=op.f("pk_titled_versions")),
        schema="scheduler",
    )
    op.execute(
        "INSERT INTO scheduler.titled_versions (project, name, version, rows, frozen_at) "
        "SELECT DISTINCT coalesce(datasets.project, 'default'), known.name, known.version, known.rows, known.frozen_at "
        "FROM scheduler.dataset_versions AS known LEFT JOIN dataset.datasets AS datasets "
        "ON datasets.name = known.name AND datasets.version = known.version"
    )
    for table in ("pipeline_runs", "armed_pipelines"):
        op.add_column(
            table, sa.Column("project", sa.String(), server_default=default, nullable=False), schema="scheduler"
        )
    # Whose those are that were there before.
    op.execute(
        "UPDATE scheduler.pipeline_runs SET project = owners.project FROM gateway.owners AS owners "
        "WHERE owners.noun = pipeline_runs.run_id::text"
    )
    op.execute(
        "UPDATE scheduler.armed_pipelines SET project = owners.project FROM gateway.owners AS owners "
        "WHERE owners.noun = 'pipeline:' || armed_pipelines.name"
    )


def downgrade() -> None:
    for table in ("armed_pipelines", "pipeline_runs"):
        op.drop_column(table, "project", schema="scheduler")
    op.drop_table("titled_versions", schema="scheduler")
    op.drop_table("titles", schema="dataset")
    op.drop_column("leak_checks", "project", schema="dataset")
    op.drop_column("datasets", "project", schema="dataset")
