"""Questions between services, over core NATS request/reply. Only questions: a change of state is an event or an HTTP call.

A reply is a value or a problem, so that an error reaches the asker with its code and hint.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import structlog
from nats.aio.client import Client
from nats.errors import Error as NatsError
from pydantic import BaseModel

from ltp.contracts.event import Value
from ltp.contracts.numbers import refuse_huge
from ltp.contracts.values import Problem
from ltp.core.errors import ErrorCode, LtpError

A = TypeVar("A", bound=BaseModel)


class Reply(Value):
    """What comes back: exactly one of the two is set."""

    value: dict[str, Any] | None = None
    problem: Problem | None = None


def subject_of(service: str, question: str) -> str:
    """The subject on which a service is asked."""
    return f"ltp-rpc.{service}.{question}"


def answered_by(service: str, question: str) -> dict[str, Any]:
    """Arguments for `@router.subscriber`; the queue group shares the questions between instances of the service."""
    return {"subject": subject_of(service, question), "queue": service, "title": f"Ask {service}: {question}"}


def replies(function: Callable[..., Awaitable[BaseModel]]) -> Callable[..., Awaitable[Reply]]:
    """Turn a function that returns a value or raises LtpError into a handler that replies with either."""

    @functools.wraps(function)
    async def handler(*args: Any, **kwargs: Any) -> Reply:
        try:
            return Reply(value=(await function(*args, **kwargs)).model_dump(mode="json"))
        except LtpError as error:
            return Reply(problem=Problem.of(error))
        except Exception as error:
            structlog.get_logger().exception("question failed", question=function.__name__)
            problem = LtpError(ErrorCode.INTERNAL, f"{type(error).__name__}: {error}", "See the service's log.")
            return Reply(problem=Problem.of(problem))

    signature = inspect.signature(function, eval_str=True)
    handler.__signature__ = signature.replace(return_annotation=Reply)  # type: ignore[attr-defined]
    handler.__annotations__ = {p.name: p.annotation for p in signature.parameters.values()} | {"return": Reply}
    del handler.__wrapped__  # type: ignore[attr-defined]  # FastStream would read the inner return type
    return handler


async def ask(
    client: Client, service: str, question: str, request: BaseModel, answer: type[A], *, timeout: float = 5.0
) -> A:
    """Ask a service. Raises its LtpError, INVALID_REQUEST, or SERVICE_UNAVAILABLE when nobody answers in time."""
    asked = refuse_huge(request.model_dump_json()).encode()
    try:
        message = await client.request(subject_of(service, question), asked, timeout=timeout)
    except (TimeoutError, NatsError, OSError) as error:
        raise LtpError(
            ErrorCode.SERVICE_UNAVAILABLE,
            f"The {service} service did not answer ({type(error).__name__}).",
            "Try again in a moment; `ltp status` shows which service is down.",
        ) from error
    reply = Reply.model_validate_json(message.data)
    if reply.problem is not None:
        raise reply.problem.error()
    return answer.model_validate(reply.value)
