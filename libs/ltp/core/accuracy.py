"""Predicted against measured, row by row: reads the rows that a measurement wrote and holds the model against them.

The rows are those of `tests/data/gpu_memory_h200.jsonl`: a model (by name, with its config beside it), how it was trained,
and the peaks that were seen. What a row does not say, or says wrongly, is reported in the row's verdict, never raised.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple, cast

from ltp.core.architecture import Architecture
from ltp.core.device_constants import outside_allocator
from ltp.core.errors import LtpError
from ltp.core.known_models import known_config
from ltp.core.memory import MIB, LossHead, Offload, Precision, Step, training_peak
from ltp.core.model_config import read_architecture
from ltp.core.replay.step import replay, replays
from ltp.core.step_time import MEASURED_H200, step_seconds

# nvidia-smi's total of an H200, in bytes, where a row does not say what its device has.
_H200 = 150_109_880_320
_MODES = {"bf16": Precision.BF16, "amp": Precision.AMP, "fsdp1": Precision.FSDP2, "fsdp2": Precision.FSDP2}
_HEADS = {
    "hf": LossHead.CROSS_ENTROPY, "nolog": LossHead.CROSS_ENTROPY, "chunk": LossHead.CHUNKED, "grpo": LossHead.POLICY,
    "cross_entropy": LossHead.CROSS_ENTROPY, "chunked": LossHead.CHUNKED, "labels": LossHead.LABELS,
    "policy": LossHead.POLICY,
}  # fmt: skip
# A plan is called safe when its prediction stays below the device's memory by at least this share.
SAFETY = 0.02
_REFUSAL = 0.05


# Bytes handed out and held by a model's own code on one device in bf16, from its config and a step's settings; None where
# it cannot be run.
Trace = Callable[[Mapping[str, Any], Mapping[str, Any]], tuple[int, int] | None]


class _Unusable(Exception):  # noqa: N818 -- carried to the row's verdict, never an error of the program
    """Why a row cannot be predicted."""


def check(rows: Sequence[object], trace: Trace | None = None) -> dict[str, Any]:
    """{"rows": [...], "summary": {...}}: each row's prediction, measurement and error in percent, and the sum.

    `trace` answers for architectures that nobody wrote down.
    """
    checked = [check_row(row, trace) for row in rows]
    return {"rows": checked, "summary": _summary(checked)}


def check_row(row: object, trace: Trace | None = None) -> dict[str, Any]:
    """One row's verdict: `status` is checked, not_a_step, unknown (the model) or unusable, with the `reason`."""
    if not isinstance(row, Mapping):
        return {"case": None, "status": "unusable", "reason": "the row is no JSON object"}
    fields = cast("Mapping[str, Any]", row)
    named = {"case": fields.get("case"), "model": fields.get("model")}
    if "mode" not in fields and "mb" not in fields:
        return named | {"status": "not_a_step", "reason": f"a measurement of kind {fields.get('kind')!r}"}
    try:
        step = step_of(fields)
    except _Unusable as error:
        return named | {"status": "unusable", "reason": str(error)}
    try:
        arch = architecture_of(fields)
    except LtpError as error:
        traced = _traced(fields, trace)
        if traced is None:
            return named | {"status": "unknown", "reason": error.message}
        allocated, held = traced
        capacity = _capacity(fields, step)
        found = Peaks(allocated, min(held, capacity), allocated > capacity)
        return named | {"status": "checked", "traced": True} | _compared(found, None, step, fields)
    except _Unusable as error:
        return named | {"status": "unusable", "reason": str(error)}
    found = Peaks(*peaks(arch, step, _capacity(fields, step)))
    seconds = step_seconds(arch, step, MEASURED_H200, micro_batches=_count(fields, "accum", 1))
    return named | {"status": "checked"} | _compared(found, seconds, step, fields)


def _traced(row: Mapping[str, Any], trace: Trace | None) -> tuple[int, int] | None:
    """From the model's own code, where the row is a plain step in bf16 on one device, which is what a trace covers."""
    config, step = row.get("config"), step_of(row)
    plain = step.precision is Precision.BF16 and step.loss_head is LossHead.CROSS_ENTROPY and not step.accumulates
    if trace is None or not isinstance(config, Mapping) or not plain:
        return None
    asked = {
        "micro_batch": step.micro_batch, "sequence": step.sequence, "checkpointing": step.checkpointing,
        "lora_rank": step.lora_rank,
    }  # fmt: skip
    return trace(cast("Mapping[str, Any]", config), asked)


def step_of(row: Mapping[str, Any]) -> Step:
    """The training step that a row's fields describe."""
    mode, head = row.get("mode"), row.get("loss", "hf")
    if not isinstance(mode, str) or mode not in _MODES:
        raise _Unusable(f"mode is {mode!r}, not one of {', '.join(_MODES)}")
    if not isinstance(head, str) or head not in _HEADS:
        raise _Unusable(f"loss is {head!r}, not one of {', '.join(_HEADS)}")
    # Two devices without sharding each do the same, one beside the other.
    return Step(
        precision=_MODES[mode],
        micro_batch=_count(row, "mb"),
        sequence=_count(row, "seq"),
        checkpointing=bool(row.get("gc", False)),
        lora_rank=_count(row, "lora", 0),
        loss_head=_HEADS[head],
        accumulates=_count(row, "accum", 1) > 1,
        shards=_count(row, "world", _count(row, "gpus", 1)),
        reshards=bool(row.get("rsh", 1)),
        offload=Offload.ALL if row.get("offload") else Offload.NONE,
        fused_optimizer=row.get("opt") == "fused",
        flat=mode == "fsdp1",
        expandable_segments=bool(row.get("expandable", 0)),
        keeps_logits=head != "nolog",
    )


