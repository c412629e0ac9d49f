"""The life of a platform: it comes up from nothing, mends itself, keeps its data, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import asyncpg  # pyright: ignore[reportMissingTypeStubs]
import nats

from ltp.bus.permissions import OPERATOR
from ltp.up import procfs
from ltp.up.servers import bus_url
from ltp.up.services import SERVICES
from tests.conftest import until
from tests.service.up.driver import Platform, eventually


def sql(url: str, *statements: str) -> object:
    """Run statements in a client of their own and return the last one's value."""
    return asyncio.run(_sql(url, statements))


async def _sql(url: str, statements: Sequence[str]) -> object:
    connection = await cast(Any, asyncpg).connect(url)
    try:
        return [await connection.fetchval(statement) for statement in statements][-1]
    finally:
        await connection.close()


def test_empty_directory_to_ready_and_back_to_nothing(platform: Platform) -> None:
    record = platform.up()
    assert [entry.name for entry in record.processes] == ["nats", "postgres", "milvus", *SERVICES]
    assert all(entry["state"] == "ready" for entry in platform.status()["processes"])
    second = platform.ltp("up")
    assert second.returncode == 1
    assert "data_dir_in_use" in second.stderr
    assert f"pid {record.pid}" in second.stderr
    assert record.urls["gateway"] in second.stderr
    assert platform.ltp("down").returncode == 0
    assert platform.survivors() == []
    assert not platform.data.run_file.exists()
    assert platform.ltp("status").returncode == 1
    again = platform.ltp("down")
    assert (again.returncode, "Nothing runs" in again.stdout) == (0, True)


def test_services_are_told_all_and_passwords_are_told_to_nobody_else(platform: Platform) -> None:
    platform.up()
    told = platform.service_environment("gateway")
    assert Path(told["LTP_GATEWAY_TOKEN_FILE"]).read_text().strip()
    assert told["LTP_DATA_DIR"] == str(platform.data.root)
    assert platform.record().urls["gateway"].endswith(told["LTP_GATEWAY_PORT"])
    password = platform.data.secret("postgres").read_text().strip()
    assert password in told["LTP_DATABASE_URL"]
    assert password not in platform.data.run_file.read_text()
    assert not [p.pid for p in procfs.processes() if password in " ".join(procfs.command_line(p.pid))]
    assert {stat.S_IMODE(path.stat().st_mode) for path in platform.data.secret("token").parent.iterdir()} == {0o600}


def test_servers_work(platform: Platform) -> None:
    platform.up()
    is_superuser = "SELECT rolsuper FROM pg_roles WHERE rolname = current_user"
    assert sql(platform.database(), "CREATE TABLE t (x int)", is_superuser) is False

    async def publish() -> int:
        # Who has no account may hear the facts, as `nats sub 'ltp.>'` does, and say nothing.
        refused: list[Exception] = []

        async def note(error: Exception) -> None:
            refused.append(error)

        stranger = await cast(Any, nats).connect(
            platform.record().urls["nats"], error_cb=note, max_reconnect_attempts=0
        )
        heard = await stranger.subscribe("ltp.>")
        await stranger.subscribe("_INBOX.>")
        await stranger.publish("ltp.job.v1.submitted", b"forged")
        await stranger.flush()
        # The client tells of a refusal beside what it does.
        await until(lambda: len(refused) == 2)
        assert [str(error).lower().count("permissions violation") for error in refused] == [1, 1]
        url = bus_url(platform.data, OPERATOR, platform.record().ports["nats"])
        client = await cast(Any, nats).connect(url)
        stream = client.jetstream()
        await stream.add_stream(name="S", subjects=["ltp.>"])
        sequence = (await stream.publish("ltp.job.v1.submitted", b"")).seq
        assert (await heard.next_msg(timeout=10)).data == b""
        await stranger.close()
        await client.close()
        return sequence

    assert asyncio.run(publish()) == 1
    check = "import sys; from pymilvus import MilvusClient; print(MilvusClient(sys.argv[1]).list_collections())"
    listed = subprocess.run([sys.executable, "-c", check, platform.record().urls["milvus"]], capture_output=True)
    assert listed.stdout.strip() == b"[]"


def test_foreground_stops_cleanly_on_a_signal(platform: Platform) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        process = platform.up_in_foreground()
        process.send_signal(number)
        printed, _ = process.communicate(timeout=40)
        assert process.returncode == 0
        assert "ready http://127.0.0.1:" in printed
        assert "Stopped." in printed
        assert platform.survivors() == []


def test_killed_supervisor_leaves_no_orphan_and_the_data(platform: Platform) -> None:
    platform.up()
    sql(platform.database(), "CREATE TABLE kept (x int)", "INSERT INTO kept VALUES (42)")
    platform.kill_supervisor()
    eventually(lambda: not platform.survivors(), seconds=15)
    assert platform.data.run_file.exists()
    platform.up()
    assert sql(platform.database(), "SELECT x FROM kept") == 42


def test_next_up_does_not_wait_for_a_killed_one_to_be_gone(platform: Platform) -> None:
    platform.up()
    sql(platform.database(), "CREATE TABLE kept (x int)")
    platform.kill_supervisor()
    platform.up()
    assert sql(platform.database(), "SELECT count(*) FROM kept") == 0


def test_killed_process_is_started_again_and_counted(platform: Platform) -> None:
    platform.up()
    for name in ("planner", "postgres"):
        before = platform.process(name)
        assert before.pid
        os.kill(before.pid, signal.SIGKILL)
        eventually(lambda old=before: (now := platform.process(old.name)).pid != old.pid and now.state == "ready")
        assert platform.process(name).restarts == 1
    assert sql(platform.database(), "SELECT 1") == 1
    assert {entry["name"]: entry["restarts"] for entry in platform.status()["processes"]}["planner"] == 1


def test_down_names_training_runs_and_stops_them_when_told(platform: Platform) -> None:
    attempt = platform.data.runs / "run-1" / "attempt-1"
    attempt.mkdir(parents=True)
    launcher = "import os, sys, time\nwhile not os.path.exists(sys.argv[1]): time.sleep(0.05)"
    stop_file = attempt / "stop"
    with subprocess.Popen([sys.executable, "-c", launcher, str(stop_file)], start_new_session=True) as process:
        ticks = procfs.start_ticks(process.pid)
        (attempt / "status.json").write_text(f'{{"launcher_pid": {process.pid}, "launcher_start_ticks": {ticks}}}')
        (attempt / "launch.json").write_text('{"stop_file": "/etc/passwd"}')
        told = platform.ltp("down").stdout
        assert "Still training: run-1 attempt-1" in told
        assert str(process.pid) in told
        assert process.poll() is None
        assert "Stopping run-1" in platform.ltp("down", "--stop-runs").stdout
        assert process.wait(timeout=10) == 0
