"""The gateway's metrics for Prometheus, which shows a token of its own; any other needs `platform:read`."""

from __future__ import annotations

import secrets
from pathlib import Path

from fastapi import APIRouter, Request, Response

from ltp.service.exposition import CONTENT_TYPE
from services.gateway.door import token_of
from services.gateway.scopes import lacking, needed

router = APIRouter(tags=["health"])


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def scrape(request: Request) -> Response:
    """Everything the gateway counts, in Prometheus's text format. 401 without a token, 403 without `platform:read`."""
    state, given = request.app.state, token_of(request.headers)
    if not _is_scraper(state.runtime.settings.gateway_metrics_token_file, given):
        hint = "Show the token in DATA/secrets/metrics_token, as Prometheus does."
        refusal = lacking(await state.identities.principal(given), needed("GET", "/metrics"), hint)
        if refusal is not None:
            raise refusal
    return Response(await state.runtime.exposition.text(), media_type=CONTENT_TYPE)


def _is_scraper(token_file: Path | None, given: str) -> bool:
    if token_file is None or not given:
        return False
    try:
        known = token_file.read_text().strip()
    except OSError:
        return False
    return bool(known) and secrets.compare_digest(known.encode(), given.encode())
