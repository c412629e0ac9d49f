"""What computes an operation, decided at the door from the hosts that the scheduler knows."""

from __future__ import annotations

from typing import Any

import pytest

from ltp.contracts.host import HostList, HostView
from ltp.contracts.operation import OperationSpec, PreflightAnswer
from ltp.contracts.values import Device
from ltp.core.errors import ErrorCode, LtpError
from services.gateway import operations


def host(*, gpus: int, state: Any = "ready", reached_by: str = "local") -> HostView:
    devices = [Device(index=i, kind="gpu", model="NVIDIA H200", memory_bytes=1 << 37) for i in range(gpus)]
    more: dict[str, Any] = {"seen_at": None, "memory_bytes": 1 << 40, "labels": {}, "holdings": []}
    return HostView(host_id="a", state=state, devices=devices, reached_by=reached_by, **more)


@pytest.fixture
def decided(monkeypatch: pytest.MonkeyPatch) -> Any:
    async def decide(device: Any, *hosts: HostView, kind: Any = "merge", **recipe: Any) -> str:
        async def ask(_: Any, service: str, question: str, request: Any, *__: Any, **___: Any) -> Any:
            if service == "scheduler":
                return HostList(hosts=list(hosts))
            return PreflightAnswer(summary={}, spec=request)

        monkeypatch.setattr(operations, "ask", ask)
        runtime: Any = type("Runtime", (), {"client": None})()
        spec = OperationSpec(kind=kind, name="x", recipe=recipe, device=device)
        return (await operations.preflight(runtime, spec)).spec.device

    return decide


async def test_a_gpu_of_the_platforms_own_is_taken_where_there_is_one(decided: Any) -> None:
    own, far, busy = host(gpus=2), host(gpus=8, reached_by="ssh"), host(gpus=1, state="cordoned")
    assert await decided("gpu", own) == await decided("auto", far, own) == "gpu"
    assert await decided("auto", far) == await decided("auto") == await decided("cpu", own) == "cpu"
    # One that is cordoned is waited for by who asks for it, and by nobody else.
    assert (await decided("gpu", busy), await decided("auto", busy)) == ("gpu", "cpu")
    with pytest.raises(LtpError, match="No machine of the platform has a GPU") as refused:
        await decided("gpu", far, host(gpus=0))
    assert refused.value.code is ErrorCode.NO_HOST and "ltp host list" in refused.value.hint


async def test_what_no_gpu_computes_is_refused(decided: Any) -> None:
    for kind, recipe in (("export", {}), ("diff", {}), ("average", {"method": "greedy_soup"})):
        with pytest.raises(LtpError, match="A GPU computes merges and averages") as refused:
            await decided("gpu", host(gpus=1), kind=kind, **recipe)
        assert refused.value.code is ErrorCode.INVALID_REQUEST
        assert await decided("auto", host(gpus=1), kind=kind, **recipe) == "cpu"
    assert await decided("gpu", host(gpus=1), kind="average", method="uniform") == "gpu"
