"""Lists: sorted by what they declare, in pages that neither repeat nor skip, full for whoever may see only some of it."""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any, get_args

import httpx
import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from ltp.contracts.dataset import VersionsAsked
from ltp.contracts.dedup import DedupsRequest, LeaksRequest
from ltp.contracts.evaluation_questions import EvaluationQuery
from ltp.contracts.operation import OperationQuery
from ltp.contracts.pages import PageQuery, Place
from ltp.contracts.pipeline import RunsRequest
from ltp.contracts.schedule import SchedulesRequest, TicksRequest
from ltp.contracts.search import EmbeddingsRequest
from ltp.contracts.work import WorkQuery
from ltp.core.errors import LtpError
from ltp.queue import monitor
from ltp.store.clock import new_id
from ltp.store.database import Database
from services.dataset import store as versions
from services.dataset.dedup import store as dedup
from services.dataset.vectors import store as vectors
from services.evaluator import store as evaluations
from services.gateway.routes.audit import AuditOrder
from services.gateway.routes.datasets import VersionOrder
from services.gateway.routes.evaluations import EvaluationOrder
from services.gateway.routes.named import DoneOrder
from services.gateway.routes.operations import OperationOrder
from services.gateway.routes.pipelines import RunOrder
from services.gateway.routes.schedules import ScheduleOrder, TickOrder
from services.gateway.routes.tokens import TokenOrder
from services.gateway.routes.webhooks import WebhookOrder
from services.gateway.routes.work import WorkOrder
from services.scheduler.pipelines import store as pipelines
from services.scheduler.schedules import store as schedules
from services.surgery import operations_store as operations
from tests.service.gateway.conftest import Door
from tests.service.gateway.test_identity import sql

NAMES = ["delta", "Alpha", "beta", "alpha", "gamma", "alpha", "épsilon"]


def rows_of(client: httpx.Client, limit: int, **wanted: Any) -> Iterator[dict[str, Any]]:
    """All rows, page by page, along the `Link` headers."""
    place = "/datasets"
    following: dict[str, Any] | None = wanted | {"limit": limit}
    while True:
        answer = client.get(place, params=following)
        assert answer.status_code == 200, answer.text
        page = answer.json()
        yield from page
        if "next" not in answer.links:
            return
        assert len(page) == limit
        place, following = answer.links["next"]["url"].removeprefix("/api/v1"), None


@pytest.fixture(scope="module")
def crowd(door: Door) -> str:
    """A project with every tenth of many datasets; some have no rows yet."""
    project = "crowd"
    ids = [new_id() for _ in range(230)]
    counts = [None if n % 4 == 0 else n % 5 for n in range(230)]
    names = [NAMES[n % len(NAMES)] for n in range(230)]
    add = (
        "INSERT INTO gateway.datasets (dataset_id, name, rows) SELECT * FROM unnest($1::uuid[], $2::text[], $3::int[])"
    )
    sql(door, add, ids, names, counts)
    owners = [project if n % 10 == 0 else "others" for n in range(230)]
    own = "INSERT INTO gateway.owners (noun, project) SELECT * FROM unnest($1::text[], $2::text[])"
    sql(door, own, [str(one) for one in ids], owners)
    return project


@pytest.mark.parametrize("sort", ["-created_at", "created_at", "name", "-name", "rows", "-rows", "state", "-state"])
def test_pages_in_any_order_hold_everything_once(door: Door, crowd: str, sort: str) -> None:
    client = door.by(door.token("user", crowd))
    found = list(rows_of(client, 4, sort=sort))
    whole = client.get("/datasets", params={"limit": 1000, "sort": sort}).json()
    assert [row["dataset_id"] for row in found] == [row["dataset_id"] for row in whole]
    assert len({row["dataset_id"] for row in found}) == len(found) == 23
    if sort.endswith("rows"):
        counts = [-1 if row["rows"] is None else row["rows"] for row in found]
        assert counts == sorted(counts, reverse=sort.startswith("-"))
    if sort.endswith("created_at"):
        ids = [row["dataset_id"] for row in found]
        assert ids == sorted(ids, reverse=sort.startswith("-"))


def test_a_page_stays_when_items_come_go_and_change(door: Door, crowd: str) -> None:
    client = door.by(door.token("user", crowd))
    pages = rows_of(client, 5, sort="name")
    first = [next(pages) for _ in range(5)]
    # The last of the page goes, another is renamed to before it, and a new one comes.
    sql(door, "DELETE FROM gateway.datasets WHERE dataset_id = $1", uuid.UUID(first[4]["dataset_id"]))
    sql(door, "UPDATE gateway.datasets SET name = '0' WHERE dataset_id = $1", uuid.UUID(first[3]["dataset_id"]))
    rest = list(pages)
    seen = [row["dataset_id"] for row in first + rest]
    assert len(set(seen)) == len(seen) == 23


