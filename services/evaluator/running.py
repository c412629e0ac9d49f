"""One run over its samples: ask what is not stored, score what is not scored, store both together, go on until done."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

from ltp.contracts.evaluation_spec import RunSpec
from ltp.store.clock import now
from ltp.store.database import Database
from ltp.store.patience import end_all
from services.evaluator import store, store_samples
from services.evaluator.asking import Asker
from services.evaluator.endpoint import Endpoint, hopeless
from services.evaluator.findings import decided
from services.evaluator.gauges import count_sample
from services.evaluator.samples import Answer, Failure, Row, Sample, Verdict, answer_key
from services.evaluator.scorers.judging import Judge

# Stored together; what was not stored yet when the process dies is asked again.
_FLUSH_SAMPLES, _FLUSH_SECONDS = 64, 0.25
# So many samples in a row without an answer for a reason that is everybody's mean that nobody will get one.
_HOPELESS = 8
_EVERYBODYS = {"unreachable", "unauthorized", "model_not_found"}
# The same of an endpoint that never answered anything.
_EVERYBODYS_AT_FIRST = {"timeout", "rate_limited"}


@dataclass
class Run:
    """The state of a run. `go` returns when every sample is stored, or there is a reason to stop."""

    evaluation_id: UUID
    fingerprint: str
    spec: RunSpec
    rows: Sequence[Row]
    endpoint: Endpoint
    ask: Asker
    judge: Judge
    scorer: str
    database: Database
    concurrency: int
    baseline: dict[str, Verdict] = field(default_factory=dict[str, Verdict])
    stopped: str | None = None
    _verdicts: dict[tuple[str, int], Verdict] = field(default_factory=dict[tuple[str, int], Verdict])
    _waiting: deque[Sample] = field(default_factory=deque[Sample])
    _arrived: asyncio.Event = field(default_factory=asyncio.Event)
    _failed_in_row: list[Failure] = field(default_factory=list[Failure])
    _looked: int = 0

    async def go(self, cancelled: asyncio.Event) -> None:
        """Raises LtpError when the endpoint cannot be used at all; what was answered by then is stored."""
        async with self.database.unit() as unit:
            self._verdicts = await store_samples.known_samples(unit, self.evaluation_id)
            todo = [(row, i) for row in self.rows for i in range(self.spec.sampling.samples)]
            todo = [(row, i) for row, i in todo if (row.row_id, i) not in self._verdicts]
            keys = {(row.row_id, i): self._key(row, i) for row, i in todo}
            known = await store_samples.known_answers(unit, list(keys.values())) if self.spec.reuse else {}
            if not self.spec.reuse:
                # Asked anew, but what this very evaluation was answered before it was interrupted is its own.
                known = await store_samples.known_answers(unit, [k for k in keys.values() if k.startswith("own")])
        queue = deque((row, i, keys[row.row_id, i]) for row, i in todo)
        writer = asyncio.create_task(self._write())
        askers = [asyncio.create_task(self._work(queue, known)) for _ in range(min(self.concurrency, len(queue)))]
        watch = asyncio.create_task(cancelled.wait())
        work = asyncio.gather(*askers)
        try:
            await asyncio.wait({work, writer, watch}, return_when=asyncio.FIRST_COMPLETED)
            if writer.done():
                writer.result()
            if work.done():
                work.result()
        finally:
            await end_all([*askers, writer, watch])
            await asyncio.gather(work, return_exceptions=True)
            await self._flush()

    def _key(self, row: Row, index: int) -> str:
        sampling = self.spec.sampling
        # Answers drawn at random are an evaluation's own, unless a seed says which ones they are.
        alone = (sampling.temperature > 0 and sampling.seed is None) or not self.spec.reuse
        once = str(self.evaluation_id) if alone else ""
        signature = sampling.signature() | {"scored": self.spec.scorer.name == "likelihood"}
        if self.spec.scorer.name == "likelihood":
            signature["reference"] = row.answer
        return ("own-" if alone else "") + answer_key(self.fingerprint, row.prompt, signature, index, once)

    async def _work(self, queue: deque[tuple[Row, int, str]], known: dict[str, Answer]) -> None:
        while queue and self.stopped is None:
            row, index, key = queue.popleft()
            self._done(await self._sample(row, index, key, known.get(key)))

    async def _sample(self, row: Row, index: int, key: str, stored: Answer | None) -> Sample:
        answer = stored if stored is not None else await self.ask(row, index)
        if isinstance(answer, Failure):
            self._despair(answer)
            return Sample(row, index, Verdict("error", None), self.scorer, failure=answer, answer_key=key)
        self._failed_in_row.clear()
        verdict = await self.judge(row, answer)
        if answer.finish_reason == "length" and verdict.outcome == "right":
            # A cut answer has no conclusion: its last number or letter is no answer.
            verdict = Verdict("wrong", 0.0, {**verdict.detail, "why": "cut off"})
        return Sample(row, index, verdict, self.scorer, answer, answer_key=key, cached=stored is not None)

    def _despair(self, failure: Failure) -> None:
        never = not self.endpoint.spent.answered
        if failure.kind not in _EVERYBODYS and not (never and failure.kind in _EVERYBODYS_AT_FIRST):
            self._failed_in_row.clear()
            return
        self._failed_in_row.append(failure)
        enough = 1 if never and failure.kind in {"unauthorized", "model_not_found"} else _HOPELESS
        if len(self._failed_in_row) >= min(enough, self.concurrency) or self.endpoint.address.own:
            raise hopeless(self.endpoint, failure)

    def _done(self, sample: Sample) -> None:
        count_sample(sample)
        self._verdicts[sample.row.row_id, sample.index] = sample.verdict
        self._waiting.append(sample)
        self._arrived.set()

    async def _write(self) -> None:
        first = True
        while True:
            await self._arrived.wait()
            if len(self._waiting) < _FLUSH_SAMPLES and not first:
                await asyncio.sleep(_FLUSH_SECONDS)
            self._arrived.clear()
            await self._flush()
            if first:
                async with self.database.unit() as unit:
                    await store.note(unit, self.evaluation_id, first_answer_at=now())
                first = False
            await asyncio.to_thread(self._look)

    async def _flush(self) -> None:
        done = list(self._waiting)
        if done:
            async with self.database.unit() as unit:
                await store_samples.keep(unit, self.evaluation_id, self.fingerprint, done)
            # Only what is committed is let go: a flush that is cancelled half-way is made again, and has no effect twice.
            for _ in done:
                self._waiting.popleft()

    def _look(self) -> None:
        """Stop once decided. Only rows before the first unanswered one count: short answers come early, and are easier."""
        rule = self.spec.stop
        if rule is None or self.stopped is not None:
            return
        while self._looked < len(self.rows) and (self.rows[self._looked].row_id, 0) in self._verdicts:
            self._looked += 1
        seen = self.rows[: self._looked]
        verdicts = [self._verdicts[row.row_id, 0] for row in seen]
        self.stopped = decided(rule, verdicts, [self.baseline.get(row.row_id) for row in seen])
