"""One OpenAI-compatible endpoint, ours or anybody's: asks with patience, and names the reason where there is no answer."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, Self

import httpx

from ltp.core.errors import ErrorCode, LtpError
from services.evaluator.lanes import Address, Lanes
from services.evaluator.pace import Pacer, Width
from services.evaluator.samples import Answer, ErrorKind, Failure, Message

_TRIES = 6
# A request that is only told to come later has patience: the endpoint lives.
_REFUSALS = 60
_BACKOFF_SECONDS, _LONGEST_BACKOFF_SECONDS = 0.5, 20.0
# An endpoint that never answered anything gets less of it: what is wrong there does not pass.
_NEVER_ANSWERED_SECONDS, _NEVER_ANSWERED_TIMEOUTS = 60.0, 1
# What an endpoint asks for beyond this is not waited for: the sample is an error, and a later run asks again.
_LONGEST_WAIT_SECONDS = 120.0
_OVERFLOW = re.compile(
    r"context[ _-]?(length|window)|maximum context|too (many tokens|long)|max_model_len", re.IGNORECASE
)


@dataclass
class Spent:
    """What asking took so far; tokens are counted with the answers."""

    requests: int = 0
    retries: int = 0
    answered: int = 0


class Endpoint:
    """An open connection to an endpoint; use as an async context manager."""

    def __init__(self, address: Address) -> None:
        self.address, self.spent = address, Spent()
        self._pacer: Pacer | None = None
        self._width: Width | None = None
        self._lanes = Lanes(address)

    async def __aenter__(self) -> Self:
        clock = asyncio.get_running_loop().time
        a = self.address
        self._pacer = Pacer(a.requests_per_second, clock)
        self._width = Width(a.max_concurrency if a.own else a.start_concurrency, a.max_concurrency, clock)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._lanes.close()

    async def chat(self, prompt: Sequence[Message], sampling: Mapping[str, Any]) -> Answer | Failure:
        """The answer to a conversation. `sampling` holds OpenAI's names: max_tokens, temperature, top_p, seed, stop."""
        body = {"model": self.address.model, "messages": list(prompt), **sampling}
        found = await self._post("chat/completions", body)
        if isinstance(found, Failure):
            return found
        payload, seconds = found
        try:
            choice, usage = payload["choices"][0], payload.get("usage") or {}
            text = choice["message"]["content"] or ""
            tokens = _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")
            reason = choice.get("finish_reason")
        except (LookupError, TypeError, AttributeError) as error:
            return Failure("malformed", f"the answer has no choices[0].message.content: {error!r}")
        if not isinstance(text, str):
            return Failure("malformed", f"content is {type(text).__name__}, not text")
        return Answer(text, reason, *tokens, seconds)

    async def post(self, path: str, body: Mapping[str, Any]) -> tuple[dict[str, Any], float] | Failure:
        """Any other request: the decoded answer with the seconds it took, or why there is none.

        A path that begins with a slash stands beside `/v1`, where vLLM has what OpenAI does not.
        """
        if path.startswith("/"):
            path = self.address.url.removesuffix("/v1") + path
        return await self._post(path, {"model": self.address.model, **body})

    async def _post(self, path: str, body: Mapping[str, Any]) -> tuple[dict[str, Any], float] | Failure:
        assert self._pacer is not None, "use Endpoint as an async context manager"
        assert self._width is not None
        loop = asyncio.get_running_loop()
        async with self._width.slot():
            tries = attempt = 0
            started = loop.time()
            while True:
                await self._pacer.turn()
                self.spent.requests += 1
                self.spent.retries += attempt > 0
                found, wait = await self._once(path, body)
                if not isinstance(found, Failure):
                    self._width.good()
                    self._pacer.answered()
                    self.spent.answered += 1
                    return found
                attempt += 1
                tries += found.kind != "rate_limited"
                if wait is None or tries == _TRIES or attempt == _REFUSALS:
                    return found
                if self.spent.answered == 0 and _in_vain(found.kind, attempt, loop.time() - started):
                    return found
                if wait > _LONGEST_WAIT_SECONDS:
                    return Failure(found.kind, f"{found.message} (it asks to wait {wait:.0f} s)")
                await asyncio.sleep(_pause(wait, attempt))

    async def _once(
        self, path: str, body: Mapping[str, Any]
    ) -> tuple[tuple[dict[str, Any], float] | Failure, float | None]:
        """One try: what came, and how long to wait before the next; None when there should be none, 0 for a back-off."""
        assert self._pacer is not None
        assert self._width is not None
        loop = asyncio.get_running_loop()
        started = loop.time()
        try:
            async with self._lanes.lane() as client:
                response = await client.post(path, json=body)
        except httpx.TimeoutException as error:
            self._width.overloaded()
            if isinstance(error, httpx.ConnectTimeout):
                return Failure("unreachable", f"{self.address.url} did not accept a connection in time"), 0.0
            return Failure("timeout", f"no answer within {self.address.request_seconds:g} s"), 0.0
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            # Our own server does not come back, and its log says why; but a connection it closed for idleness is no end.
            again = None if self.address.own and isinstance(error, httpx.ConnectError) else 0.0
            return Failure("unreachable", f"{self.address.url}: {type(error).__name__}: {error}"), again
        if response.is_success:
            try:
                payload = response.json()
                if isinstance(payload, dict):
                    return (payload, loop.time() - started), None
            except ValueError:
                pass
            return Failure("malformed", f"not a JSON object: {response.text[:200]!r}"), None
        return self._refused(response)

    def _refused(self, response: httpx.Response) -> tuple[Failure, float | None]:
        assert self._pacer is not None
        assert self._width is not None
        status, said = response.status_code, _said(response)
        failure = Failure(_kind(status, said), f"HTTP {status}: {self._clean(said)}")
        if status == 429:
            wait = _retry_after(response)
            # What nobody waits for must not hold up the others either.
            self._pacer.refused(wait if wait is None or wait <= _LONGEST_WAIT_SECONDS else None)
            # An account without money answers 429 as well, and no waiting mends that.
            return failure, None if "insufficient_quota" in said else wait or 0.0
        if status >= 500 or status == 408:
            self._width.overloaded()
            return failure, _retry_after(response) or 0.0
        return failure, None

    def _clean(self, text: str) -> str:
        """An endpoint may repeat the key it was sent."""
        key = self.address.key
        return text.replace(key, "***") if key else text


