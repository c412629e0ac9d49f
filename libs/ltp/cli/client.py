"""The CLI's way to the gateway: where it is, the token that opens it, and its problems as our errors."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import httpx

from ltp.core.errors import ErrorCode, LtpError
from ltp.security.tokens import read_token
from ltp.up.state import DataDir

# Asking verl about rows, on a machine that trains, may take minutes.
_TIMEOUT = httpx.Timeout(30.0, read=330.0, write=600.0)


class Gateway:
    """A connection to the API of a running platform."""

    def __init__(self, url: str, token: str) -> None:
        self.url = url
        headers = {"Authorization": f"Bearer {token}"}
        # In which project an administrator acts; others have one.
        if project := os.environ.get("LTP_PROJECT"):
            headers["X-LTP-Project"] = project
        self._http = httpx.Client(base_url=f"{url}/api/v1", headers=headers, timeout=_TIMEOUT)

    @classmethod
    def find(cls, data_dir: Path | None) -> Gateway:
        """The platform named by LTP_URL and LTP_TOKEN, else the one that runs on the data directory."""
        url, token = os.environ.get("LTP_URL"), os.environ.get("LTP_TOKEN")
        if url and token:
            return cls(url.rstrip("/"), token)
        data = DataDir.at(data_dir)
        record = data.running()
        if url is None and record is None:
            raise LtpError(
                ErrorCode.NOT_RUNNING,
                f"No platform runs on {data.root}.",
                "Start one with `ltp up -d`, or name one with LTP_URL and LTP_TOKEN.",
            )
        found = url or (record.urls["gateway"] if record else "")
        return cls(found.rstrip("/"), token or read_token(data.secret("token")))

    def get(self, path: str, **params: Any) -> Any:
        """GET; the decoded answer."""
        return self._decoded(self._send("GET", path, params={k: v for k, v in params.items() if v is not None}))

    def post(self, path: str, **kwargs: Any) -> Any:
        """POST; the decoded answer."""
        return self._decoded(self._send("POST", path, **kwargs))

    def put(self, path: str, **kwargs: Any) -> Any:
        """PUT; the decoded answer."""
        return self._decoded(self._send("PUT", path, **kwargs))

    def patch(self, path: str, **kwargs: Any) -> Any:
        """PATCH; the decoded answer."""
        return self._decoded(self._send("PATCH", path, **kwargs))

    def delete(self, path: str, **kwargs: Any) -> Any:
        """DELETE; the decoded answer."""
        return self._decoded(self._send("DELETE", path, **kwargs))

    def download(self, method: str, path: str, out: BinaryIO, **kwargs: Any) -> httpx.Headers:
        """Write the answer's body to a file; returns its headers."""
        timeout = httpx.Timeout(30.0, read=700.0, write=600.0)
        try:
            with self._http.stream(method, path, timeout=timeout, **kwargs) as response:
                if response.status_code >= 400:
                    response.read()
                    self._decoded(response)
                out.writelines(response.iter_bytes())
                return response.headers
        except httpx.TransportError as error:
            raise _unreachable(self.url, error) from error

    def follow(self, path: str, last_event_id: str | None = None) -> Iterator[tuple[str, str, Any]]:
        """Server-sent events as (name, id, data), until the server says `end` or hangs up."""
        headers = {} if last_event_id is None else {"Last-Event-ID": last_event_id}
        timeout = httpx.Timeout(10.0, read=60.0)
        try:
            with self._http.stream("GET", path, headers=headers, timeout=timeout) as response:
                if response.status_code >= 400:
                    response.read()
                    self._decoded(response)
                yield from _events(response.iter_lines())
        except httpx.TransportError as error:
            raise _unreachable(self.url, error) from error

    def _send(self, method: str, path: str, **kwargs: Any) -> httpx.Response:
        try:
            return self._http.request(method, path, **kwargs)
        except httpx.TransportError as error:
            raise _unreachable(self.url, error) from error

    def _decoded(self, response: httpx.Response) -> Any:
        if response.status_code < 400:
            return response.json() if response.content else None
        try:
            problem = response.json()
            known = problem["code"] in ErrorCode.__members__.values()
            code = ErrorCode(problem["code"]) if known else ErrorCode.INTERNAL
            raise LtpError(code, problem["detail"], problem["hint"])
        except (ValueError, KeyError, TypeError) as error:
            raise LtpError(
                ErrorCode.INTERNAL, f"{self.url} answered {response.status_code} without saying why.", "See its log."
            ) from error


def _events(lines: Iterator[str]) -> Iterator[tuple[str, str, Any]]:
    """Parse the event stream format (HTML standard §9.2); comments and pings are dropped."""
    name, key, data = "message", "", ""
    for line in lines:
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            if data:
                yield name, key, json.loads(data)
            name, data = "message", ""
        elif field == "event":
            name = value
        elif field == "id":
            key = value
        elif field == "data":
            data += value


def _unreachable(url: str, error: httpx.TransportError) -> LtpError:
    return LtpError(
        ErrorCode.SERVICE_UNAVAILABLE,
        f"The gateway at {url} cannot be reached ({type(error).__name__}).",
        "`ltp status` shows what runs.",
    )
