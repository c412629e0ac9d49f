"""The evaluator's settings."""

from __future__ import annotations

from ltp.service.settings import CommonSettings


class EvaluatorSettings(CommonSettings):
    """LTP_* for what all share, LTP_EVALUATOR_* for its own."""

    # Questions asked of a model server at once; it batches them.
    evaluator_concurrency: int = 32
