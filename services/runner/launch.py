"""The host-side supervisor of one attempt: it owns the training process, so the runner may restart or lose the network.

One file of standard-library Python (3.9 or later, Linux), because it is copied to hosts that have nothing of ltp.
`launch.py RUN_DIR` starts what RUN_DIR/launch.json says and returns once RUN_DIR/status.json exists.
`launch.py --stay RUN_DIR` does so and stays until the end, for a host (Ray) that takes a command's end for the work's end.
`launch.py --reap RUN_DIR` ends what a launcher that died has left behind.
Exit codes: 0 done, 2 wrong use, 3 this attempt was started before, 4 the training process could not be started, 5 the
disk has no room for a checkpoint, 6 a newer attempt of the run was started.

Beside the process it watches three things and says what it sees in status.json: the metrics (`stalled`: none for longer
than the limit, with a dump of every stack in `stacks/`), the disk (`disk`: warn, alarm, and a pause with a checkpoint while
there is still room for one) and the rollout within a step (`progress`). It is one file, and longer than others for that.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from statistics import median
from typing import Any, TypedDict, cast

HEARTBEAT_SECONDS = 2.0
SAMPLE_SECONDS = 10.0
TERM_SECONDS = 5.0
LOG_BYTES = 64 * 1024 * 1024
SAMPLE_BYTES = 16 * 1024 * 1024
# How long an older attempt may take to end before it is ended by force.
FENCE_SECONDS = 15.0
# The disk's filling is forecast from what happened in so long.
DISK_WINDOW_SECONDS = 600.0
# Disk left beyond what a checkpoint needs, in checkpoints, at which it is said.
DISK_WARN, DISK_ALARM, DISK_PAUSE = 3.0, 2.0, 1.2
DISK_WARN_SECONDS, DISK_ALARM_SECONDS = 3600.0, 600.0
STACK_SIGNAL = signal.SIGUSR1
_MOST_EVIDENCE = 24
# The rest of this process's environment may hold secrets of the platform and stays out of the training process.
PASSED_ON = ("PATH", "HOME", "USER", "LANG", "TMPDIR", "LD_LIBRARY_PATH")
PASSED_ON_PREFIXES = ("LC_", "CUDA_", "NVIDIA_", "NCCL_", "NVSHMEM_", "TORCH_", "GLOO_")
_PR_SET_CHILD_SUBREAPER = 36


class Spec(TypedDict):
    """The content of launch.json."""

    argv: list[str]
    env: dict[str, str]
    cwd: str
    metrics_path: str
    stop_file: str
    time_limit_seconds: float | None
    grace_seconds: float


class Limits(TypedDict):
    """What launch.json may say beside; `DEFAULTS` is what holds where it does not."""

    # No line of metrics for max(stall_seconds, stall_steps x the median step): stalled.
    stall_seconds: float
    stall_steps: float
    # No line of metrics for so long: ended. Left out, a stalled run is only marked.
    hang_seconds: float | None
    # One checkpoint on the disk, all that the run keeps, and what is to stay free beside them.
    checkpoint_bytes: int
    kept_bytes: int
    reserve_bytes: int


DEFAULTS: Limits = {
    "stall_seconds": 600.0, "stall_steps": 5.0, "hang_seconds": None, "checkpoint_bytes": 0, "kept_bytes": 0,
    "reserve_bytes": 256 * 1024 * 1024,
}  # fmt: skip


def limits_of(spec: Spec) -> Limits:
    """The limits of a launch.json, with the defaults in the place of what it leaves out."""
    told = cast("dict[str, Any]", spec)
    return cast("Limits", {**DEFAULTS, **{key: told[key] for key in DEFAULTS if key in told}})


class Refused(Exception):
    """Nothing was started; `exit_code` says which kind of reason."""

    def __init__(self, exit_code: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def now() -> str:
    """The time as RFC 3339, in UTC."""
    return datetime.now(timezone.utc).isoformat()  # noqa: UP017 (Python 3.9)


def write_whole(path: Path, value: dict[str, Any]) -> None:
    """Replace `path` so that a reader, or a machine that lost power, sees the old content or the new one."""
    write_bytes_whole(path, json.dumps(value).encode())


def write_bytes_whole(path: Path, content: bytes) -> None:
    """As `write_whole`, of any content."""
    draft = path.with_name(path.name + ".tmp")
    with draft.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def start_ticks(pid: int) -> int:
    """When the process started, in clock ticks since boot: with the pid it names a process for good."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


