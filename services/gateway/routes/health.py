"""Whether the gateway lives, and whether it can do its work."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

router = APIRouter(tags=["health"])


@router.get("/healthz")
async def alive() -> dict[str, bool]:
    """The process answers."""
    return {"alive": True}


@router.get("/readyz")
async def ready(request: Request) -> JSONResponse:
    """Connected to the database and the bus. 503 until then."""
    good = bool(request.app.state.runtime.healthy())
    return JSONResponse({"service": "gateway", "ready": good}, 200 if good else 503)
