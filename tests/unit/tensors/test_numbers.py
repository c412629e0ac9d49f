"""bfloat16 and float16 by numpy alone, held against torch on every value that 16 bits can say and on those between."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from ltp.tensors.numbers import decode, encode, fits, rounded
from tests.unit.tensors.in_memory import TYPES


def between(dtype: str) -> np.ndarray:
    """Float32 values of all sizes, and those next to and half way between neighbours of a type."""
    dice = np.random.default_rng(0)
    bits = dice.integers(0, 1 << 32, 200_000, dtype=np.uint32)
    ties = (dice.integers(0, 1 << 16, 50_000, dtype=np.uint32) << 16) + 0x8000
    if dtype == "F16":
        ties = (dice.integers(0, 1 << 19, 50_000, dtype=np.uint32) << 13) + 0x1000
    found = np.concatenate([bits, ties, ties - 1, ties + 1]).view(np.float32)
    return found[np.isfinite(found)]


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_rounding_is_torchs(dtype: str) -> None:
    values = between(dtype)
    expected = torch.from_numpy(values.copy()).to(TYPES[dtype])
    assert np.array_equal(encode(values.copy(), dtype), expected.view(torch.uint8).numpy())
    assert np.array_equal(rounded(values.copy(), dtype), expected.float().numpy())


@pytest.mark.parametrize("dtype", ["BF16", "F16"])
def test_reading_is_torchs(dtype: str) -> None:
    raw = np.arange(1 << 16, dtype=np.uint16).view(np.uint8)
    into = np.empty(1 << 16, np.float32)
    decode(raw, dtype, into)
    expected = torch.from_numpy(raw.copy()).view(TYPES[dtype]).float().numpy()
    assert np.array_equal(into, expected, equal_nan=True)


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_what_does_not_fit_is_seen(dtype: str) -> None:
    for value in between(dtype)[:2000]:
        pair = np.array([1.0, value], np.float32)
        stays = bool(torch.isfinite(torch.from_numpy(pair).to(TYPES[dtype])).all())
        assert fits(pair, dtype) == stays
    largest = torch.finfo(TYPES[dtype]).max
    assert fits(np.array([-largest, largest], np.float32), dtype)
    for bad in (np.nan, np.inf, -np.inf):
        assert not fits(np.array([0.0, bad, 1.0], np.float32), dtype)
