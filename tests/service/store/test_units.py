"""A unit finds a live connection without asking the server first: what the server closed is replaced."""

from __future__ import annotations

from sqlalchemy import text

from ltp.store.database import Database
from ltp.store.listener import raw_connection
from tests.conftest import until


async def test_a_unit_after_the_server_hung_up_opens_another_connection(database_url: str) -> None:
    database = Database.connect(database_url, "scheduler")
    async with database.engine.connect() as connection:
        raw = await connection.get_raw_connection()
        driver, pid = raw.driver_connection, await connection.scalar(text("SELECT pg_backend_pid()"))
    other = await raw_connection(database.engine)
    await other.execute("SELECT pg_terminate_backend($1)", pid)
    await other.close()
    assert driver is not None
    await until(driver.is_closed)
    async with database.unit() as unit:
        assert (await unit.execute(text("SELECT pg_backend_pid()"))).scalar_one() != pid
    await database.close()
