"""What a machine has: memory, disk, GPUs, driver, and the packages of a Python environment, as one JSON object.

One file of standard-library Python (3.9 or later), because it is sent to hosts that have nothing of ltp: the runner
appends `main(WANTED)` and feeds it to the interpreter of the training environment, `python -I -`. It imports none of the
packages it reports: importing torch takes seconds, and a broken one would take the report with it.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import socket
import ssl
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

_GPU_QUERY = ("--query-gpu=index,name,memory.total,memory.free,driver_version", "--format=csv,noheader,nounits")
_SECONDS = 10


def collect(wanted: dict[str, Any]) -> dict[str, Any]:
    """Everything, or what of it `wanted` asks for: `packages`, `folder`, `hub`."""
    began = time.time()
    found: dict[str, Any] = {
        "machine": platform.machine(),
        "system": platform.system(),
        "processor": platform.processor() or platform.machine(),
        "hostname": socket.gethostname(),
        "machine_id": _text("/etc/machine-id"),
        "python": ".".join(map(str, sys.version_info[:3])),
        "executable": sys.executable,
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": memory_bytes(),
        "gpus": gpu_table(),
        "flash_attention": importlib.util.find_spec("flash_attn") is not None,
        "packages": {name: _version(name) for name in wanted.get("packages", ())},
        "torch_cuda": _torch_cuda(),
    }
    if wanted.get("folder"):
        found["folder"] = folder_facts(Path(wanted["folder"]).expanduser())
    if wanted.get("hub"):
        found["hub"] = reachable(wanted["hub"])
    # The middle of our doing: whoever asks compares it with the middle of the asking.
    return {**found, "at": (began + time.time()) / 2}


def memory_bytes() -> int:
    """Memory a process may use: the machine's, or the control group's if that is less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):
            return min(total, int(Path(limit).read_text()))
    return total


def gpu_table() -> str:
    """nvidia-smi's table of index, name, MiB in all, MiB free, driver; empty where there is none."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ""
    with suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(
            [program, *_GPU_QUERY], capture_output=True, text=True, timeout=_SECONDS, check=True
        ).stdout
    return ""


def folder_facts(folder: Path) -> dict[str, Any]:
    """Where a working directory really lies, whether it can be written, what its disk has, and which links lead out of it."""
    found: dict[str, Any] = {"path": str(folder), "real": str(folder.resolve())}
    links = [name for name in ("runs", "cache", "code", "env") if (folder / name).is_symlink()]
    found["escapes"] = [name for name in links if not _below((folder / name).resolve(), folder.resolve())]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".ltp-probe-{os.getpid()}"
        probe.write_bytes(b"\0" * 65536)
        probe.unlink()
        usage = shutil.disk_usage(folder)
        found.update(free_bytes=usage.free, total_bytes=usage.total, problem=None)
    except OSError as error:
        found["problem"] = f"{type(error).__name__}: {error}"
    return found


def _below(path: Path, folder: Path) -> bool:
    return folder == path or folder in path.parents


def reachable(url: str) -> str | None:
    """None when a TLS (or plain) connection to the hub stands, else why not."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        with socket.create_connection((parts.hostname or "", port), timeout=_SECONDS) as raw:
            if parts.scheme == "https":
                ssl.create_default_context().wrap_socket(raw, server_hostname=parts.hostname).close()
    except (OSError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _torch_cuda() -> str | None:
    """The CUDA that torch was built for, read from its version file."""
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        return None
    for line in _text(str(Path(spec.submodule_search_locations[0]) / "version.py")).splitlines():
        name, _, value = line.partition("=")
        if name.split(":")[0].strip() == "cuda":
            return value.strip().strip("'\"") if value.strip() != "None" else None
    return None


def _text(path: str) -> str:
    with suppress(OSError):
        return Path(path).read_text().strip()
    return ""


def main(wanted: dict[str, Any]) -> None:
    """Print the object on a line of its own, marked, so that what a login shell says before does no harm."""
    print("\nLTP-FACTS " + json.dumps(collect(wanted)))
