"""Carries an operation from its preflight to a directory that appears whole or not at all.

One function for the service, the command line and tests. What differs between kinds of operations (merge, average, export …) is a
`Work`; what they share stands here: one writer per output, going on after a kill, lineage, proof, and reuse of a result that
exists already.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import IO, Any, Protocol

from ltp.core.errors import ErrorCode, LtpError
from ltp.tensors.card import CARD, MANIFEST, Parent, card, manifest, read_manifest
from ltp.tensors.flushing import flush, writing_back
from ltp.tensors.identity import file_digest, fingerprint, operation_digest, stamps
from ltp.tensors.model_files import read_json
from ltp.tensors.plan import Model, refused
from ltp.tensors.preflight import check_space

JOURNAL = "journal.jsonl"
# What a work found out, for people and programs; part of the answer.
REPORT = "report.json"
_POLL_SECONDS = 0.2
Tell = Callable[[dict[str, Any]], None]


class Stopped(Exception):  # noqa: N818 - no error: somebody asked for it
    """The work was asked to stop; what is done is kept for the next try."""


class Work(Protocol):
    """What one kind of operation does."""

    kind: str
    method: str
    recipe: dict[str, Any]
    models: list[Model]
    write_bytes: int
    # Whether the result is a model that loads by itself.
    is_model: bool

    def summary(self) -> dict[str, Any]:
        """What a person wants to see before saying yes."""
        ...

    def write(self, directory: Path, digest: str, stop: Event, tell: Tell) -> None:
        """Write weights and settings into `directory`, going on where an earlier try stopped."""
        ...


@dataclass(frozen=True)
class Wish:
    """How an operation is to be carried out."""

    out: Path
    seed: int = 0
    proof: bool = True
    # The interpreter that has transformers.
    python: str = sys.executable
    # How long to wait for an earlier try of the same operation that is still stopping.
    patience_seconds: float = 0.0
    # Whether the result is to be safe from a power cut when it appears.
    flush: bool = False


def carry_out(work: Work, wish: Wish, stop: Event, tell: Tell) -> dict[str, Any]:
    """Make the result. Returns {path, digest, size_bytes, reused, proof, report}.

    Raises Stopped (`stop` was set; go on by calling again), or LtpError: CONFLICT (the output exists or is being written),
    OPERATION_REFUSED, DISK_FULL, MERGE_FAILED, MODEL_UNREADABLE.
    """
    out = wish.out
    _refuse_inputs(out, work.models)
    prints = {model.reference: fingerprint(model) for model in work.models}
    digest = operation_digest(work.kind, work.recipe, prints, wish.seed)
    parents = [Parent(model.reference, prints[model.reference], stamps(model)) for model in work.models]
    with _only_writer(out, wish.patience_seconds):
        known = _existing(out, digest, parents)
        if known is not None:
            return known
        directory = out.parent / f".{out.name}.{digest[:16]}.partial"
        _drop_others(out, directory)
        written = sum(path.stat().st_blocks * 512 for path in directory.glob("*")) if directory.exists() else 0
        check_space(out.parent, work.write_bytes - written)
        directory.mkdir(parents=True, exist_ok=True)
        try:
            return _make(work, wish, directory, digest, parents, stop, tell)
        except LtpError:
            shutil.rmtree(directory, ignore_errors=True)
            raise
        except OSError as error:
            shutil.rmtree(directory, ignore_errors=True)
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            code = ErrorCode.DISK_FULL if full else ErrorCode.MERGE_FAILED
            raise LtpError(code, f"{out} cannot be written: {error.strerror or error}.", "Check the disk.") from error


def foresee(work: Work, wish: Wish) -> dict[str, Any]:
    """What `carry_out` would refuse before it starts, without starting: the digest, and whether the result is there already."""
    _refuse_inputs(wish.out, work.models)
    prints = {model.reference: fingerprint(model) for model in work.models}
    digest = operation_digest(work.kind, work.recipe, prints, wish.seed)
    parents = [Parent(model.reference, prints[model.reference], stamps(model)) for model in work.models]
    known = _existing(wish.out, digest, parents)
    if known is None:
        check_space(wish.out.parent, work.write_bytes)
    return {"digest": digest, "reused": known is not None, "out": str(wish.out)}


def _make(
    work: Work, wish: Wish, directory: Path, digest: str, parents: Sequence[Parent], stop: Event, tell: Tell
) -> dict[str, Any]:
    with writing_back(directory) if wish.flush else nullcontext():
        work.write(directory, digest, stop, tell)
    proof = None
    if wish.proof:
        tell({"stage": "proof"})
        proof = _prove(work, directory, wish.python, stop)
        parents = _hashed(work, parents)
    weights = sorted(path for path in directory.iterdir() if path.suffix == ".safetensors")
    sums = _digests(weights) if wish.proof else None
    files = {p.name: p.stat().st_size for p in directory.iterdir() if p.name not in {JOURNAL, MANIFEST, CARD}}
    found = manifest(digest, work.kind, work.recipe, wish.seed, parents, files, sums, proof)
    (directory / MANIFEST).write_text(json.dumps(found, indent=2) + "\n")
    (directory / CARD).write_text(card(wish.out.name, found, work.method))
    if stop.is_set():
        raise Stopped
    (directory / JOURNAL).unlink(missing_ok=True)
    if wish.flush:
        flush(*directory.iterdir(), directory)
    directory.rename(wish.out)
    if wish.flush:
        flush(wish.out.parent)
    return _answer(wish.out, found, reused=False)


def _answer(out: Path, found: dict[str, Any], *, reused: bool) -> dict[str, Any]:
    size = sum(entry["bytes"] for entry in found["files"].values())
    return {
        "path": str(out),
        "digest": found["digest"],
        "size_bytes": size,
        "reused": reused,
        "proof": found["proof"],
        "report": read_json(out / REPORT) if (out / REPORT).is_file() else None,
    }


def _existing(out: Path, digest: str, parents: Sequence[Parent]) -> dict[str, Any] | None:
    """The result, if `out` is exactly it. Raises CONFLICT when it is anything else."""
    if not out.exists():
        return None
    found = read_manifest(out)
    if found is not None and found.get("digest") == digest:
        same = [p["stamps"] for p in found["parents"]] == [parent.stamps for parent in parents]
        whole = all(
            (out / name).is_file() and (out / name).stat().st_size == entry["bytes"]
            for name, entry in found["files"].items()
        )
        if same and whole:
            return _answer(out, found, reused=True)
    raise LtpError(
        ErrorCode.CONFLICT,
        f"{out} exists already and is not this result.",
        "Choose another name, or remove that directory first.",
    )


def _refuse_inputs(out: Path, models: Sequence[Model]) -> None:
    target = out.resolve()
    for model in models:
        parts = [model.files.path, *([model.adapter.path] if model.adapter else [])]
        for path in (part.resolve() for part in parts):
            if target == path or target in path.parents or path in target.parents:
                raise refused(f"The output {out} lies in, on or around the input {path}.", "Choose another output.")


@contextmanager
def _only_writer(out: Path, patience: float) -> Iterator[None]:
    """Hold the lock of an output. The kernel lets go of it when the process dies, however it dies."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        path = out.parent / f".{out.name}.lock"
        descriptor = _locked(path, out, time.monotonic() + patience)
    except OSError as error:
        raise LtpError(ErrorCode.OPERATION_REFUSED, f"{out} cannot be written: {error}.", "Check the path.") from error
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _locked(path: Path, out: Path, deadline: float) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Whoever held it may have removed the file that this lock is on.
            if path.exists() and path.stat().st_ino == os.fstat(descriptor).st_ino:
                return descriptor
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(descriptor)
                raise LtpError(
                    ErrorCode.CONFLICT, f"Another operation writes {out} at this moment.", "Wait for it, or cancel it."
                ) from None
            time.sleep(0.1)
        os.close(descriptor)


