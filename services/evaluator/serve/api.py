"""The HTTP face of the inference server: the part of OpenAI's API that evaluation and people's own tools need."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from jinja2 import TemplateError

from services.evaluator.serve.engine import Engine
from services.evaluator.serve.generation import Row
from services.evaluator.serve.schemas import (
    AdapterRequest,
    ApiError,
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    TokenizeRequest,
)
from services.evaluator.serve.scoring import as_logprobs


def build_app(engine: Engine, name: str) -> FastAPI:
    """The application that serves `engine` under the model name `name`."""
    app = FastAPI(title="ltp inference", docs_url=None, redoc_url=None)
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Exception, _crashed)

    @app.get("/health")
    async def health() -> dict[str, str]:  # pyright: ignore[reportUnusedFunction]
        return {"status": "ok"}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        model = {"object": "model", "created": 0, "owned_by": "ltp"}
        adapters = [{"id": adapter, **model, "parent": name} for adapter in engine.adapters()]
        return {"object": "list", "data": [{"id": name, **model}, *adapters]}

    @app.post("/v1/load_lora_adapter")
    async def load_adapter(body: AdapterRequest) -> Response:  # pyright: ignore[reportUnusedFunction]
        try:
            await asyncio.to_thread(engine.adapt, body.lora_name, Path(body.lora_path))
        except ValueError as error:
            raise ApiError(400, str(error), code="invalid_adapter", param="lora_path") from error
        return Response(f"Success: LoRA adapter '{body.lora_name}' added successfully.")

    @app.post("/v1/chat/completions")
    async def chat(body: ChatRequest) -> Response:  # pyright: ignore[reportUnusedFunction]
        row = _row(engine, _chat_tokens(engine, body), body.max_completion_tokens or body.max_tokens, body, name)
        if body.stream:
            with_usage = body.stream_options is not None and body.stream_options.include_usage
            return StreamingResponse(_stream(engine, row, body.model, with_usage), media_type="text/event-stream")
        text = await _whole(engine, row)
        message = {"role": "assistant", "content": text}
        return JSONResponse(_answer("chat.completion", "chatcmpl", body.model, row, {"message": message}))

    @app.post("/v1/completions")
    async def completion(body: CompletionRequest) -> Response:  # pyright: ignore[reportUnusedFunction]
        prompts = [p if isinstance(p, list) else engine.encode(p) for p in body.prompts]
        return JSONResponse(await complete(engine, name, prompts, body))

    @app.post("/tokenize")
    async def tokenize(body: TokenizeRequest) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        _adapter(engine, body.model, name)
        if body.messages is not None:
            tokens = _encoded(engine, [message.model_dump() for message in body.messages])
        else:
            tokens = engine.encode(body.prompt or "", special=body.add_special_tokens)
        return {"tokens": tokens, "count": len(tokens), "max_model_len": engine.context}

    @app.post("/v1/embeddings")
    async def embeddings(body: EmbeddingRequest) -> dict[str, Any]:  # pyright: ignore[reportUnusedFunction]
        adapter = _adapter(engine, body.model, name)
        texts = [body.input] if isinstance(body.input, str) else body.input
        found = [
            await asyncio.to_thread(engine.embed, _fitting(engine, engine.encode(text)), adapter) for text in texts
        ]
        data = [{"object": "embedding", "index": i, "embedding": vector} for i, vector in enumerate(found)]
        return {"object": "list", "model": name, "data": data}

    return app


def _adapter(engine: Engine, asked: str, served: str) -> str | None:
    """The adapter that a model's name stands for; None for the model itself."""
    if asked == served:
        return None
    if asked not in engine.adapters():
        message = f"The model {asked!r} is not served here; this server has {', '.join([served, *engine.adapters()])}."
        raise ApiError(404, message, code="model_not_found", param="model")
    return asked


def _fitting(engine: Engine, tokens: list[int]) -> list[int]:
    if not 0 < len(tokens) <= engine.context:
        message = f"The text has {len(tokens)} tokens; the model's context takes 1 to {engine.context}."
        raise ApiError(400, message, code="context_length_exceeded")
    return tokens


