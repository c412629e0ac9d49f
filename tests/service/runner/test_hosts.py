"""Registered hosts as the runner sees them: first contact, another key, bad ways, and the test that tells where the way ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import asyncssh
import pytest
import pytest_asyncio
from sqlalchemy import text

from ltp.contracts.host_access import Access, HostRegistered, HostSetupRequested, secret_name
from ltp.core.errors import ErrorCode, LtpError
from ltp.security.keyring import make_keyring
from ltp.security.secrets import Secrets
from ltp.store.clock import new_id
from ltp.store.database import Database
from services.runner import host_setup, host_testing, hosts_store
from services.runner.backends import LinkDownError
from services.runner.backends.ssh import SshBackend
from services.runner.fleet import Fleet
from services.runner.host_watch import look_at
from services.runner.settings import RunnerSettings
from services.runner.ssh import link as links
from services.runner.ssh.link import Credential, Link, Target
from tests.conftest import free_port
from tests.service.runner.sshd import BadLink, Sshd, needs_sshd

pytestmark = [needs_sshd, pytest.mark.asyncio]
CANARY = "canary-4711"


@pytest.fixture
def sshd(tmp_path: Path) -> Any:
    server = Sshd(tmp_path / "sshd").start()
    yield server
    server.stop()


@pytest_asyncio.fixture
async def fleet(tmp_path: Path, database_url: str) -> AsyncIterator[Fleet]:
    (tmp_path / "data" / "secrets").mkdir(parents=True)
    make_keyring(tmp_path / "data" / "secrets" / "keyring")
    database = Database.connect(database_url, "runner")
    found = Fleet(database, RunnerSettings(data_dir=tmp_path / "data", runner_host_name="manager"))
    yield found
    await found.close()
    await database.close()


async def register(
    fleet: Fleet, sshd: Sshd, *, secret: str | None = None, kind: Any = "private_key", **changes: Any
) -> None:
    work_dir = str(sshd.folder.parent / "host")
    values = {
        "address": "127.0.0.1",
        "port": sshd.port,
        "user": sshd.user,
        "work_dir": work_dir,
        "python": sys.executable,
    }
    value = json.dumps({"value": secret or sshd.client_key.read_text()})
    async with fleet.database.unit() as unit:
        await Secrets.of(fleet.database.engine, fleet.settings.root()).put(unit, secret_name("gpu1"), value, "default")
        event = HostRegistered(host_id="gpu1", access=Access(**{**values, **changes}), labels={}, secret=kind)
        await hosts_store.register(unit, event)
    await fleet.refresh()


async def row(fleet: Fleet) -> hosts_store.Row:
    return (await hosts_store.all_hosts(fleet.database.engine, "gpu1"))[0]


async def said(fleet: Fleet, subject: str) -> list[dict[str, Any]]:
    query = text("SELECT payload FROM runner.outbox WHERE subject = :subject")
    async with fleet.database.engine.connect() as connection:
        return [json.loads(p) for p in (await connection.execute(query, {"subject": subject})).scalars()]


async def test_first_contact_pins_another_key_is_refused_and_trust_is_explicit(fleet: Fleet, sshd: Sshd) -> None:
    await register(fleet, sshd)
    await look_at(fleet, "gpu1")
    first = await row(fleet)
    assert (first["fingerprint"], first["problem"], first["root"]) == (
        sshd.fingerprint,
        None,
        str(sshd.folder.parent / "host"),
    )
    [host] = await said(fleet, "ltp.host.v1.seen")
    assert host["reached_by"] == "ssh"
    sshd.stop()
    sshd.new_host_key()
    sshd.start()
    backend = fleet.backend("gpu1")
    assert isinstance(backend, SshBackend)
    await backend.close()
    marker = sshd.folder / "ran"
    with pytest.raises(LtpError) as caught:
        await backend.link.run(["touch", str(marker)])
    assert caught.value.code is ErrorCode.HOST_KEY_CHANGED
    assert not marker.exists()
    await look_at(fleet, "gpu1")
    changed = await row(fleet)
    assert (changed["problem"]["code"], changed["shown_fingerprint"]) == ("host_key_changed", sshd.fingerprint)
    assert len(await said(fleet, "ltp.host.v1.seen")) == 1
    async with fleet.database.unit() as unit:
        await hosts_store.trust(unit, "gpu1", sshd.fingerprint)
    assert await fleet.refresh() == ["gpu1"]
    await look_at(fleet, "gpu1")
    assert (await row(fleet))["problem"] is None
    assert len(await said(fleet, "ltp.host.v1.pinned")) == 2


async def test_a_wrong_expected_fingerprint_is_refused_at_first_contact(fleet: Fleet, sshd: Sshd) -> None:
    await register(fleet, sshd, host_key="SHA256:" + "A" * 43)
    await look_at(fleet, "gpu1")
    found = await row(fleet)
    assert (found["problem"]["code"], found["fingerprint"]) == ("host_key_changed", None)


async def test_the_secret_lies_nowhere_in_the_open(fleet: Fleet, sshd: Sshd, capfd: pytest.CaptureFixture[str]) -> None:
    async with asyncssh.listen(
        "127.0.0.1", 0, server_factory=_Doorman, server_host_keys=[str(sshd.folder / "host")]
    ) as server:
        await register(fleet, sshd, secret=CANARY, kind="password", port=server.sockets[0].getsockname()[1])
        await look_at(fleet, "gpu1")
    found = await row(fleet)
    assert found["problem"]["code"] == "host_auth_failed"
    assert "password" in found["problem"]["message"]
    async with fleet.database.engine.connect() as connection:
        for table in ("runner.hosts", "runner.outbox", "security.secrets"):
            rows = (await connection.execute(text(f"SELECT * FROM {table}"))).all()  # noqa: S608 - our own tables
            assert CANARY not in repr(rows)
    out = capfd.readouterr()
    assert CANARY not in out.out + out.err


class _Doorman(asyncssh.SSHServer):
    def password_auth_supported(self) -> bool:
        return True

    def validate_password(self, username: str, password: str) -> bool:
        return password == "right"


async def steps(fleet: Fleet) -> dict[str, Any]:
    found = await row(fleet)
    backend = fleet.open(found)
    assert isinstance(backend, SshBackend)
    access = Access.model_validate(found["access"])
    # A hub of this machine: nothing asks the internet.
    checks = [c async for c in host_testing.examine(backend, access, "gpu1", hub="http://127.0.0.1:9")]
    await backend.close()
    assert all(check.hint for check in checks if check.verdict == "fail")
    return {check.name: check for check in checks}


async def test_a_good_host_passes_every_step(fleet: Fleet, sshd: Sshd) -> None:
    await register(fleet, sshd)
    found = await steps(fleet)
    assert [name for name, check in found.items() if check.verdict == "fail"] in ([], ["disk"])
    assert found["tcp"].detail.startswith("SSH-2.0-OpenSSH")
    assert found["python"].verdict == "ok"
    assert found["hub"].verdict == "warn"


@contextlib.asynccontextmanager
async def _server(serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]) -> AsyncIterator[int]:
    port = free_port()
    server = await asyncio.start_server(serve, "127.0.0.1", port)
    yield port
    server.close()


async def _silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(30)


async def _web(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    writer.close()


async def test_each_failure_is_told_at_its_step(fleet: Fleet, sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_testing, "_WAY_SECONDS", 0.5)
    blocked = sshd.folder.parent / "blocked"
    blocked.write_text("a file")
    escaping = sshd.folder.parent / "escaping"
    escaping.mkdir()
    (escaping / "runs").symlink_to("/etc")
    async with _server(_silent) as silent, _server(_web) as web:
        for step, code, changes in (
            ("dns", "host_unreachable", {"address": "no-such-host.invalid"}),
            ("tcp", "host_unreachable", {"port": free_port()}),
            ("tcp", "host_unreachable", {"port": silent}),
            ("tcp", "host_unreachable", {"port": web}),
            ("auth", "host_auth_failed", {"user": "nobody"}),
            ("python", "host_unfit", {"python": "/no/such/venv"}),
            ("work_dir", "host_unfit", {"work_dir": str(blocked / "ltp")}),
            ("work_dir", "host_unfit", {"work_dir": str(escaping)}),
        ):
            await register(fleet, sshd, **changes)
            found = await steps(fleet)
            assert (found[step].verdict, found[step].code) == ("fail", code), (step, found)


async def test_a_banner_that_never_comes_and_a_slow_host(sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "CONNECT_SECONDS", 0.5)
    async with _server(_silent) as port:
        with pytest.raises(LinkDownError, match="did not answer in time"):
            await _link(sshd, port).open()
    monkeypatch.setattr(links, "CONNECT_SECONDS", 20.0)
    slow = await BadLink(sshd.port, delay=0.15).start()
    link = _link(sshd, slow.port)
    assert (await link.run(["echo", "here"])).stdout == "here\n"
    await link.close()
    await slow.stop()


def _link(sshd: Sshd, port: int) -> Link:
    async def key() -> Credential:
        return Credential("private_key", sshd.client_key.read_text())

    return Link(Target("gpu1", "127.0.0.1", port, sshd.user), key)


async def test_a_cut_link_is_made_again_and_says_nothing_else(sshd: Sshd) -> None:
    way = await BadLink(sshd.port).start()
    link = _link(sshd, way.port)
    await link.open()
    running = asyncio.create_task(link.run(["sleep", "30"]))
    while not sshd.connections():
        await asyncio.sleep(0.02)
    await asyncio.sleep(0.2)
    way.cut()
    with pytest.raises(LinkDownError):
        await running
    way.refuses = True
    with pytest.raises(LinkDownError):
        await link.open()
    began = time.monotonic()
    with pytest.raises(LinkDownError):
        await link.open()  # Not tried again yet: nobody waits, and the host is not stormed.
    assert time.monotonic() - began < 0.1
    way.refuses = False
    while True:
        with contextlib.suppress(LinkDownError):
            assert (await link.run(["echo", "again"])).stdout == "again\n"
            break
        await asyncio.sleep(0.05)
    await link.close()
    await way.stop()


async def test_a_full_disk_is_told_before_anything_is_sent(sshd: Sshd, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(small)], capture_output=True).returncode:
        pytest.skip("a small disk needs the right to mount one")
    try:
        backend = SshBackend(_link(sshd, sshd.port), str(small / "ltp"), sys.executable)
        model = tmp_path / "model"
        model.mkdir()
        (model / "weights").write_bytes(b"0" * 100_000)
        with pytest.raises(LtpError) as caught:
            await backend.put(model, small / "ltp" / "cache" / "model")
        assert caught.value.code is ErrorCode.DISK_FULL
        assert not (small / "ltp" / "cache" / "model").exists()
        await backend.close()
    finally:
        subprocess.run(["umount", str(small)], check=True)


@pytest.mark.slow
async def test_a_host_is_set_up_from_a_bundle_without_a_network(
    fleet: Fleet, sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locks = tmp_path / "locks"
    shutil.copytree(host_setup.locks.FOLDER, locks)
    (locks / "training.txt").write_text("ltp-tiny==1.0\n")
    monkeypatch.setattr(host_setup.locks, "FOLDER", locks)
    host_setup.locks.read.cache_clear()
    _wheel(tmp_path / "bundle" / "wheels")
    await register(fleet, sshd, python=None)
    found = await row(fleet)
    backend = fleet.open(found)
    assert isinstance(backend, SshBackend)
    request = HostSetupRequested(host_id="gpu1", report_id=new_id(), role="training", bundle=str(tmp_path / "bundle"))
    try:
        checks = [check async for check in host_setup.Setup(backend, request).steps()]
        assert [check.verdict for check in checks] == ["ok"] * 7, checks
        assert (await host_setup.compared(backend, "training"))["differences"] == []
    finally:
        host_setup.locks.read.cache_clear()
        await backend.close()
    assert os.access(tmp_path / "host" / "env" / "bin" / "python", os.X_OK)


def _wheel(folder: Path) -> None:
    import zipfile

    folder.mkdir(parents=True)
    info = "ltp_tiny-1.0.dist-info"
    with zipfile.ZipFile(folder / "ltp_tiny-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("ltp_tiny.py", "")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: ltp-tiny\nVersion: 1.0\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", f"ltp_tiny.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
