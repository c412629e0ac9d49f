"""Schedules with their ticks, runs of pipelines with their stages, what was heard about them, and lineage."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy import Text
from sqlalchemy.dialects import postgresql

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "armed_pipelines",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("pipeline_id", sa.Uuid(), nullable=False),
        sa.Column("spec", postgresql.JSONB(astext_type=Text()), nullable=False),
        sa.Column("armed_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_armed_pipelines")),
        schema="scheduler",
    )
    op.create_table(
        "artefacts",
        sa.Column("digest", sa.String(), nullable=False),
        sa.Column("run_id", sa.Uuid(), nullable=False),
        sa.Column("stage", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("place", postgresql.JSONB(astext_type=Text()), nullable=False),
        sa.Column("inputs", postgresql.JSONB(astext_type=Text()), nullable=False),
        sa.Column("made_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("digest", "run_id", "stage", name=op.f("pk_artefacts")),
        schema="scheduler",
    )
    op.create_index("ix_artefacts_run", "artefacts", ["run_id"], unique=False, schema="scheduler")
    op.create_table(
        "dataset_versions",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("rows", sa.Integer(), nullable=False),
        sa.Column("frozen_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", "version", name=op.f("pk_dataset_versions")),
        schema="scheduler",
    )
    op.create_table(
        "pipeline_runs",
        sa.Column("run_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("spec", postgresql.JSONB(astext_type=Text()), nullable=False),
        sa.Column("spec_hash", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("round", sa.Integer(), server_default=sa.text("1"), nullable=False),
        sa.Column("cancel_requested", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("dirty", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("idempotency_key", sa.String(), nullable=True),
        sa.Column("origin", postgresql.JSONB(astext_type=Text()), nullable=False),
        sa.Column("trigger", postgresql.JSONB(astext_type=Text()), nullable=False),
        sa.Column("inputs", postgresql.JSONB(astext_type=Text()), nullable=False),
        sa.Column("problem", postgresql.JSONB(astext_type=Text()), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("run_id", name=op.f("pk_pipeline_runs")),
        sa.UniqueConstraint("idempotency_key", name=op.f("uq_pipeline_runs_idempotency_key")),
        schema="scheduler",
    )
    op.create_index(
        "ix_pipeline_runs_dirty",
        "pipeline_runs",
        ["run_id"],
        unique=False,
        schema="scheduler",
        postgresql_where="dirty",
    )
    op.create_index(op.f("ix_pipeline_runs_name"), "pipeline_runs", ["name"], unique=False, schema="scheduler")
    op.create_table(
        "schedules",
        sa.Column("schedule_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("builtin", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("spec", postgresql.JSONB(astext_type=Text()), nullable=False),
        sa.Column("next_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("fire_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("schedule_id", name=op.f("pk_schedules")),
        sa.UniqueConstraint("name", name=op.f("uq_schedules_name")),
        schema="scheduler",
    )
    op.create_index(
        "ix_schedules_due",
        "schedules",
        ["fire_at"],
        unique=False,
        schema="scheduler",
        postgresql_where=sa.text("state = 'active'"),
    )
    op.create_table(
        "stage_facts",
        sa.Column("noun_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("data", postgresql.JSONB(astext_type=Text()), nullable=False),
        sa.PrimaryKeyConstraint("noun_id", "name", name=op.f("pk_stage_facts")),
        schema="scheduler",
    )
    op.create_table(
        "stages",
        sa.Column("run_id", sa.Uuid(), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("needs", postgresql.JSONB(astext_type=Text()), nullable=False),
        sa.Column("state", sa.String(), server_default=sa.text("'waiting'"), nullable=False),
        sa.Column("attempt", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("noun_id", sa.Uuid(), nullable=True),
        sa.Column("settings", postgresql.JSONB(astext_type=Text()), nullable=True),
        sa.Column("inputs", postgresql.JSONB(astext_type=Text()), nullable=True),
        sa.Column("cache_key", sa.String(), nullable=True),
        sa.Column("outputs", postgresql.JSONB(astext_type=Text()), nullable=True),
        sa.Column("digest", sa.String(), nullable=True),
        sa.Column("abort_asked", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("problem", postgresql.JSONB(astext_type=Text()), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["run_id"], ["scheduler.pipeline_runs.run_id"], name=op.f("fk_stages_run_id")),
        sa.PrimaryKeyConstraint("run_id", "key", name=op.f("pk_stages")),
        schema="scheduler",
    )
    op.create_index(
        "ix_stages_made",
        "stages",
        ["cache_key"],
        unique=False,
        schema="scheduler",
        postgresql_where=sa.text("state = 'succeeded'"),
    )
    op.create_index(op.f("ix_stages_noun_id"), "stages", ["noun_id"], unique=False, schema="scheduler")
    op.create_table(
        "ticks",
        sa.Column("schedule_id", sa.Uuid(), nullable=False),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("tick_id", sa.Uuid(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("by_hand", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("noun_id", sa.Uuid(), nullable=True),
        sa.Column("reason", sa.String(), nullable=True),
        sa.Column("result", postgresql.JSONB(astext_type=Text()), nullable=True),
        sa.Column("problem", postgresql.JSONB(astext_type=Text()), nullable=True),
        sa.Column("fired_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["schedule_id"], ["scheduler.schedules.schedule_id"], name=op.f("fk_ticks_schedule_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("schedule_id", "due_at", name=op.f("pk_ticks")),
        sa.UniqueConstraint("tick_id", name=op.f("uq_ticks_tick_id")),
        schema="scheduler",
    )
    op.create_index(op.f("ix_ticks_noun_id"), "ticks", ["noun_id"], unique=False, schema="scheduler")
    op.create_index(
        "ix_ticks_open",
        "ticks",
        ["schedule_id"],
        unique=False,
        schema="scheduler",
        postgresql_where=sa.text("state IN ('running', 'waiting')"),
    )
