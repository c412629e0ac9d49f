"""Three hundred faults while jobs come, pause, resume and are cancelled; then a checker reads the history."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from ltp.cli.client import Gateway
from ltp.core.errors import LtpError
from ltp.up.servers import database_url
from ltp.up.state import DataDir
from tests.chaos.history import FINAL, findings
from tests.chaos.storm import Storm
from tests.e2e.platform import Platform, write_rows

pytestmark = [pytest.mark.slow]

FAULTS = int(os.environ.get("LTP_CHAOS_FAULTS", "300"))
SEED = int(os.environ.get("LTP_CHAOS_SEED", "1"))
CALM_SECONDS = 240
GPUS = 4
RECIPE = {
    "name": "storm",
    "dataset": {"name": "sums"},
    "training": {"steps": 24, "batch_size": 8, "learning_rate": 0.001, "max_length": 64, "save_every": 6},
    "resources": {"device_kind": "gpu"},
}


@pytest.fixture
def sky(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Platform, Storm]]:
    """A platform on a host with four GPUs, trained on by stand-ins, under a clock that can be moved."""
    tools, home = tmp_path / "bin", tmp_path / "home"
    tools.mkdir()
    home.mkdir()
    smi = tools / "nvidia-smi"
    smi.write_text("#!/bin/sh\n" + "".join(f"echo '{i}, NVIDIA H200, 143771'\n" for i in range(GPUS)))
    smi.chmod(smi.stat().st_mode | stat.S_IEXEC)
    stand_in = Path(__file__).with_name("stand_in.py")
    clock = tmp_path / "clock"
    clock.write_text("0")
    for name, value in {
        "PATH": f"{tools}:{os.environ['PATH']}",
        "HOME": str(home),
        "LTP_RUNNER_PYTHON": str(stand_in),
        "LTP_SURGERY_PYTHON": str(stand_in),
        "PYTHONPATH": f"{Path(__file__).with_name('clock')}:{os.environ.get('PYTHONPATH', '')}",
        "LTP_CHAOS_CLOCK": str(clock),
    }.items():
        monkeypatch.setenv(name, value)
    platform = Platform(tmp_path / "data")
    platform.ltp("up", "--detach", seconds=180)
    storm = Storm(platform.data, random.Random(SEED), clock)
    try:
        write_rows(tmp_path / "sums.jsonl")
        platform.ltp("dataset", "add", str(tmp_path / "sums.jsonl"))
        yield platform, storm
    finally:
        storm.calm()
        platform.ltp("down", "--stop-runs", check=False)


class User:
    """Submits jobs and changes its mind, through outages; what it was promised is in `accepted`."""

    def __init__(self, platform: Platform, model: Path, dice: random.Random) -> None:
        data = DataDir(platform.data)
        record = data.running()
        assert record is not None
        self.gateway = Gateway(record.urls["gateway"], data.secret("token").read_text().strip())
        self.recipe = {**RECIPE, "model": {"path": str(model)}}
        self.dice, self.accepted, self.key = dice, set[str](), 0
        self.leaving = False

    async def live(self) -> None:
        while not self.leaving:
            with contextlib.suppress(LtpError, httpx.HTTPError):
                await asyncio.to_thread(self._act)
            await asyncio.sleep(self.dice.uniform(0.3, 1.5))

    def _act(self) -> None:
        open_jobs = [
            j for state in ("queued", "running", "paused") for j in self.gateway.get("/jobs", state=state)["jobs"]
        ]
        if len(open_jobs) < 10:
            self.key += 1
            self._submit(f"k{self.key}")
            return
        job = self.dice.choice(open_jobs)
        verb = self.dice.choices(["pause", "resume", "cancel"], [5, 6, 1])[0]
        self.gateway.post(f"/jobs/{job['job_id']}/{verb}")

    def _submit(self, key: str) -> None:
        options = {"priority": self.dice.randint(0, 2), "preemptible": self.dice.random() < 0.5}
        # As a careful client does: again under the same key until there is an answer.
        for _ in range(60):
            try:
                job = self.gateway.post("/jobs", json=self.recipe, headers={"Idempotency-Key": key}, params=options)
            except (LtpError, httpx.HTTPError):
                time.sleep(0.5)
            else:
                self.accepted.add(job["job_id"])
                return

    def settle(self, seconds: float) -> None:
        """After the storm: resume what is paused and wait until all is over."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with contextlib.suppress(LtpError, httpx.HTTPError):
                jobs = self.gateway.get("/jobs", limit=1000)["jobs"]
                if all(job["state"] in FINAL for job in jobs) and self.accepted <= {job["job_id"] for job in jobs}:
                    return
                for job in jobs:
                    if job["state"] == "paused" or job["requested"] == "pause":
                        self.gateway.post(f"/jobs/{job['job_id']}/resume")
            time.sleep(1)


async def test_no_promise_is_broken_by_hundreds_of_faults(sky: tuple[Platform, Storm], model: Path) -> None:
    platform, storm = sky
    user = User(platform, model, random.Random(SEED + 1))
    living = asyncio.create_task(user.live())
    storm.start_second_scheduler()
    began = time.monotonic()
    await storm.blow(FAULTS, living.done)
    seconds = time.monotonic() - began
    user.leaving = True
    await living
    storm.calm()
    await asyncio.to_thread(user.settle, CALM_SECONDS)
    record = DataDir(platform.data).running()
    assert record is not None
    url = database_url(DataDir(platform.data), record.ports["postgres"])
    home = Path(os.environ["HOME"])
    wrong: list[str] = ["not looked yet"]
    for _ in range(60):
        # The last news may still be on its way to the gateway.
        wrong = await findings(url, user.accepted, home / "witness.jsonl", storm.harmed)
        if not wrong:
            break
        await asyncio.sleep(1)
    told = ", ".join(f"{n} × {name}" for name, n in storm.counts().most_common())
    print(f"\n{len(storm.log)} faults in {seconds:.0f} s (seed {SEED}): {told}", file=sys.stderr)
    print(f"{len(user.accepted)} jobs accepted, {len(storm.harmed)} attempts killed by us", file=sys.stderr)
    if wrong:
        keep = Path("/tmp") / f"ltp-storm-{SEED}-{os.getpid()}"
        shutil.copytree(platform.data / "logs", keep, dirs_exist_ok=True)
        wrong.append(f"logs are kept in {keep}")
        pytest.fail("\n".join(wrong))
    assert len(user.accepted) >= FAULTS // 20
    assert len(storm.log) >= FAULTS
