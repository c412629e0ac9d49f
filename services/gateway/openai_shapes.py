"""OpenAI's fine-tuning API in our words and back: requests become recipes, jobs become their objects. Pure.

The API: https://platform.openai.com/docs/api-reference/fine-tuning, as the client `openai` 3.x speaks it. Where OpenAI says
`auto`, the rules of this file decide: three epochs, and batches of 8 or of as many rows as there are.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ltp.contracts.faults import faults_of
from ltp.contracts.recipe import Recipe
from ltp.core.errors import ErrorCode, LtpError

_EPOCHS, _BATCH, _LENGTH = 3, 8, 1024
# What a multiplier of 1 stands for, by method.
_LEARNING_RATE = {"supervised": 1e-5, "dpo": 5e-6, "reinforcement": 1e-6}
_STATUS = {"submitted": "queued", "planned": "queued", "queued": "queued", "running": "running", "paused": "paused"}
_STATUS |= {"succeeded": "succeeded", "failed": "failed", "cancelled": "cancelled"}


class _Part(BaseModel):
    # Clients of newer API versions may send more than is known here.
    model_config = ConfigDict(extra="ignore")


class Hyperparameters(_Part):
    """OpenAI's; `auto` leaves the choice to us."""

    n_epochs: int | Literal["auto"] = "auto"
    batch_size: int | Literal["auto"] = "auto"
    learning_rate_multiplier: float | Literal["auto"] = "auto"
    beta: float | Literal["auto"] = "auto"
    compute_multiplier: float | Literal["auto"] = "auto"


class MethodSettings(_Part):
    """Of one method."""

    hyperparameters: Hyperparameters | None = None
    grader: dict[str, Any] | None = None


class Method(_Part):
    """How it learns: from answers, from pairs, or from a grader."""

    type: Literal["supervised", "dpo", "reinforcement"]
    supervised: MethodSettings | None = None
    dpo: MethodSettings | None = None
    reinforcement: MethodSettings | None = None


class TuningRequest(_Part):
    """POST /v1/fine_tuning/jobs."""

    model_config = ConfigDict(
        extra="ignore",
        json_schema_extra={"examples": [{"model": "smollm2-135m", "training_file": "file-0198f1c2a7"}]},
    )

    model: str = Field(min_length=1, max_length=1000)
    training_file: str = Field(max_length=100)
    validation_file: str | None = Field(default=None, max_length=100)
    hyperparameters: Hyperparameters | None = None
    method: Method | None = None
    suffix: str | None = Field(default=None, max_length=64)
    seed: int | None = Field(default=None, ge=0, lt=2**31)
    metadata: dict[str, str] | None = None
    integrations: list[dict[str, Any]] | None = None

    def kind(self) -> Literal["supervised", "dpo", "reinforcement"]:
        """The method; supervised where none is named."""
        return self.method.type if self.method else "supervised"

    def settings(self) -> MethodSettings:
        """The method's settings; older clients give hyperparameters beside it."""
        given = getattr(self.method, self.kind()) if self.method else None
        return given or MethodSettings(hyperparameters=self.hyperparameters)


def refuse_unsupported(request: TuningRequest) -> None:
    """Raise INVALID_REQUEST for what would be ignored and matters."""
    if request.integrations:
        raise _wrong("Integrations are not supported.", "Follow the job's events, metrics or webhooks instead.")
    if request.validation_file is not None:
        raise _wrong(
            "A validation file of its own is not supported.",
            "Upload one file with `ltp dataset add --holdout 0.1`, or evaluate the result with `ltp eval run`.",
        )


