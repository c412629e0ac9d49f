"""Embedding and search over a frozen version: resumed, filtered, fused, paged, and refused with reasons."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sqlalchemy import func, select

from ltp.contracts.dedup import VersionRef
from ltp.contracts.search import SearchAsk, SearchPage, SearchRequest
from ltp.core.errors import ErrorCode
from services.dataset.dedup.texts import text_key
from services.dataset.vectors import store, work
from services.dataset.vectors.search import Search
from tests.service.dataset.conftest import MODEL, Bench, Endpoint, bag, problem_of

SUBJECTS = ["copper wire", "silk thread", "oak plank", "river water", "desert sand"]


def rows(count: int = 60) -> list[dict[str, Any]]:
    return [
        {
            "id": f"r{i}",
            "prompt": f"question number{i} about {SUBJECTS[i % 5]}",
            "response": f"reply {i}",
            "tenant": ["acme", "globex"][i % 2],
            "level": i % 7,
            "score": i / 10,
        }
        for i in range(count)
    ]


async def find(bench: Bench, name: str = "docs", **ask: Any) -> SearchPage:
    request = SearchRequest(target=VersionRef(name=name), ask=SearchAsk(model=MODEL, **ask))
    return await Search(bench.library, bench.database).page(request)


def cache_size() -> Any:
    return select(func.count()).select_from(store.vector_cache)


async def test_each_text_is_embedded_once_and_known_texts_never_again(bench: Bench, endpoint: Endpoint) -> None:
    twice = [*rows(10), {**rows(1)[0], "id": "copy"}]
    made = await bench.embed("docs", await bench.add("docs", twice))
    assert (made["state"], made["rows"], made["texts"], made["done"], made["cached"]) == ("completed", 11, 10, 10, 0)
    assert len(endpoint.texts) == 10
    again = await bench.embed("more", await bench.add("more", rows(12)))
    assert (again["cached"], again["done"], len(endpoint.texts)) == (10, 12, 12)


async def test_an_interrupted_embedding_goes_on_where_it_was(
    bench: Bench, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work, "_BATCH", 8)
    version = await bench.add("docs", rows(60))
    endpoint.fail_after = 24
    error = await problem_of(bench.embed("docs", version))
    assert error.code is ErrorCode.SERVICE_UNAVAILABLE  # a code that the queue tries again
    async with bench.database.engine.connect() as connection:
        assert (await connection.execute(cache_size())).scalar_one() == 24
    endpoint.fail_after = None
    made = await bench.embed("docs", version)
    assert made["done"] == 60 and len(endpoint.texts) == 60
    assert len(set(endpoint.texts)) == 60


async def test_lost_files_are_made_again_from_postgres(bench: Bench, endpoint: Endpoint) -> None:
    await bench.embed("docs", await bench.add("docs", rows()))
    before = await find(bench, text="oak plank", mode="hybrid")
    for path in bench.library.folder.rglob("*"):
        if path.is_file():
            path.unlink()
    other = Bench(bench.database, type(bench.library)(bench.database, bench.library.settings), bench.data)
    calls = len(endpoint.texts)
    after = await find(other, text="oak plank", mode="hybrid")
    assert [r.row_id for r in after.rows] == [r.row_id for r in before.rows]
    assert len(endpoint.texts) == calls + 1  # the query alone


async def test_search_by_meaning_by_words_and_by_row(bench: Bench) -> None:
    version = await bench.add("docs", rows())
    await bench.embed("docs", version)
    for mode in ("semantic", "lexical", "hybrid"):
        page = await find(bench, text="silk thread", mode=mode, limit=12)
        assert all("silk thread" in row.text for row in page.rows) and len(page.rows) == 12, mode
        assert (page.version, page.matching) == (version, 60)
    page = await find(bench, row_id="r3", mode="semantic", limit=5)
    assert all("river water" in row.text for row in page.rows)
    assert "number3 " not in " ".join(row.text for row in page.rows)  # not itself


async def test_semantic_order_is_that_of_comparing_all(bench: Bench) -> None:
    version = await bench.add("docs", rows())
    await bench.embed("docs", version)
    page = await find(bench, text="question about oak sand", mode="semantic", limit=60)
    query = bag("question about oak sand")
    for row in page.rows:
        assert row.cosine == pytest.approx(float(query @ bag(row.text)), abs=1e-5)
    assert [r.score for r in page.rows] == sorted((r.score for r in page.rows), reverse=True)
    assert len({r.row_id for r in page.rows}) == 60


async def test_conditions_on_any_field(bench: Bench) -> None:
    await bench.embed("docs", await bench.add("docs", rows()))

    async def matching(*where: dict[str, Any]) -> int:
        return (await find(bench, text="question", where=list(where), mode="semantic", limit=1)).matching

    assert await matching({"field": "tenant", "value": "acme"}) == 30
    assert await matching({"field": "tenant", "op": "ne", "value": "acme"}) == 30
    assert await matching({"field": "level", "op": "ge", "value": 5}) == sum(i % 7 >= 5 for i in range(60))
    assert await matching({"field": "level", "op": "ge", "value": "5"}, {"field": "tenant", "value": "acme"}) == sum(
        i % 7 >= 5 and i % 2 == 0 for i in range(60)
    )
    assert await matching({"field": "score", "op": "lt", "value": 1}) == 10
    assert await matching({"field": "level", "op": "in", "value": [1, 2]}) == sum(i % 7 in {1, 2} for i in range(60))
    assert await matching({"field": "text", "op": "contains", "value": "SILK"}) == 12
    assert await matching({"field": "split", "value": "train"}) == 60
    assert await matching({"field": "label", "op": "missing"}) == 60
    # What would be an injection elsewhere is a value here.
    for hostile in ("' OR 1=1 --", 'acme" or row >= 0 or "', "%", "\0"):
        assert await matching({"field": "tenant", "value": hostile}) == 0
    page = await find(bench, text="silk", where=[{"field": "tenant", "value": "acme"}], limit=60)
    assert {row.fields["tenant"] for row in page.rows} == {"acme"}


@pytest.mark.parametrize("mode", ["semantic", "lexical", "hybrid"])
async def test_pages_follow_each_other_without_gap_or_repeat(bench: Bench, mode: str) -> None:
    await bench.embed("docs", await bench.add("docs", rows()))
    whole = await find(bench, text="question about", mode=mode, limit=60)
    seen: list[str] = []
    cursor = None
    while True:
        page = await find(bench, text="question about", mode=mode, limit=7, cursor=cursor)
        seen += [row.row_id for row in page.rows]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert seen == [row.row_id for row in whole.rows] and len(seen) == 60


async def test_what_cannot_be_searched_says_why(bench: Bench) -> None:
    version = await bench.add("docs", rows(5))
    error = await problem_of(find(bench, text="silk"))
    assert error.code is ErrorCode.EMBEDDING_NOT_READY and "ltp dataset embed docs" in error.hint
    assert (await find(bench, text="silk", mode="lexical")).rows[0].lexical_rank == 1
    await bench.embed("docs", version)
    cases: list[tuple[dict[str, Any], ErrorCode, str]] = [
        ({"text": "x", "where": [{"field": "nope", "value": 1}]}, ErrorCode.FIELD_UNKNOWN, "nope"),
        ({"text": "x", "where": [{"field": "level", "value": "high"}]}, ErrorCode.INVALID_REQUEST, "int64"),
        (
            {"text": "x", "where": [{"field": "level", "op": "contains", "value": "1"}]},
            ErrorCode.INVALID_REQUEST,
            "level",
        ),
        ({"text": "  "}, ErrorCode.INVALID_REQUEST, "empty"),
        ({}, ErrorCode.INVALID_REQUEST, "either"),
        ({"text": "x", "row_id": "r1"}, ErrorCode.INVALID_REQUEST, "either"),
        ({"row_id": "r999"}, ErrorCode.NOT_FOUND, "r999"),
        ({"text": "x", "cursor": "AAAA"}, ErrorCode.INVALID_REQUEST, "cursor"),
        ({"text": "x", "index": "milvus"}, ErrorCode.DEPENDENCY_MISSING, "Milvus"),
    ]
    for ask, code, word in cases:
        error = await problem_of(find(bench, **ask))
        assert error.code is code and word in error.message, ask
    first = await find(bench, text="question", limit=2)
    error = await problem_of(find(bench, text="something else", limit=2, cursor=first.next_cursor))
    assert error.code is ErrorCode.INVALID_REQUEST
    error = await problem_of(find(bench, name="nobody", text="x"))
    assert error.code is ErrorCode.NOT_FOUND
    for limit in (0, -1, 101, 10**9):
        with pytest.raises(ValueError, match="limit"):
            SearchAsk(text="x", limit=limit)


async def test_answers_that_are_no_vectors_leave_nothing_behind(bench: Bench, endpoint: Endpoint) -> None:
    version = await bench.add("docs", rows(5))
    spoils: list[tuple[Any, str]] = [
        (lambda vs: [[float("nan")] * 256, *vs[1:]], "NaN"),
        (lambda vs: vs[:-1], "4 x 256"),
        (lambda vs: [[0.0] * 256, *vs[1:]], "zero"),
        (lambda vs: [vs[0][:10], *vs[1:]], "something else"),
    ]
    for spoil, word in spoils:
        endpoint.spoil = spoil
        error = await problem_of(bench.embed("docs", version))
        assert error.code in {ErrorCode.VECTORS_INVALID, ErrorCode.EMBEDDING_FAILED} and word in error.message
    async with bench.database.engine.connect() as connection:
        assert (await connection.execute(cache_size())).scalar_one() == 0
    endpoint.spoil = None
    assert (await bench.embed("docs", version))["state"] == "completed"


async def test_a_model_whose_dimension_changed_is_refused(bench: Bench, endpoint: Endpoint) -> None:
    await bench.embed("docs", await bench.add("docs", rows(5)))
    endpoint.spoil = lambda vectors: [vector[:100] for vector in vectors]
    error = await problem_of(find(bench, text="silk thread", mode="semantic"))
    assert error.code is ErrorCode.VECTORS_INVALID and "100" in error.message and "256" in error.message
    error = await problem_of(bench.embed("more", await bench.add("more", rows(8))))
    assert error.code is ErrorCode.VECTORS_INVALID


async def test_rows_without_text_have_no_vector_and_are_never_found(bench: Bench) -> None:
    some = [{"id": f"c{i}", "chosen": f"good {i}", "rejected": f"bad {i}", "prompt": f"p{i}"} for i in range(3)]
    version = await bench.add("docs", some)
    made = await bench.embed("docs", version, part="response")
    assert made["state"] == "completed" and made["empty"] + made["texts"] == 3
    huge = [{"id": "h", "prompt": "word " * 200_000, "response": "x"}, {"id": "s", "prompt": "word", "response": "y"}]
    await bench.embed("huge", await bench.add("huge", huge), part="prompt")
    page = await find(bench, name="huge", text="word", part="prompt", mode="hybrid")
    assert {row.row_id for row in page.rows} and len(page.rows) == 2
    assert len(page.model_dump_json()) < 900_000


async def test_the_cache_holds_what_the_endpoint_said(bench: Bench) -> None:
    await bench.embed("docs", await bench.add("docs", rows(3)), part="prompt")
    text = "question number1 about silk thread"
    async with bench.database.engine.connect() as connection:
        query = select(store.vector_cache.c.vector).where(store.vector_cache.c.text_key == text_key(text))
        vector = np.frombuffer((await connection.execute(query)).scalar_one(), dtype="<f4")
    assert np.allclose(vector, bag(text), atol=1e-6)
