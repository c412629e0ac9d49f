"""The only map from error codes to HTTP status, and the problem documents (RFC 9457) that carry them."""

from __future__ import annotations

import errno

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException

from ltp.contracts.faults import faults_of
from ltp.core.errors import ErrorCode, LtpError
from ltp.store.outage import is_outage, sqlstate

STATUS = {
    ErrorCode.INVALID_REQUEST: 400,
    ErrorCode.INVALID_YAML: 400,
    ErrorCode.UNAUTHENTICATED: 401,
    ErrorCode.FORBIDDEN: 403,
    ErrorCode.PRECONDITION_FAILED: 412,
    ErrorCode.RATE_LIMITED: 429,
    ErrorCode.KEYRING_UNUSABLE: 503,
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
_HEADERS = {401: {"WWW-Authenticate": "Bearer"}, 429: {"Retry-After": "1"}, 503: {"Retry-After": "2"}}


class ProblemDocument(BaseModel):
    """What every error of this API looks like (RFC 9457, with `code` and `hint`)."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    hint: str


class OpenAiFault(BaseModel):
    """What went wrong, in the words of OpenAI's API."""

    message: str
    type: str
    param: str | None
    code: str | None


class OpenAiError(BaseModel):
    """What every error below `/v1` looks like."""

    error: OpenAiFault


def problem_response(error: LtpError, status: int | None = None, path: str = "") -> JSONResponse:
    """An error as `application/problem+json`; `status` where the code alone does not tell it."""
    status = status or STATUS.get(error.code, _OTHERWISE)
    error = LtpError(error.code, _writable(error.message), _writable(error.hint))
    if path.startswith("/v1/"):
        return _openai_error(error, status)
    document = ProblemDocument(
        type=f"urn:ltp:error:{error.code}",
        title=error.code.replace("_", " "),
        status=status,
        detail=error.message,
        code=error.code,
        hint=error.hint,
    )
    return JSONResponse(document.model_dump(), status, _HEADERS.get(status), media_type="application/problem+json")


def _openai_error(error: LtpError, status: int) -> JSONResponse:
    """The same in the words of OpenAI's API, whose client shows `message`."""
    kinds = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
    kind = kinds.get(status, "invalid_request_error" if status < 500 else "server_error")
    body = {"message": str(error), "type": kind, "param": None, "code": str(error.code)}
    return JSONResponse({"error": body}, status, _HEADERS.get(status))


def install(app: FastAPI) -> None:
    """Answer every kind of failure with a problem document."""

    @app.exception_handler(LtpError)
    async def _known(request: Request, error: LtpError) -> JSONResponse:
        return problem_response(error, path=request.url.path)

    @app.exception_handler(RequestValidationError)
    async def _invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        faults = faults_of(error)
        hint = "The API's documentation at /docs shows what this call takes."
        known = LtpError(ErrorCode.INVALID_REQUEST, faults, hint)
        return problem_response(known, path=request.url.path)

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> JSONResponse:
        if error.status_code == 404:
            known = LtpError(ErrorCode.NOT_FOUND, f"There is no {request.url.path}.", "See /docs.")
            return problem_response(known, path=request.url.path)
        code = ErrorCode.TOO_LARGE if error.status_code == 413 else ErrorCode.INVALID_REQUEST
        known = LtpError(code, f"{request.method} {request.url.path}: {error.detail}.", "See /docs.")
        return problem_response(known, error.status_code, path=request.url.path)

    async def _unreachable(request: Request, error: Exception) -> JSONResponse:
        return problem_response(unreachable(error), path=request.url.path)

    for kind in (ConnectionError, PoolTimeout):
        app.add_exception_handler(kind, _unreachable)

    @app.exception_handler(DBAPIError)
    async def _refused(request: Request, error: DBAPIError) -> JSONResponse:
        # Class 22 is "data exception": a NUL in a text, a number beyond its column.
        if sqlstate(error).startswith("22"):
            return problem_response(_unkeepable(), path=request.url.path)
        return await (_unreachable if is_outage(error) else _unexpected)(request, error)

    @app.exception_handler(OSError)
    async def _unreadable(request: Request, error: OSError) -> JSONResponse:
        if error.errno != errno.ENAMETOOLONG:
            return await _unexpected(request, error)
        known = LtpError(ErrorCode.INVALID_REQUEST, "A path or name is longer than any file's.", "Give a shorter one.")
        return problem_response(known, path=request.url.path)

    @app.exception_handler(UnicodeEncodeError)
    async def _unwritable(request: Request, _: UnicodeEncodeError) -> JSONResponse:
        return problem_response(_unkeepable(), path=request.url.path)

    @app.exception_handler(Exception)
    async def _unexpected(request: Request, error: Exception) -> JSONResponse:
        structlog.get_logger().error("request failed unexpectedly", exc_info=error)
        hint = "This is a defect of the platform; the gateway's log has the details."
        known = LtpError(ErrorCode.INTERNAL, f"{type(error).__name__} in the gateway.", hint)
        return problem_response(known, path=request.url.path)


def unreachable(error: Exception) -> LtpError:
    """What is told of an outage of the database, which the log tells too."""
    structlog.get_logger().warning("database unreachable", error=type(error).__name__)
    hint = "Try again in a moment; `ltp status` shows what is down."
    return LtpError(ErrorCode.SERVICE_UNAVAILABLE, "The database cannot be reached.", hint)


def _unkeepable() -> LtpError:
    message = "A value holds a NUL, half a character, or a number that is too large to be kept."
    return LtpError(ErrorCode.INVALID_REQUEST, message, "Send plain UTF-8 text and smaller numbers.")


def _writable(text: str) -> str:
    """Without halves of characters, which no answer can carry."""
    return text[:2000].encode(errors="replace").decode()