def processes(run_dir: Path, root: int, group: int | None) -> set[int]:
    """The living processes of the attempt: below `root`, in `group` or with the attempt's mark, and their children.

    No sign alone is enough: Ray starts sessions of its own, and a program that sets its title overwrites its
    environment.
    """
    mark = b"\0LTP_ATTEMPT=" + os.fsencode(run_dir) + b"\0"
    parents: dict[int, int] = {}
    found: set[int] = set()
    for entry in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):
            state, parent, process_group = Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()[:3]
            if state in "ZX":
                continue
            parents[int(entry)] = int(parent)
            if int(process_group) == group:
                found.add(int(entry))
            if mark in b"\0" + Path("/proc", entry, "environ").read_bytes():
                found.add(int(entry))
    grew = True
    while grew:
        below = {pid for pid, parent in parents.items() if parent == root or parent in found} - found
        found |= below
        grew = bool(below)
    return found - {os.getpid()}


def end_all(members: Callable[[], set[int]], meanwhile: Callable[[], None]) -> None:
    """SIGTERM, five seconds, SIGKILL, and return only when nobody is left."""
    kill_at = time.monotonic() + TERM_SECONDS
    asked: set[int] = set()
    living = members()
    while living:
        hard = time.monotonic() >= kill_at
        for pid in living if hard else living - asked:
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL if hard else signal.SIGTERM)
        asked |= living
        meanwhile()
        time.sleep(0.1)
        living = members()


def append_turning(path: Path, content: bytes, limit: int) -> None:
    """Write at the end of a file, after turning it over to NAME.1 once it is full; raises OSError."""
    if path.exists() and path.stat().st_size + len(content) > limit:
        os.replace(path, path.with_name(path.name + ".1"))
    with path.open("ab") as file:
        file.write(content)


class Log:
    """The training process's output in log.txt and log.txt.1; what a full disk refuses is counted and dropped."""

    def __init__(self, path: Path, limit: int = LOG_BYTES) -> None:
        self.path = path
        self.limit = limit
        self.dropped = 0
        self.progress = Progress()

    def pump(self, source: int) -> None:
        """Copy until every writer has closed; the pipe must always be drained, or training would wait for us."""
        while True:
            chunk = os.read(source, 1 << 16)
            if not chunk:
                return
            self.progress.feed(chunk)
            try:
                self.append(chunk)
            except OSError:
                self.dropped += len(chunk)

    def append(self, chunk: bytes) -> None:
        """As `append_turning`; first of all it is said how much was dropped before."""
        note = f"\n[launcher: the disk refused {self.dropped} bytes of output]\n".encode() if self.dropped else b""
        append_turning(self.path, note + chunk, self.limit)
        self.dropped = 0


class Progress:
    """The rollout within a step, as verl's replay buffer prints it every minute: the metrics come once a step only."""

    _LINE = re.compile(rb"pending: (\d{1,9}), running: (\d{1,9}), finished: (\d{1,9}), failure: (\d{1,9})")
    _LONGEST = 128

    def __init__(self) -> None:
        self.newest: dict[str, Any] | None = None
        self._tail = b""

    def feed(self, chunk: bytes) -> None:
        """Look through a piece of the output, which may begin and end within a line."""
        text = self._tail + chunk
        at = text.rfind(b"pending: ")
        found = self._LINE.match(text, at) if at >= 0 else None
        if found is not None:
            pending, running, finished, failed = map(int, found.groups())
            self.newest = {
                "pending": pending, "running": running, "finished": finished, "failed": failed, "at": now(),
            }  # fmt: skip
        self._tail = text[-self._LONGEST :]


