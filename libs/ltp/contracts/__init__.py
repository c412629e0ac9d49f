"""Every event and value that crosses a service border, one noun a file. Imports pydantic and the core, nothing else.

All nouns are loaded when the registry is asked for here, and not before: a command that needs one noun, such as
`ltp plan`, imports that file alone and does not wait for the others.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any

from ltp.contracts.event import SERVICES, Event, Value

if TYPE_CHECKING:
    from ltp.contracts.event import REGISTRY

__all__ = ["REGISTRY", "SERVICES", "Event", "Value"]


def __getattr__(name: str) -> Any:
    if name != "REGISTRY":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    for noun in iter_modules(__path__):
        import_module(f"{__name__}.{noun.name}")
    return import_module(f"{__name__}.event").REGISTRY
