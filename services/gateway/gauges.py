"""What the gateway reads from its tables at a scrape: webhooks and how their deliveries stand."""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from ltp.service.exposition import Reading
from ltp.telemetry.metrics import gauge, replace_all

WEBHOOKS = gauge("ltp_webhooks", "Webhooks: enabled, disabled, and those of the enabled that fail now.", "state")
DELIVERIES = gauge("ltp_webhook_deliveries", "Deliveries of webhooks by state.", "state")
OLDEST = gauge("ltp_webhook_oldest_pending_seconds", "Age of the oldest delivery that has not arrived.")

_WEBHOOKS = text("""
    SELECT count(*) FILTER (WHERE enabled) AS enabled, count(*) FILTER (WHERE NOT enabled) AS disabled,
           count(*) FILTER (WHERE enabled AND failing_since IS NOT NULL) AS failing FROM gateway.webhooks
""")
_DELIVERIES = text("SELECT state, count(*) AS count FROM gateway.deliveries GROUP BY state")
_OLDEST = text("""
    SELECT coalesce(extract(epoch FROM now() - min(d.created_at)), 0) FROM gateway.deliveries d
    JOIN gateway.webhooks w USING (webhook_id) WHERE d.state = 'pending' AND w.enabled
""")
_THERE = text("SELECT to_regclass('gateway.webhooks') IS NOT NULL AND to_regclass('gateway.deliveries') IS NOT NULL")


def readings() -> dict[str, Reading]:
    """The readings by name."""
    return {"webhooks": _read_webhooks}


async def _read_webhooks(connection: AsyncConnection) -> None:
    # During an upgrade the tables may be younger than this code.
    if not await connection.scalar(_THERE):
        return
    row = (await connection.execute(_WEBHOOKS)).mappings().one()
    replace_all(WEBHOOKS, [({"state": state}, float(count)) for state, count in row.items()])
    states = (await connection.execute(_DELIVERIES)).mappings().all()
    replace_all(DELIVERIES, [({"state": row["state"]}, float(row["count"])) for row in states])
    OLDEST.set(float(await connection.scalar(_OLDEST) or 0))
