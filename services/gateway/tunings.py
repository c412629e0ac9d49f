"""Takes fine-tuning jobs of the OpenAI API through the job's door once their file is read; survives restarts, for it reads a table."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import structlog
from sqlalchemy.exc import DBAPIError

from ltp.contracts.job import JobOptions
from ltp.contracts.values import Problem
from ltp.core.errors import ErrorCode, LtpError
from ltp.service.runtime import Runtime
from ltp.store.acting import ACTING, Acting
from services.gateway import store_openai as store
from services.gateway.admission import admit_job, record_job
from services.gateway.news import News
from services.gateway.openai_shapes import TuningRequest, recipe_of

_PAUSE_SECONDS = 2.0


@dataclass(frozen=True)
class Tunings:
    """The loop of one gateway; two at once are harmless, since a job's id is fixed from the start."""

    runtime: Runtime
    news: News

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            ticket = self.news.ticket()
            try:
                for row in await store.waiting_tunings(self.runtime.database.engine):
                    await self._go_on(row)
            except (DBAPIError, OSError) as error:
                structlog.get_logger().info("fine-tuning jobs wait", error=type(error).__name__)
                await asyncio.sleep(_PAUSE_SECONDS)
            await self.news.wait(ticket)

    async def _go_on(self, row: store.Row) -> None:
        job_id, project = row["job_id"], row["project"]
        mark = ACTING.set(Acting(actor=str(row["body"].get("_actor", "openai")), project=project))
        try:
            if row["file_state"] != "frozen":
                found = row["file_problem"] or {"code": "dataset_unreadable", "message": "The file is gone."}
                await self._fail(row, Problem.model_validate(found))
                return
            request = TuningRequest.model_validate(row["body"])
            model = row["recipe"]
            rows, positions = row["rows"] or 0, model.get("positions")
            recipe = recipe_of(request, job_id, row["dataset_name"], model["path"], rows, positions)
            event = await admit_job(self.runtime, recipe, job_id, JobOptions(project=project))
            async with self.runtime.database.unit() as unit:
                if await store.settle_tuning(unit, job_id, "submitted"):
                    await record_job(unit, event)
        except LtpError as error:
            if error.code is ErrorCode.SERVICE_UNAVAILABLE:
                return  # Looked at again with the next news, or after a while.
            await self._fail(row, Problem.of(error))
        finally:
            ACTING.reset(mark)

    async def _fail(self, row: store.Row, problem: Problem) -> None:
        async with self.runtime.database.unit() as unit:
            await store.settle_tuning(unit, row["job_id"], "failed", problem.model_dump(mode="json"))
