"""Which rows a condition on their fields keeps."""

# pyarrow makes its compute functions at import, where no type checker sees them.
# pyright: reportAttributeAccessIssue=false
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ltp.core.errors import ErrorCode, LtpError
from services.dataset.derive import Source


@dataclass(frozen=True)
class RowsWhere:
    """A mask of the rows whose fields have one of the given values each."""

    values: dict[str, list[Any]]

    def __call__(self, table: pa.Table) -> np.ndarray:
        mask = np.ones(table.num_rows, dtype=bool)
        for name, values in self.values.items():
            column = pc.struct_field(table.column("fields"), name).combine_chunks()
            text = pc.fill_null(column.cast(pa.string()), "")
            wanted = pa.array([_spelt(value) for value in values])
            mask &= pc.is_in(text, wanted).to_numpy(zero_copy_only=False)
        return mask


def rows_where(source: Source, where: dict[str, list[Any]]) -> RowsWhere:
    """The condition, checked against the version. Raises INVALID_REQUEST for unknown fields."""
    schema = next(table.schema for _, table in source.tables(rows=1))
    names = [f.name for f in schema.field("fields").type] if "fields" in schema.names else []
    if unknown := sorted({*where} - {*names}):
        message = f"{source.name} has no field {unknown[0]!r}."
        raise LtpError(ErrorCode.INVALID_REQUEST, message, f"It has: {', '.join(names) or 'none'}.")
    return RowsWhere(where)


def _spelt(value: Any) -> str:
    """As Arrow spells the value: null as nothing."""
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
