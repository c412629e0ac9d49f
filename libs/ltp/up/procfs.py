"""What /proc says about processes, so that a recorded pid is trusted only while it is still the same process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
LISTEN = "0A"  # the TCP state in /proc/net/tcp


@dataclass(frozen=True)
class ProcessStat:
    """The fields of /proc/PID/stat used here; `start_ticks` makes a reused pid distinguishable."""

    pid: int
    name: str
    state: str
    session: int
    start_ticks: int


def stat(pid: int) -> ProcessStat | None:
    """Read one process, or None when it does not exist or has only its exit status left."""
    try:
        text = (PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    head, _, tail = text.rpartition(")")  # the name may itself contain parentheses
    fields = tail.split()
    if fields[0] in "ZX":
        return None
    return ProcessStat(pid, head.partition("(")[2], fields[0], int(fields[3]), int(fields[19]))


def is_alive(pid: int | None, start_ticks: int | None) -> bool:
    """Tell whether the very process recorded as (pid, start_ticks) still runs."""
    found = stat(pid) if pid else None
    return found is not None and found.start_ticks == start_ticks


def start_ticks(pid: int) -> int | None:
    """Return when the process started, in clock ticks since boot."""
    found = stat(pid)
    return found.start_ticks if found else None


def processes() -> Iterator[ProcessStat]:
    """Yield every process visible from here."""
    for entry in os.scandir(PROC):
        if entry.name.isdigit() and (found := stat(int(entry.name))):
            yield found


def command_line(pid: int) -> list[str]:
    """Return the argument vector of a process, empty when it is gone."""
    try:
        raw = (PROC / str(pid) / "cmdline").read_bytes()
    except OSError:
        return []
    return [part.decode(errors="replace") for part in raw.split(b"\0") if part]


def working_directory(pid: int) -> str | None:
    """Return the working directory; None when not visible (root without CAP_SYS_PTRACE, as in Docker)."""
    try:
        return str((PROC / str(pid) / "cwd").readlink())
    except OSError:
        return None


def has_environment(pid: int, entry: str) -> bool:
    """Tell whether the process was started with `entry` ("NAME=value") in its environment."""
    try:
        return entry.encode() in (PROC / str(pid) / "environ").read_bytes().split(b"\0")
    except OSError:
        return False


def port_holder(port: int) -> ProcessStat | None:
    """Find the process that listens on a TCP port, where the user may see its open files."""
    targets = {f"socket:[{inode}]" for inode in _listening_inodes(port)}
    for process in processes() if targets else ():
        try:
            descriptors = list(os.scandir(PROC / str(process.pid) / "fd"))
        except OSError:
            continue
        if any(_link(entry.path) in targets for entry in descriptors):
            return process
    return None


def _listening_inodes(port: int) -> set[str]:
    inodes: set[str] = set()
    for table in ("tcp", "tcp6"):
        try:
            rows = (PROC / "net" / table).read_text().splitlines()[1:]
        except OSError:
            continue
        for fields in map(str.split, rows):
            if fields[3] == LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                inodes.add(fields[9])
    return inodes


def _link(path: str) -> str:
    try:
        return str(Path(path).readlink())
    except OSError:
        return ""
