"""Merge methods, one pure function each, by mergekit's names; a method's module is loaded when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module

from ltp.tensors.methods.inputs import Inputs, Merged, Settings

# Method -> module. Those of `linear` need no torch, whose loading would be most of a small merge's time.
MODULES: Mapping[str, str] = {
    **dict.fromkeys(("linear", "nearswap", "passthrough"), "linear"),
    **dict.fromkeys(("slerp", "nuslerp", "multislerp", "karcher", "model_stock"), "sphere"),
    "sce": "sce",
    **dict.fromkeys(("task_arithmetic", "ties", "dare_linear", "dare_ties"), "task_vectors"),
    **dict.fromkeys(("breadcrumbs", "breadcrumbs_ties", "della", "della_linear"), "task_vectors"),
}


def merge_of(method: str) -> Callable[[Inputs, Settings], Merged]:
    """The function of a method."""
    found: Callable[[Inputs, Settings], Merged] = getattr(import_module(f"{__name__}.{MODULES[method]}"), method)
    return found
