"""Recipes for the planner's tests."""

from __future__ import annotations

from typing import Any

from ltp.contracts.recipe import Recipe


def recipe(algorithm: str = "sft", resources: dict[str, Any] | None = None, **training: Any) -> Recipe:
    """A recipe that differs from the usual in what is given."""
    return Recipe.model_validate(
        {
            "name": "test", "algorithm": algorithm, "model": {"path": "/models/m"}, "dataset": {"name": "d"},
            "training": {"steps": 100, "batch_size": 64, "learning_rate": 1e-5, "max_length": 2048} | training,
            "reinforcement": {"max_response_length": 512} if algorithm == "grpo" else None,
            "resources": resources or {},
        }
    )  # fmt: skip
