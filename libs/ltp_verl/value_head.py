"""A critic with the attention its recipe names; loaded by `VERL_USE_EXTERNAL_MODULES=ltp_verl.value_head`.

verl 0.9.1 asks for flash-attention whatever the configuration says, and blames a missing `trl` when there is none.
"""

from __future__ import annotations

from typing import Any

from verl.utils import model


def load_value_model(local_path: str, torch_dtype: Any, model_config: Any, trust_remote_code: bool) -> Any:
    """The model with one output a token and a new head, as verl's own function loads it."""
    from transformers import AutoModelForTokenClassification

    return AutoModelForTokenClassification.from_pretrained(
        local_path,
        dtype=torch_dtype,
        config=model_config,
        attn_implementation=getattr(model_config, "_attn_implementation", None) or "sdpa",
        trust_remote_code=trust_remote_code,
    )


# The engine imports it by name each time it builds a model.
model.load_valuehead_model = load_value_model
