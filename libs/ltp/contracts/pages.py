"""A page of a list: how it is sorted and where it goes on; one question for every noun, stable while items come and go."""

from __future__ import annotations

from uuid import UUID

from pydantic import Field

from ltp.contracts.event import Value

NEWEST_FIRST = "-created_at"


class Place(Value):
    """Where a page ended: by what its last item was sorted (None: it had no value, or its id alone orders it), and its id."""

    value: str | int | float | None = None
    item_id: UUID


class PageQuery(Value):
    """Which page: `sort` is a field's name, with `-` in front the largest first; `after` is the end of the page before."""

    sort: str = NEWEST_FIRST
    after: Place | None = None
    limit: int = Field(default=50, ge=1, le=1000)
