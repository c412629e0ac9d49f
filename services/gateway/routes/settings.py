"""What this installation is set to: for administrators to see, without any secret. Settings change with a restart."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel

from services.gateway.access import Serving

router = APIRouter(tags=["settings"])

# These name a place together with a password.
_SECRET = frozenset({"nats_url", "database_url", "gateway_bus_system_url"})


class SettingView(BaseModel):
    """One setting of the gateway, and the environment variable that sets it. A value with a password in it is not shown."""

    name: str
    variable: str
    value: Any
    is_default: bool


class SettingList(BaseModel):
    """The gateway's settings by name."""

    version: str
    settings: list[SettingView]


@router.get("/settings")
async def show_settings(runtime: Serving) -> SettingList:
    """What the gateway is set to."""
    settings = runtime.settings
    values = settings.model_dump(mode="json")
    found = [
        SettingView(
            name=name,
            variable=f"LTP_{name.upper()}",
            value="set, not shown" if name in _SECRET and value is not None else value,
            is_default=name not in settings.model_fields_set,
        )
        for name, value in sorted(values.items())
    ]
    return SettingList(version=_version(), settings=found)


def _version() -> str:
    try:
        return version("ltp")
    except PackageNotFoundError:
        return "unknown"
