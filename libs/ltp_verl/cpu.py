"""The CPU as a verl platform, so that a job trains without a GPU; loaded by `VERL_USE_EXTERNAL_MODULES=ltp_verl.cpu`.

verl 0.9.1 knows NVIDIA, AMD and Huawei only. Everything it lacks is added through its own registries; the one thing
replaced in torch is the process-group backend string, which verl builds as "cpu:gloo,cpu:gloo" and torch refuses.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
import torch.distributed
from verl.plugin.platform import PlatformBase, PlatformRegistry, set_platform
from verl.utils import fsdp_utils
from verl.workers.rollout import base as rollout_base
from verl.workers.rollout.replica import RolloutReplicaRegistry

_ZERO = frozenset({"memory_allocated", "max_memory_allocated", "memory_reserved", "max_memory_reserved"})
_NOTHING = frozenset({"empty_cache", "ipc_collect", "reset_peak_memory_stats", "set_rng_state", "synchronize"})


class _CpuModule(ModuleType):
    """`torch.cpu` with answers to the part of the `torch.cuda` API that verl calls on every device."""

    def __getattr__(self, name: str) -> Any:
        if name in _ZERO:
            return lambda *_args, **_kwargs: 0
        if name in _NOTHING:
            return lambda *_args, **_kwargs: None
        if name == "get_device_name":
            return lambda *_args: "CPU"
        if name == "get_rng_state":
            return lambda *_args: torch.get_rng_state()
        if name == "mem_get_info":
            return lambda *_args: (_memory("SC_AVPHYS_PAGES"), _memory("SC_PHYS_PAGES"))
        return getattr(torch.cpu, name)


_MODULE = _CpuModule("ltp_verl_cpu_device")


def _memory(pages: str) -> int:
    return os.sysconf(pages) * os.sysconf("SC_PAGE_SIZE")


@PlatformRegistry.register(platform="cpu")
class CpuPlatform(PlatformBase):
    """This host's processors, taken as one device."""

    @property
    def device_name(self) -> str:
        return "cpu"

    @property
    def vendor_name(self) -> str:
        return "cpu"

    @property
    def device_module(self) -> ModuleType:
        return _MODULE

    def is_available(self) -> bool:
        return True

    def current_device(self) -> Any:
        # verl passes it to `tensor.to()`, where an index would mean a GPU.
        return torch.device("cpu")

    def device_count(self) -> int:
        return 1

    def set_device(self, device_index: int) -> None: ...

    def synchronize(self, device_index: int | None = None) -> None: ...

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    def manual_seed_all(self, seed: int) -> None:
        torch.manual_seed(seed)

    def set_allocator_settings(self, settings: str) -> None: ...

    def empty_cache(self) -> None: ...

    def get_device_capability(self, device_index: int = 0) -> tuple[int | None, int | None]:
        return (None, None)

    def communication_backend_name(self) -> str:
        return "gloo"

    def visible_devices_envvar(self) -> str:
        return "LTP_CPU_VISIBLE_DEVICES"

    @contextmanager
    def nvtx_range(self, msg: str) -> Iterator[None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        yield

    def profiler_start(self) -> None: ...

    def profiler_stop(self) -> None: ...

    def ray_resource_name(self) -> str:
        # verl schedules only on Ray's "GPU" or "NPU", so Ray is started with one GPU that is in truth the CPU.
        return "GPU"

    def ray_noset_envvars(self) -> list[str]:
        return []

    def is_ipc_supported(self) -> bool:
        return False

    def cudart(self) -> None:
        return None


def _one_gloo(init: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(init)
    def init_process_group(backend: str | None = None, *args: Any, **kwargs: Any) -> None:
        init("gloo" if backend == "cpu:gloo,cpu:gloo" else backend, *args, **kwargs)

    return init_process_group


def _load_replica() -> type:
    from ltp_verl.rollout import HfCpuReplica

    return HfCpuReplica


def _unpinned(**_: Any) -> Any:
    """A reference model's engine pins host memory for a device's sake, which torch refuses where there is none."""
    return _OffloadPolicy(pin_memory=False)


set_platform(CpuPlatform())
# verl's FSDP engine is registered for CUDA only, and takes any device once found.
os.environ.setdefault("VERL_ENGINE_DEVICE", "cuda")
torch.distributed.init_process_group = _one_gloo(torch.distributed.init_process_group)
rollout_base._ROLLOUT_REGISTRY[("hf_cpu", "async")] = "ltp_verl.rollout.HfCpuRollout"  # pyright: ignore[reportPrivateUsage]
RolloutReplicaRegistry.register("hf_cpu", _load_replica)
# The engine takes it from here when it is imported, which is after this.
_OffloadPolicy: Any = fsdp_utils.CPUOffloadPolicy  # pyright: ignore[reportPrivateImportUsage]
fsdp_utils.CPUOffloadPolicy = _unpinned  # pyright: ignore[reportPrivateImportUsage]
