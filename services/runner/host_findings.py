"""What a host's facts mean for training: each against what it takes, with what to do about it. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ltp import locks
from ltp.contracts.host_access import HostCheck
from ltp.core.errors import ErrorCode
from services.runner.host import parse_gpus

NAMES = ("work_dir", "disk", "memory", "gpus", "driver", "python", "cuda", "torch", "verl", "packages", "hub", "clock")

_GIB = 1 << 30
_LEAST_DISK, _GOOD_DISK = 5 * _GIB, 50 * _GIB
_LEAST_MEMORY, _GOOD_MEMORY = 4 * _GIB, 16 * _GIB
_WARN_SKEW, _FAIL_SKEW = 2.0, 60.0
# The oldest Linux driver of each CUDA major version that minor-version compatibility allows:
# https://docs.nvidia.com/deploy/cuda-compatibility/ (table 1).
_DRIVERS = {11: 450, 12: 525, 13: 580}
_PYTHONS = ((3, 10), (3, 13))
_SETUP = "`ltp setup host USER@SERVER` installs it from the lock."


def findings(facts: Mapping[str, Any], our_clock: float) -> Iterator[HostCheck]:
    """One check for each of NAMES. `our_clock` is the time here at which the facts were taken."""
    folder: Mapping[str, Any] = facts.get("folder") or {}
    gpus = parse_gpus(facts["gpus"])
    role = "gpu" if gpus else "training"
    yield _work_dir(folder)
    yield _amount(
        "disk",
        folder.get("free_bytes") or 0,
        _LEAST_DISK,
        _GOOD_DISK,
        "free",
        "Make room: a checkpoint takes 12 bytes a parameter.",
        ErrorCode.DISK_FULL,
    )
    yield _amount(
        "memory",
        facts["memory_bytes"],
        _LEAST_MEMORY,
        _GOOD_MEMORY,
        "of main memory",
        "Train small models here, or take a larger machine.",
    )
    models = ", ".join(f"{gpu.index}: {gpu.model}, {gpu.memory_bytes / _GIB:.0f} GiB" for gpu in gpus)
    yield (
        HostCheck(name="gpus", verdict="ok", detail=models)
        if gpus
        else _warn(
            "gpus",
            "nvidia-smi finds none",
            "Recipes that ask for a GPU are not placed here; the processors are offered.",
        )
    )
    yield _driver(facts, bool(gpus))
    yield _python(str(facts["python"]), str(facts["executable"]))
    yield _cuda(facts, bool(gpus))
    versions: Mapping[str, str | None] = facts["packages"]
    yield _package("torch", versions, role)
    yield _package("verl", versions, role)
    yield _packages(versions, role)
    hub = facts.get("hub")
    yield (
        HostCheck(name="hub", verdict="ok", detail="the model hub answers")
        if hub is None
        else _warn("hub", str(hub), "Not needed: models and datasets are sent by the platform.")
    )
    yield _clock(float(facts["at"]) - our_clock)


def _work_dir(folder: Mapping[str, Any]) -> HostCheck:
    if folder.get("problem"):
        return _fail(
            "work_dir",
            f"{folder.get('path')}: {folder['problem']}",
            "Give it to the user of the platform, or name another with --work-dir.",
        )
    if folder.get("escapes"):
        detail = f"{', '.join(folder['escapes'])} in {folder['path']} lead out of it"
        return _fail("work_dir", detail, "Name the real folder as the working directory.")
    return HostCheck(name="work_dir", verdict="ok", detail=str(folder.get("real", "")))


def _amount(
    name: str, found: int, least: int, good: int, what: str, hint: str, code: ErrorCode = ErrorCode.HOST_UNFIT
) -> HostCheck:
    detail = f"{found / _GIB:.1f} GiB {what}"
    if found < least:
        return _fail(name, f"{detail}, {least / _GIB:.0f} are the least", hint, code)
    return HostCheck(name=name, verdict="ok", detail=detail) if found >= good else _warn(name, detail, hint)


def _driver(facts: Mapping[str, Any], has_gpu: bool) -> HostCheck:
    if not has_gpu:
        return HostCheck(name="driver", verdict="skipped", detail="no GPU")
    rows = [line.split(",") for line in str(facts["gpus"]).splitlines() if line]
    driver = rows[0][4].strip() if len(rows[0]) > 4 else ""
    cuda = facts.get("torch_cuda")
    needs = _DRIVERS.get(int(str(cuda).partition(".")[0])) if cuda else None
    major = driver.partition(".")[0]
    if needs is not None and major.isdigit() and int(major) < needs:
        return _fail(
            "driver",
            f"{driver}, and CUDA {cuda} of torch needs {needs} or newer",
            "Install a newer NVIDIA driver, or a torch for an older CUDA.",
        )
    return HostCheck(name="driver", verdict="ok", detail=driver or "unknown")


def _python(version: str, executable: str) -> HostCheck:
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if _PYTHONS[0] <= numbers < _PYTHONS[1]:
        return HostCheck(name="python", verdict="ok", detail=f"{version} ({executable})")
    return _fail("python", f"{version} ({executable}); verl needs 3.10 to 3.12", _SETUP)


def _cuda(facts: Mapping[str, Any], has_gpu: bool) -> HostCheck:
    cuda, torch = facts.get("torch_cuda"), facts["packages"].get("torch")
    if not has_gpu:
        return HostCheck(name="cuda", verdict="skipped", detail="no GPU")
    if torch is None:
        return HostCheck(name="cuda", verdict="skipped", detail="needs torch")
    if cuda is None:
        return _fail("cuda", f"torch {torch} is built without CUDA, and the host has GPUs", _SETUP)
    return HostCheck(name="cuda", verdict="ok", detail=f"torch is built for CUDA {cuda}")


def _package(name: str, versions: Mapping[str, str | None], role: str) -> HostCheck:
    found, wanted = versions.get(name), locks.read(role).get(name)
    if found is None:
        return _fail(name, f"not installed; the lock says {wanted}", _SETUP)
    if wanted is not None and not locks.same(found, wanted):
        return _fail(name, f"{found}; the lock says {wanted}", _SETUP)
    return HostCheck(name=name, verdict="ok", detail=found)


def _packages(versions: Mapping[str, str | None], role: str) -> HostCheck:
    differences = [d for d in locks.compare(locks.read(role), versions) if d.name not in ("torch", "verl")]
    if not differences:
        return HostCheck(name="packages", verdict="ok", detail=f"as in the lock `{role}`")
    told = "; ".join(str(difference) for difference in differences[:6])
    more = f" and {len(differences) - 6} more" if len(differences) > 6 else ""
    return _warn("packages", f"{told}{more}", "`ltp verify --host HOST` shows all; " + _SETUP)


def _clock(skew: float) -> HostCheck:
    detail = f"{skew:+.2f} s against ours"
    hint = "Set it by NTP (`timedatectl set-ntp true`): times of logs and metrics would mislead."
    if abs(skew) > _FAIL_SKEW:
        return _fail("clock", detail, hint)
    return (
        _warn("clock", detail, hint) if abs(skew) > _WARN_SKEW else HostCheck(name="clock", verdict="ok", detail=detail)
    )


def _fail(name: str, detail: str, hint: str, code: ErrorCode = ErrorCode.HOST_UNFIT) -> HostCheck:
    return HostCheck(name=name, verdict="fail", detail=detail, hint=hint, code=code)


def _warn(name: str, detail: str, hint: str) -> HostCheck:
    return HostCheck(name=name, verdict="warn", detail=detail, hint=hint)
