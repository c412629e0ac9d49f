"""The only map from error codes to HTTP status, and the problem documents (RFC 9457) that carry them."""

from __future__ import annotations

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from sqlalchemy.exc import InterfaceError, OperationalError
from starlette.exceptions import HTTPException

from ltp.core.errors import ErrorCode, LtpError

STATUS = {
    ErrorCode.INVALID_REQUEST: 400,
    ErrorCode.INVALID_YAML: 400,
    ErrorCode.UNAUTHENTICATED: 401,
    ErrorCode.NOT_FOUND: 404,
    ErrorCode.CONFLICT: 409,
    ErrorCode.DATASET_NOT_READY: 409,
    ErrorCode.COMPARISON_UNSOUND: 409,
    ErrorCode.INPUT_CHANGED: 409,
    ErrorCode.EMBEDDING_NOT_READY: 409,
    ErrorCode.DEDUP_NOT_READY: 409,
    ErrorCode.TOO_LARGE: 413,
    ErrorCode.SERVICE_UNAVAILABLE: 503,
    ErrorCode.HOST_UNREACHABLE: 502,
    ErrorCode.KEYRING_UNUSABLE: 500,
    ErrorCode.DISK_FULL: 507,
    ErrorCode.SOURCE_UNREACHABLE: 502,
    ErrorCode.INTERNAL: 500,
}
_OTHERWISE = 422


class ProblemDocument(BaseModel):
    """What every error of this API looks like (RFC 9457, with `code` and `hint`)."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    hint: str


def problem_response(error: LtpError, status: int | None = None) -> JSONResponse:
    """An error as `application/problem+json`; `status` where the code alone does not tell it."""
    status = status or STATUS.get(error.code, _OTHERWISE)
    document = ProblemDocument(
        type=f"urn:ltp:error:{error.code}",
        title=error.code.replace("_", " "),
        status=status,
        detail=error.message,
        code=error.code,
        hint=error.hint,
    )
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {"Retry-After": "2"} if status == 503 else None
    return JSONResponse(document.model_dump(), status, headers, media_type="application/problem+json")


def install(app: FastAPI) -> None:
    """Answer every kind of failure with a problem document."""

    @app.exception_handler(LtpError)
    async def _known(_: Request, error: LtpError) -> JSONResponse:
        return problem_response(error)

    @app.exception_handler(RequestValidationError)
    async def _invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        faults = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:8])
        hint = "The API's documentation at /docs shows what this call takes."
        return problem_response(LtpError(ErrorCode.INVALID_REQUEST, faults, hint))

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> JSONResponse:
        if error.status_code == 404:
            return problem_response(LtpError(ErrorCode.NOT_FOUND, f"There is no {request.url.path}.", "See /docs."))
        known = LtpError(
            ErrorCode.INVALID_REQUEST, f"{request.method} {request.url.path}: {error.detail}.", "See /docs."
        )
        return problem_response(known, error.status_code)

    async def _unreachable(_: Request, error: Exception) -> JSONResponse:
        structlog.get_logger().warning("database unreachable", error=type(error).__name__)
        hint = "Try again in a moment; `ltp status` shows what is down."
        return problem_response(LtpError(ErrorCode.SERVICE_UNAVAILABLE, "The database cannot be reached.", hint))

    for kind in (OperationalError, InterfaceError, ConnectionError):
        app.add_exception_handler(kind, _unreachable)

    @app.exception_handler(Exception)
    async def _unexpected(_: Request, error: Exception) -> JSONResponse:
        structlog.get_logger().error("request failed unexpectedly", exc_info=error)
        hint = "This is a defect of the platform; the gateway's log has the details."
        return problem_response(LtpError(ErrorCode.INTERNAL, f"{type(error).__name__} in the gateway.", hint))
