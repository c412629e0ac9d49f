"""What the service holds open: versions as mapped rows, word indexes, encoders, and the vector indexes by name."""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

from ltp.contracts.dedup import TextPart, VersionRef
from ltp.contracts.search import IndexName
from ltp.core.errors import ErrorCode, LtpError
from ltp.store.database import Database
from services.dataset.apart import apart
from services.dataset.derive import Source
from services.dataset.settings import DatasetSettings
from services.dataset.vectors import store
from services.dataset.vectors.encoder import (
    DEFAULT_MODEL,
    ENDPOINT_PREFIX,
    Encoder,
    EndpointEncoder,
    LocalEncoder,
    model_directory,
)
from services.dataset.vectors.index import VectorIndex
from services.dataset.vectors.lexical import LexicalIndex, build_lexical, lexical_path, open_lexical
from services.dataset.vectors.milvus import MilvusIndex
from services.dataset.vectors.pgvector import PgvectorIndex
from services.dataset.vectors.rows import Frozen, RowsFile, open_rows, write_rows
from services.dataset.vectors.scan import ScanIndex
from services.dataset.versions import find, same_rows

K = TypeVar("K")
V = TypeVar("V")

_HELD = 8
_WHOLE = 64
_ENCODERS = 2


@dataclass
class Library:
    """One for the service; opened things are held up to a small number, the least used let go first."""

    database: Database
    settings: DatasetSettings
    scan: ScanIndex = field(init=False)
    indexes: dict[str, VectorIndex] = field(init=False)
    _frozen: OrderedDict[tuple[str, str], Frozen] = field(default_factory=OrderedDict[tuple[str, str], Frozen])
    _rows: OrderedDict[tuple[str, str], RowsFile] = field(default_factory=OrderedDict[tuple[str, str], RowsFile])
    _words: OrderedDict[tuple[str, str], LexicalIndex] = field(
        default_factory=OrderedDict[tuple[str, str], LexicalIndex]
    )
    _encoders: OrderedDict[str, Encoder] = field(default_factory=OrderedDict[str, Encoder])
    # Completed embeddings do not change; which is the newest does, here, when one is completed.
    _embedded: dict[tuple[str, str, str], Mapping[str, Any]] = field(
        default_factory=dict[tuple[str, str, str], Mapping[str, Any]]
    )
    _opening: asyncio.Lock = field(default_factory=asyncio.Lock)
    _making: dict[tuple[int, Any], asyncio.Lock] = field(default_factory=dict[tuple[int, Any], asyncio.Lock])

    def __post_init__(self) -> None:
        self.scan = ScanIndex(self.folder / "matrices", self.settings.vector_memory_bytes)
        self.indexes = {"scan": self.scan, "pgvector": PgvectorIndex(self.database.engine.url)}
        if self.settings.milvus_uri is not None:
            self.indexes["milvus"] = MilvusIndex(self.settings.milvus_uri)

    @property
    def versions_dir(self) -> Path:
        """Where frozen versions stand, a folder a name."""
        return self.settings.root() / "datasets"

    @property
    def folder(self) -> Path:
        """Where derived files stand; all of it can be made again."""
        return self.settings.root() / "vectors"

    def index(self, name: IndexName) -> VectorIndex:
        """An index by name. Raises LtpError DEPENDENCY_MISSING for Milvus without a URI."""
        if name not in self.indexes:
            message = "No Milvus is configured (LTP_MILVUS_URI is not set)."
            raise LtpError(
                ErrorCode.DEPENDENCY_MISSING, message, "Set it, start with `ltp up`, or use pgvector or scan."
            )
        return self.indexes[name]

    @property
    def beside(self) -> VectorIndex | None:
        """The index that is kept beside the scan, for versions too large for it; None when the operator wants none."""
        wanted = self.settings.vector_index or ("milvus" if self.settings.milvus_uri else "scan")
        return None if wanted == "scan" else self.index(wanted)

    async def frozen(self, ref: VersionRef) -> Frozen:
        """The version that a reference means; a whole hash needs no project. Raises LtpError NOT_FOUND, CONFLICT."""
        if ref.project is None and ref.version is not None and len(ref.version) == _WHOLE:
            source = await same_rows(self.database, self.versions_dir, ref.name, ref.version)
        else:
            source = await find(self.database, self.versions_dir, ref.project, ref.name, ref.version)

        # A version never changes, so its manifest is read once; that it still exists was asked just now.
        async def make() -> Frozen:
            return await asyncio.to_thread(_opened, source)

        return await self._held(self._frozen, (source.name, source.version), make, _HELD)

    async def rows(self, frozen: Frozen, part: TextPart) -> RowsFile:
        """The rows of a version."""
        folder = self.folder / "rows" / frozen.version

        async def make() -> RowsFile:
            if not (folder / f"{part}.arrow").exists():
                await apart(write_rows, folder, frozen.splits, part)
            return await asyncio.to_thread(open_rows, folder, frozen.splits, part)

        return await self._held(self._rows, (frozen.version, part), make, _HELD)

    async def words(self, frozen: Frozen, part: TextPart) -> LexicalIndex:
        """The word index of a version."""
        await self.rows(frozen, part)
        folder = self.folder / "rows" / frozen.version

        async def make() -> LexicalIndex:
            if not lexical_path(folder, part).exists():
                await apart(build_lexical, folder, frozen.splits, part)
            return await asyncio.to_thread(open_lexical, folder, part)

        return await self._held(self._words, (frozen.version, part), make, _HELD)

    async def encoder(self, model: str | None) -> Encoder:
        """The encoder of a model. Raises LtpError when there is none."""
        label = self.label(model)
        async with self._opening:
            if label not in self._encoders:
                self._encoders[label] = self._new_encoder(label)
                if len(self._encoders) > _ENCODERS:
                    _, old = self._encoders.popitem(last=False)
                    await old.close()
            self._encoders.move_to_end(label)
            return self._encoders[label]

    def label(self, model: str | None) -> str:
        """The name under which a model's embeddings are kept."""
        if model is not None:
            return model
        return self.settings.embedding_model or DEFAULT_MODEL

    async def embedding(self, frozen: Frozen, part: TextPart, model: str | None) -> Mapping[str, Any]:
        """The newest completed embedding of a version. Raises LtpError EMBEDDING_NOT_READY."""
        key = (frozen.version, part, self.label(model))
        found = self._embedded.get(key)
        if found is None:
            found = await store.latest(self.database.engine, *key)
        if found is None:
            message = f"{frozen.name} {frozen.version[:12]} has no vectors of its {part} by {self.label(model)}."
            options = "" if part == "conversation" else f" --part {part}"
            options += "" if model is None else f" --model {model}"
            hint = f"Make them: `ltp dataset embed {frozen.name}{options}`; or search with --mode lexical."
            raise LtpError(ErrorCode.EMBEDDING_NOT_READY, message, hint)
        self._embedded[key] = found
        return found

    def forget_embedding(self, version: str, part: str, label: str) -> None:
        """Look for the newest embedding again: another one was completed."""
        self._embedded.pop((version, part, label), None)

    def forget_version(self, version: str) -> None:
        """Let go of everything held of a version: it is gone."""
        shelves = cast("tuple[dict[Any, Any], ...]", (self._frozen, self._rows, self._words, self._embedded))
        for shelf in shelves:
            for key in [key for key in shelf if version in key]:
                del shelf[key]

    async def close(self) -> None:
        """End the encoders' processes."""
        for encoder in self._encoders.values():
            await encoder.close()

    def _new_encoder(self, label: str) -> Encoder:
        if not label.startswith(ENDPOINT_PREFIX):
            return LocalEncoder(model_directory(label, self.settings.root() / "models"))
        if self.settings.embedding_url is None:
            message = f"{label} needs an endpoint, and none is configured."
            raise LtpError(ErrorCode.DEPENDENCY_MISSING, message, "The operator sets LTP_EMBEDDING_URL.")
        name = label.removeprefix(ENDPOINT_PREFIX)
        return EndpointEncoder(self.settings.embedding_url, name, self.settings.embedding_key_file)

    async def _held(
        self, shelf: OrderedDict[K, V], key: K, make: Callable[[], Awaitable[V]], most: int
    ) -> V:  # fmt: skip
        if key not in shelf:
            # A lock for each: to open a large version takes a while, and others need not wait for it.
            lock = self._making.setdefault((id(shelf), key), asyncio.Lock())
            async with lock:
                if key not in shelf:
                    shelf[key] = await make()
                    self._making.pop((id(shelf), key), None)
                    if len(shelf) > most:
                        shelf.popitem(last=False)
        shelf.move_to_end(key)
        return shelf[key]


def _opened(source: Source) -> Frozen:
    splits = source.manifest()["splits"]
    files = {split: source.directory / facts["file"] for split, facts in splits.items()}
    return Frozen(source, files, sum(facts["rows"] for facts in splits.values()))


def matrix_key(version: str, part: str, model_key: str) -> str:
    """The name of one set of vectors in every index: 32 hexadecimal digits."""
    return hashlib.sha256(f"{version}\n{part}\n{model_key}".encode()).hexdigest()[:32]
