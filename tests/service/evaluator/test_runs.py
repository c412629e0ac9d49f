"""An evaluation over a real Postgres and a real endpoint: what is stored, what is asked again, what is said when it fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select, text

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

from ltp.contracts.dataset import Split
from ltp.contracts.evaluation import DatasetUnderTest, EvaluationRequested, Result
from ltp.contracts.evaluation_spec import ApiModel, RunSpec
from ltp.core.errors import ErrorCode, LtpError
from ltp.queue.work import claim
from ltp.queue.worker import Held
from ltp.security.keyring import make_keyring
from ltp.security.secrets import Secrets
from ltp.store.clock import new_id
from ltp.store.database import Database
from services.evaluator import store, store_samples
from services.evaluator.comparing import Side, compare
from services.evaluator.evaluation import Evaluator
from services.evaluator.opening import open_requested
from services.evaluator.rescoring import Rescorer
from services.evaluator.settings import EvaluatorSettings
from tests.conftest import until
from tests.service.evaluator.stub import Stub

ROWS = 40


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database.connect(database_url, "evaluator")
    yield database
    await database.close()


@pytest.fixture
def evaluator(database: Database, data_dir: Path) -> Evaluator:
    (data_dir / "secrets").mkdir(parents=True)
    make_keyring(data_dir / "secrets" / "keyring")
    return Evaluator(database, EvaluatorSettings(data_dir=data_dir))


@pytest.fixture
async def stub() -> AsyncIterator[Stub]:
    async with Stub().serving() as running:
        yield running


@pytest.fixture
def dataset(tmp_path: Path) -> DatasetUnderTest:
    turn = pa.struct([("role", pa.string()), ("content", pa.string())])
    fields = pa.struct([("tenant", pa.string())])
    kinds = [("id", pa.string()), ("prompt", pa.list_(turn)), ("answer", pa.string()), ("fields", fields)]
    records: list[dict[str, Any]] = [
        {
            "id": f"{i:03}",
            "prompt": [{"role": "user", "content": f"{i} + {i * 2 % 7}"}],
            "answer": None if i >= ROWS else str(i + i * 2 % 7),
            "fields": {"tenant": "acme" if (i + i * 2 % 7) % 3 == 0 else "zen"},
        }
        for i in range(ROWS + 2)
    ]
    path = tmp_path / "test.parquet"
    pq.write_table(pa.Table.from_pylist(records, schema=pa.schema(kinds)), path)
    split = Split(rows=len(records), path=str(path), answered=ROWS)
    return DatasetUnderTest(name="sums", version="a" * 64, split_name="test", split=split)


async def opened(
    evaluator: Evaluator,
    dataset: DatasetUnderTest,
    stub: Stub,
    model: str = "good",
    secret: str | None = None,
    request_seconds: float = 120.0,
    **spec: Any,
) -> UUID:
    """Ask for an evaluation, as the gateway does."""
    asked = RunSpec.model_validate({"scorer": "numeric", **spec})
    api = ApiModel(name=model, base_url=stub.url, secret=secret, max_concurrency=8, request_seconds=request_seconds)
    event = EvaluationRequested(evaluation_id=new_id(), name=None, model=api, dataset=dataset, spec=asked)
    async with evaluator.database.unit() as unit:
        await open_requested(unit, event)
    return event.evaluation_id


async def work(evaluator: Evaluator, lease: float = 60) -> Held:
    async with evaluator.database.unit() as unit:
        found = await claim(unit, ["evaluate", "rescore"], "test", timedelta(seconds=lease))
    assert found is not None
    return Held(found)


async def evaluated(evaluator: Evaluator, *args: Any, **spec: Any) -> tuple[UUID, Result]:
    evaluation_id = await opened(evaluator, *args, **spec)
    await evaluator.evaluate(await work(evaluator))
    return evaluation_id, await result(evaluator, evaluation_id)


async def result(evaluator: Evaluator, evaluation_id: UUID) -> Result:
    async with evaluator.database.unit() as unit:
        row = await store.evaluation(unit, evaluation_id)
    assert row is not None and row["state"] == "completed"
    return Result.model_validate(row["result"])


async def said(database: Database) -> list[str]:
    async with database.engine.connect() as connection:
        return list((await connection.execute(text("SELECT subject FROM evaluator.outbox ORDER BY id"))).scalars())


async def test_every_row_is_asked_once_and_scored(evaluator: Evaluator, dataset: DatasetUnderTest, stub: Stub) -> None:
    secrets = Secrets.of(evaluator.database.engine, evaluator.settings.root())
    async with evaluator.database.unit() as unit:
        await secrets.put(unit, "key", "sk-1\n", "default")
    evaluation_id, found = await evaluated(evaluator, dataset, stub, "weak", "key")
    assert set(stub.asked.values()) == {1} and len(stub.asked) == ROWS
    assert stub.keys == {"bearer sk-1"}
    assert found.counts.right + found.counts.wrong == ROWS and found.counts.without_reference == 2
    assert found.accuracy is not None and found.accuracy.low < found.accuracy.value < found.accuracy.high
    assert (found.usage.requests, found.usage.prompt_tokens) == (ROWS, 5 * ROWS)
    assert await said(evaluator.database) == ["ltp.evaluation.v2.completed"]
    async with evaluator.database.unit() as unit:
        one = (await store_samples.samples_of(unit, evaluation_id))[0]
    assert one.answer is not None and one.answer.completion_tokens == 1 and one.row.labels["tenant"] in {"acme", "zen"}


async def test_stored_answers_are_not_generated_again(
    evaluator: Evaluator, dataset: DatasetUnderTest, stub: Stub
) -> None:
    await evaluated(evaluator, dataset, stub)
    _, again = await evaluated(evaluator, dataset, stub, scorer="exact")
    assert again.usage.cached == ROWS and again.usage.requests == 0
    assert set(stub.asked.values()) == {1}
    _, other = await evaluated(evaluator, dataset, stub, sampling={"max_new_tokens": 3})
    assert other.usage.cached == 0
    _, fresh = await evaluated(evaluator, dataset, stub, reuse=False)
    assert fresh.usage.requests == ROWS


async def test_a_run_that_is_killed_goes_on_where_it_was(
    evaluator: Evaluator, dataset: DatasetUnderTest, stub: Stub
) -> None:
    stub.delay = 0.02
    evaluation_id = await opened(evaluator, dataset, stub, reuse=False)
    held = await work(evaluator, lease=0)  # its lease is over at once, as that of a dead worker
    first = asyncio.create_task(evaluator.evaluate(held))

    async def some() -> bool:
        async with evaluator.database.engine.connect() as connection:
            return bool(await connection.scalar(select(text("count(*)")).select_from(store.samples)))

    await until(some)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    async with evaluator.database.engine.connect() as connection:
        stored = set((await connection.execute(select(store.samples.c.prompt))).scalars())
    assert 0 < len(stored) < ROWS
    before = dict(stub.asked)
    await evaluator.evaluate(await work(evaluator))
    found = await result(evaluator, evaluation_id)
    assert found.counts.right == ROWS
    assert found.usage.prompt_tokens == 5 * ROWS, "what the killed attempt was answered was paid for too"
    assert all(stub.asked[prompt] == before[prompt] for prompt in stored)
    assert await said(evaluator.database) == ["ltp.evaluation.v2.completed"]


@pytest.mark.parametrize(
    ("model", "code", "kind"),
    [
        ("unknown", ErrorCode.ENDPOINT_REFUSED, "no such model"),
        ("locked", ErrorCode.ENDPOINT_REFUSED, "refuses the key"),
        ("short", ErrorCode.EVALUATION_FAILED, "context_overflow"),
        ("garbage", ErrorCode.EVALUATION_FAILED, "malformed"),
        ("shapeless", ErrorCode.EVALUATION_FAILED, "malformed"),
    ],
)
async def test_without_an_answer_there_is_no_accuracy(
    evaluator: Evaluator, dataset: DatasetUnderTest, stub: Stub, model: str, code: ErrorCode, kind: str
) -> None:
    await opened(evaluator, dataset, stub, model)
    with pytest.raises(LtpError) as caught:
        await evaluator.evaluate(await work(evaluator))
    assert caught.value.code == code and kind in str(caught.value)
    if code is ErrorCode.ENDPOINT_REFUSED:
        assert sum(stub.asked.values()) <= 8, "a refusal of everybody must end the run, not be asked for each row"


async def test_a_dead_endpoint_is_said(
    evaluator: Evaluator, dataset: DatasetUnderTest, stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.evaluator.endpoint._BACKOFF_SECONDS", 0.01)
    stub.url = "http://127.0.0.1:9/v1"
    await opened(evaluator, dataset, stub)
    with pytest.raises(LtpError) as caught:
        await evaluator.evaluate(await work(evaluator))
    assert caught.value.code == ErrorCode.ENDPOINT_UNREACHABLE


@pytest.mark.parametrize(
    ("model", "code", "said"),
    [
        ("asleep", ErrorCode.ENDPOINT_UNREACHABLE, "no answer within 0.2 s"),
        ("busy", ErrorCode.ENDPOINT_REFUSED, "refuses every request: HTTP 429"),
    ],
)
async def test_an_endpoint_that_never_answers_is_not_waited_for_row_by_row(
    evaluator: Evaluator,
    dataset: DatasetUnderTest,
    stub: Stub,
    monkeypatch: pytest.MonkeyPatch,
    model: str,
    code: ErrorCode,
    said: str,
) -> None:
    monkeypatch.setattr("services.evaluator.endpoint._BACKOFF_SECONDS", 0.01)
    monkeypatch.setattr("services.evaluator.endpoint._NEVER_ANSWERED_SECONDS", 0.3)
    await opened(evaluator, dataset, stub, model, request_seconds=0.2)
    with pytest.raises(LtpError) as caught:
        await evaluator.evaluate(await work(evaluator))
    assert caught.value.code == code and said in str(caught.value)


async def test_a_judge_that_nobody_can_ask_ends_the_run_and_costs_no_answer(
    evaluator: Evaluator, dataset: DatasetUnderTest, stub: Stub
) -> None:
    judge = {"name": "judge", "model": {"kind": "api", "name": "locked", "base_url": stub.url}}
    await opened(evaluator, dataset, stub, scorer=judge)
    with pytest.raises(LtpError, match=r"The judging model at .* refuses the key") as caught:
        await evaluator.evaluate(await work(evaluator))
    assert caught.value.code == ErrorCode.ENDPOINT_REFUSED


async def test_trouble_that_passes_costs_no_sample(
    evaluator: Evaluator, dataset: DatasetUnderTest, stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.evaluator.endpoint._BACKOFF_SECONDS", 0.01)
    stub.fail_next = 12
    _, found = await evaluated(evaluator, dataset, stub)
    assert found.counts.right == ROWS and found.usage.retries == 12


async def test_cut_and_empty_answers_are_counted_apart(
    evaluator: Evaluator, dataset: DatasetUnderTest, stub: Stub
) -> None:
    _, cut = await evaluated(evaluator, dataset, stub, "cut")
    assert (cut.counts.right, cut.counts.truncated) == (0, ROWS)
    assert any("cut off" in warning for warning in cut.warnings)
    _, silent = await evaluated(evaluator, dataset, stub, "silent")
    assert silent.counts.empty == ROWS


async def test_the_width_that_was_asked_for_is_kept(
    evaluator: Evaluator, dataset: DatasetUnderTest, stub: Stub
) -> None:
    stub.delay = 0.01
    await evaluated(evaluator, dataset, stub, concurrency=2)
    assert stub.most_open == 2


async def test_a_reference_that_no_scorer_can_use_makes_no_answer_wrong(
    evaluator: Evaluator, dataset: DatasetUnderTest, stub: Stub, tmp_path: Path
) -> None:
    table = pq.read_table(dataset.split.path)
    worded = table.set_column(2, "answer", pa.array(["in words"] * table.num_rows))
    path = tmp_path / "worded.parquet"
    pq.write_table(worded, path)
    split = Split(rows=table.num_rows, path=str(path), answered=table.num_rows)
    await opened(evaluator, dataset.model_copy(update={"split": split}), stub, max_rows=5)
    with pytest.raises(LtpError, match="holds no number"):
        await evaluator.evaluate(await work(evaluator))
    # What was said is kept: another scorer can judge it.
    async with evaluator.database.unit() as unit:
        (identity,) = (await unit.execute(select(store.evaluations.c.evaluation_id))).scalars()
        kept = await store_samples.samples_of(unit, identity)
    assert len(kept) == 5 and all(sample.answer is not None and sample.answer.text for sample in kept)


async def test_cost_counts_the_judge(evaluator: Evaluator, dataset: DatasetUnderTest, stub: Stub) -> None:
    price = {"prompt": 1e6, "completion": 1e6}
    judge = {"kind": "api", "name": "judge", "base_url": stub.url, "price": price}
    _, found = await evaluated(evaluator, dataset, stub, scorer={"name": "judge", "model": judge}, max_rows=10)
    # Asked in both orders, five tokens and one each time.
    assert (found.usage.judge_prompt_tokens, found.usage.judge_completion_tokens) == (100, 20)
    assert found.usage.cost == pytest.approx(120)


async def test_several_answers_give_pass_at_k(evaluator: Evaluator, dataset: DatasetUnderTest, stub: Stub) -> None:
    sampling = {"samples": 4, "temperature": 0.7, "seed": 2}
    _, found = await evaluated(evaluator, dataset, stub, "random", sampling=sampling, max_rows=10)
    assert found.method == "clustered" and found.accuracy is not None and found.accuracy.value == 0.5
    assert found.pass_at == {"1": pytest.approx(0.5), "2": pytest.approx(5 / 6), "4": 1.0}


async def test_it_stops_when_it_is_decided(evaluator: Evaluator, dataset: DatasetUnderTest, stub: Stub) -> None:
    stub.delay = 0.05
    _, found = await evaluated(evaluator, dataset, stub, stop={"accuracy": 0.3, "min_rows": 5})
    assert found.stopped is not None and "surely above" in found.stopped


async def test_a_judge_is_asked_in_both_orders(evaluator: Evaluator, dataset: DatasetUnderTest, stub: Stub) -> None:
    def scorer(judge: str) -> dict[str, Any]:
        return {"name": "judge", "model": {"kind": "api", "name": judge, "base_url": stub.url}}

    _, fair = await evaluated(evaluator, dataset, stub, scorer=scorer("judge"), max_rows=10)
    assert fair.counts.right == 10
    for judge, why in (("first", "contradicts itself"), ("mumbling", "no verdict")):
        await opened(evaluator, dataset, stub, scorer=scorer(judge), max_rows=10)
        with pytest.raises(LtpError, match=why):
            await evaluator.evaluate(await work(evaluator))


async def test_rescoring_asks_nobody_and_comparing_finds_the_slice(
    evaluator: Evaluator, dataset: DatasetUnderTest, stub: Stub
) -> None:
    weak, _ = await evaluated(evaluator, dataset, stub, "weak")
    good, _ = await evaluated(evaluator, dataset, stub, "good")
    asked = sum(stub.asked.values())
    async with evaluator.database.unit() as unit:
        row = await store.evaluation(unit, weak)
        assert row is not None
        spec = RunSpec(scorer={"name": "regex", "pattern": r"\d+"})  # pyright: ignore[reportArgumentType]
        values = {name: row[name] for name in ("model", "model_path", "dataset", "fingerprint")}
        values |= {
            "evaluation_id": new_id(),
            "spec": spec.model_dump(mode="json"),
            "source_id": weak,
            "source": "rescored",
        }
        await store.open_evaluation(unit, values)
        from ltp.queue.policy import Queue
        from ltp.queue.work import enqueue

        enqueue(unit, Queue.EVALUATION, "rescore", {"evaluation_id": str(values["evaluation_id"])}, dedup_key="r")
    await Rescorer(evaluator).rescore(await work(evaluator))
    rescored = await result(evaluator, values["evaluation_id"])
    assert rescored.counts.right == (await result(evaluator, weak)).counts.right
    assert sum(stub.asked.values()) == asked
    async with evaluator.database.unit() as unit:
        sides = []
        for key in (weak, good, values["evaluation_id"]):
            stored = await store.evaluation(unit, key)
            assert stored is not None
            sides.append(Side.of(stored, await store_samples.samples_of(unit, key)))
    found = compare(sides[0], sides[1], [])
    assert found.verdict == "better" and found.regressed == 0
    assert {(s.value, s.verdict) for s in found.slices} == {("acme", "better"), ("zen", "no evidence")}
    with pytest.raises(LtpError) as caught:
        compare(sides[2], sides[1], [])
    assert caught.value.code == ErrorCode.COMPARISON_UNSOUND


async def test_cancelling_keeps_what_was_answered(evaluator: Evaluator, dataset: DatasetUnderTest, stub: Stub) -> None:
    stub.delay = 0.05
    await opened(evaluator, dataset, stub)
    held = await work(evaluator)
    running = asyncio.create_task(evaluator.evaluate(held))
    await until(lambda: len(stub.answered_at) > 8)
    held.cancelled.set()
    await running
    assert await said(evaluator.database) == ["ltp.evaluation.v1.cancelled"]
    async with evaluator.database.engine.connect() as connection:
        assert (await connection.scalar(text("SELECT state FROM evaluator.evaluations"))) == "cancelled"
        assert (await connection.scalar(text("SELECT count(*) FROM evaluator.answers"))) >= 8
