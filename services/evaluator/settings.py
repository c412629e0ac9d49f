"""The evaluator's settings."""

from __future__ import annotations

import sys

from pydantic_settings import SettingsConfigDict

from ltp.service.settings import CommonSettings


class EvaluatorSettings(CommonSettings):
    """LTP_* for what all share, LTP_EVALUATOR_* for its own."""

    model_config = SettingsConfigDict(env_prefix="LTP_", extra="ignore", protected_namespaces=())

    # The interpreter that has torch, or vLLM on a GPU host; the service itself imports neither.
    evaluator_python: str = sys.executable
    evaluator_concurrency: int = 32
