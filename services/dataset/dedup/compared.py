"""The rows of several versions one after the other, as places on the disk: small to send to the process that reads them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ltp.contracts.dedup import TextPart
from ltp.core.errors import ErrorCode, LtpError
from services.dataset.vectors.index import F32
from services.dataset.vectors.rows import Frozen, RowsFile, open_rows


@dataclass(frozen=True)
class Compared:
    """The last version is the one that rows are removed from; `vectors` holds a matrix file for each, or nothing."""

    versions: list[Frozen]
    folder: Path
    part: TextPart
    vectors: list[Path]

    @cached_property
    def rows(self) -> list[RowsFile]:
        """The rows of each version, mapped."""
        return [open_rows(self.folder / "rows" / v.version, v.splits, self.part) for v in self.versions]

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """Where the rows of each version begin; the last entry is the number of all."""
        return np.cumsum([0, *(len(rows) for rows in self.rows)]).astype(np.int64)

    @property
    def reference(self) -> int:
        """How many rows belong to the versions that nothing is removed from."""
        return int(self.starts[-2])

    def place(self, row: int) -> tuple[int, int]:
        """(which version, which row of it)."""
        version = int(np.searchsorted(self.starts, row, side="right")) - 1
        return version, row - int(self.starts[version])

    def matrix(self) -> F32 | None:
        """The vectors of all rows. Raises VECTORS_INVALID when the versions' have different sizes."""
        return stacked([np.load(path, mmap_mode="r", allow_pickle=False) for path in self.vectors])


def stacked(parts: list[F32]) -> F32 | None:
    """Vectors of several versions one after the other; None of none. Raises VECTORS_INVALID for different sizes."""
    widths = {part.shape[1] for part in parts}
    if len(widths) > 1:
        message = f"The versions' vectors have {' and '.join(map(str, sorted(widths)))} numbers."
        raise LtpError(ErrorCode.VECTORS_INVALID, message, "Embed all of them with the same model.")
    return np.concatenate(parts) if parts else None
