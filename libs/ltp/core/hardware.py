"""What an accelerator can do: memory, speed, links and price class, one row a model with its source.

Memory is what the driver reports as the total, not what the box says. FLOP/s are dense bf16 with fp32 accumulation as the
data sheet states them; what a kernel reaches is the roofline's business (`step_time`). `link` is one direction per device
to its peers on the same host: NVLink where the board has it, else PCIe. Prices are a class (US dollars an hour, on demand,
of the public clouds' lists in 2025), there so that "cheapest" means something; `--price` says what one really pays.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import Literal

from ltp.core.errors import ErrorCode, LtpError

_MIB, _GB, _TERA = 1 << 20, 10**9, 10**12


@dataclass(frozen=True)
class Hardware:
    """One model of accelerator, or of a machine whose processors share their memory with the GPU."""

    name: str
    memory_bytes: int
    # Dense bf16, FLOP/s; of a device without bf16 its fp16.
    flops: float
    # Of the device's memory, bytes/s.
    bandwidth: float
    # To a peer on the same host, bytes/s in one direction.
    link: float
    hourly_dollars: float
    source: str
    # What verl trains on it as: it has no platform for Apple's GPUs, so there the processors do the work.
    kind: Literal["gpu", "cpu"] = "gpu"
    has_bf16: bool = True
    has_nvlink: bool = False


def _gpu(
    name: str, mib: int, tflops: float, gbps: float, link: float, price: float, source: str, *, bf16: bool = True
) -> Hardware:
    return Hardware(
        name, mib * _MIB, tflops * _TERA, gbps * _GB, link * _GB, price, source, has_bf16=bf16, has_nvlink=link > 64
    )


def _apple(name: str, gigabytes: int, tflops: float, gbps: float, price: float, source: str) -> Hardware:
    return Hardware(name, gigabytes << 30, tflops * _TERA, gbps * _GB, gbps * _GB, price, source, kind="cpu")


_NVIDIA = "https://www.nvidia.com/en-us/data-center"
_GEFORCE = "https://www.nvidia.com/en-us/geforce/graphics-cards"
_ADA = "https://images.nvidia.com/aem-dam/Solutions/geforce/ada/nvidia-ada-gpu-architecture.pdf"

TABLE: tuple[Hardware, ...] = (
    _gpu("A100-40GB", 40960, 312, 1555, 300, 1.3, f"{_NVIDIA}/a100 (data sheet, SXM 40 GB)"),
    _gpu("A100-80GB", 81920, 312, 2039, 300, 1.8, f"{_NVIDIA}/a100 (data sheet, SXM 80 GB)"),
    _gpu("A100-PCIe-80GB", 81920, 312, 1935, 32, 1.6, f"{_NVIDIA}/a100 (data sheet, PCIe 80 GB)"),
    _gpu("H100-SXM", 81559, 989.4, 3350, 450, 3.0, f"{_NVIDIA}/h100 (data sheet, SXM5)"),
    _gpu("H100-PCIe", 81559, 756, 2000, 64, 2.5, f"{_NVIDIA}/h100 (data sheet, PCIe)"),
    _gpu("H100-NVL", 95830, 835, 3900, 300, 2.8, f"{_NVIDIA}/h100 (data sheet, NVL, per GPU)"),
    _gpu("H200", 143771, 989.4, 4800, 450, 3.8, f"{_NVIDIA}/h200 (data sheet, SXM; memory as nvidia-smi reports it)"),
    _gpu("B200", 183359, 2250, 8000, 900, 6.0, f"{_NVIDIA}/dgx-b200 (data sheet, an eighth of a DGX)"),
    _gpu("L40S", 46068, 362, 864, 32, 1.0, f"{_NVIDIA}/l40s (data sheet)"),
    _gpu("L40", 46068, 181, 864, 32, 0.9, f"{_NVIDIA}/l40 (data sheet)"),
    _gpu("L4", 23034, 121, 300, 32, 0.6, f"{_NVIDIA}/l4 (data sheet; half of the figure with sparsity)"),
    _gpu("A10", 23028, 125, 600, 32, 0.6, f"{_NVIDIA}/products/a10-gpu (data sheet)"),
    _gpu("A10G", 23028, 70, 600, 32, 0.8, "https://aws.amazon.com/ec2/instance-types/g5"),
    _gpu("A40", 46068, 149.7, 696, 32, 0.5, f"{_NVIDIA}/a40 (data sheet)"),
    _gpu("RTX-A6000", 49140, 154.8, 768, 32, 0.6, "https://www.nvidia.com/en-us/design-visualization/rtx-a6000"),
    _gpu("RTX-6000-Ada", 49140, 364, 960, 32, 0.8, "https://www.nvidia.com/en-us/design-visualization/rtx-6000"),
    _gpu("RTX-3090", 24576, 71, 936, 32, 0.25, f"{_GEFORCE}/30-series/rtx-3090; GA102 white paper, table 9"),
    _gpu("RTX-4090", 24564, 165.2, 1008, 32, 0.4, f"{_ADA}, table 2"),
    _gpu("RTX-5090", 32607, 209.5, 1792, 64, 0.7, f"{_GEFORCE}/50-series/rtx-5090; Blackwell white paper, table 2"),
    _gpu("V100-16GB", 16384, 125, 900, 150, 0.5, f"{_NVIDIA}/v100 (data sheet, fp16)", bf16=False),
    _gpu("V100-32GB", 32768, 125, 900, 150, 0.7, f"{_NVIDIA}/v100 (data sheet, fp16)", bf16=False),
    _gpu("T4", 15360, 65, 320, 16, 0.35, f"{_NVIDIA}/tesla-t4 (data sheet, fp16)", bf16=False),
    _gpu(
        "MI300X", 196592, 1307.4, 5300, 448, 2.5, "https://www.amd.com/en/products/accelerators/instinct/mi300/mi300x"
    ),
    _gpu(
        "MI325X", 262128, 1307.4, 6000, 448, 3.0, "https://www.amd.com/en/products/accelerators/instinct/mi300/mi325x"
    ),
    _gpu(
        "MI250X", 65520, 191.5, 1638, 200, 1.0, "https://www.amd.com/en/products/accelerators/instinct/mi200 (one GCD)"
    ),
    _apple("Apple-M1-Max", 64, 10.4, 400, 0.4, "https://support.apple.com/en-us/111901 (unified memory, largest)"),
    _apple("Apple-M2-Ultra", 192, 27.2, 800, 0.7, "https://support.apple.com/en-us/111835 (unified memory, largest)"),
    _apple("Apple-M3-Max", 128, 14.2, 400, 0.5, "https://support.apple.com/en-us/117736 (unified memory, largest)"),
    _apple("Apple-M3-Ultra", 512, 28.4, 819, 1.0, "https://support.apple.com/en-us/122211 (unified memory, largest)"),
    _apple("Apple-M4-Max", 128, 18.4, 546, 0.6, "https://support.apple.com/en-us/122211 (unified memory, largest)"),
)

_BY_KEY = {re.sub(r"[^a-z0-9]", "", row.name.lower()): row for row in TABLE}
# What people and drivers call them: the first of a family that a short name means.
_ALIASES = {
    "a100": "A100-80GB", "a10080": "A100-80GB", "a100sxm480gb": "A100-80GB", "a100sxm80gb": "A100-80GB",
    "a10040": "A100-40GB", "a100sxm440gb": "A100-40GB", "a100pcie": "A100-PCIe-80GB", "a100pcie40gb": "A100-40GB",
    "a10080gbpcie": "A100-PCIe-80GB",
    "h100": "H100-SXM", "h10080gb": "H100-SXM", "h10080gbhbm3": "H100-SXM", "h100sxm5": "H100-SXM",
    "h200sxm": "H200", "h200nvl": "H200", "b200sxm": "B200",
    "rtx4090": "RTX-4090", "4090": "RTX-4090", "3090": "RTX-3090", "5090": "RTX-5090", "a6000": "RTX-A6000",
    "rtx6000adageneration": "RTX-6000-Ada", "6000ada": "RTX-6000-Ada",
    "v100": "V100-32GB", "v100sxm232gb": "V100-32GB", "v100sxm216gb": "V100-16GB", "v100pcie16gb": "V100-16GB",
    "mi300": "MI300X", "m1max": "Apple-M1-Max", "m2ultra": "Apple-M2-Ultra", "m3max": "Apple-M3-Max",
    "m3ultra": "Apple-M3-Ultra", "m4max": "Apple-M4-Max",
}  # fmt: skip
_NOISE = ("nvidia", "geforce", "tesla", "amd", "instinct", "graphics")


def _key(name: str) -> str:
    key = re.sub(r"[^a-z0-9]", "", name.lower())
    for word in _NOISE:
        key = key.replace(word, "")
    return key


def recognise(name: str) -> Hardware | None:
    """The row for a device as a person or a driver names it ("h100", "NVIDIA H200", "A100-SXM4-80GB"); None if unknown."""
    key = _key(name)
    found = _BY_KEY.get(key)
    return found or (lookup(_ALIASES[key]) if key in _ALIASES else None)


def lookup(name: str) -> Hardware:
    """As `recognise`. Raises INVALID_REQUEST with the nearest names for a device that is not in the table."""
    found = _BY_KEY.get(_key(name)) or _BY_KEY.get(_key(_ALIASES.get(_key(name), "")))
    if found is not None:
        return found
    choices = {**{key: row.name for key, row in _BY_KEY.items()}, **_ALIASES}
    near = list(dict.fromkeys(choices[key] for key in difflib.get_close_matches(_key(name), choices, n=6, cutoff=0.4)))
    names = ", ".join(near[:3] or [row.name for row in TABLE])
    message = f"There is no accelerator {name!r} in the hardware table."
    raise LtpError(ErrorCode.INVALID_REQUEST, message, f"The nearest are {names}; `ltp plan hardware` lists all.")
