"""Plans as text: one in full, several as a ranked table, and why the rest lost."""

from __future__ import annotations

from typing import Any

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def size(count: float | None) -> str:
    """Bytes with a unit."""
    value = float(count or 0)
    for unit in _UNITS[:-1]:
        if abs(value) < 1024:
            return f"{value:.0f} {unit}" if unit in ("B", "KiB", "MiB") else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def duration(seconds: float | None) -> str:
    """Seconds as a person says them."""
    if seconds is None:
        return "unknown"
    if seconds < 120:
        return f"{seconds:.3g} s"
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours} h {rest // 60} min" if hours else f"{rest // 60} min"


def describe_plan(found: Any) -> str:
    """A plan in a few lines: shape, memory by component and stage, time, and the first reasons against the others."""
    return "\n".join([*_head(found), *_stages(found), *_costs(found), *_losers(found["rejected"])])


def _head(found: Any) -> list[str]:
    predicted, most = size(found["memory_bytes"]), size(found["memory_upper_bytes"])
    components = [f"    {name:<18} {size(count)}" for name, count in found["memory_components"].items()]
    return [
        shape_of(found),
        f"  memory per device  {predicted} predicted, at most {most} of {size(found['device_memory_bytes'])}",
        *components,
    ]


def shape_of(found: Any) -> str:
    """What runs, in one line."""
    checkpointing = "on" if found["gradient_checkpointing"] else "off"
    words = [
        f"{found['devices']} × {found.get('device_model') or found['device_kind']}",
        f"micro batch {found['micro_batch_size']}",
        f"gradient checkpointing {checkpointing}",
    ]
    if found.get("accumulation", 1) > 1:
        words[1] += f" × {found['accumulation']} accumulated"
    if found.get("token_budget"):
        words[1] = f"{found['token_budget']} packed tokens a device"
    if found.get("shards") not in (None, found["devices"]):
        words.append(f"states over {found['shards']} devices")
    if found.get("sequence_parallel", 1) > 1:
        words.append(f"sequence parallel {found['sequence_parallel']}")
    if found.get("fused_head"):
        words.append("fused loss head")
    if not found.get("reshards", True):
        words.append("weights stay gathered")
    if found.get("offload", "none") != "none":
        words.append(f"{found['offload']} offload")
    if found.get("rollout_memory_share"):
        words.append(f"rollout {found['rollout_memory_share']:.0%} of memory over {found['rollout_tensor_parallel']}")
    return ", ".join([*words, f"{found['parameters']:,} parameters"])


def _stages(found: Any) -> list[str]:
    stages: list[Any] = found.get("stages") or []
    lines = [f"  {'stage':<18} {'memory':<11} bound by"] if stages else []
    for stage in stages:
        bound = f"{stage['binding']} ({size(stage['binding_bytes'])})"
        lines.append(f"    {stage['stage']:<16} {size(stage['memory_bytes']):<11} {bound}")
    return lines


def _costs(found: Any) -> list[str]:
    lines: list[str] = []
    if found.get("step_seconds"):
        speed = f"{duration(found['step_seconds'])} a step, {found['tokens_per_second']:,.0f} tokens/s with full rows"
        lines.append(f"  time               {speed}, {duration(found['eta_seconds'])} in all")
    if found.get("cost_dollars") is not None:
        lines.append(f"  cost               about {found['cost_dollars']:,.2f} dollars")
    if found.get("host_memory_bytes"):
        lines.append(f"  host memory        {size(found['host_memory_bytes'])}")
    if found.get("checkpoint_bytes"):
        lines.append(f"  each checkpoint    {size(found['checkpoint_bytes'])} on the disk")
    return lines


def _losers(rejected: list[Any]) -> list[str]:
    return [f"  not {r['candidate']}: {r['reason']}" for r in rejected]


def describe_report(report: Any) -> str:
    """The first plan in full, and the next ones as a table."""
    plans = report["plans"]
    lines = [describe_plan(plans[0])]
    if len(plans) > 1:
        lines += ["", "  also fit, best first (* no other plan beats it in speed, cost, devices and headroom together)"]
        lines += [_row(number, plan, number in report["pareto"]) for number, plan in enumerate(plans) if number]
    lines.append(f"  {report['candidates']:,} candidates, {report['fitting']:,} of them fit.")
    return "\n".join(lines)


def _row(number: int, plan: Any, on_front: bool) -> str:
    mark = "*" if on_front else " "
    time = duration(plan["step_seconds"]) if plan["step_seconds"] else ""
    cost = "" if plan["cost_dollars"] is None else f"{plan['cost_dollars']:,.2f} $"
    most = size(plan["memory_upper_bytes"])
    shape = shape_of(plan).rpartition(", ")[0]
    return f"  {mark}{number + 1:>3}  {most:>10}  {time:>9}  {cost:>10}  {shape}"


def describe_explanation(report: Any) -> str:
    """Everything known: the plan or the problem, what would help and at what price, every reason, verl's overrides."""
    lines = [describe_report(report)] if report["plans"] else _problem(report["problem"])
    lines += _opinions(report.get("second_opinion") or {})
    if report["remedies"]:
        lines.append("what would help, the mildest first")
        lines += [f"  {remedy['change']}: {remedy['price']}" for remedy in report["remedies"]]
    if report["rejected"]:
        lines.append("rejected")
        lines += _losers(report["rejected"])
    if report["overrides"]:
        lines.append("verl is given")
        lines += [f"  {override}" for override in report["overrides"]]
    return "\n".join(lines)


def _opinions(found: Any) -> list[str]:
    if not found:
        return []
    lines = ["second opinions on the first plan's training step, allocated at its peak (without context and generator)"]
    for name, part in found.items():
        said = part.get("reason") or f"{size(part['allocated_bytes'])}, {size(part['reserved_bytes'])} held"
        lines.append(f"  {name:<18} {said}")
    return lines


def _problem(problem: Any) -> list[str]:
    return [f"{problem['code']} {problem['message']}", problem["hint"]]