def _count(row: Mapping[str, Any], key: str, default: int | None = None) -> int:
    value: object = row.get(key)
    if value is None:
        value = default
    least = 0 if default == 0 else 1
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= 10_000_000:
        raise _Unusable(f"{key} is {value!r}, not a whole number from {least} to 10,000,000")
    return value


def architecture_of(row: Mapping[str, Any]) -> Architecture:
    """The row's config, or that of the model it names. Raises LtpError, or says that the row is unusable."""
    config: object = row.get("config")
    if isinstance(config, Mapping) and config:
        return read_architecture(cast("Mapping[str, Any]", config))
    name: object = row.get("model")
    if not isinstance(name, str):
        raise _Unusable(f"model is {name!r}, and the row has no config")
    found = known_config(name)
    if found is None:
        raise _Unusable(f"model {name!r} is not in the table, and the row has no config")
    return read_architecture(found)


class Peaks(NamedTuple):
    """Bytes handed out and held, and whether the device's memory would be exceeded."""

    allocated: int
    held: int
    refused: bool


def _capacity(row: Mapping[str, Any], step: Step) -> int:
    """What the allocator may hold on the row's device."""
    total = row.get("total_bytes") if isinstance(row.get("total_bytes"), int) else None
    return (total or _H200) - outside_allocator(step)


def _compared(found_peaks: Peaks, seconds: float | None, step: Step, row: Mapping[str, Any]) -> dict[str, Any]:
    capacity = _capacity(row, step)
    allocated, held, refused = found_peaks
    predicted: dict[str, Any] = {
        "allocated_bytes": allocated,
        "device_mib": round((min(held, capacity) + outside_allocator(step)) / MIB),
        "step_seconds": seconds,
        "fits": not refused,
        "safe": not refused and allocated <= capacity * (1 - SAFETY),
        "refused": refused and allocated > capacity * (1 + _REFUSAL),
    }
    found: dict[str, Any] = {"predicted": predicted, "ran_out": _ran_out(row)}
    device = row.get("nvidia_smi_mib")
    device = max(cast("list[int]", device)) if isinstance(device, list) and device else device
    if not isinstance(row.get("nvidia_smi_mib"), list) and not isinstance(device, int):
        device = None
    measured = {"alloc_peak": row.get("alloc_peak"), "nvidia_smi_mib": device, "step_s": row.get("step_s")}
    ours = dict(zip(measured, ("allocated_bytes", "device_mib", "step_seconds"), strict=True))
    for key, seen in measured.items():
        number = isinstance(seen, int | float) and not isinstance(seen, bool)
        if row.get("ok", True) and number and seen > 0 and predicted[ours[key]] is not None:
            error = (predicted[ours[key]] / seen - 1) * 100
            found[key] = {"predicted": predicted[ours[key]], "measured": seen, "error_pct": round(error, 4)}
    found["verdict"] = _verdict(predicted, found["ran_out"])
    return found


def peaks(arch: Architecture, step: Step, capacity: int | None) -> tuple[int, int, bool]:
    """Bytes allocated and held at most where memory were endless, and whether `capacity` would be exceeded.

    From the replay where it covers the step; else from the closed form, with the fragmentation it assumes.
    """
    if not replays(arch, step):
        allocated = training_peak(arch, step).allocated
        return allocated, int(allocated * 1.08), capacity is not None and allocated > capacity
    free = replay(arch, step)
    if capacity is None or free.reserved <= capacity:
        return free.allocated, free.reserved, False
    bound = replay(arch, step, capacity=capacity)
    return free.allocated, bound.reserved, bound.refused is not None


def _ran_out(row: Mapping[str, Any]) -> bool | None:
    """None where the row failed for another reason, such as a time limit."""
    if row.get("ok", True):
        return False
    return True if row.get("oom") else None


def _verdict(predicted: Mapping[str, Any], ran_out: bool | None) -> str:
    if ran_out is None:
        return "not_judged"
    if ran_out:
        return "safe_but_oom" if predicted["safe"] else "right"
    return "refused_but_fits" if predicted["refused"] else "right"


def _summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    checked = [row for row in rows if row["status"] == "checked"]
    names = {"alloc_peak": "alloc_peak", "device_total": "nvidia_smi_mib", "step_s": "step_s"}
    summary: dict[str, Any] = {
        name: spread([abs(row[key]["error_pct"]) for row in checked if key in row]) for name, key in names.items()
    }
    verdicts = [row["verdict"] for row in checked]
    summary["verdicts"] = {name: verdicts.count(name) for name in ("safe_but_oom", "refused_but_fits")}
    statuses = [str(row["status"]) for row in rows]
    summary["rows"] = {status: statuses.count(status) for status in sorted(set(statuses))}
    return summary


def spread(errors: Sequence[float]) -> dict[str, Any]:
    """Median, 95th percentile and maximum of absolute errors in percent; None without any."""
    if not errors:
        return {"median_pct": None, "p95_pct": None, "max_pct": None, "n": 0}
    ordered = sorted(errors)
    at = min(len(ordered) - 1, -(-95 * len(ordered) // 100) - 1)
    return {
        "median_pct": round(median(ordered), 4),
        "p95_pct": round(ordered[at], 4),
        "max_pct": round(ordered[-1], 4),
        "n": len(ordered),
    }