def _drop_others(out: Path, keep: Path) -> None:
    """What an operation with another recipe left half done under this name."""
    for path in out.parent.glob(f".{out.name}.*.partial"):
        if path != keep:
            shutil.rmtree(path, ignore_errors=True)


def discard(out: Path) -> None:
    """Remove what a cancelled operation left half done."""
    _drop_others(out, out)


def _prove(work: Work, directory: Path, python: str, stop: Event) -> dict[str, Any]:
    if not work.is_model:
        return {"skipped": f"the result of {work.kind} is no model of its own"}
    command = [python, "-m", "ltp.tensors.proof", str(directory)]
    with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as complained:
        done = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=complained)
        while done.poll() is None:
            if stop.wait(_POLL_SECONDS):
                done.kill()
                done.wait()
                raise Stopped
        stdout, stderr = (_text(stream) for stream in (said, complained))
    try:
        found: dict[str, Any] = json.loads(stdout.strip().splitlines()[-1])
    except (IndexError, ValueError):
        last = (stderr.strip().splitlines() or ["it said nothing"])[-1]
        return {"skipped": f"the proof ended with code {done.returncode}: {last}"[:500]}
    if not found.get("loads", True):
        raise LtpError(
            ErrorCode.MERGE_FAILED,
            f"The result does not load in transformers: {found.get('problem')}.",
            "Nothing was kept. Run with --no-proof to keep such a result.",
        )
    return found


def _text(stream: IO[str]) -> str:
    stream.seek(0)
    return stream.read()


def _hashed(work: Work, parents: Sequence[Parent]) -> list[Parent]:
    """The parents with the digests of their weight files."""
    sums = _digests([path for model in work.models for path in model.files.files])
    return [
        Parent(p.reference, p.fingerprint, p.stamps, {path.name: sums[str(path)] for path in model.files.files})
        for p, model in zip(parents, work.models, strict=True)
    ]


def _digests(paths: Sequence[Path]) -> dict[str, str]:
    """SHA-256 by path, and by name for a result's own files."""
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        sums = list(pool.map(file_digest, paths))
    return {str(p): s for p, s in zip(paths, sums, strict=True)} | {p.name: s for p, s in zip(paths, sums, strict=True)}