def test_only_what_is_declared_sorts_and_a_cursor_is_of_its_list(door: Door, crowd: str) -> None:
    def refused(**wanted: Any) -> dict[str, Any]:
        answer = door.root.get("/datasets", params=wanted)
        assert answer.status_code == 400, answer.text
        return dict(answer.json())

    assert "'-created_at'" in json.dumps(refused(sort="splits"))
    for bad in ("-", "", "name desc", "name;drop table", "--name", "NAME", "problem", "\0"):
        refused(sort=bad)
    cursor = door.root.get("/datasets", params={"sort": "name", "limit": 2}).links["next"]["url"]
    cursor = httpx.URL(cursor).params["cursor"]
    refused(sort="-name", cursor=cursor)
    refused(sort="rows", cursor=cursor)
    refused(cursor=cursor)
    for value in ("x", "\0", "\ud800", [1], {"a": 1}, 1.5, 2**70):
        said = json.dumps(["rows", value, str(new_id())]).encode()
        refused(sort="rows", cursor=base64.urlsafe_b64encode(said).decode())
    for bad in ("x", "===", "\ud83d".encode("utf-8", "replace").decode(), "[" * 2000, "é"):
        refused(cursor=bad)
        refused(sort="name", cursor=bad)


@pytest.fixture(scope="module")
def owner(door: Door) -> httpx.Client:
    """A manager whose project has some tokens, webhooks, accounts and an audit of how they came."""
    client = door.by(door.token("manager", "lists"))
    for number, name in enumerate(NAMES):
        name = name.replace("é", "e")  # noqa: PLW2901 - names are ASCII here
        days = None if number % 3 == 0 else 10 - number
        body = {"name": name, "role": ("user", "service")[number % 2], "expires_in_days": days}
        assert client.post("/tokens", json=body).status_code == 201
        body = {"name": name, "url": "http://127.0.0.1:9/", "subjects": ["ltp.nothing.v1.said"]}
        assert client.post("/webhooks", json=body).status_code == 201
    return client


@pytest.mark.parametrize(
    ("path", "rows", "identity", "sorts"),
    [
        ("/tokens", "tokens", "token_id", get_args(TokenOrder)),
        ("/webhooks", "webhooks", "webhook_id", get_args(WebhookOrder)),
        ("/audit", None, "event_id", get_args(AuditOrder)),
    ],
)
def test_what_looks_after_a_project_is_listed_like_all_else(
    owner: httpx.Client, path: str, rows: str | None, identity: str, sorts: tuple[str, ...]
) -> None:
    for sort in sorts:
        whole = owner.get(path, params={"sort": sort, "limit": 1000})
        found = whole.json()[rows] if rows else whole.json()
        assert len(found) >= len(NAMES) and "next" not in whole.links
        values = [row.get(sort.removeprefix("-")) for row in found if row.get(sort.removeprefix("-")) is not None]
        if sort.removeprefix("-") != "name":  # The database has its own order of letters.
            assert values == sorted(values, reverse=sort.startswith("-"))
        read: list[str] = []
        following: dict[str, Any] | None = {"sort": sort, "limit": 3}
        while following:
            answer = owner.get(path, params=following)
            page = answer.json()[rows] if rows else answer.json()
            read += [row[identity] for row in page]
            cursor = httpx.URL(answer.links["next"]["url"]).params["cursor"] if "next" in answer.links else None
            assert not rows or answer.json()["next_cursor"] == cursor
            following = {"sort": sort, "limit": 3, "cursor": cursor} if cursor else None
        assert read == [row[identity] for row in found]
    assert owner.get(path, params={"sort": "digest"}).status_code == 400
    assert owner.get(path, params={"cursor": "x"}).status_code == 400


async def test_every_declared_order_is_one_the_owner_knows(database_url: str) -> None:
    engine = create_async_engine(database_url)
    database = Database(engine, "scheduler")

    async def work(query: WorkQuery) -> Any:
        async with database.unit() as unit:
            return await monitor.list_work(unit, {}, query)

    def ticks(query: TicksRequest) -> Any:
        return schedules.ticks_of(engine, new_id(), query)

    asked: list[tuple[Any, Callable[..., PageQuery], Callable[[Any], Awaitable[Any]]]] = [
        (TickOrder, partial(TicksRequest, schedule="a"), ticks),
        (VersionOrder, VersionsAsked, partial(versions.versions, engine, None, None)),
        (DoneOrder, partial(DedupsRequest, name="a"), partial(dedup.listed, engine, dedup.dedups, "a")),
        (DoneOrder, LeaksRequest, partial(dedup.listed, engine, dedup.leak_checks, "a")),
        (DoneOrder, EmbeddingsRequest, partial(vectors.listed, engine, "a", None)),
        (EvaluationOrder, EvaluationQuery, partial(evaluations.find, engine)),
        (OperationOrder, OperationQuery, partial(operations.find, engine)),
        (RunOrder, RunsRequest, partial(pipelines.page, engine)),
        (ScheduleOrder, SchedulesRequest, partial(schedules.page, engine)),
        (WorkOrder, WorkQuery, work),
    ]
    for order, query, read in asked:
        for sort in get_args(order):
            assert await read(query(sort=sort, after=Place(item_id=new_id()))) == []
        with pytest.raises(LtpError, match="nothing to sort by"):
            await read(query(sort="spec"))
    await engine.dispose()
