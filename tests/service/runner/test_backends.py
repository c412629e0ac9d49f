"""One suite for every backend: launch, look, read, stop, kill, and what a host may not do to us."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import asyncssh
import pytest
import pytest_asyncio

from ltp.contracts.host_access import Access
from ltp.core.errors import ErrorCode, LtpError
from ltp.verl_recipe import LaunchSpec
from services.runner import launch
from services.runner.backends import Backend
from services.runner.backends.local import LocalBackend
from services.runner.backends.ray import RayBackend
from services.runner.backends.ssh import SshBackend
from services.runner.settings import RunnerSettings
from services.runner.ssh.link import Credential, Link, Target
from tests.conftest import free_port, until
from tests.service.runner.conftest import TRAINING
from tests.service.runner.sshd import Sshd, needs_sshd

pytestmark = pytest.mark.asyncio


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    server = Sshd(tmp_path_factory.mktemp("sshd")).start()
    yield server
    server.stop()


def link_to(server: Sshd, port: int | None = None, **changes: Any) -> Link:
    credential = Credential("private_key", server.client_key.read_text())

    async def read() -> Credential:
        return credential

    return Link(Target("gpu1", "127.0.0.1", port or server.port, server.user, **changes), read)


@pytest.fixture(scope="module")
def ray_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """The URL of a Ray cluster of one node that `start_local` started, and its token."""
    token, address, root = "t" * 43, f"http://127.0.0.1:{free_port()}", tmp_path_factory.mktemp("ray")
    cluster = ray_backend(address, token, root, start_local=True)
    try:
        # In a thread: a test's own loop runs while this fixture is made.
        with ThreadPoolExecutor(1) as thread:
            thread.submit(lambda: asyncio.run(cluster.facts())).result()
        yield address, token
    finally:
        pid = int((root / "ray.pid").read_text())
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and Path(f"/proc/{pid}").exists():
            time.sleep(0.1)


def ray_backend(address: str, token: str, root: Path, **changes: Any) -> RayBackend:
    async def read() -> Credential:
        return Credential("token", token)

    access = Access(backend="ray", address=address, work_dir=str(root), python=sys.executable, **changes)
    return RayBackend("cluster", access, read, RunnerSettings())


@pytest_asyncio.fixture(
    params=["local", pytest.param("ssh", marks=needs_sshd), pytest.param("ray", marks=pytest.mark.slow)]
)
async def backend(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Backend]:
    root = tmp_path / "host"
    if request.param == "ray":
        address, token = request.getfixturevalue("ray_address")
        yield ray_backend(address, token, root)
        return
    if request.param == "local":
        yield LocalBackend(root)
        return
    found = SshBackend(link_to(request.getfixturevalue("sshd")), str(root), sys.executable)
    await found.place()
    yield found
    await found.close()


@pytest_asyncio.fixture
async def run_dir(backend: Backend) -> AsyncIterator[Path]:
    """The directory of a run, ended with the test."""
    path = backend.run_dir(uuid.uuid4(), 1)
    yield path
    if (path / "status.json").exists():
        await backend.kill(path)
        await until(lambda: _exited(backend, path))


async def _exited(backend: Backend, path: Path) -> bool:
    status = await backend.status(path)
    return status is not None and status.state == "exited"


def spec_of(run_dir: Path, *arguments: str) -> LaunchSpec:
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / "training.py").write_text(TRAINING)
    return LaunchSpec(
        argv=(sys.executable, "training.py", *arguments), env={}, cwd=str(run_dir),
        metrics_path=str(run_dir / "metrics.jsonl"), stop_file=str(run_dir / "stop"),
    )  # fmt: skip


async def test_a_run_from_launch_to_stop(backend: Backend, run_dir: Path) -> None:
    assert await backend.status(run_dir) is None
    await backend.launch(run_dir, spec_of(run_dir, "wait"))
    status = await backend.status(run_dir)
    assert status is not None
    assert (status.alive, status.state) == (True, "running")
    with pytest.raises(LtpError) as caught:
        await backend.launch(run_dir, spec_of(run_dir, "exit", "0"))
    assert caught.value.code is ErrorCode.CONFLICT
    await backend.request_stop(run_dir)
    await until(lambda: _exited(backend, run_dir))
    ended = await backend.status(run_dir)
    assert ended is not None
    assert (ended.reason, ended.exit_code) == ("stopped", 0)
    assert await backend.read(run_dir, "log.txt", 5, 4) == b"wait"
    assert await backend.size(run_dir, "log.txt") == len(b"mode wait\n")


async def test_kill_works_even_when_the_launcher_is_gone(backend: Backend, run_dir: Path) -> None:
    await backend.launch(run_dir, spec_of(run_dir, "deaf"))
    status = await backend.status(run_dir)
    assert status is not None
    os.kill(status.launcher_pid, signal.SIGKILL)
    await until(lambda: _dead(backend, run_dir))
    await backend.kill(run_dir)
    await until(lambda: _exited(backend, run_dir))
    assert not launch.processes(run_dir.resolve(), -1, status.pgid)


async def _dead(backend: Backend, path: Path) -> bool:
    status = await backend.status(path)
    return status is not None and not status.alive


@needs_sshd
async def test_a_launcher_that_goes_while_it_is_looked_at_is_gone(
    sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = SshBackend(link_to(sshd), str(tmp_path / "host"), sys.executable)
    await backend.place()
    process = subprocess.Popen(["sleep", "60"])
    fields = {"launcher_pid": process.pid, "launcher_start_ticks": launch.start_ticks(process.pid)}
    assert await backend.is_alive(fields, tmp_path)
    read = asyncssh.SFTPClientFile.read

    async def late(file: asyncssh.SFTPClientFile, *where: Any) -> Any:
        process.kill()
        process.wait(10)
        return await read(file, *where)

    monkeypatch.setattr(asyncssh.SFTPClientFile, "read", late)
    assert not await backend.is_alive(fields, tmp_path)
    await backend.close()


async def test_what_cannot_start_is_launch_failed(backend: Backend, run_dir: Path) -> None:
    spec = LaunchSpec(argv=("/no/such",), env={}, cwd="/", metrics_path="m", stop_file=str(run_dir / "stop"))
    with pytest.raises(LtpError, match="/no/such") as caught:
        await backend.launch(run_dir, spec)
    assert caught.value.code is ErrorCode.LAUNCH_FAILED
    assert await backend.status(run_dir) is None


async def test_words_reach_the_process_as_they_are(backend: Backend, run_dir: Path) -> None:
    marker = run_dir.parent / "owned"
    odd = [f"$(touch {marker})", f"`touch {marker}`", f"; touch {marker} #", 'it\'s "odd"', "a\nb", "*", "~", "\\"]
    spec = spec_of(run_dir, "exit", "0")
    script = "import sys, json, pathlib; pathlib.Path('words').write_text(json.dumps(sys.argv[1:]))"
    odd_spec = LaunchSpec(**{**spec.__dict__, "argv": (sys.executable, "-c", script, *odd), "env": {"ODD": odd[0]}})
    await backend.launch(run_dir, odd_spec)
    await until(lambda: _exited(backend, run_dir))
    import json

    assert json.loads(await backend.read(run_dir, "words", 0, 1 << 16)) == odd
    assert not marker.exists()


async def test_reading_stays_inside_the_run(backend: Backend, tmp_path: Path, run_dir: Path) -> None:
    run_dir.mkdir(parents=True)
    (tmp_path / "secret").write_text("secret")
    (run_dir / "link").symlink_to(tmp_path / "secret")
    (run_dir / "folder").symlink_to(tmp_path)
    assert await backend.read(run_dir, "missing.txt", 0, 10) == b""
    for name in ("../secret", "link", "folder/secret", str(tmp_path / "secret")):
        with pytest.raises(LtpError):
            await backend.read(run_dir, name, 0, 10)


async def test_a_file_of_ten_gigabytes_is_read_in_parts(backend: Backend, run_dir: Path) -> None:
    run_dir.mkdir(parents=True)
    with (run_dir / "log.txt").open("wb") as file:
        file.truncate(10 << 30)
        file.seek((10 << 30) - 4)
        file.write(b"end\n")
    began = time.monotonic()
    assert await backend.size(run_dir, "log.txt") == 10 << 30
    assert await backend.read(run_dir, "log.txt", (10 << 30) - 4, 65_536) == b"end\n"
    assert len(await backend.read(run_dir, "log.txt", 0, 65_536)) == 65_536
    assert time.monotonic() - began < 5


async def test_folders_travel_whole_both_ways(backend: Backend, run_dir: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    (model / "sub").mkdir(parents=True)
    (model / "config.json").write_text("{}")
    (model / "sub" / "weights").write_bytes(os.urandom(300_000))
    (model / "linked").symlink_to(model / "config.json")
    there = run_dir.parent / "cache" / "model"
    await backend.put(model, there)
    await backend.put(model, there)
    home = tmp_path / "home"
    await backend.fetch(there, home)
    assert (home / "sub" / "weights").read_bytes() == (model / "sub" / "weights").read_bytes()
    assert (home / "linked").read_text() == "{}"
    await backend.fetch(there, tmp_path / "part", ["*.json"])
    assert [p.name for p in (tmp_path / "part").iterdir()] == ["config.json"]


async def test_facts_of_the_host(backend: Backend) -> None:
    facts = await backend.facts(packages=["pytest", "no-such-package"])
    assert facts["memory_bytes"] > 1 << 28
    assert facts["cpus"] >= 1
    assert facts["packages"]["pytest"]
    assert facts["packages"]["no-such-package"] is None
    assert facts["folder"]["free_bytes"] > 0
    assert abs(facts["at"] - time.time()) < 60


async def test_a_second_watcher_takes_the_run_up(backend: Backend, run_dir: Path) -> None:
    await backend.launch(run_dir, spec_of(run_dir, "wait"))
    first = await backend.status(run_dir)
    await backend.close()
    second = await backend.status(run_dir)
    assert first is not None
    assert second is not None
    assert (first.pid, first.started_at, second.alive) == (second.pid, second.started_at, True)
    await asyncio.gather(*(backend.read(run_dir, "log.txt", 0, 100) for _ in range(20)))


@pytest.mark.slow
async def test_a_wrong_token_and_a_cluster_that_is_too_small(ray_address: tuple[str, str], tmp_path: Path) -> None:
    address, token = ray_address
    with pytest.raises(LtpError) as caught:
        await ray_backend(address, "wrong" * 9, tmp_path).facts()
    assert caught.value.code is ErrorCode.HOST_AUTH_FAILED
    cluster = ray_backend(address, token, tmp_path)
    words = (
        "python",
        "trainer.n_gpus_per_node=8",
        "trainer.nnodes=1",
        "trainer.device='cuda'",
        "actor_rollout_ref.a=1",
    )
    spec = LaunchSpec(words, {"CUDA_VISIBLE_DEVICES": "0"}, "/", "m", "s")
    with pytest.raises(LtpError, match=r"8 GPU .it has 0., 26 CPU") as refused:
        await cluster.bring(spec, [])
    assert refused.value.code is ErrorCode.HOST_UNFIT
