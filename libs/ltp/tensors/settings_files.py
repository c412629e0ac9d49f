"""The small files of a merged model: configuration, tokenizer and chat template, taken from one of its parents."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ltp.contracts.merge_recipe import MergeRecipe, OutputSlice
from ltp.tensors.chat_templates import TEMPLATES
from ltp.tensors.model_files import read_json
from ltp.tensors.plan import HEADS, LONG, Model, Step, refused

# Configuration, tokenizer and chat template; code, weights and cards that lie beside them are not taken over.
_COPIED = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "generation_config.json",
)
_LAYER_KEYS = ("num_hidden_layers", "n_layer", "num_layers")


@dataclass(frozen=True)
class Settings:
    """The files beside the weights: those to copy as they are, and those to write."""

    config: dict[str, Any]
    copied: list[Path]
    written: dict[str, str]


def settings_files(
    recipe: MergeRecipe,
    models: Sequence[Model],
    donor: Model,
    steps: Sequence[Step],
    tokenizer: dict[str, Any] | None,
    parts: Sequence[OutputSlice],
) -> Settings:
    """Decide every small file of the result. Raises OPERATION_REFUSED for a chat template that is none."""
    base = next((m for m in models if m.reference == recipe.base_model), models[0])
    config = dict(base.files.config) | {"dtype": LONG[steps[0].target.dtype]}
    if "torch_dtype" in config:
        config["torch_dtype"] = config["dtype"]
    layers = sum(part.sources[0].layer_range[1] - part.sources[0].layer_range[0] for part in parts)
    for key in _LAYER_KEYS:
        if key in config and recipe.slices:
            config[key] = layers
    if recipe.slices and isinstance(config.get("layer_types"), list):
        config["layer_types"] = _layer_types(parts, models)
    if any(step.target.name.endswith(HEADS) for step in steps):
        config["tie_word_embeddings"] = False
    heights = [step.target.shape[0] for step in steps if step.rows is not None]
    if heights:
        config["vocab_size"] = heights[0]
    copied = [path for name in _COPIED if (path := donor.files.path / name).is_file()]
    written = {"config.json": _json(config)}
    if tokenizer is not None:
        written["tokenizer.json"] = json.dumps(tokenizer, ensure_ascii=False, indent=2) + "\n"
        # What lists the same tokens in another way would contradict the new file.
        copied = [path for path in copied if path.name not in {"added_tokens.json", "tokenizer.model"}]
    if recipe.chat_template:
        written |= _template_files(_chosen(recipe.chat_template, models), donor.files.path)
    copied = [path for path in copied if path.name not in written]
    return Settings(config, copied, written)


def _layer_types(parts: Sequence[OutputSlice], models: Sequence[Model]) -> list[Any]:
    found: list[Any] = []
    for part in parts:
        source = part.sources[0]
        types = next(m for m in models if m.reference == source.model).files.config.get("layer_types") or []
        found += types[source.layer_range[0] : source.layer_range[1]]
    return found


def template_of(path: Path) -> str | None:
    """The chat template in a model's directory."""
    if (path / "chat_template.jinja").is_file():
        return (path / "chat_template.jinja").read_text()
    if (path / "tokenizer_config.json").is_file():
        found: object = read_json(path / "tokenizer_config.json").get("chat_template")
        return found if isinstance(found, str) else None
    return None


def _chosen(wanted: str, models: Sequence[Model]) -> str | None:
    """A template by name, the one most of the models have (`auto`), or the text itself."""
    if wanted == "auto":
        there = [text.strip() for model in models if (text := template_of(model.files.path))]
        return Counter(there).most_common(1)[0][0] if there else None
    if wanted in TEMPLATES:
        return TEMPLATES[wanted]
    if "{" not in wanted:
        names = ", ".join(sorted(TEMPLATES))
        raise refused(
            f"chat_template {wanted!r} is neither a template nor one of auto, {names}.", "Write it out in Jinja."
        )
    return wanted


def _template_files(template: str | None, donor: Path) -> dict[str, str]:
    if template is None:
        return {}
    files = {"chat_template.jinja": template}
    if (donor / "tokenizer_config.json").is_file():
        settings = read_json(donor / "tokenizer_config.json")
        if settings.pop("chat_template", None) is not None:
            files["tokenizer_config.json"] = _json(settings)
    return files


def _json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
