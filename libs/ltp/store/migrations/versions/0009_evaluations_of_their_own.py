"""Evaluations without a job, with a record of each sample, answers that are kept by what they depend on, and policies."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_JSON = postgresql.JSONB(astext_type=sa.Text())
_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    for name in ("job_id", "subject_kind", "model_path"):
        op.alter_column("evaluations", name, nullable=True, schema="evaluator")
    for column in (
        sa.Column("state", sa.String(), server_default=sa.text("'queued'"), nullable=False),
        sa.Column("name", sa.String(), nullable=True),
        sa.Column("source", sa.String(), server_default=sa.text("'run'"), nullable=False),
        sa.Column("source_id", sa.Uuid(), nullable=True),
        sa.Column("checkpoint_id", sa.Uuid(), nullable=True),
        sa.Column("step", sa.Integer(), nullable=True),
        sa.Column("model", _JSON, nullable=True),
        sa.Column("dataset", _JSON, nullable=True),
        sa.Column("spec", _JSON, nullable=True),
        sa.Column("device_kind", sa.String(), server_default=sa.text("'auto'"), nullable=False),
        sa.Column("fingerprint", sa.String(), nullable=True),
        sa.Column("total", sa.Integer(), nullable=True),
        sa.Column("result", _JSON, nullable=True),
        sa.Column("started_at", _TIME, nullable=True),
        sa.Column("first_answer_at", _TIME, nullable=True),
    ):
        op.add_column("evaluations", column, schema="evaluator")
    op.execute(
        "UPDATE evaluator.evaluations SET state = CASE WHEN score IS NOT NULL THEN 'completed'"
        " WHEN problem IS NOT NULL THEN 'failed' ELSE 'queued' END"
    )
    op.create_index("ix_evaluations_job", "evaluations", ["job_id"], schema="evaluator")
    op.create_index("ix_evaluations_checkpoint", "evaluations", ["checkpoint_id"], schema="evaluator")
    op.alter_column("samples", "reference", nullable=True, schema="evaluator")
    for column in (
        sa.Column("sample", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("messages", _JSON, server_default=sa.text("'[]'"), nullable=False),
        sa.Column("outcome", sa.String(), server_default=sa.text("'wrong'"), nullable=False),
        sa.Column("value", sa.Float(), nullable=True),
        sa.Column("truncated", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("error_kind", sa.String(), nullable=True),
        sa.Column("answer_key", sa.String(), nullable=True),
        sa.Column("prompt_tokens", sa.Integer(), nullable=True),
        sa.Column("completion_tokens", sa.Integer(), nullable=True),
        sa.Column("latency_seconds", sa.Float(), nullable=True),
        sa.Column("cached", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("scorer", sa.String(), server_default=sa.text("''"), nullable=False),
        sa.Column("detail", _JSON, server_default=sa.text("'{}'"), nullable=False),
        sa.Column("labels", _JSON, server_default=sa.text("'{}'"), nullable=False),
    ):
        op.add_column("samples", column, schema="evaluator")
    op.execute(
        "UPDATE evaluator.samples SET outcome = CASE WHEN error IS NOT NULL THEN 'error' WHEN correct THEN 'right'"
        " ELSE 'wrong' END, value = CASE WHEN error IS NULL THEN correct::int END,"
        " error_kind = CASE WHEN error IS NOT NULL THEN 'other' END, truncated = finish_reason IS NOT DISTINCT FROM 'length'"
    )
    op.drop_constraint("pk_samples", "samples", schema="evaluator", type_="primary")
    op.create_primary_key("pk_samples", "samples", ["evaluation_id", "row_id", "sample"], schema="evaluator")
    op.create_table(
        "answers",
        sa.Column("answer_key", sa.String(), nullable=False),
        sa.Column("fingerprint", sa.String(), nullable=False),
        sa.Column("response", sa.Text(), nullable=False),
        sa.Column("finish_reason", sa.String(), nullable=True),
        sa.Column("prompt_tokens", sa.Integer(), nullable=True),
        sa.Column("completion_tokens", sa.Integer(), nullable=True),
        sa.Column("latency_seconds", sa.Float(), nullable=False),
        sa.Column("detail", _JSON, server_default=sa.text("'{}'"), nullable=False),
        sa.Column("made_at", _TIME, server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("answer_key", name=op.f("pk_answers")),
        schema="evaluator",
    )
    op.create_table(
        "checkpoints",
        sa.Column("checkpoint_id", sa.Uuid(), nullable=False),
        sa.Column("job_id", sa.Uuid(), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("is_final", sa.Boolean(), nullable=False),
        sa.Column("path", sa.String(), nullable=True),
        sa.Column("weights_sha256", sa.String(), nullable=True),
        sa.Column("problem", _JSON, nullable=True),
        sa.PrimaryKeyConstraint("checkpoint_id", name=op.f("pk_checkpoints")),
        schema="evaluator",
    )
    op.add_column("jobs", sa.Column("best", _JSON, nullable=True), schema="evaluator")


def downgrade() -> None:
    op.drop_column("jobs", "best", schema="evaluator")
    op.drop_table("checkpoints", schema="evaluator")
    op.drop_table("answers", schema="evaluator")
    # What the older tables cannot hold goes: evaluations without a job, and every sample but the first of a row.
    op.execute("DELETE FROM evaluator.samples WHERE sample > 0 OR reference IS NULL")
    op.execute("DELETE FROM evaluator.evaluations WHERE job_id IS NULL OR subject_kind IS NULL OR model_path IS NULL")
    op.drop_constraint("pk_samples", "samples", schema="evaluator", type_="primary")
    op.create_primary_key("pk_samples", "samples", ["evaluation_id", "row_id"], schema="evaluator")
    for name in (
        *("sample", "messages", "outcome", "value", "truncated", "error_kind", "answer_key", "prompt_tokens"),
        *("completion_tokens", "latency_seconds", "cached", "scorer", "detail", "labels"),
    ):
        op.drop_column("samples", name, schema="evaluator")
    op.alter_column("samples", "reference", nullable=False, schema="evaluator")
    op.drop_index("ix_evaluations_checkpoint", "evaluations", schema="evaluator")
    op.drop_index("ix_evaluations_job", "evaluations", schema="evaluator")
    for name in (
        *("state", "name", "source", "source_id", "checkpoint_id", "step", "model", "dataset", "spec", "device_kind"),
        *("fingerprint", "total", "result", "started_at", "first_answer_at"),
    ):
        op.drop_column("evaluations", name, schema="evaluator")
    for name in ("job_id", "subject_kind", "model_path"):
        op.alter_column("evaluations", name, nullable=False, schema="evaluator")
