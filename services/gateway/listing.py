"""Lists as callers see them: full pages of what is theirs, sorted, with a cursor that says where to read on.

A cursor holds what the last item was sorted by and its id, so that a page neither repeats nor skips anything when items come, go
or change between two requests. Sorted by time alone it is the item's id itself.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Generic, TypeVar
from uuid import UUID

from fastapi import Depends, Query, Request, Response
from pydantic import BaseModel, ValidationError

from ltp.contracts.pages import PageQuery, Place
from ltp.core.errors import ErrorCode, LtpError
from services.gateway.walls import Walls, principal_of

T = TypeVar("T", bound=BaseModel)
Read = Callable[[PageQuery], Awaitable[Sequence[T]]]

Cursor = Annotated[
    str | None,
    Query(max_length=2000, description="`next_cursor` of the page before (the `cursor` in its `Link` header)."),
]
PageLimit = Annotated[int, Query(ge=1, le=1000, description="How many at most.")]
SORT = Query(
    description="By what, the largest or newest first with `-` in front. Items alike stand in the order of their ids."
)

# What one question to a service may bring: its answer has to fit into one message.
_MOST = 200
_BY_ID = frozenset({"created_at", "-created_at"})


@dataclass(frozen=True)
class Page(Generic[T]):
    """Items, and where to read on; None on the last page."""

    items: list[T]
    next_cursor: str | None


@dataclass(frozen=True)
class Pager:
    """Makes the pages of one request."""

    request: Request
    response: Response

    async def page(self, read: Read[T], *, identity: str, sort: str, cursor: str | None, limit: int) -> Page[T]:
        """As many as asked for while there are more. `identity` names the id. Raises LtpError: INVALID_REQUEST."""
        after = _place(cursor, sort)
        kept: list[T] = []
        while len(kept) <= limit:
            wanted = _MOST if kept or after is not None else min(limit + 1, _MOST)
            found = await read(PageQuery(sort=sort, after=after, limit=wanted))
            kept += await self._mine(found)
            if len(found) < wanted:
                break
            after = _place_of(found[-1], sort, identity)
        if len(kept) <= limit:
            return Page(kept, None)
        following = _cursor(_place_of(kept[limit - 1], sort, identity), sort)
        there = self.request.url.include_query_params(cursor=following)
        self.response.headers["Link"] = f'<{there.path}?{there.query}>; rel="next"'
        return Page(kept[:limit], following)

    async def _mine(self, items: Sequence[T]) -> list[T]:
        project = principal_of(self.request).project
        if project is None or not items:
            return list(items)
        walls: Walls = self.request.app.state.walls
        mine = await walls.whose([item.model_dump(mode="json") for item in items], project)
        return [item for item, is_mine in zip(items, mine, strict=True) if is_mine]


def _pager(request: Request, response: Response) -> Pager:
    return Pager(request, response)


Paging = Annotated[Pager, Depends(_pager)]


def _place_of(item: BaseModel, sort: str, identity: str) -> Place:
    value = None if sort in _BY_ID else getattr(item, sort.removeprefix("-"))
    return Place(
        value=value.isoformat(timespec="microseconds") if isinstance(value, datetime) else value,
        item_id=getattr(item, identity),
    )


def _cursor(place: Place, sort: str) -> str:
    if sort in _BY_ID:
        return str(place.item_id)
    said = json.dumps([sort, place.value, str(place.item_id)], separators=(",", ":"))
    return base64.urlsafe_b64encode(said.encode()).rstrip(b"=").decode()


def _place(cursor: str | None, sort: str) -> Place | None:
    """What a cursor says. Raises LtpError: INVALID_REQUEST."""
    if cursor is None:
        return None
    try:
        if sort in _BY_ID:
            return Place(item_id=UUID(cursor))
        padded = cursor.encode() + b"=" * (-len(cursor) % 4)
        made_for, value, item_id = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        if made_for == sort:
            return Place(value=value, item_id=item_id)
    except (ValueError, TypeError, RecursionError, binascii.Error, ValidationError):
        pass  # Refused below.
    raise _no_cursor(sort)


def _no_cursor(sort: str) -> LtpError:
    message = f"The cursor is none of a list sorted by {sort}."
    hint = "Send back `next_cursor` with the same `sort`, or leave it out."
    return LtpError(ErrorCode.INVALID_REQUEST, message, hint)


def part_of(items: Sequence[T], page: PageQuery, identity: str) -> list[T]:
    """The page of a list that is there as a whole. What has no value stands below all values. Raises LtpError: INVALID_REQUEST."""
    falls = page.sort.startswith("-")
    places = {id(item): _key(_place_of(item, page.sort, identity)) for item in items}
    found = sorted(items, key=lambda item: places[id(item)], reverse=falls)
    if page.after is not None:
        end = _key(page.after)
        try:
            found = [item for item in found if (places[id(item)] < end if falls else places[id(item)] > end)]
        except TypeError as error:
            raise _no_cursor(page.sort) from error
    return found[: page.limit]


def _key(place: Place) -> tuple[bool, Any, UUID]:
    # Times of one zone, written alike, sort as their text does.
    return place.value is not None, 0 if place.value is None else place.value, place.item_id