async def complete(engine: Engine, name: str, prompts: list[list[int]], body: CompletionRequest) -> dict[str, Any]:
    """Answer every prompt, together; with `echo` the prompt comes first, with `logprobs` each token has its own."""
    adapter = _adapter(engine, body.model, name)
    rows = [
        _row(engine, prompt, body.max_tokens, body, name) if body.max_tokens else Row(prompt, 0, adapter=adapter)
        for prompt in prompts
    ]
    texts = await asyncio.gather(*(_whole(engine, row) if body.max_tokens else _nothing() for row in rows))
    choices: list[dict[str, Any]] = []
    for index, (row, text) in enumerate(zip(rows, texts, strict=True)):
        shown = (engine.tokenizer.decode(row.prompt) if body.echo else "") + text
        logprobs = None
        if body.logprobs is not None:
            whole = _fitting(engine, row.prompt + row.tokens)
            scores = await asyncio.to_thread(engine.score, whole, body.logprobs, row.adapter)
            first = 0 if body.echo else len(row.prompt)
            logprobs = as_logprobs(engine.tokenizer, scores[first:])
        reason = row.finish_reason or "length"
        choices.append({"index": index, "text": shown, "logprobs": logprobs, "finish_reason": reason})
    prompt, answer = sum(len(row.prompt) for row in rows), sum(len(row.tokens) for row in rows)
    usage = {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}
    return {**_head("text_completion", "cmpl", body.model), "choices": choices, "usage": usage}


async def _nothing() -> str:
    return ""


def _chat_tokens(engine: Engine, body: ChatRequest) -> list[int]:
    return _encoded(engine, [message.model_dump() for message in body.messages])


def _encoded(engine: Engine, messages: list[dict[str, str]]) -> list[int]:
    try:
        return engine.encode_chat(messages)
    except TemplateError as error:
        message = f"The model's chat template refuses these messages: {error}"
        raise ApiError(400, message, code="invalid_messages", param="messages") from error


def _row(
    engine: Engine, prompt: list[int], max_tokens: int | None, body: ChatRequest | CompletionRequest, served: str
) -> Row:
    room = engine.context - len(prompt)
    wanted = room if max_tokens is None else max_tokens
    if not prompt or wanted > room or room < 1:
        message = (
            f"The prompt has {len(prompt)} tokens and max_tokens is {wanted}; the prompt must not be empty, and "
            f"together they must fit the model's context of {engine.context} tokens."
        )
        raise ApiError(400, message, code="context_length_exceeded", param="max_tokens")
    drawn = {"temperature": body.temperature, "top_p": body.top_p, "seed": body.seed, "stops": body.stops}
    return Row(prompt, wanted, adapter=_adapter(engine, body.model, served), **drawn)


async def _whole(engine: Engine, row: Row) -> str:
    return "".join([piece.text async for piece in engine.generate(row)])


def _usage(row: Row) -> dict[str, int]:
    prompt, answer = len(row.prompt), len(row.tokens)
    return {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}


def _head(kind: str, prefix: str, name: str) -> dict[str, Any]:
    return {"id": f"{prefix}-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": name}


def _answer(kind: str, prefix: str, name: str, row: Row, content: dict[str, Any]) -> dict[str, Any]:
    choice = {"index": 0, **content, "logprobs": None, "finish_reason": row.finish_reason}
    return {**_head(kind, prefix, name), "choices": [choice], "usage": _usage(row)}


async def _stream(engine: Engine, row: Row, name: str, with_usage: bool) -> AsyncIterator[str]:
    head = _head("chat.completion.chunk", "chatcmpl", name)

    def event(delta: dict[str, str], reason: str | None) -> str:
        return _event({**head, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]})

    yield event({"role": "assistant", "content": ""}, None)
    try:
        async for piece in engine.generate(row):
            if piece.text:
                yield event({"content": piece.text}, None)
            if piece.finish_reason is not None:
                yield event({}, piece.finish_reason)
    except Exception as error:  # the status line is long gone: the error travels in the stream
        yield _event(_failure(error).body())
        return
    if with_usage:
        yield _event({**head, "choices": [], "usage": _usage(row)})
    yield "data: [DONE]\n\n"


def _event(body: dict[str, Any]) -> str:
    return f"data: {json.dumps(body, ensure_ascii=False)}\n\n"


def _failure(error: Exception) -> ApiError:
    return ApiError(500, f"The model failed: {type(error).__name__}: {error}", code="generation_failed")


async def _api_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ApiError)
    return JSONResponse(error.body(), error.status)


async def _crashed(request: Request, error: Exception) -> JSONResponse:
    return await _api_error(request, _failure(error))


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part != "body")
    return await _api_error(
        request, ApiError(400, f"{where or 'body'}: {first['msg']}", code="invalid_request", param=where or None)
    )
