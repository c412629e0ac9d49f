"""The evaluator's settings."""

from __future__ import annotations

from pydantic_settings import SettingsConfigDict

from ltp.service.settings import CommonSettings


class EvaluatorSettings(CommonSettings):
    """LTP_* for what all share, LTP_EVALUATOR_* for its own."""

    model_config = SettingsConfigDict(env_prefix="LTP_", extra="ignore", protected_namespaces=())

    # Questions asked of a model server at once; it batches them.
    evaluator_concurrency: int = 32
