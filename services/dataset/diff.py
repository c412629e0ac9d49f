"""What changed between two versions, row by row, by the names of the rows alone."""

from __future__ import annotations

from typing import Any

import numpy as np

from services.dataset.derive import Source
from services.dataset.policy import id_hashes

KINDS = ("added", "removed", "changed", "moved")


def diff(before: Source, after: Source, limit: int) -> dict[str, Any]:
    """Counts of rows added, removed, changed (same id, other content), moved to another split, and the same.

    Holds 128 bytes a row of both. Examples are row ids, of the later version where there is one.
    """
    old, new = _names(before), _names(after)
    in_new = np.isin(old["row"], new["row"])
    in_old = np.isin(new["row"], old["row"])
    gone, come = old[~in_new], new[~in_old]
    changed_new = np.isin(come["id"], gone["id"])
    changed_old = np.isin(gone["id"], come["id"])
    both_old, both_new = np.sort(old[in_new], order="row"), np.sort(new[in_old], order="row")
    moved = both_new[both_old["split"] != both_new["split"]]
    kinds = {"added": come[~changed_new], "removed": gone[~changed_old], "changed": come[changed_new], "moved": moved}
    return {
        "before": before.version,
        "after": after.version,
        **{kind: len(kinds[kind]) for kind in KINDS},
        "same": len(both_old) - len(moved),
        "examples": {kind: [row.decode() for row in kinds[kind]["row"][:limit]] for kind in KINDS},
    }


def _names(source: Source) -> np.ndarray:
    """(rows,) records of row id, hash of the id, and hash of the split's name."""
    kind = np.dtype([("row", "S32"), ("id", "S32"), ("split", "S64")])
    parts: list[np.ndarray] = []
    for split, table in source.tables(["row_id", "id"], rows=65_536):
        part = np.empty(table.num_rows, dtype=kind)
        part["row"] = table.column("row_id").to_pylist()
        part["id"] = [bytes(digest).hex() for digest in id_hashes(table.column("id").to_pylist())[:, :16]]
        part["split"] = split.encode()[:64]
        parts.append(part)
    return np.concatenate(parts)
