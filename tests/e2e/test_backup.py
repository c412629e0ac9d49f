"""Backup, destroy, restore: everything is back, and what was running goes on. Marked slow: two platforms come up after one another."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import nats
import pytest

from ltp.bus.permissions import OPERATOR
from ltp.up.servers import bus_url, database_url
from ltp.up.state import DataDir
from tests.conftest import free_port
from tests.e2e.platform import RECIPE, Platform, eventually, write_rows

pytestmark = [pytest.mark.e2e, pytest.mark.training, pytest.mark.slow]


@pytest.fixture
def running(tmp_path: Path, model: Path) -> Iterator[tuple[Platform, str, str]]:
    """A platform, a job that is done, and one that trains and has a checkpoint."""
    here = Platform(tmp_path / "data")
    here.ltp("up", "--detach", "--port", str(free_port()), seconds=180)
    try:
        write_rows(tmp_path / "sums.jsonl")
        here.ltp("dataset", "add", str(tmp_path / "sums.jsonl"), "--holdout", "0.2")
        done = submit(here, tmp_path, model, "done", steps=2, save_every=2)
        eventually(lambda: here.json("job", "get", done)["state"] == "succeeded", seconds=240)
        going = submit(here, tmp_path, model, "going", steps=4000, save_every=10)
        eventually(lambda: here.json("checkpoints", going), seconds=240)
        yield here, done, going
    finally:
        here.ltp("down", "--stop-runs", check=False)


def submit(here: Platform, folder: Path, model: Path, name: str, *, steps: int, save_every: int) -> str:
    recipe = folder / f"{name}.yaml"
    text = RECIPE.format(model=model, steps=steps, save_every=save_every).replace("name: tiny", f"name: {name}")
    recipe.write_text(text.partition("evaluation:")[0])
    return str(here.json("job", "submit", str(recipe))["job_id"])


def destroy(here: Platform) -> None:
    """End every process of the platform and of its runs, without a word, and delete all it had."""
    record = DataDir(here.data).running()
    assert record is not None
    pids = [record.pid, *(p.pid for p in record.processes if p.pid)]
    for launcher in here.launchers():
        if launcher["state"] == "running":
            pids += [launcher["launcher_pid"], launcher["pid"]]
    for pid in pids:
        subprocess.run(["kill", f"-{int(signal.SIGKILL)}", str(pid)], capture_output=True)
    deadline = time.monotonic() + 20
    while here.data.exists():
        shutil.rmtree(here.data, ignore_errors=True)
        assert time.monotonic() < deadline


async def facts(here: Platform) -> dict[str, Any]:
    """What must be back: rows that never change, and the sequence of the stream of events."""
    record = DataDir(here.data).running()
    assert record is not None
    url = database_url(DataDir(here.data), record.ports["postgres"]).replace("+asyncpg", "")
    connection = await asyncpg.connect(url)
    client = await nats.connect(bus_url(DataDir(here.data), OPERATOR, record.ports["nats"]))
    try:
        queries = {
            "jobs": "SELECT job_id::text, name, recipe_hash FROM gateway.jobs ORDER BY job_id",
            "datasets": "SELECT dataset_id::text, name, version FROM dataset.datasets ORDER BY 1",
            "checkpoints": "SELECT checkpoint_id::text, step, path FROM runner.checkpoints ORDER BY checkpoint_id",
            "events": "SELECT event_id::text, subject FROM gateway.events ORDER BY seq",
        }
        found: dict[str, Any] = {k: [str(tuple(r)) for r in await connection.fetch(q)] for k, q in queries.items()}
        js = client.jetstream()
        state = (await js.stream_info("LTP_EVENTS")).state
        found["stream"] = []
        for seq in range(1, state.last_seq + 1):
            found["stream"].append(((await js.get_msg("LTP_EVENTS", seq)).headers or {})["ce-id"])
        return found
    finally:
        await connection.close()
        await client.close()


def test_all_is_back_and_a_running_job_goes_on(running: tuple[Platform, str, str], tmp_path: Path) -> None:
    here, done, going = running
    before = asyncio.run(facts(here))
    told = here.json("backup", str(tmp_path / "all.ltp"))
    assert told["last_sequence"] >= len(before["stream"])
    assert (tmp_path / "all.ltp").stat().st_mode & 0o077 == 0
    destroy(here)

    restored = here.json("restore", str(tmp_path / "all.ltp"))
    assert set(restored["streams"]) == {"LTP_EVENTS", "LTP_TELEMETRY", "LTP_DEAD", "LTP_FEED"}
    here.ltp("up", "--detach", "--port", str(free_port()), seconds=180)

    after = asyncio.run(facts(here))
    for what, rows in before.items():
        assert after[what][: len(rows)] == rows if what in {"stream", "events"} else set(rows) <= set(after[what]), what
    assert here.json("job", "get", done)["state"] == "succeeded"
    # Its launcher is gone with the machine: the attempt is lost, and the next one starts where the checkpoint was.
    step = max(c["written"]["step"] for c in here.json("checkpoints", going))

    def goes_on() -> bool:
        job = here.json("job", "get", going)
        return job["attempt"] >= 2 and job["state"] == "running"

    eventually(goes_on, seconds=240)
    events = here.json("events", "list", "--job", going, "--limit", "1000")
    subjects = [event["subject"] for event in events]
    assert subjects.count("ltp.attempt.v1.lost") == 1
    queued = [e["data"] for e in events if e["subject"] == "ltp.job.v1.queued"]
    assert max(q["resume_step"] or 0 for q in queued) > 0
    later = eventually(lambda: [c for c in here.json("checkpoints", going) if c["written"]["step"] > step], seconds=240)
    assert later
    here.ltp("job", "cancel", going)


def test_a_place_that_is_not_empty_and_a_broken_file_are_refused(tmp_path: Path) -> None:
    here = Platform(tmp_path / "data")
    bad = tmp_path / "bad.ltp"
    bad.write_bytes(b"no backup at all")
    refused = here.ltp("restore", str(bad), check=False)
    assert refused.returncode == 2
    assert "cannot be restored" in refused.stderr
    assert "No platform runs" in here.ltp("backup", str(tmp_path / "x.ltp"), check=False).stderr
    here.ltp("up", "--detach", "--port", str(free_port()), seconds=180)
    try:
        here.ltp("backup", str(tmp_path / "one.ltp"))
        again = here.ltp("backup", str(tmp_path / "one.ltp"), check=False)
        assert again.returncode == 1
        assert "exists" in again.stderr
        while_up = here.ltp("restore", str(tmp_path / "one.ltp"), check=False)
        assert "conflict" in while_up.stderr
    finally:
        here.ltp("down")
    onto = here.ltp("restore", str(tmp_path / "one.ltp"), check=False)
    assert onto.returncode == 1
    assert "--force" in onto.stderr
    cut = tmp_path / "cut.ltp"
    cut.write_bytes((tmp_path / "one.ltp").read_bytes()[:-20_000])
    assert "cannot be restored" in here.ltp("restore", str(cut), "--force", check=False).stderr
    assert json.loads(here.ltp("restore", str(tmp_path / "one.ltp"), "--force", "--dry-run", "--json").stdout)[
        "dry_run"
    ]
    here.ltp("restore", str(tmp_path / "one.ltp"), "--force")
