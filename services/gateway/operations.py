"""What the gateway asks surgery about operations, on behalf of users and of pipelines."""

from __future__ import annotations

from typing import Literal

from ltp.bus.rpc import ask
from ltp.contracts.host import HostList, HostsRequest
from ltp.contracts.operation import OperationList, OperationQuery, OperationSpec, OperationView, PreflightAnswer
from ltp.core.errors import ErrorCode, LtpError
from ltp.service.runtime import Runtime

_PREFLIGHT_SECONDS = 60.0


async def preflight(runtime: Runtime, spec: OperationSpec) -> PreflightAnswer:
    """What an operation would do, and its specification with absolute paths and its device. Raises what stands against it."""
    if spec.device != "cpu":
        spec = spec.model_copy(update={"device": await _device(runtime, spec)})
    return await ask(runtime.client, "surgery", "preflight", spec, PreflightAnswer, timeout=_PREFLIGHT_SECONDS)


async def _device(runtime: Runtime, spec: OperationSpec) -> Literal["cpu", "gpu"]:
    """What computes it. Raises INVALID_REQUEST for work that a GPU cannot do, NO_HOST where no machine of the platform has one."""
    able = spec.kind == "merge" or (spec.kind == "average" and spec.recipe.get("method") != "greedy_soup")
    found = await ask(runtime.client, "scheduler", "hosts", HostsRequest(), HostList) if able else HostList(hosts=[])
    # Operations are done where the platform itself runs.
    own = [h for h in found.hosts if h.reached_by == "local" and any(d.kind == "gpu" for d in h.devices)]
    if spec.device == "auto":
        return "gpu" if any(host.state == "ready" for host in own) else "cpu"
    if not able:
        what = (
            "a greedy soup, which is measured on the processor" if spec.kind == "average" else f"the kind {spec.kind}"
        )
        message = f"A GPU computes merges and averages, not {what}."
        raise LtpError(ErrorCode.INVALID_REQUEST, message, "Leave `device` out.")
    if not own:
        message = "No machine of the platform has a GPU, and operations are done on its own machines only."
        raise LtpError(
            ErrorCode.NO_HOST, message, "Leave `device` out (cpu), or say `auto`; `ltp host list` shows what there is."
        )
    return "gpu"


async def find_operations(runtime: Runtime, query: OperationQuery) -> list[OperationView]:
    """Operations, newest first."""
    return (await ask(runtime.client, "surgery", "operations", query, OperationList)).operations