class Arrivals:
    """When the lines of metrics came: what a stall is measured by."""

    def __init__(self, path: Path, at: float) -> None:
        self.path = path
        self.at = at
        self.step: int | None = None
        self._stepped_at = at
        self._size = 0
        self._gaps: deque[float] = deque(maxlen=101)

    def look(self, at: float) -> None:
        """Note what was written since the last look."""
        with suppress(OSError):
            size = self.path.stat().st_size
            if size == self._size:
                return
            self._size, self.at = size, at
            step = _last_step(self.path, size)
            if step is not None and step != self.step:
                # The time to the first step is that of loading, and says nothing about steps.
                if self.step is not None and step > self.step:
                    self._gaps.append((at - self._stepped_at) / (step - self.step))
                self.step, self._stepped_at = step, at

    def median_seconds(self) -> float | None:
        """The median time of a step, once there were two."""
        return median(self._gaps) if self._gaps else None


def _last_step(path: Path, size: int) -> int | None:
    """The step of the last whole line of a file of metrics."""
    with path.open("rb") as file:
        file.seek(max(0, size - (1 << 16)))
        lines = file.read(1 << 16).split(b"\n")
    with suppress(ValueError, KeyError, TypeError, IndexError):
        return int(json.loads(lines[-2])["step"])
    return None


class DiskForecast:
    """What is left of the run's disk, how long it lasts at the pace of the last minutes, and what that calls for."""

    def __init__(self, limits: Limits) -> None:
        self.need = limits["checkpoint_bytes"]
        self.kept = limits["kept_bytes"]
        self.reserve = limits["reserve_bytes"]
        self._seen: deque[tuple[float, int]] = deque()

    def start(self, free: int) -> str | None:
        """Why a run may not even begin: its first checkpoint would not fit."""
        least = int(self.need * DISK_PAUSE) + self.reserve
        if free >= least:
            return None
        return (
            f"the disk has {_size(free)} free, and a checkpoint takes about {_size(self.need)}: {_size(least)} must be "
            "free, the reserve included"
        )

    def look(self, at: float, free: int) -> dict[str, Any]:
        """`level` is ok, warn, alarm or pause; the other entries are its evidence."""
        self._seen.append((at, free))
        while self._seen[0][0] < at - DISK_WINDOW_SECONDS:
            self._seen.popleft()
        first_at, first_free = self._seen[0]
        pace = max(0.0, (first_free - free) / (at - first_at)) if at > first_at else 0.0
        room = free - self.reserve
        # Checkpoints come in bursts, so that a pace of a few samples forecasts nothing.
        known = pace > 0 and at - first_at >= DISK_WINDOW_SECONDS / 10
        lasts = max(0.0, room - self.need) / pace if known else None
        level = "ok"
        if room < self.need * DISK_WARN or (lasts is not None and lasts < DISK_WARN_SECONDS) or room < self.kept:
            level = "warn"
        if room < self.need * DISK_ALARM or (lasts is not None and lasts < DISK_ALARM_SECONDS):
            level = "alarm"
        if room < self.need * DISK_PAUSE:
            level = "pause"
        return {
            "level": level, "free_bytes": free, "checkpoint_bytes": self.need, "kept_bytes": self.kept,
            "reserve_bytes": self.reserve, "bytes_per_second": round(pace), "full_in_seconds": lasts and round(lasts),
        }  # fmt: skip


def _size(count: float) -> str:
    return f"{count / 2**30:.2f} GiB"


