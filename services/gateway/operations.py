"""What the gateway asks surgery about operations, on behalf of users and of pipelines."""

from __future__ import annotations

from ltp.bus.rpc import ask
from ltp.contracts.operation import OperationList, OperationQuery, OperationSpec, OperationView, PreflightAnswer
from ltp.service.runtime import Runtime

_PREFLIGHT_SECONDS = 60.0


async def preflight(runtime: Runtime, spec: OperationSpec) -> PreflightAnswer:
    """What an operation would do, and its specification with absolute paths. Raises what stands against it."""
    return await ask(runtime.client, "surgery", "preflight", spec, PreflightAnswer, timeout=_PREFLIGHT_SECONDS)


async def find_operations(runtime: Runtime, query: OperationQuery) -> list[OperationView]:
    """Operations, newest first."""
    return (await ask(runtime.client, "surgery", "operations", query, OperationList)).operations
