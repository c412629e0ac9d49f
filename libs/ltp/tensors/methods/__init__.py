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


def looks_twice(method: str) -> bool:
    """Whether a method passes over a weight before it merges it."""
    return MODULES[method] != "linear"


def merge_of(method: str, *, on_device: bool = False) -> Callable[[Inputs, Settings], Merged]:
    """The function of a method; `on_device` where pieces are torch's and may lie on a GPU."""
    module = MODULES[method]
    if on_device and module == "linear":
        module = "linear_on_device"
    found: Callable[[Inputs, Settings], Merged] = getattr(import_module(f"{__name__}.{module}"), method)
    return found