class Supervisor:
    """Starts the training process, watches it to its end, and leaves nothing of it behind."""

    def __init__(self, run_dir: Path, spec: Spec) -> None:
        self.run_dir = run_dir
        self.spec = spec
        self.stop_file = Path(spec["stop_file"])
        self.limits = limits_of(spec)
        self.ended = threading.Event()
        self.beat_at = 0.0
        self.log = Log(run_dir / "log.txt")
        self.disk = DiskForecast(self.limits)
        self.disk_at = 0.0
        # The host that shuts down asked for the end, and nobody of ours.
        self.preempted = False

    def start(self) -> None:
        """Start the training process and say so in status.json; raises OSError when either cannot be done."""
        (self.run_dir / "stacks").mkdir(exist_ok=True)
        self.oom_kills = oom_kills()
        # Through a pipe, so that a full disk never reaches the training process's print.
        reader, writer = os.pipe()
        command = self.spec["argv"]
        self.child = subprocess.Popen(
            command, cwd=self.spec["cwd"], env=self._environment(), start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=writer, stderr=writer,
        )  # fmt: skip
        os.close(writer)
        self.pump = threading.Thread(target=self.log.pump, args=(reader,), daemon=True)
        self.pump.start()
        with suppress(OSError):
            # When memory runs out the kernel should take the training process, not this one or the database.
            Path(f"/proc/{self.child.pid}/oom_score_adj").write_text("500")
        me = os.getpid()
        self.status: dict[str, Any] = {
            "launcher_pid": me, "launcher_start_ticks": start_ticks(me), "pid": self.child.pid, "pgid": self.child.pid,
            "state": "running", "started_at": now(), "heartbeat_at": now(), "exit_code": None, "signal": None,
            "ended_at": None, "reason": None, "stalled": None, "disk": None, "progress": None, "oom_kills": 0,
        }  # fmt: skip
        self.arrivals = Arrivals(Path(self.spec["metrics_path"]), time.monotonic())
        try:
            write_whole(self.run_dir / "status.json", self.status)
        except OSError:
            end_all(self.members, lambda: None)
            raise

    def _environment(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if k in PASSED_ON or k.startswith(PASSED_ON_PREFIXES)}
        own = {"LTP_ATTEMPT": str(self.run_dir), "LTP_STOP_FILE": str(self.stop_file)}
        return {**kept, **self.spec["env"], **own}

    def members(self) -> set[int]:
        """The living processes of this attempt."""
        self.child.poll()
        return processes(self.run_dir, os.getpid(), self.child.pid)

    def watch(self) -> None:
        """Stay until the training process and all it started are gone and status.json says so."""
        threading.Thread(target=self._sample, daemon=True).start()
        limit = self.spec["time_limit_seconds"]
        stop_at = float("inf") if limit is None else time.monotonic() + limit
        while self.child.poll() is None:
            if time.monotonic() >= stop_at and self.status["reason"] is None:
                self.status["reason"] = "time_limit"
                self.ask_to_stop()
            if (self.run_dir / "kill").exists() or time.monotonic() >= stop_at + self.spec["grace_seconds"]:
                break
            if self._hangs():
                self.status["reason"] = "hung"
                break
            self._watch_disk()
            self._beat()
            time.sleep(0.1)
        self.ended.set()
        end_all(self.members, self._beat)
        self.pump.join(timeout=TERM_SECONDS)
        self._conclude(self.child.wait())

    def _hangs(self) -> bool:
        """Mark the run stalled, with its stacks, while no metrics come; whether it is to be ended for that."""
        at = time.monotonic()
        self.arrivals.look(at)
        silent, step = at - self.arrivals.at, self.arrivals.median_seconds()
        limit, hang = max(self.limits["stall_seconds"], self.limits["stall_steps"] * (step or 0.0)), self._hang_limit()
        limit = min(limit, hang)
        if silent < limit:
            self.status["stalled"] = None
        elif self.status["stalled"] is None:
            self.status["stalled"] = {
                "since": now(), "limit_seconds": limit, "median_step_seconds": step, "last_step": self.arrivals.step,
                "evidence": [f"no line of metrics for {silent:.0f} s", *dump_stacks(self.run_dir, self.members())],
            }  # fmt: skip
            self.beat_at = 0.0
        return silent >= hang

    def _hang_limit(self) -> float:
        """After how long without metrics the run is ended. Loading may take longer than any step."""
        hang = self.limits["hang_seconds"]
        if hang is None:
            return float("inf")
        return hang if self.arrivals.step is not None else max(hang, self.limits["stall_seconds"])

    def _watch_disk(self) -> None:
        """Say how long the disk lasts, and pause while there is still room for the checkpoint of the pause."""
        if time.monotonic() < self.disk_at:
            return
        self.disk_at = time.monotonic() + HEARTBEAT_SECONDS
        with suppress(OSError):
            self.status["disk"] = self.disk.look(time.monotonic(), shutil.disk_usage(self.run_dir).free)
            if self.status["disk"]["level"] == "pause" and self.status["reason"] is None:
                self.status["reason"] = "disk_full"
                self.ask_to_stop()

    def ask_to_stop(self) -> None:
        """Create the stop file; on a full disk the kill after the grace still ends the attempt."""
        with suppress(OSError):
            self.stop_file.touch()

    def _conclude(self, code: int) -> None:
        if self.status["reason"] is None and self.preempted:
            self.status["reason"] = "preempted"
        if self.status["reason"] is None and (self.stop_file.exists() or (self.run_dir / "kill").exists()):
            self.status["reason"] = "stopped"
        outcome = {"exit_code": code} if code >= 0 else {"signal": -code}
        outcome["oom_kills"] = max(0, oom_kills() - self.oom_kills)
        self.status.update(outcome, state="exited", ended_at=now())
        while not self._written():
            time.sleep(HEARTBEAT_SECONDS)

    def _beat(self) -> None:
        if time.monotonic() >= self.beat_at:
            self.beat_at = time.monotonic() + HEARTBEAT_SECONDS
            self._written()

    def _written(self) -> bool:
        self.status.update(heartbeat_at=now(), progress=self.log.progress.newest)
        try:
            write_whole(self.run_dir / "status.json", self.status)
        except OSError:
            return False
        return True

    def _sample(self) -> None:
        pause = 0.0
        while not self.ended.wait(pause):
            pause = SAMPLE_SECONDS
            with suppress(OSError):
                free = shutil.disk_usage(self.run_dir).free
                sample = {"at": now(), **host_sample(self.members()), "disk_free_bytes": free, "gpus": gpu_samples()}
                append_turning(self.run_dir / "samples.jsonl", json.dumps(sample).encode() + b"\n", SAMPLE_BYTES)


