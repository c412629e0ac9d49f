"""The host-side supervisor of one attempt: it owns the training process, so the runner may restart or lose the network.

One file of standard-library Python (3.9 or later, Linux), because it is copied to hosts that have nothing of ltp.
`launch.py RUN_DIR` starts what RUN_DIR/launch.json says and returns once RUN_DIR/status.json exists.
`launch.py --stay RUN_DIR` does so and stays until the end, for a host (Ray) that takes a command's end for the work's end.
`launch.py --reap RUN_DIR` ends what a launcher that died has left behind.
Exit codes: 0 done, 2 wrong use, 3 this attempt was started before, 4 the training process could not be started.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypedDict

HEARTBEAT_SECONDS = 2.0
SAMPLE_SECONDS = 10.0
TERM_SECONDS = 5.0
LOG_BYTES = 64 * 1024 * 1024
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


class Log:
    """The training process's output in log.txt and log.txt.1; what a full disk refuses is counted and dropped."""

    def __init__(self, path: Path, limit: int = LOG_BYTES) -> None:
        self.path = path
        self.limit = limit
        self.dropped = 0

    def pump(self, source: int) -> None:
        """Copy until every writer has closed; the pipe must always be drained, or training would wait for us."""
        while True:
            chunk = os.read(source, 1 << 16)
            if not chunk:
                return
            try:
                self.append(chunk)
            except OSError:
                self.dropped += len(chunk)

    def append(self, chunk: bytes) -> None:
        """Write at the end, after turning the file over once it is full."""
        if self.path.exists() and self.path.stat().st_size + len(chunk) > self.limit:
            os.replace(self.path, self.path.with_name(self.path.name + ".1"))
        with self.path.open("ab") as file:
            if self.dropped:
                file.write(f"\n[launcher: the disk refused {self.dropped} bytes of output]\n".encode())
            file.write(chunk)
        self.dropped = 0


class Supervisor:
    """Starts the training process, watches it to its end, and leaves nothing of it behind."""

    def __init__(self, run_dir: Path, spec: Spec) -> None:
        self.run_dir = run_dir
        self.spec = spec
        self.stop_file = Path(spec["stop_file"])
        self.ended = threading.Event()
        self.beat_at = 0.0

    def start(self) -> None:
        """Start the training process and say so in status.json; raises OSError when either cannot be done."""
        # Through a pipe, so that a full disk never reaches the training process's print.
        reader, writer = os.pipe()
        command = self.spec["argv"]
        self.child = subprocess.Popen(
            command, cwd=self.spec["cwd"], env=self._environment(), start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=writer, stderr=writer,
        )  # fmt: skip
        os.close(writer)
        self.pump = threading.Thread(target=Log(self.run_dir / "log.txt").pump, args=(reader,), daemon=True)
        self.pump.start()
        with suppress(OSError):
            # When memory runs out the kernel should take the training process, not this one or the database.
            Path(f"/proc/{self.child.pid}/oom_score_adj").write_text("500")
        me = os.getpid()
        self.status: dict[str, Any] = {
            "launcher_pid": me, "launcher_start_ticks": start_ticks(me), "pid": self.child.pid, "pgid": self.child.pid,
            "state": "running", "started_at": now(), "heartbeat_at": now(), "exit_code": None, "signal": None,
            "ended_at": None, "reason": None,
        }  # fmt: skip
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
            self._beat()
            time.sleep(0.1)
        self.ended.set()
        end_all(self.members, self._beat)
        self.pump.join(timeout=TERM_SECONDS)
        self._conclude(self.child.wait())

    def ask_to_stop(self) -> None:
        """Create the stop file; on a full disk the kill after the grace still ends the attempt."""
        with suppress(OSError):
            self.stop_file.touch()

    def _conclude(self, code: int) -> None:
        if self.status["reason"] is None and (self.stop_file.exists() or (self.run_dir / "kill").exists()):
            self.status["reason"] = "stopped"
        outcome = {"exit_code": code} if code >= 0 else {"signal": -code}
        self.status.update(outcome, state="exited", ended_at=now())
        while not self._written():
            time.sleep(HEARTBEAT_SECONDS)

    def _beat(self) -> None:
        if time.monotonic() >= self.beat_at:
            self.beat_at = time.monotonic() + HEARTBEAT_SECONDS
            self._written()

    def _written(self) -> bool:
        self.status["heartbeat_at"] = now()
        try:
            write_whole(self.run_dir / "status.json", self.status)
        except OSError:
            return False
        return True

    def _sample(self) -> None:
        pause = 0.0
        while not self.ended.wait(pause):
            pause = SAMPLE_SECONDS
            line = json.dumps({"at": now(), **host_sample(self.members()), "gpus": gpu_samples()})
            with suppress(OSError), (self.run_dir / "samples.jsonl").open("a") as file:
                file.write(line + "\n")


def host_sample(members: set[int]) -> dict[str, int]:
    """Memory of the process tree, shared pages counted once, and what the host has left."""
    memory = 0
    for pid in members:
        with suppress(OSError, StopIteration):
            memory += _kibibytes(Path(f"/proc/{pid}/smaps_rollup"), "Pss:")
    available = _kibibytes(Path("/proc/meminfo"), "MemAvailable:")
    total = _kibibytes(Path("/proc/meminfo"), "MemTotal:")
    return {
        "memory_bytes": memory, "processes": len(members), "host_available_bytes": available, "host_total_bytes": total,
    }  # fmt: skip


def _kibibytes(path: Path, key: str) -> int:
    return 1024 * next(int(line.split()[1]) for line in path.read_text().splitlines() if line.startswith(key))


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
    return spec


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


def launch(run_dir: Path) -> None:
    """Check, detach and supervise; in the calling process returns once the training process runs."""
    spec = read_spec(run_dir)
    take_lock(run_dir)
    refuse_second_start(run_dir)
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
    spec = read_spec(run_dir)
    take_lock(run_dir)
    refuse_second_start(run_dir)
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


def reap(run_dir: Path) -> None:
    """End the processes of an attempt whose launcher is gone, and close its status."""
    take_lock(run_dir)
    end_all(lambda: processes(run_dir, -1, None), lambda: None)
    status = json.loads((run_dir / "status.json").read_text())
    if status["state"] == "running":
        write_whole(run_dir / "status.json", {**status, "state": "exited", "ended_at": now(), "reason": "stopped"})


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
