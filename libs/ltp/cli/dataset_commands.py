"""`ltp dataset` whole: its verbs with those of search and duplicates, put together here so that none of them knows the others."""

from __future__ import annotations

from ltp.cli import dedup, search
from ltp.cli.dataset_views import app

search.register(app)
dedup.register(app)

__all__ = ["app"]
