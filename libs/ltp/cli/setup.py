"""`ltp setup` and `ltp verify`: environments made from the locks, here or on a host, and compared with them."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from ltp import locks
from ltp.cli import host_access
from ltp.cli.client import Gateway
from ltp.cli.output import DataDirOption, DryRunOption, JsonOption, reported, rows_table, show
from ltp.core.errors import ErrorCode, LtpError

app = typer.Typer(no_args_is_help=True, help="Install what a machine needs, from the lock of its role.")

_EXTRAS = {
    "manager": "gateway,planner,scheduler,runner,dataset,evaluator,embedded",
    "training": "training",
    "gpu": "gpu",
}
# `ltp verify` in a checkout: what the environment was made for is seen by what it has.
_PROBE = "import importlib.metadata as m, json, sys; print(json.dumps({d.metadata['Name']: d.version for d in m.distributions()}))"
_SETUP_SECONDS = 4 * 3600.0

VenvOption = Annotated[Path, typer.Option("--venv", help="Where the environment is made.")]
BundleOption = Annotated[
    Path | None, typer.Option("--bundle", help="Folder made by `ltp setup bundle`: nothing is downloaded.")
]


@app.command()
def manager(
    venv: VenvOption = Path(".venv"),
    bundle: BundleOption = None,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
) -> None:
    """Install the platform itself: services and CLI, no torch. Linux, and macOS on Apple Silicon."""
    _install("manager", venv, bundle, dry_run, json)


@app.command()
def training(
    venv: VenvOption = Path(".venv-training"),
    gpu: Annotated[bool, typer.Option("--gpu/--cpu", help="Left out: as nvidia-smi says.")] = shutil.which("nvidia-smi")
    is not None,
    bundle: BundleOption = None,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
) -> None:
    """Install verl and what it needs on this machine; LTP_RUNNER_PYTHON then names its interpreter."""
    with reported():
        if sys.platform == "darwin":
            message = "macOS is a manager node: verl has no platform for Apple's GPUs."
            raise LtpError(
                ErrorCode.INVALID_REQUEST, message, "`ltp setup manager` here, and `ltp host add` for a GPU server."
            )
    _install("gpu" if gpu else "training", venv, bundle, dry_run, json)


@app.command()
def bundle(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Where the wheels go.")],
    role: Annotated[str, typer.Option(help="manager, training or gpu.")] = "training",
    dry_run: DryRunOption = False,
    json: JsonOption = False,
) -> None:
    """Download a role's packages, to install them where there is no network. Run it on a machine of the same kind."""
    with reported():
        lock = _lock_file(role)
        steps = [[sys.executable, "-m", "pip", "download", "-q", "-r", str(lock), "-d", str(folder / "wheels")]]
        if role == "manager" and (root := _checkout()):
            steps.append(
                [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", str(root), "-w", str(folder / "wheels")]
            )
        _carry_out(steps, dry_run)
        if not dry_run:
            for path in (lock, locks.FOLDER / "versions.json"):
                shutil.copy(path, folder / path.name)
        show(
            {"role": role, "folder": str(folder), "steps": steps},
            json,
            lambda: f"{folder} holds what a {role} machine needs",
        )


@app.command()
def host(
    where: Annotated[
        str, typer.Argument(metavar="[USER@]SERVER[:PORT] | HOST", help="A server, or a registered host.")
    ],
    name: Annotated[str | None, typer.Option(help="Under which a new host is registered; else its address.")] = None,
    key: Annotated[Path | None, typer.Option("--key", help="File of the private key.")] = None,
    password_file: Annotated[
        Path | None, typer.Option(help="File with the password; `-`: standard input.", allow_dash=True)
    ] = None,
    work_dir: Annotated[str, typer.Option(help="All that is written on the host lies below it.")] = "~/ltp",
    fingerprint: Annotated[str | None, typer.Option(help="SHA256:... of the key it must show.")] = None,
    role: Annotated[str | None, typer.Option(help="training or gpu. Left out: as the host's nvidia-smi says.")] = None,
    bundle: Annotated[
        Path | None, typer.Option(help="Folder made by `ltp setup bundle`, on the machine of the platform.")
    ] = None,
    dry_run: DryRunOption = False,
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """Make a server ready to train: register it, push the code, install the lock into WORK_DIR/env, and compare."""
    with reported():
        gateway = Gateway.find(data_dir)
        host_id = name or where.rpartition("@")[2].partition(":")[0]
        if "@" in where:
            body: dict[str, Any] = {"host_id": host_id, "work_dir": work_dir, "host_key": fingerprint, "replace": True}
            body |= host_access.place("ssh", where, None, None, None)
            body |= host_access.secret(key, password_file, None, None, ask=key is None and password_file is None)
            gateway.post("/hosts", json=body, params={"dry_run": dry_run})
            _until_registered(gateway, host_id, dry_run)
        request = {"role": role, "bundle": None if bundle is None else str(bundle.absolute()), "dry_run": dry_run}
        report = (
            {"checks": [], "ok": True, "state": "done"}
            if dry_run and "@" in where
            else gateway.post(f"/hosts/{host_id}/setup", json=request)
        )
        report = host_access.follow(gateway, host_id, report, json, _SETUP_SECONDS)
        show(report, json, lambda: f"{host_id} {'is ready' if report['ok'] else 'is not ready'}")
        if not report["ok"]:
            raise typer.Exit(1)


def _until_registered(gateway: Gateway, host_id: str, dry_run: bool) -> None:
    """The runner hears of a new host within a moment."""
    deadline = time.monotonic() + 30
    while not dry_run:
        try:
            gateway.get(f"/hosts/{host_id}")
            return
        except LtpError as error:
            if error.code is not ErrorCode.NOT_FOUND or time.monotonic() > deadline:
                raise
        time.sleep(0.2)


def verify(
    role: Annotated[str | None, typer.Option(help="manager, training or gpu. Left out: by what is installed.")] = None,
    host: Annotated[str | None, typer.Option("--host", help="A registered host instead of this machine.")] = None,
    python: Annotated[Path | None, typer.Option(help="Interpreter of another environment of this machine.")] = None,
    data_dir: DataDirOption = None,
    json: JsonOption = False,
) -> None:
    """Compare an environment with the lock of its role; exit code 1 when it differs."""
    with reported():
        if host is not None:
            found = Gateway.find(data_dir).get(f"/hosts/{host}/verify", role=role)
        else:
            found = compared(_installed(python), role)
        differences = found["differences"]
        rows = [(d["name"], d["found"] or "missing", d["wanted"]) for d in differences]
        told = f"{found['role']}: {found['packages']} packages as in the lock" if not rows else None
        show(found, json, lambda: told or rows_table(("PACKAGE", "FOUND", f"LOCK {found['role']}"), rows))
        if differences:
            raise typer.Exit(1)


def compared(installed: dict[str, str], role: str | None) -> dict[str, Any]:
    """How packages differ from a role's lock: those with another version, and those that are not there."""
    if role is None:
        role = "gpu" if "vllm" in installed else "training" if "verl" in installed else "manager"
    lock = locks.read(_known(role))
    differences = [vars(d) for d in locks.compare(lock, installed)]
    digest = locks.versions()["roles"][role]["digest"]
    return {"role": role, "digest": digest, "packages": len(lock), "differences": differences}


def _installed(python: Path | None) -> dict[str, str]:
    import importlib.metadata
    import json as json_format

    if python is None:
        found = {d.metadata["Name"]: d.version for d in importlib.metadata.distributions()}
    else:
        done = _run([str(python), "-I", "-c", _PROBE])
        if done.returncode != 0:
            message = f"{python} cannot be used: {done.stderr.strip()[-300:]}"
            raise LtpError(ErrorCode.INVALID_REQUEST, message, "Name an interpreter.")
        found = json_format.loads(done.stdout)
    return {locks.canonical(name): version for name, version in found.items() if name}


def _known(role: str) -> str:
    if role not in locks.ROLES:
        raise LtpError(ErrorCode.INVALID_REQUEST, f"There is no role {role!r}.", f"One of {', '.join(locks.ROLES)}.")
    return role


def _lock_file(role: str) -> Path:
    return locks.FOLDER / f"{_known(role)}.txt"


def _checkout() -> Path | None:
    """The folder of the source, where this is not an installed package."""
    root = locks.FOLDER.parents[2]
    return root if (root / "pyproject.toml").exists() else None


def _install(role: str, venv: Path, bundle: Path | None, dry_run: bool, json: bool) -> None:
    with reported():
        if sys.platform == "darwin" and platform.machine() != "arm64":
            raise LtpError(ErrorCode.INVALID_REQUEST, "Of macOS only Apple Silicon is supported.", "Use Linux.")
        if sys.version_info[:2] not in ((3, 11), (3, 12)):
            found = ".".join(map(str, sys.version_info[:2]))
            raise LtpError(
                ErrorCode.INVALID_REQUEST,
                f"This is Python {found}; verl needs less than 3.13.",
                "Use Python 3.11 or 3.12.",
            )
        offline = [] if bundle is None else ["--no-index", "--find-links", str(bundle / "wheels")]
        root = _checkout()
        what = ["-e", f"{root}[{_EXTRAS[role]}]"] if root else [f"ltp[{_EXTRAS[role]}]"]
        pip = [str(venv / "bin" / "python"), "-m", "pip", "install", "-q", "--disable-pip-version-check", *offline]
        steps = [
            [sys.executable, "-m", "venv", str(venv)],
            [*pip, "-r", str(_lock_file(role))],
            # A training environment needs nothing of the platform: its code is pushed with each run.
            *([[*pip, "-c", str(_lock_file(role)), *what]] if role == "manager" else []),
        ]
        _carry_out(steps, dry_run)
        value = {"role": role, "venv": str(venv), "steps": steps}
        show(
            value,
            json,
            lambda: "\n".join(" ".join(step) for step in steps) if dry_run else f"{venv} is as the lock `{role}` says",
        )


def _carry_out(steps: list[list[str]], dry_run: bool) -> None:
    for step in [] if dry_run else steps:
        done = _run(step)
        if done.returncode != 0:
            message = f"{' '.join(step[:6])} ... ended with {done.returncode}: {done.stderr.strip()[-600:]}"
            raise LtpError(ErrorCode.DEPENDENCY_MISSING, message, "Without a network give --bundle; see docs/hosts.md.")


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise LtpError(
            ErrorCode.INVALID_REQUEST, f"{command[0]} cannot be run: {error.strerror}.", "Name an interpreter."
        ) from error
