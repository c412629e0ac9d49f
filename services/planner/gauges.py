"""What the planner reads from its tables at a scrape: how far predictions are off, and which have drifted away."""

from __future__ import annotations

from sqlalchemy import case, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from ltp.service.exposition import Reading
from ltp.telemetry.metrics import gauge, histogram, replace_all
from services.planner.store import drifts, measurements, plans

PREDICTION_ERROR = histogram(
    "ltp_planner_prediction_error_ratio",
    "Absolute error of a prediction against the measured value, as a share of the prediction.",
    "quantity",
    buckets=(0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0),
)
ERROR = gauge(
    "ltp_planner_median_error_ratio",
    "Median of |measured / predicted - 1| of the last week's runs.",
    "group",
    "quantity",
)
DRIFTED = gauge(
    "ltp_planner_drifted", "1 where predictions of a group have left the measurements.", "group", "quantity"
)
PLANS = gauge("ltp_plans", "Plans made and refused.", "outcome")


def readings() -> dict[str, Reading]:
    """The readings by name."""
    return {"errors": _read_errors, "drifts": _read_drifts, "plans": _read_plans}


async def _read_errors(connection: AsyncConnection) -> None:
    m = measurements.c
    error = func.abs(m.measured / func.nullif(m.predicted, 0) - 1)
    middle = func.percentile_cont(0.5).within_group(error)
    query = select(m.group, m.quantity, middle).where(m.measured_at > func.now() - func.make_interval(0, 0, 1))
    rows = (await connection.execute(query.group_by(m.group, m.quantity))).all()
    values = [({"group": group, "quantity": quantity}, float(e)) for group, quantity, e in rows if e is not None]
    replace_all(ERROR, values)


async def _read_drifts(connection: AsyncConnection) -> None:
    rows = (await connection.execute(select(drifts.c.group, drifts.c.quantity, drifts.c.alarmed))).all()
    replace_all(DRIFTED, [({"group": group, "quantity": quantity}, alarmed) for group, quantity, alarmed in rows])


async def _read_plans(connection: AsyncConnection) -> None:
    # A column of JSON holds a null of its own.
    outcome = case((func.jsonb_typeof(plans.c.problem) == "object", "refused"), else_="made").label("outcome")
    rows = (await connection.execute(select(outcome, func.count()).group_by(outcome))).all()
    replace_all(PLANS, [({"outcome": name}, count) for name, count in rows])
