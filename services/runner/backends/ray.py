"""A Ray cluster as a backend: the launcher runs inside a Ray job, in a working directory that the cluster shares with us.

Ray's Jobs API carries a command and its state, and no files; so the directory must be one file system (NFS, Lustre, or the
same machine), and the connection test proves that it is. Token authentication: the token goes as a bearer header, and
never into a command line or the job's environment.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shlex
import shutil
import socket
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from ltp.contracts.host_access import Access
from ltp.core.errors import ErrorCode, LtpError
from ltp.verl_recipe import LaunchSpec
from services.runner import delivery, host_facts
from services.runner.backends import LinkDownError
from services.runner.backends.files import LocalFiles
from services.runner.backends.through_files import FileBackend
from services.runner.settings import RunnerSettings
from services.runner.ssh.link import Credential

_SECONDS = 20.0
_FACTS_SECONDS = 120.0
_START_SECONDS = 600.0
_ALIVE = frozenset({"PENDING", "RUNNING"})
# verl takes three CPUs a device and a few for its helpers, and waits for ever when they are not there (verl.md, rule 22).
_CPUS_PER_DEVICE, _CPUS_BESIDE = 3, 2
# A trainer that starts a Ray of its own says how large; one that joins a cluster must not.
_RAY_INIT = "ray_kwargs.ray_init."


class RayBackend(FileBackend):
    """Launches attempts as jobs of a cluster; `token` is asked for when it is needed."""

    def __init__(
        self,
        host_id: str,
        access: Access,
        token: Callable[[], Awaitable[Credential | None]],
        settings: RunnerSettings,
    ) -> None:
        super().__init__(LocalFiles(), Path(access.work_dir).expanduser())
        self.host_id = host_id
        self.access = access
        self._token = token
        self._python = access.python or settings.runner_python

    async def call(self, method: str, path: str, **kwargs: Any) -> httpx.Response:
        """One request to the dashboard. Raises LinkDownError, HOST_AUTH_FAILED."""
        credential = await self._token()
        headers = {} if credential is None else {"Authorization": f"Bearer {credential.value}"}
        base = self.access.address.rstrip("/")
        try:
            async with httpx.AsyncClient(base_url=base, headers=headers, timeout=_SECONDS, trust_env=False) as client:
                answer = await client.request(method, path, **kwargs)
        except httpx.HTTPError as error:
            message = f"the Ray cluster {self.host_id} at {base} does not answer: {str(error) or type(error).__name__}"
            raise LinkDownError(message) from error
        if answer.status_code in {401, 403}:
            message = f"The Ray cluster {self.host_id} refused {'the token' if credential else 'us without a token'}."
            hint = f"Register it again with --token-file: `ltp host add {self.host_id} ... --replace`."
            raise LtpError(ErrorCode.HOST_AUTH_FAILED, message, hint)
        # Ray says so of a wrong question, too.
        known = any(word in answer.content for word in (b"does not exist", b"already exists"))
        if answer.status_code >= 500 and not known:
            raise LinkDownError(f"the Ray cluster {self.host_id} answered {answer.status_code}")
        return answer

    async def bring(self, spec: LaunchSpec, inputs: Sequence[Path]) -> LaunchSpec:
        """Put what the cluster's nodes cannot see into the shared directory; check what they offer before anything is asked."""
        await self.require_resources(spec)
        code = await self._bring_code()
        moved = {str(delivery.libraries()): str(code / "libs")}
        for source in [*inputs, *delivery.mentioned_files(spec)]:
            if not source.is_relative_to(delivery.libraries()) and not source.is_relative_to(self.root):
                target = self.root / "cache" / await delivery.digest(source) / source.name
                if not target.exists():
                    await self.put(source, target)
                moved[str(source)] = str(target)
        return joining(delivery.relocated(spec, moved, self._python))

    async def _bring_code(self) -> Path:
        archive = delivery.code_archive()
        target = self.root / "code" / delivery.content_digest(archive)
        if not (target / "launch.py").exists():
            await asyncio.to_thread(delivery.unpack, archive, target)
        return target

    async def start(self, run_dir: Path) -> tuple[int, str]:
        """Submit the launcher and wait until it has started the process, or the cluster says why not."""
        code = await self._bring_code()
        entrypoint = shlex.join([self._python, "-I", str(code / "launch.py"), "--stay", str(run_dir)])
        body = {"entrypoint": entrypoint, "submission_id": _job_of(run_dir), "metadata": {"by": "ltp"}}
        answer = await self.call("POST", "/api/jobs/", json=body)
        if answer.status_code >= 400 and "already exists" not in answer.text:
            return 4, f"Ray refused the job: {answer.text[-500:]}"
        deadline = asyncio.get_running_loop().time() + _START_SECONDS
        while await self.files.size(run_dir / "status.json") is None:
            state, message = await self._job(run_dir)
            if state not in _ALIVE:
                logs = (await self.call("GET", f"/api/jobs/{_job_of(run_dir)}/logs")).json().get("logs", "")
                return 4, f"the Ray job ended as {state} before training started: {message} {logs[-500:]}"
            if asyncio.get_running_loop().time() > deadline:
                await self.call("POST", f"/api/jobs/{_job_of(run_dir)}/stop")
                return 4, f"the Ray job was {state} for {_START_SECONDS:.0f} s: {message}"
            await asyncio.sleep(0.2)
        # A job that was there before is told by its launcher's own answer.
        return (3, "the Ray job was submitted before") if answer.status_code >= 400 else (0, "")

    async def _job(self, run_dir: Path) -> tuple[str, str]:
        answer = await self.call("GET", f"/api/jobs/{_job_of(run_dir)}")
        if answer.status_code == 404 or "does not exist" in answer.text:
            return "GONE", "the cluster does not know the job"
        found = answer.json()
        return str(found["status"]), str(found.get("message") or "")

    async def is_alive(self, fields: dict[str, Any], run_dir: Path) -> bool:
        return (await self._job(run_dir))[0] in _ALIVE

    async def reap(self, run_dir: Path) -> None:
        """Jobs run on the head node: one more of them ends there what a dead launcher left."""
        await self.call("POST", f"/api/jobs/{_job_of(run_dir)}/stop")
        code = await self._bring_code()
        entrypoint = shlex.join([self._python, "-I", str(code / "launch.py"), "--reap", str(run_dir)])
        await self._run_job(f"ltp-reap-{secrets.token_hex(8)}", entrypoint)

    async def _run_job(self, job: str, entrypoint: str) -> dict[str, Any]:
        """A short job to its end, as Ray describes it then."""
        await self.call("POST", "/api/jobs/", json={"entrypoint": entrypoint, "submission_id": job})
        async with asyncio.timeout(_FACTS_SECONDS):
            while (found := (await self.call("GET", f"/api/jobs/{job}")).json())["status"] in _ALIVE:
                await asyncio.sleep(0.2)
        return found

    async def require_resources(self, spec: LaunchSpec) -> None:
        """Raises HOST_UNFIT when the cluster can never give what the process will ask it for."""
        pairs = [word.lstrip("+").partition("=") for word in spec.argv if "=" in word]
        words = {key: value for key, _, value in pairs}
        devices = int(words.get("trainer.n_gpus_per_node", "1")) * int(words.get("trainer.nnodes", "1"))
        if words.get("trainer.device", "").strip("'") == "cpu":
            return  # It starts what it needs by itself.
        rl = any(word.startswith("actor_rollout_ref.") for word in spec.argv)
        wanted = {"GPU": devices, "CPU": devices * _CPUS_PER_DEVICE + _CPUS_BESIDE if rl else 1}
        total = await self.resources()
        short = {name: count for name, count in wanted.items() if total.get(name, 0) < count}
        if short:
            told = ", ".join(f"{count} {name} (it has {total.get(name, 0):.0f})" for name, count in short.items())
            message = f"The Ray cluster {self.host_id} cannot give {told}; verl would wait for ever."
            raise LtpError(
                ErrorCode.HOST_UNFIT,
                message,
                "Add nodes, start them with a larger --num-cpus, or ask for fewer devices.",
            )

    async def resources(self) -> dict[str, float]:
        """What all living nodes have together."""
        answer = await self.call("GET", "/api/v0/nodes", params={"detail": "1", "limit": "1000"})
        total: dict[str, float] = {}
        for node in answer.json()["data"]["result"]["result"]:
            if node["state"] == "ALIVE":
                for name, count in node["resources_total"].items():
                    total[name] = total.get(name, 0.0) + float(count)
        return total

    async def describe_resources(self) -> str:
        """For people."""
        total = await self.resources()
        return ", ".join(f"{total.get(name, 0):.0f} {name}" for name in ("CPU", "GPU"))

    async def facts(self, python: str | None = None, packages: Sequence[str] = ()) -> dict[str, Any]:
        """What the node that runs jobs has, found by a job; its answer comes through the shared directory, which proves that it is shared."""
        await self._ensure_local()
        await self.call("GET", "/api/version")
        name = secrets.token_hex(8)
        folder = self.root / "probes" / name
        wanted = {"packages": list(packages), "folder": str(self.root)}
        script = (
            await asyncio.to_thread(Path(host_facts.__file__).read_text)
            + f"\n\nout = open({str(folder / 'facts.json')!r}, 'w')\n"
        )
        script += f"json.dump(collect({wanted!r}), out)\nout.close()\n"
        await self.files.write(folder / "probe.py", script.encode())
        try:
            return await self._probe(f"ltp-probe-{name}", folder, python or self._python)
        finally:
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    async def _probe(self, job: str, folder: Path, python: str) -> dict[str, Any]:
        entrypoint = shlex.join([python, "-I", str(folder / "probe.py")])
        found = await self._run_job(job, entrypoint)
        content = await self.files.read(folder / "facts.json", 0, 1 << 22)
        if found["status"] != "SUCCEEDED" or content is None:
            message = f"A job of {self.host_id} could not use {folder}: {found.get('message') or found['status']}"
            hint = "The working directory must be the same file system here and on the cluster, and --python an interpreter there."
            raise LtpError(ErrorCode.HOST_UNFIT, message, hint)
        return json.loads(content)

    async def _ensure_local(self) -> None:
        """Start a cluster of one node here, where that was asked for and none answers."""
        if not self.access.start_local:
            return
        try:
            await self.call("GET", "/api/version")
        except LinkDownError:
            await self._start_local()

    async def _start_local(self) -> None:
        where = urlsplit(self.access.address)
        if where.hostname not in {"127.0.0.1", "localhost"}:
            message = f"A local Ray listens on 127.0.0.1, not on {where.hostname}."
            raise LtpError(ErrorCode.HOST_UNFIT, message, "Register it as http://127.0.0.1:PORT.")
        credential = await self._token()
        environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}
        if credential is not None:
            environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": credential.value}
        command = [
            sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--port=0", "--disable-usage-stats",
            "--dashboard-host=127.0.0.1", f"--dashboard-port={where.port or 8265}",
            # The usual ports would meet those of another cluster on this machine.
            *(f"--{name}={_free_port()}" for name in ("dashboard-agent-listen-port", "ray-client-server-port")),
        ]  # fmt: skip
        log = self.root / "ray.log"
        await self.files.write(log, b"")
        with await asyncio.to_thread(log.open, "wb") as output:
            # In a session of its own: what runs in it outlives the runner, and ends with the process in ray.pid.
            process = await asyncio.create_subprocess_exec(
                *command,
                env=environment,
                stdout=output,
                stderr=output,
                stdin=asyncio.subprocess.DEVNULL,
                start_new_session=True,
            )
        await self.files.write(self.root / "ray.pid", str(process.pid).encode())
        deadline = asyncio.get_running_loop().time() + _FACTS_SECONDS
        while asyncio.get_running_loop().time() < deadline and process.returncode is None:
            try:
                await self.call("GET", "/api/version")
                return
            except LinkDownError:
                await asyncio.sleep(0.3)
        said = (await self.files.read(log, 0, 1 << 20) or b"").decode(errors="replace").strip()[-400:]
        message = f"A local Ray could not be started: {said}"
        raise LtpError(ErrorCode.HOST_UNFIT, message, "Install the extra `training`, which brings Ray.")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def joining(spec: LaunchSpec) -> LaunchSpec:
    """The spec of a trainer that takes part in the cluster instead of starting a Ray of its own; on processors it still does.

    verl on a processor asks Ray for a GPU that no cluster of processors has.
    """
    on_gpu = "CUDA_VISIBLE_DEVICES" in spec.env
    if not on_gpu or "RAY_ADDRESS" not in spec.env:
        return spec
    words = tuple(word for word in spec.argv if not word.lstrip("+").startswith(_RAY_INIT))
    # The cluster decides which devices its workers see.
    left = {name: value for name, value in spec.env.items() if name != "CUDA_VISIBLE_DEVICES"}
    return replace(spec, argv=words, env={**left, "RAY_ADDRESS": "auto"})


def _job_of(run_dir: Path) -> str:
    return f"ltp-{run_dir.parent.name}-{run_dir.name}"
