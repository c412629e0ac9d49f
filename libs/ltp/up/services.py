"""What `ltp up` starts besides the servers: one list, so that tests and other set-ups can give their own."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from ltp.contracts.event import SERVICES


@dataclass(frozen=True)
class Commands:
    """The argument vectors of the services by name, and of the migration they wait for."""

    services: dict[str, tuple[str, ...]]
    migration: tuple[str, ...] | None


def platform_commands() -> Commands:
    """Return the commands of the installed platform."""
    return Commands(
        services={name: python_module(f"services.{name}") for name in SERVICES},
        migration=python_module("ltp.store.migrate"),
    )


def python_module(name: str) -> tuple[str, ...]:
    """Run a module with this interpreter; -P keeps a `services/` folder in the user's directory from hiding ours."""
    return (sys.executable, "-P", "-m", name)
