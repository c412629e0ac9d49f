"""Two hundred faults between the runner and a host over SSH: no healthy run restarted, none lost."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from nats.js import JetStreamContext

from tests.chaos.host_link import LinkStorm
from tests.service.runner.sshd import needs_sshd

pytestmark = [needs_sshd, pytest.mark.asyncio]

FAULTS = int(os.environ.get("LTP_LINK_FAULTS", "200"))
SEED = int(os.environ.get("LTP_CHAOS_SEED", "1"))


@pytest.mark.slow
@pytest.mark.timeout(3600)
async def test_no_run_is_restarted_or_lost(
    tmp_path: Path, database_url: str, nats_url: str, js: JetStreamContext
) -> None:
    async with LinkStorm(tmp_path, database_url, nats_url, SEED, steps=60) as storm:
        runs = [await storm.submit() for _ in range(3)]
        for number in range(FAULTS):
            if number % 10 == 9:
                runs.append(await storm.submit())
            await storm.break_something()
            await asyncio.sleep(storm.dice.random())
        await storm.until_over(runs, 600)
        await storm.check(runs)
        print(f"{sum(storm.faults.values())} faults {dict(storm.faults)}, {len(runs)} runs, seed {SEED}")


async def test_a_few_faults_harm_no_run(tmp_path: Path, database_url: str, nats_url: str, js: JetStreamContext) -> None:
    async with LinkStorm(tmp_path, database_url, nats_url, 5, steps=16, slow_seconds=0.5, stop_seconds=1.0) as storm:
        runs = [await storm.submit() for _ in range(2)]
        for _ in range(6):
            await storm.break_something()
        await storm.until_over(runs, 120)
        await storm.check(runs)
