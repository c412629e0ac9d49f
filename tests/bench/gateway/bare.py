"""The peer: a bare FastAPI application that reads the same rows from the same Postgres, with no door, scope, wall or tag before it."""

from __future__ import annotations

import os
from typing import Any

import uvicorn
from fastapi import FastAPI
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from services.gateway.routes.metrics import Points
from services.gateway.routes.models import Job, JobPage

engine = create_async_engine(os.environ["LTP_DATABASE_URL"], pool_size=8)
app = FastAPI()


async def _rows(query: str, **values: Any) -> list[dict[str, Any]]:
    async with engine.connect() as connection:
        return [dict(row) for row in (await connection.execute(text(query), values)).mappings()]


@app.get("/jobs")
async def jobs(limit: int = 50) -> JobPage:
    """Jobs, newest first."""
    rows = await _rows("SELECT * FROM gateway.jobs ORDER BY job_id DESC LIMIT :limit", limit=limit)
    return JobPage(jobs=[Job.model_validate(row) for row in rows], next_cursor=None)


@app.get("/metrics/{run}")
async def points(run: str, limit: int = 1000) -> Points:
    """Points of a run."""
    query = "SELECT * FROM gateway.points WHERE project = 'default' AND run = :run ORDER BY seq LIMIT :limit"
    return Points.model_validate({"points": await _rows(query, run=run, limit=limit), "next_after": None})


if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ["BARE_PORT"]), access_log=False, log_level="warning")
