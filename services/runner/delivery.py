"""What a training process reads, made to lie on its host: known by its content, sent once, and named in the host's paths."""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import io
import os
import shutil
import tarfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ltp.verl_recipe import LaunchSpec
from services.runner import host_facts
from services.runner import launch as launcher
from services.runner.backends.files import source_tree

# Of the platform, all that the training process imports: ltp_verl, and the core that it scores with.
_CODE = ("ltp/__init__.py", "ltp/core", "ltp_verl")
# A file that did not change since it was read has the digest that it had.
_known: dict[tuple[str, int, int], str] = {}


async def digest(path: Path) -> str:
    """The SHA-256 of a file, or of the names and contents of all files of a folder; 32 digits of it."""
    return await asyncio.to_thread(_digest, path)


def _digest(path: Path) -> str:
    if path.is_file():
        return _file_digest(path)[:32]
    whole = hashlib.sha256()
    for name in sorted(source_tree(path)):
        whole.update(f"{name}\0{_file_digest(path / name)}\n".encode())
    return whole.hexdigest()[:32]


def _file_digest(path: Path) -> str:
    found = path.stat()
    key = (str(path), found.st_size, found.st_mtime_ns)
    if key not in _known:
        with path.open("rb") as file:
            _known[key] = hashlib.file_digest(file, "sha256").hexdigest()
    return _known[key]


def libraries() -> Path:
    """The folder from which this process imports the platform's libraries."""
    found = importlib.util.find_spec("ltp_verl")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent.parent


def code_archive() -> bytes:
    """The launcher and the libraries of a training process as an uncompressed tar, the same bytes for the same code."""
    libs, out = libraries(), io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for path in sorted(_sources(libs)):
            _add(archive, f"libs/{path.relative_to(libs).as_posix()}", path.read_bytes())
        for module in (launcher, host_facts):
            path = Path(module.__file__ or "")
            _add(archive, path.name, path.read_bytes())
    return out.getvalue()


def _sources(libs: Path) -> list[Path]:
    found: list[Path] = []
    for name in _CODE:
        path = libs / name
        found += [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file() and p.suffix != ".pyc"]
    return found


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    member.mode = 0o644
    archive.addfile(member, io.BytesIO(content))


def relocated(spec: LaunchSpec, moved: Mapping[str, str], python: str) -> LaunchSpec:
    """The spec with every path of this machine that was brought replaced by the host's, and the host's interpreter.

    Paths are replaced inside arguments and values of the environment; the longest first, and only where a path ends.
    """
    first, *rest = spec.argv
    del first
    return replace(
        spec,
        argv=(python, *(_moved(word, moved) for word in rest)),
        env={name: _moved(value, moved) for name, value in spec.env.items()},
    )


def _moved(text: str, moved: Mapping[str, str]) -> str:
    for source in sorted(moved, key=len, reverse=True):
        start = text.find(source)
        while start >= 0:
            end = start + len(source)
            if end == len(text) or not (text[end].isalnum() or text[end] in "._-"):
                text = text[:start] + moved[source] + text[end:]
                end = start + len(moved[source])
            start = text.find(source, end)
    return text


def mentioned_files(spec: LaunchSpec) -> list[Path]:
    """Files of this machine that the arguments name: a reward file, say. Folders are named by who knows them."""
    found: list[Path] = []
    for word in spec.argv[1:]:
        value = word.partition("=")[2].strip("'\"")
        if value.startswith("/") and Path(value).is_file():
            found.append(Path(value))
    return found


def content_digest(content: bytes) -> str:
    """The name of code or data by its content."""
    return hashlib.sha256(content).hexdigest()[:32]


def unpack(archive: bytes, target: Path) -> None:
    """Put our own archive in place, whole or not at all."""
    draft = target.with_name(f"{target.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    with tarfile.open(fileobj=io.BytesIO(archive)) as file:
        file.extractall(draft, filter="data")
    os.replace(draft, target)
