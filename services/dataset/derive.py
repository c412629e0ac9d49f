"""Makes new versions out of frozen ones: rows kept, split anew, or mixed. Every way goes through the same spool and writer."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ltp.contracts.dataset import DEFAULT_PROJECT
from ltp.core.errors import ErrorCode, LtpError
from services.dataset.files import MANIFEST, FrozenVersion, SplitOf, staging_directory, write_version
from services.dataset.policy import positions_of, split_codes
from services.dataset.schema import CONTENT, SPLIT, from_hexadecimal
from services.dataset.spool import Spool, ranges_for, write_part

# Rows of a frozen version to be kept: a test of a table of them (a mask of its length), or their row ids.
Keep = Callable[[pa.Table], pa.Array | np.ndarray] | Collection[str]
_BATCH_ROWS = 16_384


@dataclass(frozen=True)
class Source:
    """A frozen version as a place on the disk."""

    name: str
    version: str
    directory: Path
    # Whose version is meant; what the same rows are under the same name in two projects lies on the disk once.
    project: str = DEFAULT_PROJECT

    def manifest(self) -> dict[str, Any]:
        """What its writer noted. Raises NOT_FOUND when it was deleted, DATA_DIR_CORRUPT when it cannot be read."""
        try:
            found: dict[str, Any] = json.loads((self.directory / MANIFEST).read_text())
        except FileNotFoundError as error:
            message = f"Version {self.version} of {self.name} is no longer on the disk."
            raise LtpError(ErrorCode.NOT_FOUND, message, "`ltp dataset versions` shows what there is.") from error
        except (OSError, ValueError) as error:
            message = f"{self.directory / MANIFEST} cannot be read: {error}."
            raise LtpError(ErrorCode.DATA_DIR_CORRUPT, message, "Delete the version and add it again.") from error
        return found

    def tables(self, columns: Sequence[str] | None = None, rows: int = _BATCH_ROWS) -> Iterator[tuple[str, pa.Table]]:
        """(split, table) of at most `rows` rows each, in order: the whole version in bounded memory."""
        for split, facts in sorted(self.manifest()["splits"].items()):
            with pq.ParquetFile(self.directory / facts["file"]) as file:
                for batch in file.iter_batches(rows, columns=None if columns is None else list(columns)):
                    yield split, pa.Table.from_batches([batch])


@dataclass(frozen=True)
class Without:
    """Keeps the rows whose names are not among these."""

    gone: frozenset[str]

    def __call__(self, table: pa.Table) -> np.ndarray:
        ids = table.column("row_id").to_pylist()
        return np.fromiter((row_id not in self.gone for row_id in ids), np.bool_, len(ids))


def derive_files(
    parent: Source, keep: Keep, *, name: str, versions_dir: Path, owner: str, facts: Mapping[str, Any]
) -> FrozenVersion:
    """The rows of `parent` that `keep` keeps, each in the split it was in, as a version of its own."""
    chosen = None if callable(keep) else frozenset(keep)

    def kept(_: int, table: pa.Table) -> pa.Table:
        if chosen is None:
            mask = keep(table)  # type: ignore[operator]
        else:
            mask = np.fromiter((r in chosen for r in table.column("row_id").to_pylist()), bool, count=len(table))
        return table.filter(pa.array(mask) if isinstance(mask, np.ndarray) else mask)

    return _assembled([parent], kept, _as_they_were, name=name, versions_dir=versions_dir, owner=owner, facts=facts)


def split_files(
    parent: Source, shares: Mapping[str, float], *, name: str, versions_dir: Path, owner: str, facts: Mapping[str, Any]
) -> FrozenVersion:
    """The rows of `parent`, split anew by the hash of their ids. `shares` are ratios that sum to 1."""
    names = list(shares)

    def by_share(table: pa.Table) -> tuple[np.ndarray, list[str]]:
        return split_codes(table.column("position").to_numpy(), list(shares.values())), names

    return _assembled([parent], _all, by_share, name=name, versions_dir=versions_dir, owner=owner, facts=facts)


def mix_files(
    parents: Sequence[Source],
    weights: Sequence[float],
    rows: int | None,
    *,
    name: str,
    versions_dir: Path,
    owner: str,
    facts: Mapping[str, Any],
) -> FrozenVersion:
    """Rows of several versions in the proportion of `weights`, no row twice, chosen by the order of their names.

    `rows` is the size asked for, over all splits; left out, as large as the proportion allows. Raises LtpError:
    DATASET_TOO_SMALL when a version has fewer rows than its part.
    """
    taken = _quotas(parents, weights, rows)
    seen: dict[tuple[int, str], int] = {}

    def part(number: int, table: pa.Table, split: str) -> pa.Table:
        done = seen.get((number, split), 0)
        seen[number, split] = done + table.num_rows
        return table.slice(0, max(0, taken[number].get(split, 0) - done))

    return _assembled(
        parents, lambda n, t, s="": part(n, t, s), _as_they_were, name=name, versions_dir=versions_dir, owner=owner,
        facts=facts, with_split=True,
    )  # fmt: skip


def _quotas(parents: Sequence[Source], weights: Sequence[float], rows: int | None) -> list[dict[str, int]]:
    """How many rows of each split each parent gives."""
    total = sum(weights)
    held = [{split: facts["rows"] for split, facts in p.manifest()["splits"].items()} for p in parents]
    sizes = [sum(splits.values()) for splits in held]
    most = int(min(size * total / weight for size, weight in zip(sizes, weights, strict=True)))
    size = most if rows is None else rows
    if size > most:
        short = min(range(len(parents)), key=lambda i: sizes[i] / weights[i])
        message = (
            f"{size} rows need {round(size * weights[short] / total)} of {parents[short].name}, which has "
            f"{sizes[short]}."
        )
        raise LtpError(ErrorCode.DATASET_TOO_SMALL, message, f"Ask for at most {most} rows, or change the weights.")
    found: list[dict[str, int]] = []
    for splits, weight, count in zip(held, weights, sizes, strict=True):
        share = size * weight / total / count
        found.append({split: min(rows, round(rows * share)) for split, rows in splits.items()})
    return found


def _assembled(
    parents: Sequence[Source],
    select: Callable[..., pa.Table],
    split_of: SplitOf,
    *,
    name: str,
    versions_dir: Path,
    owner: str,
    facts: Mapping[str, Any],
    with_split: bool = False,
) -> FrozenVersion:
    size = sum(path.stat().st_size for parent in parents for path in parent.directory.glob("*.parquet"))
    # Parquet unpacks to a few times its size.
    spool = Spool(ranges_for(4 * size))
    with staging_directory(versions_dir, f"{owner}.spool") as staging:
        for number, parent in enumerate(parents):
            for split, table in parent.tables():
                rows = select(number, table, split) if with_split else select(number, table)
                if rows.num_rows:
                    path = staging / f"{len(spool.parts):06}.arrow"
                    spool.parts.append(_part(path, rows, split, spool.ranges))
        if not spool.parts:
            raise LtpError(ErrorCode.DATASET_EMPTY, "No row is left.", "Keep at least one row.")
        return write_version(spool, split_of, name=name, facts=facts, versions_dir=versions_dir, owner=owner)


def _part(path: Path, table: pa.Table, split: str, ranges: int) -> Any:
    ids = table.column("id").to_pylist()
    keys = from_hexadecimal(table.column("row_id").to_pylist())
    core = table.select([c for c in (*CONTENT, "fields") if c in table.column_names])
    core = core.append_column(SPLIT, pa.array([split] * table.num_rows))
    return write_part(path, core, keys, positions_of(ids), ranges)


def _all(_: int, table: pa.Table) -> pa.Table:
    return table


def _as_they_were(table: pa.Table) -> tuple[np.ndarray, list[str]]:
    encoded = table.column(SPLIT).combine_chunks().dictionary_encode()
    encoded = encoded.combine_chunks() if isinstance(encoded, pa.ChunkedArray) else encoded
    return encoded.indices.to_numpy(), encoded.dictionary.to_pylist()
