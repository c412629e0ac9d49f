"""What `ltp up` refuses or reports: each time a code, the facts, what to do, and nothing half-started."""

from __future__ import annotations

import json
import os
import shutil
import socket
import tempfile
from collections.abc import Generator
from pathlib import Path

import pytest

from ltp.core.errors import ErrorCode, LtpError
from ltp.up import state
from ltp.up.state import DataDir
from tests.service.up.driver import AS_NOBODY, Platform, write_fake_services

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")


@pytest.mark.parametrize("detached", [True, False])
def test_crash_loop_is_reported_with_the_log(platform: Platform, detached: bool) -> None:
    done = platform.ltp("up", *(["-d"] if detached else []), FAKE_CRASH="surgery")
    assert done.returncode == 1
    assert "start_failed" in done.stderr
    assert "surgery ended with exit code 1" in done.stderr
    assert "surgery has lost its marbles" in done.stderr
    assert platform.survivors() == []


def test_failed_migration_is_reported(platform: Platform) -> None:
    done = platform.ltp("up", "-d", FAKE_MIGRATION_ERROR="no such revision")
    assert done.returncode == 1
    assert "migrate ended with exit code 1" in done.stderr
    assert "no such revision" in done.stderr
    assert platform.survivors() == []


def test_taken_port_names_its_holder(platform: Platform) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        done = platform.ltp("up", "--port", str(port))
    assert done.returncode == 1
    assert f"Port {port} is taken" in done.stderr
    assert f"(pid {os.getpid()})" in done.stderr
    assert platform.survivors() == []
    assert not platform.data.postgres.exists()


def test_given_port_is_used(platform: Platform) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
    assert platform.up("--port", str(port)).urls["gateway"] == f"http://127.0.0.1:{port}"


@pytest.fixture
def open_place() -> Generator[Path]:
    """A directory that any user can reach, with stand-ins for the services; pytest's own are closed to others."""
    with tempfile.TemporaryDirectory() as made:
        place = Path(made)
        place.chmod(0o755)
        write_fake_services(place)
        yield place


@needs_root
def test_unwritable_directory(open_place: Path) -> None:
    done = Platform(open_place / "data", open_place, user=AS_NOBODY).ltp("up", "-d")
    assert done.returncode == 1
    assert "data_dir_unwritable" in done.stderr
    assert not (open_place / "data").exists()


def test_file_in_place_of_the_directory(tmp_path: Path) -> None:
    (tmp_path / "data").touch()
    with pytest.raises(LtpError) as caught:
        state.prepare(DataDir(tmp_path / "data"))
    assert caught.value.code is ErrorCode.DATA_DIR_UNWRITABLE


def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "MIN_FREE_BYTES", shutil.disk_usage(tmp_path).total + 1)
    with pytest.raises(LtpError) as caught:
        state.require_free_space(DataDir(tmp_path))
    assert caught.value.code is ErrorCode.DISK_FULL


@needs_root
def test_root_works_below_a_directory_closed_to_others(tmp_path: Path, fakes: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    platform = Platform(closed / "data", fakes)
    try:
        platform.up()
        assert platform.data.postgres.stat().st_uid != 0
    finally:
        platform.ltp("down")
    assert platform.survivors() == []


@needs_root
def test_ordinary_user(open_place: Path) -> None:
    home = open_place / "home"
    home.mkdir()
    os.chown(home, 65534, 65534)
    platform = Platform(home / "data", open_place, user=AS_NOBODY)
    try:
        platform.up()
        assert platform.data.postgres.stat().st_uid == 65534
    finally:
        platform.ltp("down")
    assert platform.survivors() == []


def test_external_server_is_not_started(tmp_path: Path, fakes: Path) -> None:
    external = {
        "LTP_NATS_URL": "nats://u:secret@10.0.0.1:4222",
        "LTP_DATABASE_URL": "postgresql+asyncpg://u:secret@10.0.0.1/ltp",
        "LTP_MILVUS_URI": "http://10.0.0.1:19530",
    }
    platform = Platform(tmp_path / "data", fakes, environment=external)
    try:
        record = platform.up()
        assert not {"nats", "postgres", "milvus"} & {entry.name for entry in record.processes}
        assert external.items() <= platform.service_environment("dataset").items()
        assert record.urls["postgres"] == "postgresql+asyncpg://10.0.0.1/ltp"
        assert "secret" not in platform.data.run_file.read_text()
    finally:
        platform.ltp("down")
    assert not (tmp_path / "data" / "pg").exists()


def test_doctor_and_status_speak_json(platform: Platform) -> None:
    checks = json.loads(platform.ltp("doctor", "--json").stdout)
    assert {check["name"]: check["verdict"] for check in checks}["postgres user"] == "ok"
    status = platform.ltp("status", "--json")
    assert (status.returncode, json.loads(status.stdout)["running"]) == (1, False)
