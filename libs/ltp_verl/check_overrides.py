"""Holds a recipe's own overrides against the installed verl's configuration, by Hydra's own parser.

Nothing of verl is imported unless a key has no default: its configuration is YAML, which Hydra composes without it.
"""

from __future__ import annotations

import importlib.util
import typing
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ltp.core.algorithms import family_of
from ltp.core.nearest import or_nearest
from ltp.verl_recipe.owned_keys import reason_against

_CONFIGS = {"sft": "sft_trainer_engine", "dpo": "sft_trainer_engine", "rl": "ppo_trainer"}
_KINDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    list: "a list",
    dict: "a mapping",
}

# Keys whose default is null and that no class of verl's describes.
_UNTYPED: dict[str, tuple[type, ...]] = {
    "max_actor_ckpt_to_keep": (int,), "max_critic_ckpt_to_keep": (int,), "max_ckpt_to_keep": (int,),
    "gen_batch_size": (int,), "log_val_generations": (int,),
}  # fmt: skip


def faults(algorithm: str, emitted: Sequence[str], overrides: Sequence[str]) -> list[str]:
    """What is wrong with `overrides`, a sentence each; `emitted` are the platform's own. Empty when verl will take them."""
    found = list(_unparsable(overrides))
    if found:
        return found
    spec = importlib.util.find_spec("verl")
    if spec is None or spec.origin is None:
        return ["verl is not installed here, so its keys cannot be checked"]
    directory = Path(spec.origin).parent / "trainer" / "config"
    with initialize_config_dir(str(directory), version_base=None):
        name = _CONFIGS[family_of(algorithm)]
        shipped = compose(name)
        parsed = OverridesParser.create().parse_overrides(list(overrides))
        found = [fault for one in parsed if (fault := _fault(one, shipped, algorithm)) is not None]
        if not found:
            try:
                compose(name, [*emitted, *overrides])
            except (HydraException, OmegaConfBaseException) as error:
                found = [f"verl's configuration refuses them: {_first_line(error)}"]
    return found


def _unparsable(overrides: Sequence[str]) -> Iterator[str]:
    parser = OverridesParser.create()
    for text in overrides:
        if "${" in text:
            yield f"{text!r}: interpolations are not allowed; write the value"
            continue
        try:
            parser.parse_overrides([text])
        except HydraException as error:
            yield f"{text!r} is not in Hydra's grammar: {_first_line(error)}"


def _fault(override: Override, shipped: DictConfig, algorithm: str) -> str | None:
    key, text = override.key_or_group, override.input_line
    if override.is_sweep_override():
        return f"{text}: a recipe is one run; a sweep is several"
    if override.package is not None or "/" in key:
        return f"{text}: choosing a group of Hydra's is not allowed; set its keys"
    if override.is_delete():
        return f"{text}: a key cannot be taken away; set it to null"
    reason = reason_against(key, algorithm)
    if reason is not None:
        return f"{key} cannot be overridden: {reason}"
    parent, _, last = key.rpartition(".")
    holder = OmegaConf.select(shipped, parent) if parent else shipped
    if not isinstance(holder, DictConfig):
        return f"verl has no key {key}{or_nearest(key, _keys(shipped))}"
    known = last in holder
    if not known and not override.is_add() and not override.is_force_add():
        return f"verl has no key {key}{or_nearest(key, _keys(shipped))}"
    if not known:
        wrong = _unknown_to_schema(holder, key, last)
        if wrong:
            return wrong
    return _wrong_type(key, override.value(), holder, last)


def _unknown_to_schema(holder: DictConfig, key: str, last: str) -> str | None:
    """A key that is added: to a mapping of no fixed shape, or one that verl's own class has and its YAML leaves out."""
    hints = _hints(holder)
    if last in hints or (not hints and not len(holder)):
        return None
    if hints:
        return f"verl has no key {key}{or_nearest(last, hints)}"
    return f"verl reads no key {key}{or_nearest(last, map(str, holder))}"


def _wrong_type(key: str, value: Any, holder: DictConfig, last: str) -> str | None:
    default: Any = None
    if last in holder and not OmegaConf.is_missing(holder, last):
        default = holder[last]
    wanted = _kinds_of(default)
    if value is None or (wanted and _fits(value, wanted)):
        return None
    # YAML writes 1 for a number that need not be whole: where there is a class, its word counts.
    wanted = _kinds_of_hint(_hints(holder).get(last)) or wanted or _UNTYPED.get(last, ())
    if not wanted or _fits(value, wanted):
        return None
    names = " or ".join(_KINDS[kind] for kind in wanted)
    return f"{key} takes {names}, and {str(value)!r} is none"


def _kinds_of(default: Any) -> tuple[type, ...]:
    if default is None:
        return ()
    if OmegaConf.is_dict(default):
        return (dict,)
    if OmegaConf.is_list(default):
        return (list,)
    return (type(default),) if type(default) in _KINDS else ()


def _kinds_of_hint(hint: Any) -> tuple[type, ...]:
    options = typing.get_args(hint) if hint is not None and typing.get_args(hint) else (hint,)
    plain = [typing.get_origin(option) or option for option in options]
    found = tuple(kind for kind in plain if isinstance(kind, type) and kind in _KINDS)
    # A part that is no plain type may take anything.
    return found if len(found) == len([kind for kind in plain if kind is not type(None)]) else ()


def _fits(value: Any, wanted: tuple[type, ...]) -> bool:
    if isinstance(value, bool):
        return bool in wanted
    if isinstance(value, int):
        return int in wanted or float in wanted
    if isinstance(value, float):
        return float in wanted
    if isinstance(value, list | dict):
        return type(value) in wanted
    # Hydra's quoted strings and bare words.
    return str in wanted


def _hints(holder: DictConfig) -> dict[str, Any]:
    """Types of the fields of the class that verl makes of this section, if it names one."""
    target = holder.get("_target_")
    if not isinstance(target, str):
        return {}
    module, _, name = target.rpartition(".")
    try:
        owner = getattr(importlib.import_module(module), name)
        hints = typing.get_type_hints(owner)
        return {field.name: hints.get(field.name) for field in fields(owner)}
    except (ImportError, AttributeError, TypeError, NameError):
        return {}


def _keys(config: DictConfig, prefix: str = "") -> Iterator[str]:
    for name in config:
        node = config._get_node(name)
        if isinstance(node, DictConfig) and not node._is_none() and not node._is_missing():
            yield from _keys(node, f"{prefix}{name}.")
        yield f"{prefix}{name}"


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
