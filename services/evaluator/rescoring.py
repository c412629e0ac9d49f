"""Scores without asking a model: stored answers under another scorer, and results that another harness wrote."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any
from uuid import UUID

from ltp.contracts.evaluation_spec import RunSpec
from ltp.core.errors import ErrorCode, LtpError
from ltp.queue.work import finish
from ltp.queue.worker import Held
from ltp.store.clock import now
from services.evaluator import store, store_samples
from services.evaluator.evaluation import Evaluator, conclude
from services.evaluator.findings import price_of, result_of, usage_of
from services.evaluator.samples import Answer, Message, Row, Sample, Verdict, judged
from services.evaluator.scorers.judging import identity, opened

_TOGETHER = 32


class Rescorer:
    """The work `rescore` and `import-scores`."""

    def __init__(self, evaluator: Evaluator) -> None:
        self._evaluator = evaluator
        self._database, self._settings = evaluator.database, evaluator.settings

    async def rescore(self, held: Held) -> None:
        """Judge the stored answers of another evaluation anew; what failed there stays failed."""
        evaluation_id = UUID(held.work.payload["evaluation_id"])
        async with self._database.unit() as unit:
            row = await store.evaluation(unit, evaluation_id)
            assert row is not None, "the work was put in with the row"
            await store.note(unit, evaluation_id, state="running", started_at=now())
            samples = await store_samples.samples_of(unit, row["source_id"])
            known = await store_samples.known_samples(unit, evaluation_id)
        spec, warnings = RunSpec.model_validate(row["spec"]), list[str]()
        scorer = identity(spec.scorer, self._settings.root() / "scorers")
        gate = asyncio.Semaphore(_TOGETHER)
        async with opened(spec.scorer, self._settings.root(), self._evaluator.models.opener(None), warnings) as judge:

            async def one(sample: Sample) -> Sample:
                if sample.answer is None:
                    return Sample(sample.row, sample.index, sample.verdict, scorer, failure=sample.failure)
                async with gate:
                    verdict = await judge(sample.row, sample.answer)
                if sample.truncated and verdict.outcome == "right":
                    verdict = Verdict("wrong", 0.0, {**verdict.detail, "why": "cut off"})
                return Sample(
                    sample.row, sample.index, verdict, scorer, sample.answer, answer_key=sample.answer_key, cached=True
                )

            todo = [sample for sample in samples if (sample.row.row_id, sample.index) not in known]
            for start in range(0, len(todo), 256):
                done = await asyncio.gather(*(one(sample) for sample in todo[start : start + 256]))
                async with self._database.unit() as unit:
                    await store_samples.keep(unit, evaluation_id, row["fingerprint"] or "", done)
        await self._conclude(held, evaluation_id, spec, warnings)

    async def read_import(self, held: Held) -> None:
        """Read results that lm-evaluation-harness logged, as the gateway stored them."""
        evaluation_id, path = UUID(held.work.payload["evaluation_id"]), Path(held.work.payload["path"])
        found = await asyncio.to_thread(read_harness, path)
        async with self._database.unit() as unit:
            await store.note(
                unit,
                evaluation_id,
                state="running",
                started_at=now(),
                model={"kind": "imported", "name": found["model"]},
                dataset=None,
                spec=found["spec"],
                fingerprint=f"imported:{found['model']}",
                total=len(found["samples"]),
            )
            await store_samples.known_samples(unit, evaluation_id)
            await store_samples.keep(unit, evaluation_id, "", found["samples"])
        await self._conclude(held, evaluation_id, RunSpec(), [])
        await asyncio.to_thread(path.unlink, missing_ok=True)

    async def _conclude(self, held: Held, evaluation_id: UUID, spec: RunSpec, warnings: list[str]) -> None:
        async with self._database.unit() as unit:
            row = await store.evaluation(unit, evaluation_id)
            assert row is not None, "it was there a moment ago"
            samples = await store_samples.samples_of(unit, evaluation_id)
            usage = usage_of(samples, None, price_of(spec))
            found = result_of(samples, spec, usage)
            if found.accuracy is None:
                message = f"None of the {len(samples)} answers could be judged."
                raise LtpError(ErrorCode.EVALUATION_FAILED, message, "There is no accuracy, rather than one of 0.")
            found = found.model_copy(update={"warnings": [*found.warnings, *warnings]})
            await conclude(unit, row, found, samples)
            await finish(unit, held.work)


def read_harness(path: Path) -> dict[str, Any]:
    """The upload of `ltp eval import`: {"model", "task", "metric", "samples": [lm-eval's sample lines]}.

    Raises LtpError INVALID_REQUEST, naming the sample.
    """
    try:
        upload = json.loads(path.read_text())
        metric, lines = upload["metric"], upload["samples"]
        samples = [_harness_sample(line, metric, upload["task"]) for line in lines]
    except (OSError, ValueError, LookupError, TypeError) as error:
        message = f"These are no samples of lm-evaluation-harness: {type(error).__name__}: {error}"
        hint = "Run lm_eval with --log_samples and give its output directory, or one samples_*.jsonl."
        raise LtpError(ErrorCode.INVALID_REQUEST, message, hint) from error
    if not samples:
        raise LtpError(ErrorCode.EVALUATION_EMPTY, "The file holds no samples.", "Run lm_eval with --log_samples.")
    scorer = {"name": f"lm-eval:{metric}"}
    return {"model": upload["model"], "samples": samples, "spec": {"scorer": scorer, "task": upload["task"]}}


def _harness_sample(line: dict[str, Any], metric: str, task: str) -> Sample:
    arguments = line["arguments"]
    first = arguments[0] if isinstance(arguments, list) else arguments["gen_args_0"]
    asked = first[0] if isinstance(first, list) else first["arg_0"]
    answers = line.get("filtered_resps") or line["resps"]
    text = answers[0] if isinstance(answers[0], str) else json.dumps(answers)
    row = Row(str(line["doc_id"]), (Message(role="user", content=str(asked)),), str(line["target"]), {"task": task})
    return Sample(row, 0, judged(float(line[metric])), f"lm-eval/{metric}", Answer(text, "stop"))