def recipe_of(
    request: TuningRequest, job_id: UUID, dataset: str, path: str, rows: int, positions: int | None = None
) -> Recipe:
    """What the request asks for, as a recipe. Raises INVALID_REQUEST where no recipe of this platform does it."""
    kind, settings = request.kind(), request.settings()
    hyper = settings.hyperparameters or Hyperparameters()
    batch = min(_BATCH, rows) if hyper.batch_size == "auto" else hyper.batch_size
    epochs = _EPOCHS if hyper.n_epochs == "auto" else hyper.n_epochs
    factor = 1.0 if hyper.learning_rate_multiplier == "auto" else hyper.learning_rate_multiplier
    # The trainer drops an incomplete last batch, so an epoch has as many steps as there are whole ones.
    steps = max(1, epochs * max(1, rows // max(batch, 1)))
    training = {"steps": steps, "batch_size": batch, "learning_rate": _LEARNING_RATE[kind] * factor}
    training["max_length"] = min(_LENGTH, positions or _LENGTH)
    training |= {"save_every": max(1, math.ceil(steps / epochs)) if epochs > 0 else 1, "seed": request.seed or 1}
    body: dict[str, Any] = {
        "name": f"ft-{job_id.hex[-12:]}",
        "model": {"path": path},
        "dataset": {"name": dataset},
        "training": training,
        **_algorithm(kind, settings, hyper),
    }
    try:
        return Recipe.model_validate(body)
    except ValidationError as error:
        faults = faults_of(error)
        message = f"The method {kind} cannot be done as asked: {faults}."
        raise _wrong(message, "See docs/api.md for what each method maps to.") from error


def _algorithm(kind: str, settings: MethodSettings, hyper: Hyperparameters) -> dict[str, Any]:
    if kind == "dpo":
        return {"algorithm": "dpo", **({} if hyper.beta == "auto" else {"preference": {"beta": hyper.beta}})}
    if kind == "reinforcement":
        samples = 8 if hyper.compute_multiplier == "auto" else max(2, round(8 * hyper.compute_multiplier))
        section = {"samples_per_prompt": samples, "scorer": _scorer(settings.grader)}
        return {"algorithm": "grpo", "reinforcement": section}
    return {"algorithm": "sft"}


def _scorer(grader: Mapping[str, Any] | None) -> str:
    """Our scorer for OpenAI's grader. Raises INVALID_REQUEST for those we have no like of."""
    kind = (grader or {}).get("type", "string_check")
    if kind == "string_check" and (grader or {}).get("operation", "eq") in {"eq", "ilike", "like"}:
        return "exact"
    hint = "Use {'type': 'string_check', 'operation': 'eq', ...}, or `ltp job submit` with a recipe of your own."
    raise _wrong(f"A grader of type {str(kind)[:50]!r} is not supported.", hint)


def row_of(line: bytes) -> bytes:
    """A line of OpenAI's formats in the dataset service's words; what is no such line stays as it is."""
    try:
        raw = json.loads(line)
    except (ValueError, RecursionError):
        return line  # The dataset service says what is wrong, and in which line.
    if not isinstance(raw, dict):
        return line
    if "preferred_output" in raw and "non_preferred_output" in raw:
        given = raw.get("input")
        talk = given.get("messages") if isinstance(given, dict) else None
        row = {"messages": talk, "chosen": raw["preferred_output"], "rejected": raw["non_preferred_output"]}
        return json.dumps(row).encode()
    talk = raw.get("messages")
    answer = next((raw[key] for key in ("reference_answer", "correct_answer", "answer") if key in raw), None)
    if isinstance(talk, list) and answer is not None and isinstance(talk[-1] if talk else None, dict):
        said = answer if isinstance(answer, str) else json.dumps(answer)
        if talk[-1].get("role") != "assistant":
            talk = [*talk, {"role": "assistant", "content": said}]
        return json.dumps({"messages": talk, "answer": said}).encode()
    return line


def file_object(row: Mapping[Any, Any]) -> dict[str, Any]:
    """OpenAI's File."""
    state = row["state"]
    status = {"frozen": "processed", "rejected": "error"}.get(state or "", "uploaded")
    status = "processed" if row["purpose"] != "fine-tune" else status
    return {
        "id": f"file-{row['file_id'].hex}",
        "object": "file",
        "bytes": row["size_bytes"],
        "created_at": seconds(row["created_at"]),
        "expires_at": None,
        "filename": row["filename"],
        "purpose": row["purpose"],
        "status": status,
        "status_details": (row["problem"] or {}).get("message") if status == "error" else None,
    }


def job_object(row: Mapping[Any, Any], model: str | None, is_exported: bool) -> dict[str, Any]:
    """OpenAI's FineTuningJob. It has succeeded when its model can be used, which is once the last checkpoint is exported."""
    body = row["body"]
    status = {"validating": "validating_files", "failed": "failed", "cancelled": "cancelled"}.get(row["state"])
    if status is None:
        status = _STATUS.get(row["job_state"] or "submitted", "queued")
    if status == "succeeded" and not is_exported:
        status = "running"
    problem = row["problem"] or row["job_problem"]
    hyper = {"n_epochs": "auto", "batch_size": "auto", "learning_rate_multiplier": "auto"}
    hyper |= {k: v for k, v in (body.get("hyperparameters") or {}).items() if k in hyper}
    is_over = status in {"succeeded", "failed", "cancelled"}
    return {
        "id": f"ftjob-{row['job_id'].hex}",
        "object": "fine_tuning.job",
        "created_at": seconds(row["created_at"]),
        "finished_at": seconds(row["job_ended_at"]) if is_over else None,
        "estimated_finish": None,
        "status": status,
        "model": body["model"],
        "fine_tuned_model": model if status == "succeeded" else None,
        "organization_id": row["project"],
        "training_file": body["training_file"],
        "validation_file": body.get("validation_file"),
        "result_files": [],
        "trained_tokens": None,
        "hyperparameters": hyper,
        "seed": body.get("seed") or 1,
        "method": body.get("method") or {"type": "supervised", "supervised": {"hyperparameters": hyper}},
        "metadata": body.get("metadata"),
        "integrations": [],
        "error": None if not problem else {"code": problem["code"], "message": problem["message"], "param": None},
    }


def model_name(body: Mapping[str, Any], job_id: UUID, step: int | None = None) -> str:
    """What a tuned model is called: `ft:BASE:SUFFIX:JOB`, and a checkpoint's with its step behind."""
    base = str(body["model"]).rstrip("/").rpartition("/")[2]
    name = f"ft:{base}:{body.get('suffix') or ''}:{job_id.hex}"
    return name if step is None else f"{name}:ckpt-step-{step}"


def job_of_model(name: str) -> tuple[UUID, int | None] | None:
    """The job and the step that such a name stands for; None for other names."""
    parts = name.split(":")
    try:
        if parts[0] != "ft" or len(parts) not in {4, 5}:
            return None
        return UUID(hex=parts[3]), int(parts[4].removeprefix("ckpt-step-")) if len(parts) == 5 else None
    except ValueError:
        return None


def id_of(text: str, prefix: str) -> UUID:
    """The id behind `file-…` or `ftjob-…`. Raises NOT_FOUND."""
    try:
        if not text.startswith(prefix):
            raise ValueError(text)
        return UUID(hex=text.removeprefix(prefix))
    except ValueError:
        raise LtpError(ErrorCode.NOT_FOUND, f"There is no {text[:100]!r}.", f"Its id starts with {prefix}.") from None


def page(items: list[dict[str, Any]], has_more: bool) -> dict[str, Any]:
    """OpenAI's list."""
    ends = {"first_id": items[0]["id"], "last_id": items[-1]["id"]} if items else {"first_id": None, "last_id": None}
    return {"object": "list", "data": items, "has_more": has_more, **ends}


def seconds(at: datetime | None) -> int | None:
    """Unix time."""
    return None if at is None else int(at.timestamp())


def _wrong(message: str, hint: str) -> LtpError:
    return LtpError(ErrorCode.INVALID_REQUEST, message, hint)
