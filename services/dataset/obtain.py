"""From what a user pointed at (an upload, a path on the server, an archive, a folder, a hub) to files and a mapping."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ltp.core.errors import ErrorCode, LtpError
from services.dataset.archive import kind_of, unpack
from services.dataset.hub import DATA_SUFFIXES, INFO, HubSettings, Reference, fetch, wanted
from services.dataset.ingest import SourceFile
from services.dataset.mapping import Mapping as Columns
from services.dataset.mapping import told

Found = list[tuple[Path, str]]


@dataclass(frozen=True)
class Obtained:
    """Files to be read as one dataset, in order, and how, where somebody said so."""

    files: list[SourceFile]
    columns: Columns | None


def obtain(
    source: str,
    filename: str | None,
    *,
    member: str | None,
    mapping: Mapping[str, Any] | None,
    roots: Sequence[Path],
    hub: HubSettings,
    work: Path,
) -> Obtained:
    """Bring the files of a source together. `work` is an empty folder for what has to be unpacked or fetched.

    `roots` are the folders a path may lie in. `mapping` is what the user told; without it an entry of
    `dataset_info.json` beside the files counts. Raises LtpError: NOT_FOUND, INVALID_REQUEST (outside the roots, which
    file is not clear), and what `unpack`, `fetch` and `told` raise.
    """
    if "://" in source:
        found = fetch(Reference.parse(source), work / "hub", hub)
    else:
        path = inside(Path(source), roots)
        found = _in_folder(path) if path.is_dir() else [(path, filename or path.name)]
    found = [file for item in found for file in _unpacked(item, work, hub.max_bytes)]
    entry: Mapping[str, Any] | None = None
    info = next((path for path, name in found if name.rsplit("/", 1)[-1] == INFO), None)
    if info is not None and len(found) > 1:
        member, entry = _entry(info, member)
    columns = told(mapping) if mapping is not None else told(entry) if entry is not None else None
    return Obtained([SourceFile(path, name) for path, name in _chosen(found, member)], columns)


def inside(path: Path, roots: Sequence[Path]) -> Path:
    """The path with links resolved, when it lies in one of the roots. Raises INVALID_REQUEST, NOT_FOUND."""
    resolved = path.resolve()
    if not any(resolved.is_relative_to(root.resolve()) for root in roots):
        message = f"{path} is outside the folders that may be read: {', '.join(map(str, roots))}."
        raise LtpError(ErrorCode.INVALID_REQUEST, message, "Add its folder to LTP_DATASET_ROOTS, or upload the file.")
    if not resolved.exists():
        raise LtpError(ErrorCode.NOT_FOUND, f"There is no {path} on the server.", "Check the path, or upload the file.")
    return resolved


def _in_folder(folder: Path) -> Found:
    # Links inside a folder could lead out of the roots.
    files = sorted(p for p in folder.rglob("*") if p.is_file() and not p.is_symlink())
    return [(path, path.relative_to(folder).as_posix()) for path in files]


def _unpacked(item: tuple[Path, str], work: Path, limit: int) -> Found:
    path, name = item
    if kind_of(path) is None:
        return [item]
    into = work / "unpacked" / f"{len(list((work / 'unpacked').glob('*'))):05}"
    files = unpack(path, into, limit, name)
    # A packed file inside an archive is unpacked once more, never deeper.
    return [
        inner
        for number, (at, called) in enumerate(files)
        for inner in (unpack(at, into / f"in-{number}", limit, called) if kind_of(at) == "gzip" else [(at, called)])
    ]


def _entry(info: Path, wanted_name: str | None) -> tuple[str | None, Mapping[str, Any] | None]:
    """The pattern of files and the mapping of one entry of a dataset_info.json."""
    try:
        entries: dict[str, dict[str, Any]] = json.loads(info.read_bytes())
        local = {name: entry for name, entry in entries.items() if "file_name" in entry}
    except (ValueError, AttributeError, TypeError) as error:
        message = f"{INFO} is no JSON object of entries: {error}."
        raise LtpError(ErrorCode.DATASET_UNREADABLE, message, "Mend it or leave it out.") from error
    if wanted_name in local:
        return str(local[wanted_name]["file_name"]), local[wanted_name]
    by_file = [entry for entry in local.values() if entry["file_name"] == wanted_name]
    if len(by_file) == 1:
        return wanted_name, by_file[0]
    if wanted_name is not None or not local:
        return wanted_name, None
    if len(local) > 1:
        message = f"{INFO} has {len(local)} entries: {', '.join(sorted(local)[:20])}."
        raise LtpError(ErrorCode.INVALID_REQUEST, message, "Name the one that is meant with --member.")
    ((_, entry),) = local.items()
    return str(entry["file_name"]), entry


def _chosen(found: Found, member: str | None) -> Found:
    if len(found) == 1 and member is None:
        return found
    names = wanted([name for _, name in found if name.rsplit("/", 1)[-1] != INFO], member)
    chosen = [(path, name) for path, name in found if name in set(names)]
    if not chosen:
        what = f"no file that fits {member!r}" if member else f"no file that ends in {', '.join(DATA_SUFFIXES[:6])}"
        message = f"There is {what} among {len(found)} files: {', '.join(sorted(name for _, name in found)[:10])}."
        raise LtpError(ErrorCode.NOT_FOUND, message, "Name the file with --member.")
    endings = {_ending(name) for _, name in chosen}
    if len(endings) > 1:
        message = f"There are files of several kinds ({', '.join(sorted(endings))}); which are meant is not clear."
        raise LtpError(ErrorCode.INVALID_REQUEST, message, "Choose with --member, such as 'train/*.jsonl'.")
    return sorted(chosen, key=lambda item: item[1])


def _ending(name: str) -> str:
    return Path(name.lower().removesuffix(".gz")).suffix
