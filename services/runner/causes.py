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
            r"Cannot allocate memory",
            r"unable to mmap \d+ bytes",
            r"oom-kill|Out of memory: Killed process",
        ],
        "The host's main memory ran out during training",
        "Leave the host to this job, lower the number of data workers, or turn offloading to the CPU off.",
    ),
    _rule(
        ErrorCode.TRAINING_OUT_OF_MEMORY,
        [
            r"(?:CUDA|HIP) out of memory",
            r"(?:CUDA|HIP) error: out of memory",
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
            r"Timed out waiting for clients to join",
        ],
        "Communication between the training processes failed",
        "Check the network between the devices; NCCL_DEBUG=INFO in the environment prints more.",
    ),
)
# What the program did when a device ran out of memory, from the functions in its traceback.
_PHASES = (
    ("rollout", re.compile(r"generate_sequences|vllm|rollout")),
    ("log-prob", re.compile(r"compute_(?:ref_)?log_prob|infer_batch")),
    ("optimizer step", re.compile(r"optimizer_step|optim/|in step\b.*\n.*_foreach|\badamw?\b")),
    ("checkpoint", re.compile(r"save_checkpoint|load_checkpoint|get_model_state_dict")),
    ("update", re.compile(r"update_(?:actor|critic|policy)|train_batch|backward|forward_step")),
    ("init", re.compile(r"from_pretrained|init_model|_build_engine|initialize|fully_shard")),
)
# A line that names an error, as Python's tracebacks end.
_ERROR_LINE = re.compile(r"^(?:.*\) )?(?:[\w.]*(?:Error|Exception|Interrupt)\b.*|Error executing job.*)$", re.MULTILINE)


def diagnose(log: str, end: Exit) -> Problem:
    """The most likely cause of a failure, from the training log and the way the process ended."""
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


def _without_sign(log: str, end: Exit) -> Problem:
    errors = [line.strip()[:_LONGEST_LINE] for line in _ERROR_LINE.findall(log)]
    if errors:
        return Problem(
            code=ErrorCode.TRAINING_FAILED,
            message=f"Training ended with {end}: {errors[-1]}",
            hint="`ltp job logs JOB` shows the whole log.",
            evidence=errors[-_MOST_LINES:],
        )
    last = [line.strip()[:_LONGEST_LINE] for line in log.splitlines() if line.strip()][-3:]
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
