"""`ltp dataset` whole: its verbs with those of search and duplicates, put together here so that none of them knows the others."""

from __future__ import annotations

from ltp.cli import dataset_derive, dataset_rules, dataset_views, dedup, search
from ltp.cli.datasets import app

search.register(app)
dedup.register(app)

# The first three add their verbs to the app when they are imported.
__all__ = ["app", "dataset_derive", "dataset_rules", "dataset_views"]
