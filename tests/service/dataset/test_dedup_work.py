"""Duplicates found, looked at, moved and removed through the service's own work; leaks between versions."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid5

import pyarrow.parquet as pq

from ltp.contracts.dedup import DedupAsk, DedupQuestion, LeakAsk, RemovalPage, Thresholds, VersionRef
from ltp.core.errors import ErrorCode, LtpError
from ltp.store.clock import new_id
from services.dataset.dedup import store
from services.dataset.dedup.handlers import show_removals
from services.dataset.dedup.leakcheck import check_leaks, leak_warnings
from services.dataset.dedup.work import apply_dedup, find_duplicates, record_of
from tests.service.dataset.conftest import MODEL, Bench, problem_of

STORY = "the quick brown fox jumps over the lazy dog while the old cat sleeps near the warm kitchen stove all day"


def rows() -> list[dict[str, Any]]:
    texts = [STORY, f"{STORY} again", STORY.upper(), "nothing of that kind stands in this row at all", STORY]
    return [{"id": f"r{i}", "prompt": text, "response": f"reply {i}"} for i, text in enumerate(texts)]


async def search(bench: Bench, name: str, version: str, against: list[VersionRef] | None = None, **ask: Any) -> UUID:
    dedup_id = new_id()
    wanted = DedupAsk(part="prompt", model=MODEL, **ask)
    values = wanted.model_dump(mode="json", include={"method", "part", "model", "thresholds"})
    values |= {"dedup_id": dedup_id, "name": name, "version": version}
    values["against"] = [ref.model_dump() for ref in against or []]
    async with bench.database.unit() as unit:
        await store.add(unit, store.dedups, values)
    payload = {"dedup_id": str(dedup_id)}
    await bench.work("dedup", payload, lambda held: find_duplicates(held, bench.database, bench.library))
    return dedup_id


async def removals(bench: Bench, dedup_id: UUID, **question: Any) -> RemovalPage:
    reply = await show_removals(DedupQuestion(dedup_id=dedup_id, **question), bench.library)
    if reply.problem is not None:
        raise reply.problem.error()
    return RemovalPage.model_validate(reply.value)


async def apply(bench: Bench, dedup_id: UUID, thresholds: Thresholds, name: str = "docs") -> UUID:
    dataset_id = uuid5(dedup_id, name)
    payload = {"dedup_id": str(dedup_id), "dataset_id": str(dataset_id), "name": name}
    payload |= {"thresholds": thresholds.model_dump()}
    await bench.work("dedup-apply", payload, lambda held: apply_dedup(held, bench.database, bench.library))
    return dataset_id


async def test_preview_shows_twins_and_apply_removes_exactly_them(bench: Bench) -> None:
    version = await bench.add("docs", rows())
    dedup_id = await search(bench, "docs", version)
    page = await removals(bench, dedup_id)
    assert page.dedup.state == "completed" and page.total == 3
    for removal in page.removals:
        assert removal.twin_version == version and removal.twin_row_id != removal.row_id
        assert removal.cosine is not None and removal.cosine >= 0.85
        assert removal.jaccard is not None and removal.jaccard >= 0.6
        assert removal.method in {"exact", "combined"}
    gone = {removal.row_id for removal in page.removals}
    assert not gone & {removal.twin_row_id for removal in page.removals}

    thresholds = page.dedup.thresholds
    dataset_id = await apply(bench, dedup_id, thresholds)
    made = await bench.library.frozen(VersionRef(name="docs"))
    kept = await bench.library.rows(made, "prompt")
    before = await bench.library.rows(await bench.library.frozen(VersionRef(name="docs", version=version)), "prompt")
    assert set(kept.row_ids) == set(before.row_ids) - gone and made.version != version
    file = record_of(bench.library, dedup_id).path.with_name(f"removed-{dataset_id}.parquet")
    assert {r["row_id"] for r in pq.read_table(file).to_pylist()} == gone
    row = await store.one(bench.database.engine, store.dedups, dedup_id)
    assert row is not None and row["applied"] == [{"name": "docs", "version": made.version}]
    # Killed after the version was made, before the work was settled: done again, nothing is doubled.
    await apply(bench, dedup_id, thresholds)
    assert (await bench.library.frozen(VersionRef(name="docs"))).version == made.version
    row = await store.one(bench.database.engine, store.dedups, dedup_id)
    assert row is not None and len(row["applied"]) == 1


async def test_thresholds_move_down_to_the_floor_and_no_further(bench: Bench) -> None:
    version = await bench.add("docs", rows())
    dedup_id = await search(bench, "docs", version, method="semantic", thresholds=Thresholds(cosine=0.99))
    strict = await removals(bench, dedup_id)
    loose = await removals(bench, dedup_id, cosine=0.8)
    assert 0 < strict.total < loose.total == 3
    assert loose.dedup.thresholds.cosine == 0.8 and loose.dedup.removals == 3
    error = await problem_of(removals(bench, dedup_id, cosine=0.5))
    assert error.code is ErrorCode.INVALID_REQUEST and "0.8" in error.message


async def test_rows_that_another_version_has_go_and_its_own_stay(bench: Bench) -> None:
    other = await bench.add("base", [{"id": "b", "prompt": STORY, "response": "from the base"}])
    version = await bench.add("docs", rows())
    against = [VersionRef(name="base", version=other)]
    dedup_id = await search(bench, "docs", version, against, method="near")
    page = await removals(bench, dedup_id)
    assert page.total == 4 and {removal.twin_name for removal in page.removals} == {"base"}
    assert {removal.twin_text for removal in page.removals} == {STORY}


async def test_pages_of_removals_and_lost_measurements(bench: Bench) -> None:
    dedup_id = await search(bench, "docs", await bench.add("docs", rows()), method="exact")
    every = await removals(bench, dedup_id)
    single = [(await removals(bench, dedup_id, offset=i, limit=1)).removals for i in range(every.total)]
    assert [r for page in single for r in page] == every.removals and every.total == 2
    assert (await removals(bench, dedup_id, offset=99)).removals == []
    record_of(bench.library, dedup_id).path.unlink()
    error = await problem_of(removals(bench, dedup_id))
    assert error.code is ErrorCode.DEDUP_NOT_READY
    error = await problem_of(removals(bench, new_id()))
    assert error.code is ErrorCode.NOT_FOUND


async def test_nothing_to_remove_makes_no_version(bench: Bench) -> None:
    version = await bench.add("docs", [r for r in rows() if r["id"] in {"r0", "r3"}])
    dedup_id = await search(bench, "docs", version, method="exact")
    error = await problem_of(apply(bench, dedup_id, Thresholds()))
    assert isinstance(error, LtpError) and error.code is ErrorCode.CONFLICT
    assert (await bench.library.frozen(VersionRef(name="docs"))).version == version


async def leaks(bench: Bench, name: str, version: str, against: list[VersionRef], **ask: Any) -> dict[str, Any]:
    check_id = new_id()
    values = {"check_id": check_id, "name": name, "version": version, "against": [r.model_dump() for r in against]}
    async with bench.database.unit() as unit:
        await store.add(unit, store.leak_checks, values | {"ask": LeakAsk(model=MODEL, **ask).model_dump(mode="json")})
    payload = {"check_id": str(check_id)}
    await bench.work("leak-check", payload, lambda held: check_leaks(held, bench.database, bench.library))
    row = await store.one(bench.database.engine, store.leak_checks, check_id)
    assert row is not None
    return dict(row)


async def test_leaks_into_an_evaluation_set_are_found_and_warned_of(bench: Bench) -> None:
    version = await bench.add("docs", rows())
    exam = await bench.add(
        "exam",
        [
            {"id": "e0", "prompt": STORY.title(), "response": "copied"},
            {
                "id": "e1",
                "prompt": "a question that nobody has ever seen in any training set before",
                "response": "new",
            },
            {
                "id": "e2",
                "prompt": "stove warm the near sleeps cat old the while dog lazy the over fox",
                "response": "mixed",
            },
        ],
    )
    against = [VersionRef(name="exam", version=exam)]
    assert (await leak_warnings(bench.database.engine, None, "docs", version)).checked is False
    found = await leaks(bench, "docs", version, against)
    assert (found["leaks"], found["evaluation_rows"], found["compared_vectors"]) == (1, 3, False)
    assert found["found"][0]["method"] == "exact" and found["found"][0]["evaluation_text"] == STORY.title()
    found = await leaks(bench, "docs", version, against, semantic=True, cosine=0.8)
    assert [leak["method"] for leak in found["found"]] == ["exact", "semantic"] or found["leaks"] == 2
    warned = await leak_warnings(bench.database.engine, None, "docs", version)
    assert warned.checked and "2 of 3" in warned.warnings[0] and "exam" in warned.warnings[0]


async def test_a_version_leaks_into_its_own_held_out_split(bench: Bench) -> None:
    copies = [{"id": f"c{i}", "prompt": STORY, "response": f"reply {i}"} for i in range(40)]
    version = await bench.add("docs", copies, holdout=0.3)
    found = await leaks(bench, "docs", version, [])
    assert found["leaks"] == found["evaluation_rows"] > 0
    alone = await bench.add("alone", rows())
    error = await problem_of(leaks(bench, "alone", alone, []))
    assert error.code is ErrorCode.INVALID_REQUEST and "--against" in error.hint