def host_sample(members: set[int]) -> dict[str, int]:
    """Memory of the process tree, shared pages counted once, and what the host has left."""
    memory = 0
    for pid in members:
        with suppress(OSError, StopIteration):
            memory += _kibibytes(Path(f"/proc/{pid}/smaps_rollup"), "Pss:")
    available = _kibibytes(Path("/proc/meminfo"), "MemAvailable:")
    total = _kibibytes(Path("/proc/meminfo"), "MemTotal:")
    with suppress(OSError, ValueError):
        # A container's own limit, where it is the narrower one: "max" is none.
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
        total, available = min(total, limit), min(available, max(0, limit - used))
    return {
        "memory_bytes": memory, "processes": len(members), "host_available_bytes": available, "host_total_bytes": total,
    }  # fmt: skip


def _kibibytes(path: Path, key: str) -> int:
    return 1024 * next(int(line.split()[1]) for line in path.read_text().splitlines() if line.startswith(key))


def oom_kills() -> int:
    """How many processes the kernel has ended for memory since it started."""
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/vmstat").read_text().splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("oom_kill ")))
    return 0


def dump_stacks(run_dir: Path, members: set[int]) -> list[str]:
    """What each process of the run is doing, in lines; those of ours write all their stacks to stacks/PID.txt.

    Only a process that made that file and catches the signal is sent it: it would be the end of any other.
    """
    asked: dict[Path, int] = {}
    for pid in members:
        place = run_dir / "stacks" / f"{pid}.txt"
        with suppress(OSError):
            before = place.stat().st_size
            if _catches(pid, STACK_SIGNAL):
                os.kill(pid, STACK_SIGNAL)
                asked[place] = before
    until = time.monotonic() + 2.0
    while time.monotonic() < until and any(_grew(place) <= before for place, before in asked.items()):
        time.sleep(0.05)
    lines: list[str] = []
    for pid in sorted(members):
        place = run_dir / "stacks" / f"{pid}.txt"
        with suppress(OSError, ValueError, IndexError):
            stat = Path(f"/proc/{pid}/stat").read_text()
            name, state = stat[stat.index("(") + 1 : stat.rindex(")")], stat.rpartition(")")[2].split()[0]
            told = _innermost(place, asked[place]) if place in asked else []
            told = told or ([f"state {state}: stopped by a signal"] if state in "Tt" else [])
            if told:
                lines += [f"process {pid} ({name}), state {state}:", *told]
    return lines[:_MOST_EVIDENCE]


