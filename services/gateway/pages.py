"""The console's files: its page for every address that is no API's, and its hashed assets, which never change.

The page may run no script but its own files, and no style but those that carry the nonce drawn for it.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.responses import HTMLResponse, Response
from starlette.convertors import Convertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.middleware.gzip import GZipMiddleware
from starlette.staticfiles import StaticFiles

BUILT = Path(__file__).parent / "console" / "dist"
_NONCE = "LTP_CSP_NONCE"
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'nonce-{nonce}'; style-src-attr 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'"
)
_FOREVER = "public, max-age=31536000, immutable"
_UNBUILT = """<!doctype html><html lang="en"><meta charset="utf-8"><title>ltp</title>
<h1>The console is not built</h1>
<p>Run <code>make console</code> in the repository (it needs Node.js 20 or newer), then reload this page.</p>
<p>The API is here all the same: <a href="/docs">its documentation</a>.</p></html>
"""


class _Address(Convertor[str]):
    """Any path but those of the APIs and of files, which must go on to answer 404 in their own way."""

    regex = r"(?!(?:api|v1|assets|docs|redoc|static-offline-docs|healthz|readyz|metrics)(?:/|$)|openapi\.json$).*"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


class _Assets(StaticFiles):
    """Hashed by their content, so that a browser keeps them for ever; there from the moment the console is built."""

    async def check_config(self) -> None:
        try:
            await super().check_config()
        except RuntimeError as error:  # Starlette's word for a directory that is not there: nothing was built
            raise HTTPException(404) from error

    async def get_response(self, path: str, scope: Any) -> Response:
        response = await super().get_response(path, scope)
        if response.status_code == 200 and "-" in Path(path).stem:
            response.headers["Cache-Control"] = _FOREVER
        return response


def install(app: FastAPI, built: Path = BUILT) -> None:
    """Serve the console; to be called last, for it takes every address that nobody took."""
    register_url_convertor("console", _Address())
    assets = _Assets(directory=built / "assets", check_dir=False)
    app.mount("/assets", GZipMiddleware(assets, minimum_size=1024))

    @app.get("/{address:console}", include_in_schema=False)
    def console(address: str) -> HTMLResponse:
        """The console's page, which finds out itself what its address means."""
        try:
            page = (built / "index.html").read_text()
        except FileNotFoundError:
            return HTMLResponse(_UNBUILT, headers={"Cache-Control": "no-store"})
        nonce = secrets.token_urlsafe(18)
        headers = {"Content-Security-Policy": _POLICY.format(nonce=nonce), "Cache-Control": "no-store"}
        return HTMLResponse(page.replace(_NONCE, nonce), headers=headers)
