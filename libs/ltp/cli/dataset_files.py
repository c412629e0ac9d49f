"""Files on their way to the platform and back: uploads in pieces, folders packed, mappings read, downloads put in place."""

from __future__ import annotations

import hashlib
import json as text_json
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ltp.cli.client import Gateway
from ltp.contracts.values import Problem
from ltp.core.errors import ErrorCode, LtpError

_POLL_SECONDS = 0.3
_PIECE_BYTES = 16 * 1024**2
_TRIES = 5


def send(gateway: Gateway, file: Path) -> str:
    """Upload a file, or a folder as an archive, in pieces, going on where an earlier try stopped; returns the upload's id.

    Raises LtpError NOT_FOUND when it cannot be read.
    """
    if file.is_dir():
        with _packed(file) as archive:
            return send(gateway, archive)
    with opened(file) as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
        total = content.seek(0, 2)
        known = {"filename": file.name, "size_bytes": total, "sha256": digest}
        upload = gateway.post("/datasets/uploads", json=known)
        path = f"/datasets/uploads/{upload['upload_id']}"
        failures = 0
        while upload["offset"] < total:
            content.seek(upload["offset"])
            piece = content.read(_PIECE_BYTES)
            headers = {
                "Upload-Offset": str(upload["offset"]), "Upload-Sha256": hashlib.sha256(piece).hexdigest(),
                "Content-Type": "application/offset+octet-stream",
            }  # fmt: skip
            try:
                upload = gateway.patch(path, content=piece, headers=headers)
                failures = 0
            except LtpError as error:
                if error.code is ErrorCode.CONFLICT and (known_now := gateway.get(path))["offset"] > upload["offset"]:
                    # Another client sends the same content: whoever is ahead, both go on from there.
                    upload, failures = known_now, 0
                    continue
                failures += 1
                mends = {ErrorCode.SERVICE_UNAVAILABLE, ErrorCode.CONFLICT, ErrorCode.CHECKSUM_MISMATCH}
                if error.code not in mends or failures == _TRIES:
                    raise
                time.sleep(_POLL_SECONDS * 2**failures)
                upload = gateway.get(path)
    return str(upload["upload_id"])


def upload(gateway: Gateway, file: Path, name: str, holdout: float) -> Any:
    """Send a file and add it as a dataset. Raises NOT_FOUND when there is none."""
    request = {"name": name, "holdout": holdout, "upload_id": send(gateway, file)}
    return gateway.post("/datasets/sources", json=request)


def wait_until_read(gateway: Gateway, dataset: Any) -> Any:
    """Return the dataset once it is frozen. Raises its problem when it is rejected."""
    while dataset["state"] == "uploaded":
        time.sleep(_POLL_SECONDS)
        dataset = gateway.get(f"/datasets/{dataset['dataset_id']}")
    if dataset["state"] == "rejected":
        raise Problem.model_validate(dataset["problem"]).error()
    return dataset


def read_options(mapping: Path | None, member: str | None, name: str, **more: Any) -> dict[str, Any]:
    """The options of reading, as the API takes them. Raises INVALID_REQUEST when the mapping is none."""
    options = {"member": member, **more}
    if mapping is not None:
        options |= _mapping(mapping, member, name)
    return {key: value for key, value in options.items() if value is not None}


def _mapping(file: Path, member: str | None, name: str) -> dict[str, Any]:
    try:
        found = text_json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        message = f"{file} is no JSON that can be read ({error})."
        raise LtpError(ErrorCode.INVALID_REQUEST, message, "Give an entry of a dataset_info.json.") from error
    if not isinstance(found, dict):
        raise LtpError(
            ErrorCode.INVALID_REQUEST, f"{file} holds no JSON object.", "Give an entry of a dataset_info.json."
        )
    whole = all(isinstance(value, dict) for value in found.values()) and not {"columns", "tags"} & set(found)
    if not whole:
        return {"mapping": found}
    entry = found.get(member or name) or (next(iter(found.values())) if len(found) == 1 else None)
    if entry is None:
        message = f"{file} has {len(found)} entries, and none is called {member or name}."
        raise LtpError(ErrorCode.INVALID_REQUEST, message, f"Choose with --member: {', '.join(sorted(found)[:20])}.")
    return {"mapping": entry, "member": None if member in found else member}


@contextmanager
def _packed(folder: Path) -> Iterator[Path]:
    """A folder's files as a tar beside nothing else; the same files give the same bytes, so that an upload can go on."""
    with tempfile.TemporaryDirectory(prefix="ltp-folder-") as place:
        archive = Path(place) / f"{folder.resolve().name}.tar"
        with tarfile.open(archive, "w") as tar:
            for path in sorted(p for p in folder.rglob("*") if p.is_file()):
                tar.add(path, path.relative_to(folder).as_posix(), filter=_plain)
        yield archive


def _plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Nobody's file of no time: only its name and content count."""
    member.uid = member.gid = 0
    member.mtime, member.uname, member.gname = 0, "", ""
    return member


def fetched(gateway: Gateway, method: str, path: str, out: Path, **kwargs: Any) -> int:
    """Download to a file that appears whole or not at all; returns the rows in it. Raises INVALID_REQUEST."""
    staging = out.with_name(f".{out.name}.part")
    try:
        with staging.open("wb") as stream:
            headers = gateway.download(method, path, stream, **kwargs)
        staging.replace(out)
    except OSError as error:
        message = f"{out} cannot be written ({error.strerror})."
        raise LtpError(ErrorCode.INVALID_REQUEST, message, "Give a path that can be written.") from error
    finally:
        staging.unlink(missing_ok=True)
    return int(headers.get("X-Rows", 0))


def opened(file: Path) -> Any:
    """A file to read. Raises NOT_FOUND."""
    try:
        return file.open("rb")
    except OSError as error:
        message = f"{file} cannot be read ({error.strerror})."
        raise LtpError(ErrorCode.NOT_FOUND, message, "Give the path of a file.") from error


def kind_of(out: Path) -> str | None:
    """The kind of file that a name's ending means."""
    ending = out.suffix.lower().removeprefix(".")
    return ending if ending in {"jsonl", "json", "csv", "parquet"} else None