def hopeless(endpoint: Endpoint, failure: Failure, who: str = "") -> LtpError:
    """Why an endpoint cannot be used at all, in words that say what to do. `who` names its part, if it is not the model's."""
    where = f"{who}{endpoint.address.url} ({endpoint.address.model})"
    if endpoint.address.own:
        return LtpError(ErrorCode.INFERENCE_SERVER_FAILED, f"The model server stopped answering: {failure.message}")
    if failure.kind == "unauthorized":
        hint = "Check the stored secret that the request names, and that the key may use this model."
        return LtpError(ErrorCode.ENDPOINT_REFUSED, f"{where} refuses the key: {failure.message}", hint)
    if failure.kind == "model_not_found":
        hint = "Check the name of the model and the base_url (it ends before /chat/completions)."
        return LtpError(ErrorCode.ENDPOINT_REFUSED, f"{where} knows no such model: {failure.message}", hint)
    if failure.kind == "rate_limited":
        hint = "Check the quota of the key; stored answers are kept, and a later run goes on from them."
        return LtpError(ErrorCode.ENDPOINT_REFUSED, f"{where} refuses every request: {failure.message}", hint)
    code = ErrorCode.SERVICE_UNAVAILABLE if endpoint.spent.answered else ErrorCode.ENDPOINT_UNREACHABLE
    hint = "Stored answers are kept; the run goes on from them when it is tried again."
    what = "does not answer" if failure.kind == "timeout" else "cannot be reached"
    return LtpError(code, f"{where} {what}: {failure.message}", hint)


def _in_vain(kind: ErrorKind, attempt: int, seconds: float) -> bool:
    """Whether to give up on an endpoint that never answered, although others might mend."""
    if kind == "timeout":
        return attempt >= _NEVER_ANSWERED_TIMEOUTS
    return kind == "rate_limited" and seconds > _NEVER_ANSWERED_SECONDS


def _pause(wait: float, attempt: int) -> float:
    """Seconds until the next try: what the endpoint asks for, else doubling; spread, so that tries do not come together."""
    spread = random.uniform(0.5, 1)  # noqa: S311 - keeps no secret
    longest = min(_LONGEST_BACKOFF_SECONDS, _BACKOFF_SECONDS * 2 ** min(attempt - 1, 10))
    return max(wait, 0.05 * spread) if wait > 0 else longest * spread


def _said(response: httpx.Response) -> str:
    try:
        error = response.json()["error"]
        code = error.get("code") or error.get("type")
        return (f"{error['message']} [{code}]" if code else str(error["message"]))[:500]
    except (ValueError, LookupError, TypeError, AttributeError):
        return response.text[:500]


def _kind(status: int, said: str) -> ErrorKind:
    if status in {401, 403}:
        return "unauthorized"
    if status == 404:
        return "model_not_found"
    if status == 429:
        return "rate_limited"
    if status >= 500:
        return "server_error"
    if status == 408:
        return "timeout"
    return "context_overflow" if _OVERFLOW.search(said) else "refused"


def _retry_after(response: httpx.Response) -> float | None:
    """Seconds that the endpoint asks for: `retry-after-ms`, `Retry-After` in seconds, or as an HTTP date."""
    try:
        if "retry-after-ms" in response.headers:
            return max(0.0, float(response.headers["retry-after-ms"]) / 1000)
        text = response.headers.get("retry-after")
        if text is None:
            return None
        if text.replace(".", "", 1).isdigit():
            return float(text)
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None


def _count(usage: Mapping[str, Any], name: str) -> int | None:
    value = usage.get(name)
    return value if isinstance(value, int) else None
