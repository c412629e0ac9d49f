"""`/v1/models` and `/v1/chat/completions`: base models and tuned ones by name, and talks with them, served by the evaluator."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

import httpx
from fastapi import APIRouter, Body
from fastapi.responses import JSONResponse, Response, StreamingResponse

from ltp.bus.rpc import ask
from ltp.contracts.checkpoint import CheckpointExported, CheckpointWritten
from ltp.contracts.serving import ServeAsk, ServedModel
from ltp.core.errors import ErrorCode, LtpError
from ltp.service.runtime import Runtime
from services.gateway import store, store_openai, store_owners
from services.gateway.access import Serving
from services.gateway.openai_shapes import job_of_model, model_name, seconds
from services.gateway.walls import Caller

router = APIRouter(tags=["openai"])

# A large model takes minutes to load; who talks waits for that once.
_START_SECONDS = 330.0
_ANSWER = httpx.Timeout(30.0, read=600.0)
# Asked again while an answer is written, so that its server is not found idle.
_KEEP_SECONDS = 20.0


@router.get("/models")
async def list_models(runtime: Serving, caller: Caller) -> dict[str, Any]:
    """Base models in DATA/models, and what fine-tuning jobs made."""
    names = await asyncio.to_thread(_base_models, runtime)
    owned = await store_owners.owners_of(runtime.database.engine, [f"model:{name}" for name in names])
    mine = [n for n in names if caller.project is None or owned.get(f"model:{n}", caller.project) == caller.project]
    models = [_model(name, at, "ltp") for name, at in names.items() if name in mine]
    for row in await store_openai.find_tunings(runtime.database.engine, caller.project, limit=1000):
        if row["job_state"] == "succeeded":
            name = model_name(row["body"], row["job_id"])
            models.append(_model(name, seconds(row["created_at"]) or 0, row["project"]))
    return {"object": "list", "data": models}


@router.get("/models/{model:path}")
async def retrieve_model(model: str, runtime: Serving, caller: Caller) -> dict[str, Any]:
    """One model."""
    path = await model_path(runtime, caller.project, model)
    return _model(model, int(path.stat().st_mtime), caller.project or "ltp")


@router.post("/chat/completions")
async def chat(body: Annotated[dict[str, Any], Body()], runtime: Serving, caller: Caller) -> Response:
    """Talk to a model. It is served when it is first asked for, and for a while after."""
    name = body.get("model")
    if not isinstance(name, str) or not name:
        raise LtpError(ErrorCode.INVALID_REQUEST, "The request names no model.", "GET /v1/models lists all.")
    asked = ServeAsk(path=str(await model_path(runtime, caller.project, name)))
    served = await ask(runtime.client, "evaluator", "serve", asked, ServedModel, timeout=_START_SECONDS)
    keeper = asyncio.create_task(_keep(runtime, asked))
    client = httpx.AsyncClient(timeout=_ANSWER, trust_env=False)
    try:
        request = client.build_request("POST", f"{served.url}/chat/completions", json={**body, "model": served.name})
        answer = await client.send(request, stream=True)
    except httpx.TransportError as error:
        keeper.cancel()
        await client.aclose()
        message = f"The model server does not answer ({type(error).__name__})."
        raise LtpError(ErrorCode.SERVICE_UNAVAILABLE, message, "Ask again in a moment.") from error

    async def parts() -> AsyncIterator[bytes]:
        try:
            async for part in answer.aiter_bytes():
                # The server knows the model by a name of its own.
                yield part.replace(_quoted(served.name), _quoted(name))
        finally:
            keeper.cancel()
            await answer.aclose()
            await client.aclose()

    kind = answer.headers.get("content-type", "application/json")
    if kind.startswith("text/event-stream"):
        return StreamingResponse(parts(), answer.status_code, media_type=kind)
    whole = b"".join([part async for part in parts()])
    try:
        return JSONResponse(json.loads(whole), answer.status_code)
    except ValueError as error:
        message = "The model server gave no answer that can be read."
        raise LtpError(ErrorCode.INFERENCE_SERVER_FAILED, message, "See its log below DATA/evaluations.") from error


async def model_path(runtime: Runtime, project: str | None, name: str) -> Path:
    """The directory of a model: a tuned one's export, else a folder below DATA/models, or, for administrators, any path.

    Raises MODEL_NOT_FOUND.
    """
    tuned = job_of_model(name)
    if tuned is not None:
        job_id, step = tuned
        if await store_openai.find_tunings(runtime.database.engine, project, job_id=job_id):
            found = await _exported(runtime, job_id, step)
            if found is not None:
                return found
        raise _unknown(name)
    root = runtime.settings.root() / "models"
    if "\0" in name:
        raise _unknown(name)
    path = (root / name).resolve()
    if project is not None:
        if not path.is_relative_to(root.resolve()) or path == root.resolve():
            raise _unknown(name)
        noun = f"model:{path.relative_to(root.resolve()).parts[0]}"
        owner = (await store_owners.owners_of(runtime.database.engine, [noun])).get(noun, project)
        if owner != project:
            raise _unknown(name)
    if not await asyncio.to_thread((path / "config.json").is_file):
        raise _unknown(name)
    return path


async def _exported(runtime: Runtime, job_id: Any, step: int | None) -> Path | None:
    """Where the newest model of a job lies, or that of one step; None when it is not exported."""
    engine = runtime.database.engine
    written = await store.list_events(engine, job_id=job_id, subject=CheckpointWritten.subject, limit=1000)
    steps = {event["data"]["checkpoint_id"]: event["data"]["step"] for event in written}
    exported = await store.list_events(engine, job_id=job_id, subject=CheckpointExported.subject, limit=1000)
    found = {steps.get(event["data"]["checkpoint_id"], -1): event["data"]["path"] for event in exported}
    wanted = max(found, default=None) if step is None else step
    return Path(found[wanted]) if wanted in found else None


async def _keep(runtime: Runtime, asked: ServeAsk) -> None:
    while True:
        await asyncio.sleep(_KEEP_SECONDS)
        try:
            await ask(runtime.client, "evaluator", "serve", asked, ServedModel, timeout=_START_SECONDS)
        except LtpError:
            return  # The answer itself will say that the server is gone.


def _base_models(runtime: Runtime) -> dict[str, int]:
    root = runtime.settings.root() / "models"
    found = sorted(root.glob("*/config.json")) if root.is_dir() else []
    return {path.parent.name: int(path.stat().st_mtime) for path in found}


def _model(name: str, created: int, owner: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": created, "owned_by": owner}


def _quoted(name: str) -> bytes:
    return f'"{name}"'.encode()


def _unknown(name: str) -> LtpError:
    return LtpError(ErrorCode.NOT_FOUND, f"There is no model {name[:200]!r}.", "GET /v1/models lists all.")
