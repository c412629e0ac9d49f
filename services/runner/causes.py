"""Why a training process failed: the cause read from its log and its exit, with the lines that prove it. Pure.

The signs are what verl, torch, Ray, vLLM and the kernel print; the rules stand in the order in which one failure hides
behind another: a rank out of memory makes its peers time out, and a full disk breaks whatever writes next.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ltp.contracts.values import Problem
from ltp.core.errors import ErrorCode

_SIGKILL, _SIGTERM = 9, 15
_MOST_LINES, _LONGEST_LINE = 8, 400
# What is looked through of a line.
_READ_OF_LINE = 8192
# Less than this share of a host's memory left: the kernel's memory guard is the likeliest sender of a silent SIGKILL.
_SCARCE = 0.05


@dataclass(frozen=True)
class Exit:
    """How a process ended, and what its host had left shortly before."""

    exit_code: int | None
    signal: int | None
    host_available_share: float | None = None
    # Processes that the kernel of the host ended for memory meanwhile.
    oom_kills: int = 0

    def __str__(self) -> str:
        return f"signal {self.signal}" if self.signal else f"exit code {self.exit_code}"


@dataclass(frozen=True)
class _Rule:
    code: ErrorCode
    signs: re.Pattern[str]
    message: str
    hint: str


def _rule(code: ErrorCode, signs: Sequence[str], message: str, hint: str) -> _Rule:
    return _Rule(code, re.compile("|".join(signs)), message, hint)


_RULES = (
    _rule(
        ErrorCode.PREEMPTED,
        [
            r"DUE TO PREEMPTION",
            r"CANCELLED AT \S+ DUE TO (?:PREEMPTION|NODE FAILURE)",
            r"Spot [Ii]nstance .*(?:interrupt|terminat)",
        ],
        "The host took its devices back",
        "The job goes on from its last checkpoint; `training.save_every` says how much such an end costs.",
    ),
    _rule(
        ErrorCode.DISK_FULL,
        [r"No space left on device", r"Disk quota exceeded", r"PytorchStreamWriter failed writing"],
        "The disk filled up during training",
        "Free space under the data directory; a checkpoint takes about 12 bytes per parameter. `ltp job retry` goes on from the last one.",
    ),
    _rule(
        ErrorCode.HOST_OUT_OF_MEMORY,
        [
            r"Workers \(tasks / actors\) killed due to memory pressure",
            r"ray\.exceptions\.OutOfMemoryError",
            r"\bMemoryError\b",
            # Not that of torch's CPU allocator, which is the device's where there is no other.
            r"(?<!Error code 12 \()Cannot allocate memory",
            r"unable to mmap \d+ bytes",
            r"oom-kill|Out of memory: Killed process",
            r"DataLoader worker .* is killed by signal: (?:Killed|Bus error)",
        ],
        "The host's main memory ran out during training",
        "Leave the host to this job, lower the number of data workers, or turn offloading to the CPU off.",
    ),
    _rule(
        ErrorCode.TRAINING_OUT_OF_MEMORY,
        [
            r"(?:CUDA|HIP) out of memory",
            r"(?:CUDA|HIP) [Ee]rror: out of memory",
            r"torch\.(?:cuda\.)?OutOfMemoryError",
            r"CUBLAS_STATUS_ALLOC_FAILED",
            r"No available memory for the cache blocks",
            r"Free memory on device .* is less than desired GPU memory utilization",
            r"DefaultCPUAllocator: can't allocate memory",
        ],
        "The device ran out of memory",
        "Lower training.max_length or resources.micro_batch_size, or use training.lora_rank.",
    ),
    _rule(
        ErrorCode.REWARD_FAILED,
        [
            r"\bReward(?:Failed)?Error\b",
            r"error in the reward function",
            r"in compute_score\b.*\n(?:.*\n){0,40}?\w*Error\b",
        ],
        "The reward function failed",
        "Try it on a few rows: `ltp job submit --dry-run` runs it before anything is launched.",
    ),
    _rule(
        ErrorCode.DEPENDENCY_MISSING,
        [
            r"ModuleNotFoundError: .*",
            r"ImportError: .*",
            r"undefined symbol: .*",
            r"version `(?:GLIBC|GLIBCXX|CXXABI)_[\d.]+' not found",
            r"CUDA driver version is insufficient",
            r"The NVIDIA driver on your system is too old",
            r"unsupported display driver / cuda driver combination",
            r"Torch not compiled with CUDA enabled",
            r"no kernel image is available for execution",
        ],
        "A package of the training environment is missing or does not fit",
        "`ltp verify` compares the environment with what is tested.",
    ),
    _rule(
        ErrorCode.TRAINING_DATA_INVALID,
        [
            r"ArrowInvalid: .*",
            r"DatasetGenerationError.*",
            r"is larger than max_length.*|sequence_length=\d+ is larger",
            r"jinja2\.exceptions\.\w+.*",
            r"in __getitem__\b.*\n(?:.*\n){0,40}?(?:KeyError|ValueError|TypeError)\b",
        ],
        "A row of the training data could not be used",
        "`ltp dataset profile` shows lengths and fields; `ltp dataset mask` what is trained of a row.",
    ),
    _rule(
        ErrorCode.DEVICE_FAILED,
        [
            r"uncorrectable ECC error",
            r"No CUDA GPUs are available|Found no NVIDIA driver|CUDA error: invalid device ordinal",
            r"GPU (?:is lost|has fallen off the bus)",
            r"NVRM: Xid",
            r"CUDA error: (?:unspecified launch failure|hardware|device unavailable|all CUDA-capable devices are busy)",
        ],
        "A device failed",
        "`nvidia-smi -q` on the host tells more; the job is tried on another host.",
    ),
    _rule(
        ErrorCode.COLLECTIVE_FAILED,
        [
            r"Watchdog caught collective operation timeout",
            r"NCCL (?:error|WARN .*(?:fail|timeout))",
            r"nccl(?:UnhandledCuda|System|Internal|Remote)Error",
            r"\bDistBackendError\b",
            r"[Gg]loo.*(?:[Tt]imed out|Connection closed by peer|Connection reset)",
            r"Timed out (?:after \d+ seconds )?waiting for clients",
            r"\bDistStoreError\b",
        ],
        "Communication between the training processes failed",
        "Check the network between the devices; NCCL_DEBUG=INFO in the environment prints more.",
    ),
)
# What the program did when a device ran out of memory, from the functions in its traceback.
_PHASES = (
    ("rollout", re.compile(r"generate_sequences|wake_up|vllm|rollout")),
    ("log-prob", re.compile(r"compute_(?:ref_)?log_prob|infer_batch")),
    ("optimizer step", re.compile(r"optimizer_step|optim/|in step\b.*\n.*_foreach|\badamw?\b")),
    ("checkpoint", re.compile(r"save_checkpoint|load_checkpoint|get_model_state_dict")),
    ("update", re.compile(r"update_(?:actor|critic|policy)|train_batch|backward|forward_step")),
    ("init", re.compile(r"from_pretrained|init_model|_build_engine|initialize|fully_shard")),
)
# Ray's words for a worker that vanished; of the causes that it lists none is known.
_DIED = re.compile(
    r"^.*(?:worker process has died|[Tt]he actor died unexpectedly|A worker died or was killed).*$", re.MULTILINE
)
# Lines of the driver that only pass such a death on.
_BY_DEATH = re.compile(r"ActorDiedError|ActorUnavailableError|RayActorError|Error executing job")
# A line that names an error, as Python's tracebacks end.
_ERROR_LINE = re.compile(r"^(?:.*\) )?(?:[\w.]*(?:Error|Exception|Interrupt)\b.*|Error executing job.*)$", re.MULTILINE)


def diagnose(log: str, end: Exit) -> Problem:
    """The most likely cause of a failure, from the training log and the way the process ended."""
    log = "\n".join(line if len(line) <= _READ_OF_LINE else _ends_of(line) for line in log.split("\n"))
    for rule in _RULES:
        found = rule.signs.search(log)
        if found is not None:
            where = (
                f" ({phase})" if rule.code is ErrorCode.TRAINING_OUT_OF_MEMORY and (phase := _phase(log, found)) else ""
            )
            proof = _lines_around(log, rule.signs)
            message = f"{rule.message}{where}, {end}: {proof[-1]}"
            return Problem(code=rule.code, message=message[:2000], hint=rule.hint, evidence=proof)
    return _without_sign(log, end)


def _ends_of(line: str) -> str:
    """A line of megabytes by its ends: an error stands at one of them, and a search in all of it takes long."""
    return f"{line[: _READ_OF_LINE // 2]} … {line[-_READ_OF_LINE // 2 :]}"


def _without_sign(log: str, end: Exit) -> Problem:
    """What the exit alone tells, and the last error that the log names."""
    last = [line.strip()[:_LONGEST_LINE] for line in log.splitlines() if line.strip()][-3:]
    errors = [line.strip()[:_LONGEST_LINE] for line in _ERROR_LINE.findall(log)]
    died = _DIED.findall(log)
    by_death = all(_BY_DEATH.search(line) for line in errors)
    # The kernel counts for the whole host, so a program's own error outweighs its count.
    if end.oom_kills and by_death and (died or end.signal == _SIGKILL):
        told = f"processes that the kernel of the host ended for memory meanwhile: {end.oom_kills} (/proc/vmstat, oom_kill)"
        return Problem(
            code=ErrorCode.HOST_OUT_OF_MEMORY,
            message=f"The host's main memory ran out during training, {end}: its kernel ended a process for it.",
            hint="Leave the host to this job, lower the number of data workers, or turn offloading to the CPU off.",
            evidence=[f"{end}", told, *last],
        )
    if died and by_death:
        return Problem(
            code=ErrorCode.TRAINING_KILLED,
            message=f"A process of the training died without an error of its own, {end}: {died[-1].strip()[:_LONGEST_LINE]}",
            hint="`dmesg` on the host tells whether the kernel ended it. The job is tried again from its last checkpoint.",
            evidence=[f"{end}", *(line.strip()[:_LONGEST_LINE] for line in died[-_MOST_LINES:])],
        )
    if errors:
        return Problem(
            code=ErrorCode.TRAINING_FAILED,
            message=f"Training ended with {end}: {errors[-1]}",
            hint="`ltp job logs JOB` shows the whole log.",
            evidence=errors[-_MOST_LINES:],
        )
    if end.signal == _SIGKILL and end.host_available_share is not None and end.host_available_share < _SCARCE:
        proof = [f"{end}", f"memory the host had left at the last sample: {end.host_available_share:.1%}", *last]
        return Problem(
            code=ErrorCode.HOST_OUT_OF_MEMORY,
            message="The training process was killed while the host's main memory was nearly used up.",
            hint="Leave the host to this job, or ask for less: a shorter max_length, a smaller micro batch.",
            evidence=proof,
        )
    if end.signal in {_SIGKILL, _SIGTERM}:
        return Problem(
            code=ErrorCode.TRAINING_KILLED,
            message=f"Somebody ended the training process with {end}; it printed no error.",
            hint="`dmesg` on the host tells whether the kernel did. The job is tried again from its last checkpoint.",
            evidence=[f"{end}", *last],
        )
    return Problem(
        code=ErrorCode.TRAINING_FAILED,
        message=f"Training ended with {end}: it printed no error.",
        hint="`ltp job logs JOB` shows the whole log.",
        evidence=[f"{end}", *last],
    )


def _phase(log: str, found: re.Match[str]) -> str | None:
    """What was being done, by the innermost function of the traceback above the error that says so."""
    above = log[max(0, found.start() - 8000) : found.end()]
    at = [(max(m.start() for m in hits), name) for name, sign in _PHASES if (hits := list(sign.finditer(above)))]
    return max(at)[1] if at else None


def _lines_around(log: str, signs: re.Pattern[str]) -> list[str]:
    """The lines in which the signs stand, the last few."""
    lines: list[str] = []
    for found in signs.finditer(log):
        start = log.rfind("\n", 0, found.start()) + 1
        end = log.find("\n", found.end())
        for line in log[start : end if end >= 0 else len(log)].splitlines():
            if line.strip() and (not lines or lines[-1] != line.strip()[:_LONGEST_LINE]):
                lines.append(line.strip()[:_LONGEST_LINE])
        lines = lines[-_MOST_LINES:]
    return lines