def _catches(pid: int, number: int) -> bool:
    """Whether the process has a handler for a signal."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("SigCgt:"):
            return bool(int(line.split()[1], 16) >> (number - 1) & 1)
    return False


def _grew(place: Path) -> int:
    try:
        return place.stat().st_size
    except OSError:
        return 1 << 62


def _innermost(place: Path, offset: int) -> list[str]:
    """The innermost frames of the main thread in a dump that begins at `offset`."""
    with place.open("rb") as file:
        file.seek(offset)
        lines = file.read(1 << 18).decode(errors="replace").splitlines()
    # The signal is handled in the main thread, which is therefore the current one.
    at = next((i for i, line in enumerate(lines) if line.startswith("Current thread")), None)
    return [] if at is None else [line.strip()[:200] for line in lines[at + 1 : at + 5] if line.startswith("  ")]


def gpu_samples() -> list[dict[str, float | None]]:
    """One entry per GPU of the host, or none where nvidia-smi is missing or hangs."""
    query = ["nvidia-smi", "--query-gpu=index,utilization.gpu,memory.used,power.draw", "--format=csv,noheader,nounits"]
    try:
        output = subprocess.run(query, capture_output=True, text=True, timeout=5, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [[_number(cell) for cell in line.split(",")] for line in output.splitlines()]
    return [
        {
            "index": index,
            "utilization": busy and busy / 100,
            "memory_bytes": used and used * 1024 * 1024,
            "power_watts": power,
        }
        for index, busy, used, power in rows
    ]


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None  # "[N/A]": not every GPU reports everything


def read_spec(run_dir: Path) -> Spec:
    """The validated content of launch.json."""
    try:
        spec = json.loads((run_dir / "launch.json").read_text())
    except (OSError, ValueError) as error:
        raise Refused(2, f"{run_dir}/launch.json cannot be read: {error}") from error
    missing = Spec.__annotations__.keys() - spec.keys()
    if missing:
        raise Refused(2, f"{run_dir}/launch.json lacks {', '.join(sorted(missing))}")
    return cast("Spec", spec)


def refuse_without_room(run_dir: Path, spec: Spec) -> None:
    """A run that cannot save even once would lose all it learns."""
    why = DiskForecast(limits_of(spec)).start(shutil.disk_usage(run_dir).free)
    if why is not None:
        raise Refused(5, f"{run_dir}: {why}; nothing was started")


def fence_older(run_dir: Path) -> None:
    """End what an earlier attempt of the run has left running here; refuse to start when a later one was started."""
    run, _, number = run_dir.name.rpartition("-")
    if run != "attempt" or not number.isdigit():
        return
    for sibling in run_dir.parent.glob("attempt-*"):
        other = sibling.name.rpartition("-")[2]
        if not other.isdigit() or not (sibling / "status.json").exists():
            continue
        if int(other) > int(number):
            raise Refused(6, f"attempt {other} of the run was started after this one; nothing was started")
        if int(other) < int(number):
            _end_attempt(sibling)


def _end_attempt(run_dir: Path) -> None:
    """Have an attempt ended by its launcher, or in its place; returns when nothing of it runs."""
    with suppress(OSError, ValueError, KeyError):
        if json.loads((run_dir / "status.json").read_text())["state"] == "exited" and not processes(run_dir, -1, None):
            return
    (run_dir / "kill").touch()
    deadline = time.monotonic() + FENCE_SECONDS
    while time.monotonic() < deadline:
        try:
            lock = take_lock(run_dir)
        except Refused:
            time.sleep(0.1)
            continue
        os.close(lock)
        break
    else:
        # Its launcher is alive and does not react: it was stopped, or hangs on its disk.
        status = json.loads((run_dir / "status.json").read_text())
        with suppress(OSError):
            if start_ticks(status["launcher_pid"]) == status["launcher_start_ticks"]:
                os.kill(status["launcher_pid"], signal.SIGKILL)
    reap(run_dir, wait=True)


def take_lock(run_dir: Path) -> int:
    """Hold the directory for this process and its forks, for as long as they live."""
    lock = os.open(run_dir / "lock", os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise Refused(3, f"another launcher holds {run_dir}; nothing was started") from error
    return lock


def refuse_second_start(run_dir: Path) -> None:
    """An attempt starts once: a retry is a new attempt with a directory of its own."""
    if (run_dir / "status.json").exists():
        raise Refused(3, f"the attempt in {run_dir} was started before; nothing was started")
    left = processes(run_dir, -1, None)
    if left:
        raise Refused(3, f"processes of {run_dir} still run ({sorted(left)}); nothing was started")


def _admitted(run_dir: Path) -> Spec:
    """The spec of an attempt that may start, its directory locked for this process."""
    spec = read_spec(run_dir)
    take_lock(run_dir)
    refuse_second_start(run_dir)
    fence_older(run_dir)
    refuse_without_room(run_dir, spec)
    return spec


def launch(run_dir: Path) -> None:
    """Check, detach and supervise; in the calling process returns once the training process runs."""
    spec = _admitted(run_dir)
    reader, writer = os.pipe()
    child = os.fork()
    if child:
        os.close(writer)
        os.waitpid(child, 0)
        with os.fdopen(reader) as answer:
            message = answer.read()
        if message != "started":
            raise Refused(4, message or "the launcher died before it could start anything")
        return
    _detach(run_dir)
    _supervise(run_dir, spec, writer)


def stay(run_dir: Path) -> None:
    """As `launch`, in this process."""
    spec = _admitted(run_dir)
    _adopt_orphans()
    _supervise(run_dir, spec, os.open(os.devnull, os.O_WRONLY))


def _detach(run_dir: Path) -> None:
    os.setsid()
    if os.fork():
        os._exit(0)
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    try:
        own_log = os.open(run_dir / "launcher.log", os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)
    except OSError:
        own_log = null
    for number, target in enumerate((null, own_log, own_log)):
        os.dup2(target, number)
    _adopt_orphans()


def _adopt_orphans() -> None:
    """Orphans of the training process become our children, where they can be found and ended."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _supervise(run_dir: Path, spec: Spec, answer: int) -> None:
    supervisor = Supervisor(run_dir, spec)

    def leave_in_peace(number: int, frame: object) -> None:
        supervisor.preempted = True
        supervisor.ask_to_stop()

    # A host that shuts down says SIGTERM; there may be time for a checkpoint.
    signal.signal(signal.SIGTERM, leave_in_peace)
    try:
        supervisor.start()
    except OSError as error:
        message = f"cannot start {spec['argv'][0]} in {spec['cwd']}: {error}"
        os.write(answer, message.encode())
        print(message, file=sys.stderr, flush=True)
        os._exit(4)
    os.write(answer, b"started")
    os.close(answer)
    supervisor.watch()
    os._exit(0)


def reap(run_dir: Path, *, wait: bool = False) -> None:
    """End the processes of an attempt whose launcher is gone, and close its status."""
    while True:
        try:
            lock = take_lock(run_dir)
            break
        except Refused:
            if not wait:
                raise
            time.sleep(0.1)
    try:
        end_all(lambda: processes(run_dir, -1, None), lambda: None)
        status = json.loads((run_dir / "status.json").read_text())
        if status["state"] == "running":
            write_whole(run_dir / "status.json", {**status, "state": "exited", "ended_at": now(), "reason": "stopped"})
    finally:
        os.close(lock)


def main(arguments: list[str]) -> int:
    """Run as a command; see the module's docstring."""
    action = {"--reap": reap, "--stay": stay}.get(arguments[0] if arguments else "", launch)
    operands = arguments if action is launch else arguments[1:]
    if len(operands) != 1:
        print("usage: launch.py [--reap | --stay] RUN_DIR", file=sys.stderr)
        return 2
    try:
        action(Path(operands[0]).resolve())
    except Refused as refusal:
        print(refusal, file=sys.stderr)
        return refusal.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
