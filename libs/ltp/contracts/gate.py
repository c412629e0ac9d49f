"""When a model may be promoted: what a recipe asks for and the evaluator judges by."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from ltp.contracts.values import Ratio


class Gate(BaseModel):
    """When a model may be promoted: it must reach `min_accuracy`, and not be worse than what it is compared with."""

    # A misspelt key must be an error at the door, not a silent default.
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), defer_build=True)

    min_accuracy: Ratio | None = None
    # The largest loss of accuracy that the interval of the difference may still allow; None: any that is not proven.
    max_loss: Ratio | None = None
    # Label whose slices must not get worse either (Holm over its values).
    slices: tuple[str, ...] = ()
