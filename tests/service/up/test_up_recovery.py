"""What a start finds after a crash: other people's pids, half-made directories, clusters of another version."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ltp.core.errors import ErrorCode, LtpError
from ltp.up import logs, privileges, procfs
from ltp.up.leftovers import clear_leftovers
from ltp.up.ports import choose_ports
from ltp.up.postgres import Cluster
from ltp.up.privileges import Account, require_runnable, server_account
from ltp.up.process import Child, ProcessSpec
from ltp.up.record import ProcessRecord, RunRecord, read_record, write_record
from ltp.up.state import DataDir, prepare, read_or_make_secret
from tests.service.up.driver import eventually

DEAD = RunRecord(pid=2**22, start_ticks=1, started_at="2026-01-01T00:00:00Z", ports={}, urls={}, processes=[])


@pytest.fixture
def data(tmp_path: Path) -> DataDir:
    here = DataDir(tmp_path / "data")
    prepare(here)
    return here


@pytest.fixture
def cluster(data: DataDir) -> Cluster:
    read_or_make_secret(data.secret("postgres_superuser"))
    return Cluster(
        path=data.postgres,
        account=server_account(signal.SIGINT),
        superuser_password_file=data.secret("postgres_superuser"),
        password="password",
        environment={"PATH": os.environ["PATH"]},
        log=data.log("postgres"),
    )


def test_interrupted_creation_is_done_again_and_a_stale_pid_file_removed(cluster: Cluster) -> None:
    (cluster.path.parent / "pg.tmp" / "base").mkdir(parents=True)
    asyncio.run(cluster.prepare())
    assert (cluster.path / "PG_VERSION").exists()
    assert not cluster.path.with_name("pg.tmp").exists()
    cluster.pid_file.write_text(f"{os.getpid()}\n{cluster.path}\n")
    asyncio.run(cluster.prepare())
    assert not cluster.pid_file.exists()


@pytest.mark.parametrize("version", ["17", None])
def test_cluster_of_another_version_is_left_alone(cluster: Cluster, version: str | None) -> None:
    (cluster.path / "base").mkdir(parents=True)
    if version:
        (cluster.path / "PG_VERSION").write_text(version)
    with pytest.raises(LtpError) as caught:
        asyncio.run(cluster.prepare())
    assert caught.value.code is ErrorCode.DATA_DIR_CORRUPT
    assert (cluster.path / "base").exists()


def test_failing_sql_does_not_pass_for_a_cluster(cluster: Cluster) -> None:
    with pytest.raises(LtpError) as caught:
        asyncio.run(replace(cluster, password="it's").prepare())
    assert caught.value.code is ErrorCode.START_FAILED
    assert not cluster.path.exists()


def test_leftovers_are_ended_and_strangers_are_not(data: DataDir) -> None:
    ours, stranger = (subprocess.Popen(["sleep", "60"], start_new_session=True) for _ in range(2))
    try:
        entries = [
            ProcessRecord("planner", 1, "", pid=ours.pid, start_ticks=procfs.start_ticks(ours.pid)),
            ProcessRecord("runner", 1, "", pid=stranger.pid, start_ticks=1),
        ]
        write_record(data.run_file, replace(DEAD, processes=entries))
        asyncio.run(clear_leftovers(data))
        assert ours.wait(timeout=5) == -signal.SIGKILL
        assert stranger.poll() is None
        assert not data.run_file.exists()
    finally:
        stranger.kill()
        stranger.wait()


def test_what_a_dead_service_left_in_its_session_is_ended(data: DataDir) -> None:
    environment = {"PATH": os.environ["PATH"], "LTP_DATA_DIR": str(data.root)}
    code = "import subprocess; print(subprocess.Popen(['sleep', '60'], stdout=subprocess.DEVNULL).pid, flush=True)"
    argv = ["python3", "-c", code]
    with subprocess.Popen(argv, start_new_session=True, env=environment, stdout=subprocess.PIPE) as service:
        ticks = procfs.start_ticks(service.pid)
        child = int(service.communicate()[0])
    entry = ProcessRecord("evaluator", 1, "", pid=service.pid, start_ticks=ticks)
    write_record(data.run_file, replace(DEAD, processes=[entry]))
    asyncio.run(clear_leftovers(data))
    eventually(lambda: procfs.stat(child) is None)


def test_record_survives_writing_and_damage(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    record = replace(DEAD, processes=[ProcessRecord("nats", 4222, "tcp://127.0.0.1:4222")])
    write_record(path, record)
    assert read_record(path) == record
    assert not record.alive
    for damaged in ("", "[]", json.dumps({"pid": 1})):
        path.write_text(damaged)
        assert read_record(path) is None


def test_ports_are_distinct_and_stable(tmp_path: Path) -> None:
    first = choose_ports(["a", "b"], tmp_path)
    assert len(set(first.values())) == 2
    assert choose_ports(["a", "b"], tmp_path) == first
    assert first["a"] not in choose_ports(["a"], tmp_path, taken={first["a"]}).values()


def test_large_log_is_turned_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "ROTATE_BYTES", 10)
    path = tmp_path / "x.log"
    path.write_text("0123456789 old\n")
    logs.open_log(path).close()
    assert (tmp_path / "x.log.1").read_text().endswith("old\n")
    assert "old" not in logs.tail(path)


def test_deaf_process_is_ended_with_its_group(tmp_path: Path) -> None:
    code = "import signal, subprocess; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    code += "p = subprocess.Popen(['sleep', '60']); print(p.pid, flush=True); p.wait()"
    spec = ProcessSpec("deaf", (sys.executable, "-c", code), dict(os.environ), tmp_path / "deaf.log")

    async def start_and_stop() -> int:
        child = await Child.start(spec)
        while not (said := spec.log.read_text().splitlines()[1:]):
            await asyncio.sleep(0.02)
        await child.stop(grace_seconds=0.2)
        return int(said[0])

    grandchild = asyncio.run(start_and_stop())
    eventually(lambda: procfs.stat(grandchild) is None)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root needs setpriv")
def test_root_without_setpriv_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(privileges, "SETPRIV", "no-such-program")
    with pytest.raises(LtpError) as caught:
        server_account(signal.SIGINT)
    assert caught.value.code is ErrorCode.DEPENDENCY_MISSING
    assert "LTP_DATABASE_URL" in caught.value.hint


def test_account_that_the_kernel_refuses_is_told_what_to_do() -> None:
    with pytest.raises(LtpError) as caught:
        require_runnable(Account(65534, 65534, ("false",)), Path("/bin/true"))
    assert caught.value.code is ErrorCode.DEPENDENCY_MISSING
